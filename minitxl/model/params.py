"""Parameters: one flat buffer, seen through named and shaped views.

Gradients have the same type. So Adam, clipping, sums over threads or machines, and checkpoints
are each one operation on one array, while the model reads `params["layers.0.attn.w_q"]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


class Params(Mapping):
    """A mapping name -> array whose arrays are views into the 1-D buffer `flat`.

    `shapes` maps names to shapes; their order is the order in the buffer. `params[name] = value`
    and `params[name] += value` write into the buffer; a wrong shape is an error. `constants` are
    arrays that belong to the model and are not learned; gradients have none.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], flat: Any, *, xp, constants=None):
        self.shapes = dict(shapes)
        self.constants: dict[str, Any] = dict(constants or {})
        size = sum(math.prod(s) for s in self.shapes.values())
        if flat.shape != (size,):
            raise ValueError(f"flat has shape {flat.shape}, the layout needs ({size},)")
        self.flat = flat
        self.layout: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._views: dict[str, Any] = {}
        self._xp = xp
        offset = 0
        for name, shape in self.shapes.items():
            stop = offset + math.prod(shape)
            self.layout[name] = (offset, tuple(shape))
            self._views[name] = xp.reshape(flat[offset:stop], shape, copy=False)
            offset = stop

    @classmethod
    def zeros(
        cls, shapes: Mapping[str, tuple[int, ...]], *, dtype, device, xp, constants=None
    ) -> Params:
        """Make parameters that are all 0."""
        size = sum(math.prod(s) for s in shapes.values())
        flat = xp.zeros((size,), dtype=dtype, device=device)
        return cls(shapes, flat, xp=xp, constants=constants)

    def zeros_like(self) -> Params:
        """Make gradients for these parameters: same names and shapes, all 0."""
        return Params(self.shapes, self._xp.zeros_like(self.flat), xp=self._xp)

    def __getitem__(self, name: str):
        return self._views[name]

    def __setitem__(self, name: str, value) -> None:
        view = self._views[name]
        if value is view:  # `params[name] += x` has already added in place
            return
        if tuple(value.shape) != tuple(view.shape):
            raise ValueError(f"{name} has shape {tuple(view.shape)}, got {tuple(value.shape)}")
        view[...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return f"Params({len(self)} arrays, {self.flat.shape[0]:,} numbers)"
