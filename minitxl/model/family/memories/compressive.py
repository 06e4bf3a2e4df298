"""The compressive memory (Rae et al. 2019): what leaves the fine memory is kept, but coarser.

    coarse  [ 0-3 | 4-7 | 8-11 ]   fine  [ 12 13 14 15 ]   segment  [ 16 17 ... ]

The last n_fine = mem_len states are kept as they are. Of those that leave, every c become one row
of the coarse memory, which keeps n_coarse of them: N (n_fine + c n_coarse) tokens can be reached
with n_fine + n_coarse rows. As in the paper a coarse row is attended to like any other, and counts
as one position.

What makes one row of c states:
  mean, max    over the c, for each number of the state
  conv         mean + sum_i h_i W_i: a convolution of width and stride c that begins as the mean
  every        the last of the c (a control: the rest is evicted)
  random       no row of c, but a random sample of all that ever left (a control): each state has a
               random priority by its place, and the n_coarse highest stay
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.model.family.memories.kinds import Memory
from minitxl.model.family.memories.losses import LOSSES
from minitxl.model.layers import LayerWeights
from minitxl.model.ops import linear_backward, linear_forward

Array = Any


class Compressed(NamedTuple):
    """A layer's state."""

    coarse: Array  # (B, up to n_coarse, D)
    fine: Array  # (B, up to n_fine, D), and up to c - 1 that wait for the others of their block
    born: Array  # (rows of coarse + 1,) int: the first token that each stands for, then of `fine`


class UpdateCache(NamedTuple):
    n: tuple[int, int, int]  # rows of coarse and fine that were found, states that left
    made: Any  # of `make_forward`; for "random" the rows of [coarse ; left] that stay, rising
    n_made: int  # rows that were made
    loss: Any  # of the loss that trains the convolution, or None


