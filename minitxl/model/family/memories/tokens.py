"""Memory tokens (Bulatov et al. 2022): states that are read before a segment and written after it.

    [ m read | T tokens | m written ]  ->  all layers  ->  what stands in the last m places

is the memory of the next segment, which reads it at both ends again. All are rows of one sequence
with the usual causal mask: the tokens see the memory, the written places see all. At a stream's
start stand m learned vectors. There is one state for the whole model, at the first layer; the
others keep nothing. With the gradient stopped nothing teaches the model what to write: it is
trained through k segments (`sequence_gradients(..., through_memory=True)`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.model.family.memories.kinds import Memory

Array = Any


class EnterCache(NamedTuple):
    at_start: bool  # the learned vectors were read
    n_row: int  # m


class Tokens(Memory):
    """See the top of this file."""

    def shared_shapes(self):
        return {"memory.start": (self.config.memory.n_slot, self.config.d_model)}

    def shapes(self, batch_size, n):
        most = self.config.memory.n_slot if n == 0 else 0
        return {"": (batch_size, (0, most), self.config.d_model)}

    def is_whole(self, state):
        return state.shape[1] in (0, self.config.memory.n_slot)

    def n_bytes(self, itemsize=4):
        return itemsize * self.config.memory.n_slot * self.config.d_model

    def enter(self, h, mems, params, *, xp):
        read, (b, _, d) = mems[0], h.shape
        at_start = read.shape[1] == 0
        if at_start:
            learned = params["memory.start"]  # (m, D)
            read = xp.broadcast_to(learned[None, :, :], (b, learned.shape[0], d))
        cache = EnterCache(at_start, read.shape[1])
        return xp.concat([read, h, read], axis=1), cache  # (B, m + T + m, D)

    def rows(self, state, *, xp):
        return state[:, :0, :]

    def update(self, state, h, w, layer, params, n, *, xp):
        return state[:, :0, :], None

    def leave(self, h, mems):
        written = h[:, h.shape[1] - self.config.memory.n_slot :, :]
        return self.own_rows(h), [written, *mems[1:]]

    def own_rows(self, h):
        m = self.config.memory.n_slot
        return h[:, m : h.shape[1] - m, :]

    def leave_backward(self, dh, dleft, *, xp):
        (b, _, d), m = dh.shape, self.config.memory.n_slot
        nothing = xp.zeros((b, m, d), dtype=dh.dtype, device=dh.device)
        written = nothing if dleft[0] is None else dleft[0]
        return xp.concat([nothing, dh, written], axis=1), [None] * len(dleft)

    def update_backward(self, dleft, cache, dmem, dw, grads, n, *, xp):
        return dmem, None

    def enter_backward(self, dh, dmems, cache, grads, *, xp):
        m = cache.n_row
        stop = dh.shape[1] - m
        dread = dh[:, :m, :] + dh[:, stop:, :]  # read at both ends
        if cache.at_start:
            grads["memory.start"] += xp.sum(dread, axis=0)  # (B, m, D) -> (m, D)
        if dmems[0] is not None:  # gradients flow through the memory
            dmems = [dread[:, : 0 if cache.at_start else m, :], *dmems[1:]]
        return dh[:, m:stop, :], dmems
