"""A memory of one's own, the lecturer's: running means of all that falls out of the last states.

Not in what students get. A row for each of four paces, from the last few states that left to about
the last hundred: a_p <- keep_p a_p + (1 - keep_p) x for every state x that leaves. Its span has no
end, its rows are as many as the paper's; what is lost is which state was which.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.model.family.memories.kinds import Memory

Array = Any
KEEPS = (0.5, 0.8, 0.95, 0.99)  # of a mean, at each state that leaves


class State(NamedTuple):
    """What a layer keeps."""

    slow: Array  # (B, 4, D): the means, the longest first; (B, 0, D) until something has left
    fine: Array  # (B, n_f, D): the last states, n_f <= mem_len - 4


class RunningMeans(Memory):
    """See the top of this file."""

    @property
    def _n_fine(self) -> int:
        return self.config.mem_len - len(KEEPS)

    def start(self, batch_size, *, dtype, device, xp):
        """As Memory's."""
        empty = super().start(batch_size, dtype=dtype, device=device, xp=xp)
        return [State(rows, rows) for rows in empty]

    def shapes(self, batch_size, n):
        """As Memory's."""
        d = self.config.d_model
        return {
            "slow": (batch_size, (0, len(KEEPS)), d),
            "fine": (batch_size, (0, self._n_fine), d),
        }

    def rows(self, state, *, xp):
        """Means stand before the last states, as if they were the oldest."""
        return xp.concat([state.slow, state.fine], axis=1)

    def update(self, state, h, w, layer, params, n, *, xp):
        """As Memory's."""
        both = xp.concat([state.fine, h], axis=1)  # (B, n_f + T, D)
        n_left = max(0, both.shape[1] - self._n_fine)
        keep, new = self._weights(n_left, state.slow.shape[1] == 0, h, xp=xp)
        slow = xp.matmul(new, both[:, :n_left, :])  # (4, n_left) @ (B, n_left, D) -> (B, 4, D)
        if state.slow.shape[1]:
            slow = keep * state.slow + slow
        if not n_left:
            slow = state.slow
        return State(slow, both[:, n_left:, :]), (state.slow.shape[1], state.fine.shape[1], n_left)

    def _weights(self, n_left: int, first: bool, like, *, xp):
        """What a mean keeps of itself (4, 1), and of each state that leaves (4, n_left)."""
        where = dict(dtype=like.dtype, device=like.device)
        keep = xp.asarray(KEEPS[::-1], **where)[:, None]
        age = xp.astype(xp.arange(n_left - 1, -1, -1, device=like.device), like.dtype)
        new = (1.0 - keep) * keep ** age[None, :]
        if first:  # the mean begins with the first state that leaves: all of it
            new = xp.concat([keep ** age[None, :1], new[:, 1:]], axis=1)
        return keep**n_left, new

    def update_backward(self, dleft, cache, dmem, dw, grads, n, *, xp):
        """As Memory's."""
        n_slow, n_fine, n_left = cache
        if dleft is None:
            return (None if dmem is None else State(dmem[:, :n_slow, :], dmem[:, n_slow:, :])), None
        keep, new = self._weights(n_left, n_slow == 0, dleft.fine, xp=xp)
        # undo: slow = keep * slow + new @ left
        dgone = dleft.fine[:, :0, :]
        dslow = dleft.slow
        if n_left:
            dgone = xp.matmul(new.T, dleft.slow)  # (n_left, 4) @ (B, 4, D)
            dslow = (keep * dleft.slow)[:, :n_slow, :]
        dboth = xp.concat([dgone, dleft.fine], axis=1)  # undo: both = [fine ; h]
        dfound = xp.concat([dslow, dboth[:, :n_fine, :]], axis=1) + dmem
        return State(dfound[:, :n_slow, :], dfound[:, n_slow:, :]), dboth[:, n_fine:, :]