class Compressive(Memory):
    """See the top of this file."""

    # --- parameters and states ------------------------------------------------------------------

    def layer_shapes(self, n):
        m, d = self.config.memory, self.config.d_model
        if m.compress != "conv":
            return {}
        names = ("w_c", "w_a") if m.loss == "autoencode" else ("w_c",)
        return {f"layers.{n}.memory.{name}": (m.rate, d, d) for name in names}

    def shapes(self, batch_size, n):
        c, m = self.config, self.config.memory
        return {
            "coarse": (batch_size, (0, m.n_coarse), c.d_model),
            "fine": (batch_size, (0, c.mem_len + self.rate - 1), c.d_model),
            "born": ((1, m.n_coarse + 1),),
        }

    def is_whole(self, state):
        return state.born.shape[0] == state.coarse.shape[1] + 1

    def n_bytes(self, itemsize=4):
        c = self.config
        return itemsize * c.n_layer * (c.mem_len + c.memory.n_coarse) * c.d_model

    @property
    def rate(self) -> int:
        """c; a random sample is of single states."""
        m = self.config.memory
        return 1 if m.compress == "random" else m.rate

    def start(self, batch_size, *, dtype, device, xp):
        empty = xp.zeros((batch_size, 0, self.config.d_model), dtype=dtype, device=device)
        born = xp.zeros((1,), dtype=xp.int32, device=device)
        return [Compressed(empty, empty, born)] * self.config.n_layer

    def flops(self, n_query):
        c, m, t = self.config, self.config.memory, n_query
        d, e, new = c.d_model, c.n_head * c.d_head, -(-n_query // m.rate)
        conv = 2 * t * d * d if m.compress == "conv" else 0
        if m.loss == "attention":  # queries, keys and values of the old and the new, two readings
            conv += 2 * t * d * e + 4 * (t + new) * d * e + 4 * t * (t + new) * e
        return conv + (2 * t * d * d if m.loss == "autoencode" else 0)

    def rows(self, state, *, xp):
        return xp.concat([state.coarse, state.fine], axis=1)

    # --- update ---------------------------------------------------------------------------------

    def update(self, state, h, w: LayerWeights, layer, params, n, *, xp):
        c, m = self.config, self.config.memory
        both = xp.concat([state.fine, h], axis=1)  # (B, states of fine + T, D)
        n_block = max(0, both.shape[1] - c.mem_len) // self.rate
        n_left = n_block * self.rate
        left, fine = both[:, :n_left, :], both[:, n_left:, :]
        born = state.born[-1:] + self.rate * xp.arange(n_block + 1, dtype=xp.int32, device=h.device)
        born = xp.concat([state.born[:-1], born])  # (rows of coarse + n_block + 1,)
        sizes = (state.coarse.shape[1], state.fine.shape[1], n_left)

        if m.compress == "random":
            keep = highest(born[:-1], m.n_coarse, xp=xp)  # (kept,) rising
            coarse = xp.take(xp.concat([state.coarse, left], axis=1), keep, axis=1)
            born = xp.concat([xp.take(born, keep, axis=0), born[-1:]])
            return Compressed(coarse, fine, born), UpdateCache(sizes, keep, n_left, None)

        blocks = xp.reshape(left, (h.shape[0], n_block, self.rate, c.d_model))
        kernel = params[f"layers.{n}.memory.w_c"] if m.compress == "conv" else None
        made, cache = make_forward(blocks, kernel, how=m.compress, xp=xp)  # -> (B, n_block, D)
        loss = None
        if m.loss != "none" and n_block:
            loss = LOSSES[m.loss].forward(h, blocks, made, w, params, n, c, xp=xp)
        coarse = xp.concat([state.coarse, made], axis=1)
        first = max(0, coarse.shape[1] - m.n_coarse)
        state = Compressed(coarse[:, first:, :], fine, born[first:])
        return state, UpdateCache(sizes, cache, n_block, loss)

    def update_backward(self, dleft, cache: UpdateCache, dmem, dw, grads, n, *, xp):
        c, m = self.config, self.config.memory
        (n_coarse, n_fine, n_left), made, n_made, loss = cache
        dkernel: Any = 0.0
        if loss is not None:
            dmade = LOSSES[m.loss].backward(loss, grads, n, c, xp=xp)
            dkernel = make_backward(dmade, made, xp=xp)[1]
        if dleft is None:  # the memory is a constant; its loss alone trains the convolution
            dstate, dh = dmem, None
        else:
            b, d = dleft.fine.shape[0], c.d_model
            like = dict(dtype=dleft.fine.dtype, device=dleft.fine.device)
            if m.compress == "random":
                dall = put_back(dleft.coarse, made, n_coarse + n_left, xp=xp)
                dcoarse, dout = dall[:, :n_coarse, :], dall[:, n_coarse:, :]
            else:
                gone = n_coarse + n_made - dleft.coarse.shape[1]  # rows of coarse that were dropped
                dall = xp.concat([xp.zeros((b, gone, d), **like), dleft.coarse], axis=1)
                dcoarse, dmade = dall[:, :n_coarse, :], dall[:, n_coarse:, :]
                dblocks, more = make_backward(dmade, made, xp=xp)
                dout = xp.reshape(dblocks, (b, n_left, d))
                dkernel = more if more is None else dkernel + more
            dboth = xp.concat([dout, dleft.fine], axis=1)  # undo: both = [left ; fine]
            dstate = xp.concat([dcoarse, dboth[:, :n_fine, :]], axis=1) + dmem
            dh = dboth[:, n_fine:, :]
        if m.compress == "conv" and n_made:
            grads[f"layers.{n}.memory.w_c"] += dkernel
        if dstate is not None:
            dstate = Compressed(dstate[:, :n_coarse, :], dstate[:, n_coarse:, :], None)
        return dstate, dh


# --- from c states to one -----------------------------------------------------------------------


def make_forward(blocks, kernel, *, how: str, xp):
    """(B, n, c, D) -> (B, n, D); kernel (c, D, D) for "conv"."""
    rate = blocks.shape[2]
    if how == "every":
        return blocks[:, :, -1, :], (how, blocks.shape, None)
    if how == "max":
        top = xp.max(blocks, axis=2)
        first = xp.argmax(blocks, axis=2)  # of equal ones the first gets the gradient
        return top, (how, blocks.shape, first)
    mean = xp.mean(blocks, axis=2)
    if how == "mean":
        return mean, (how, blocks.shape, None)
    b, n, _, d = blocks.shape
    flat = xp.reshape(blocks, (b, n, rate * d))  # h_1 ... h_c side by side
    made, linear = linear_forward(flat, xp.reshape(kernel, (rate * d, d)), xp=xp)  # sum_i h_i W_i
    return mean + made, (how, blocks.shape, linear)


def make_backward(dmade, cache, *, xp):
    """Return dblocks (B, n, c, D), and dkernel (c, D, D) or None."""
    how, shape, kept = cache
    rate, d = shape[2:]
    place = xp.arange(rate, device=dmade.device)[None, None, :, None]
    if how == "every":
        return dmade[:, :, None, :] * xp.astype(place == rate - 1, dmade.dtype), None
    if how == "max":
        return dmade[:, :, None, :] * xp.astype(place == kept[:, :, None, :], dmade.dtype), None
    dblocks = xp.broadcast_to(dmade[:, :, None, :] * (1.0 / rate), shape)  # undo: the mean
    if how == "mean":
        return dblocks, None
    # undo: made = sum_i h_i W_i
    dflat, dkernel, _ = linear_backward(dmade, kept, xp=xp)
    return dblocks + xp.reshape(dflat, shape), xp.reshape(dkernel, (rate, d, d))


def put_back(dkept, keep, n: int, *, xp):
    """Undo x[:, keep, :] for x (B, n, D): rows that were left out get 0; keep (kept,) is rising."""
    (b, n_kept, d), where = dkept.shape, dict(device=dkept.device)
    place = xp.astype(keep[:, None] == xp.arange(n, **where)[None, :], xp.int64)  # (kept, n)
    # row i of x was kept as row place_i of dkept, or nowhere: then it takes the row of zeros, 0
    place = xp.sum(place * xp.arange(1, n_kept + 1, **where)[:, None], axis=0)
    zeros = xp.zeros((b, 1, d), dtype=dkept.dtype, **where)
    return xp.take(xp.concat([zeros, dkept], axis=1), place, axis=1)


def highest(places, n: int, *, xp):
    """Return which n of the places have the highest priorities, rising; all, if there are fewer.

    The priority is a hash of the place alone, so that what stays does not depend on how the text
    was cut, and every token of the past has the same chance (reservoir sampling).
    """
    x = xp.astype(places, xp.int64)  # two odd factors below 2^31: no product overflows
    x = ((x ^ (x >> 16)) * 747_796_405) % 2**32
    x = ((x ^ (x >> 15)) * 1_103_515_245) % 2**32
    order = xp.argsort(-(x ^ (x >> 16)))
    return xp.sort(order[: min(n, order.shape[0])])
