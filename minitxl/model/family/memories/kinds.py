"""What a memory is to the walk through the layers, and that of the paper seen in this way.

A *state* is what one layer keeps between segments: an array, or a NamedTuple of arrays. A model's
memories are a list of them, one a layer, as `TransformerXL.forward` takes and returns them.
"""

from __future__ import annotations

from typing import Any

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_backward, attention_forward
from minitxl.model.layers import LayerWeights
from minitxl.model.network import update_mems, update_mems_backward
from minitxl.model.params import layer_weights

Array = Any


class Memory:
    """The paper's own (sec. 3.2): a state is the last mem_len inputs of the layer, (B, M, D).

    Others replace some of these methods. The walk asks in this order:
      enter            what goes into the first layer
      rows             the rows that stand before the segment: [rows ; h] goes into layer n
      weights, attend  how the layer attends to them
      update           the state that the segment leaves
      leave            what came out of the last layer
    and backward in the other order, with the gradients of the states that were left.
    """

    def __init__(self, config: Config):
        self.config = config

    # --- parameters -----------------------------------------------------------------------------

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the memory's parameters that belong to no layer."""
        return {}

    def layer_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what layer n has for its memory alone."""
        return {}

    def weights(self, params, n: int, state) -> LayerWeights:
        """Return what layer n computes with: parameters and, where it is one of them, the state."""
        return layer_weights(params, n)

    def parameters(self, w: LayerWeights) -> LayerWeights:
        """Return `weights`, or their gradients, without the state."""
        return w

    # --- states ---------------------------------------------------------------------------------

    def start(self, batch_size: int, *, dtype, device, xp) -> list:
        """Return the states of a stream's start, one a layer."""
        empty = xp.zeros((batch_size, 0, self.config.d_model), dtype=dtype, device=device)
        return [empty] * self.config.n_layer

    def shapes(self, batch_size: int, n: int) -> dict[str, tuple]:
        """Name of an array of layer n's state -> its shape; (0, k): of any length up to k."""
        c = self.config
        return {"": (batch_size, (0, c.mem_len), c.d_model)}

    def is_whole(self, state) -> bool:
        """Whether the arrays of a state, each of a shape that may be, belong together."""
        return True

    def n_bytes(self, itemsize: int = 4) -> int:
        """Return the bytes that a full memory takes for each row of the batch, in all layers."""
        c = self.config
        return itemsize * c.n_layer * c.mem_len * c.d_model

    def flops(self, n_query: int) -> int:
        """Return the FLOPs of a layer's forward pass, for one row, beside those of attention.

        Matrix products alone, as in `training/cost.py`.
        """
        return 0

    # --- forward and backward -------------------------------------------------------------------

    def enter(self, h, mems, params, *, xp):
        """h_0 (B, T, D) -> what goes into the first layer, and what `enter_backward` reads."""
        return h, None

    def rows(self, state, *, xp):
        """Return the rows (B, m, D) that stand before the segment."""
        return state

    attend = staticmethod(attention_forward)

    def update(self, state, h, w: LayerWeights, layer, params, n: int, *, xp):
        """Return the state that a segment leaves, and what `update_backward` reads.

        h (B, T, D): the layer's input; w, layer: the weights and the cache of the layer.
        """
        n_mem = state.shape[1]
        both = xp.concat([state, h], axis=1)
        return update_mems(both, n_mem=n_mem, config=self.config, xp=xp), (n_mem, h.shape[1])

    def leave(self, h, mems: list):
        """Return h_N (B, T, D) and the states, from what came out of the last layer."""
        return h, mems

    def own_rows(self, h):
        """Return the segment's rows (B, T, D) of what went through the layers."""
        return h

    def leave_backward(self, dh, dleft: list, *, xp):
        """Undo `leave`; dleft: the gradients of the states left, None where there is none."""
        return dh, dleft

    def attend_backward(self, dleft):
        """Return the function of `attention_backward`'s form."""
        return attention_backward

    def update_backward(self, dleft, cache, dmem, dw: LayerWeights, grads, n: int, *, xp):
        """Return the gradient of the state that was found, and of h (B, T, D) or None for nothing.

        dleft: of the state left, None where the gradient is stopped; dmem (B, m, D), dw: what the
        layer sent to the rows and to the weights. Adds to `grads` what are the memory's own.
        """
        if dleft is None:
            return dmem, None
        n_mem, n_new = cache
        past, own = update_mems_backward(dleft, n_mem=n_mem, n_new=n_new, config=self.config, xp=xp)
        return dmem + past, own

    def enter_backward(self, dh, dmems: list, cache, grads, *, xp):
        """Undo `enter`: return dLoss/dh_0 and the gradients of the states that were found."""
        return dh, dmems


def check_states(mems, memory: Memory, batch_size: int, backend) -> None:
    """Raise MinitxlError where states are not those of the model or of the batch."""
    n_layer, kind = memory.config.n_layer, memory.config.memory.kind
    again = "they come from another model or batch; start with mems=None"
    if len(mems) != n_layer:
        raise MinitxlError(
            f"mems holds {len(mems)} states, the model has {n_layer} layers; {again}"
        )
    first: dict[str, tuple] = {}  # shapes of layer 0's arrays
    for n, state in enumerate(mems):
        for name, want in memory.shapes(batch_size, n).items():
            array: Any = getattr(state, name, None) if name else state
            what = f"mems[{n}].{name}" if name else f"mems[{n}]"
            have = tuple(getattr(array, "shape", ()))
            ranges = [k if isinstance(k, tuple) else (k, k) for k in want]
            if len(have) != len(want) or any(
                not low <= k <= high for k, (low, high) in zip(have, ranges, strict=True)
            ):
                said = ", ".join(str(k) if k == m else f"{k} to {m}" for k, m in ranges)
                raise MinitxlError(
                    f"{what} has shape {have}, a {kind} memory's is ({said}); {again}"
                )
            if name != "born" and array.dtype != backend.dtype:
                raise MinitxlError(
                    f"{what} is of type {array.dtype}, the model of {backend.dtype_name}; {again}"
                )
            if have != first.setdefault(name, have) and kind != "tokens":
                raise MinitxlError(
                    f"{what} has shape {have}, that of layer 0 {first[name]}: all layers remember "
                    f"the same tokens; {again}"
                )
        if not memory.is_whole(state):
            raise MinitxlError(f"mems[{n}] lacks rows of its {kind} memory: {again}")
