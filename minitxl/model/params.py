"""Parameters: their names and shapes, their first values, and one flat buffer that holds them.

The buffer is seen through named and shaped views, and gradients have the same type. So Adam,
clipping, sums over threads or machines, and checkpoints are each one operation on one array, while
the model reads `params["layers.0.attn.w_q"]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from minitxl.backend import Backend
from minitxl.config import Config
from minitxl.model.attention import AttentionWeights
from minitxl.model.embedding import end_shapes
from minitxl.model.layers import LayerWeights


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


# --- the parameters of a model ------------------------------------------------------------------


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter. Weights are (in, out): y = x @ w.

    Those of the paper's model; `transformer_xl.network_of` has any member's.
    """
    shapes = end_shapes(config)
    if not config.untie_r:
        shapes |= position_biases(config)  # the same for all layers (sec. 3.3)
    own = position_biases(config) if config.untie_r else {}
    for n in range(config.n_layer):
        shapes |= layer_shapes(config, n, projections=("w_q", "w_k", "w_v", "w_r"), own=own)
    return shapes


def position_biases(config: Config) -> dict[str, tuple[int, ...]]:
    """u and v, as the released code names them."""
    shape = (config.n_head, config.d_head)
    return {"r_w_bias": shape, "r_r_bias": shape}


def layer_shapes(config: Config, n: int, *, projections, own) -> dict[str, tuple[int, ...]]:
    """Shapes of layer n, 0-based. projections: the matrices that make queries, keys and values;
    own: name -> shape of what its attention has beside them."""
    c, heads = config, config.n_head * config.d_head
    layer: dict[str, tuple[int, ...]] = {f"attn.{name}": (c.d_model, heads) for name in projections}
    layer |= {"attn.w_o": (heads, c.d_model)}
    layer |= own
    layer |= {"attn_norm.gamma": (c.d_model,), "attn_norm.beta": (c.d_model,)}
    layer |= {"ff.w_1": (c.d_model, c.d_inner), "ff.b_1": (c.d_inner,)}
    layer |= {"ff.w_2": (c.d_inner, c.d_model), "ff.b_2": (c.d_model,)}
    layer |= {"ff_norm.gamma": (c.d_model,), "ff_norm.beta": (c.d_model,)}
    return {f"layers.{n}.{name}": shape for name, shape in layer.items()}


def draw(params: Params, config: Config, backend: Backend, seed: int) -> Params:
    """Draw initial values, in place, as the released code does: the same on every device.

    Weights, embedding, tables of positions, u and v from N(0, init_std); projections of the
    embedding from N(0, proj_init_std); LayerNorm weights from N(1, init_std); biases 0.
    """
    rng = backend.rng(seed)
    for name, shape in params.shapes.items():
        zero = (".beta", "b_1", "b_2", "cluster_bias", ".r_bias")
        if name.endswith(zero) or name.startswith("out_bias"):
            continue
        mean = 1.0 if name.endswith(".gamma") else 0.0
        std = config.proj_init_std if "_proj." in name else config.init_std
        values = rng.normal(shape) * std + mean
        params[name] = backend.xp.astype(values, backend.dtype)
    return params


def layer_weights(params: Params, n: int, kind=AttentionWeights) -> LayerWeights:
    """Gather the parameters (or, from gradients, the gradients) of layer n, 0-based.

    kind: the NamedTuple of its attention's weights. What the layer does not have of its own, u and
    v as a rule, is the model's.
    """
    p = f"layers.{n}."

    def find(name: str):
        return next(params[key] for key in (f"{p}attn.{name}", p + name, name) if key in params)

    norms_and_ff = (
        "attn_norm.gamma", "attn_norm.beta", "ff.w_1", "ff.b_1", "ff.w_2", "ff.b_2",
        "ff_norm.gamma", "ff_norm.beta",
    )  # fmt: skip
    attn = kind(*(find(name) for name in kind._fields))
    return LayerWeights(attn, *(params[p + name] for name in norms_and_ff))
