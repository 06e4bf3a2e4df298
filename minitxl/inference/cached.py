"""Reading without waste: keys and values of the memory are kept, not projected again.

The released code stores hidden states and projects all of [memory ; segment] for every segment:
for one token after a memory of 3,800 that is 3,801 keys and values of which 3,800 were known. A
key k = h W_k depends on its state h alone (under pre_lnorm on LN(h)), and a relative encoding adds
nothing to it that changes as the text moves on; so here every layer keeps
  k, v        of the tokens in memory and in the segment, beside the states themselves
  W_kR R      (or what else a distance adds to the score) for all distances, once
and only the new tokens are projected. (RoPE turns keys: they are kept as turned by their place in
the buffers, and turned on when these move.) The numbers are those of `TransformerXL.predict` and
`score` up to the last digit. Absolute positions (attn_type 2 and 3) are added to the states when
they are read, and differ each time: there nothing can be kept, and `PlainReader` reads as ever, as
it does with another memory than the paper's.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

from minitxl.backend.threads import Workers, one_blas_thread, threads_for
from minitxl.errors import MinitxlError
from minitxl.inference.plain import PlainReader, SegmentReader
from minitxl.model.attention import (
    additive_mask,
    attention_mask,
    heads_forward,
    merge_heads,
    split_heads,
)
from minitxl.model.family.encodings import encoding_of
from minitxl.model.family.network import ends_of
from minitxl.model.layers import LayerWeights, layer_forward
from minitxl.model.network import forward, kept_rows, log_probs_forward, segment_mask
from minitxl.model.ops import layer_norm_forward, linear_forward
from minitxl.model.params import layer_weights
from minitxl.model.transformer_xl import TransformerXL

Array = Any

# Scores that are worked on at a time on a CPU: 256 kB of float32, a part of the second-level cache.
BLOCK = 1 << 16
ROOM = 4096  # tokens of memory for which room is made at once, filled or not
MIN_QUERIES = 128  # of a block, if there are so many: fewer would starve the matrix product


def can_cache(config) -> bool:
    """Whether keys and values stay true as the text moves on: for the relative encodings, with the
    paper's own memory, whose states stay as they are."""
    return config.memory.kind == "xl" and encoding_of(config).position_terms is not None


def reader_of(model: TransformerXL, batch_size: int = 1, threads: int | None = 1):
    """Return a `CachedReader`, or another on a GPU, or where keys cannot be kept (`plain.py`)."""
    if can_cache(model.config) and model.backend.name != "cuda":
        return CachedReader(model, batch_size, threads=threads)
    written_once = model.config.memory.kind == "tokens"
    return (SegmentReader if written_once else PlainReader)(model, batch_size)


class CachedReader:
    """A stream of text in reading: a model, and what it has kept of the text so far (sec. 4.5).

    >>> reader = CachedReader(model)
    >>> log_probs = reader.read(tokens, last=1)  # (1, T) -> (1, 1, V)
    >>> nll = reader.score(more, targets)  # goes on where the last call ended

    batch_size: rows that are read side by side. lengths: mem_len, clamp_len, same_length, ext_len,
    where they are to differ from the model's. threads: that share the work of long segments on a
    CPU; None: one for each core. The parameters must stay as they are: after an update make a new
    reader. Raises `MinitxlError` for an encoding or a memory whose keys cannot be kept.
    """

    def __init__(
        self, model: TransformerXL, batch_size: int = 1, threads: int | None = 1, **lengths
    ):
        self.model = model.with_options(**lengths)
        c = self.config = self.model.config
        if c.memory.kind != "xl":
            raise MinitxlError(
                f"a {c.memory.kind} memory changes what is remembered, so keys cannot be kept; use "
                "reader_of, or PlainReader (cached=False)"
            )
        if not can_cache(c):
            raise MinitxlError(
                f"attn_type={c.attn_type} adds positions to the states when they are read, so "
                "their keys cannot be kept; use PlainReader (cached=False)"
            )
        if batch_size < 1:
            raise MinitxlError(f"batch_size={batch_size} must be at least 1")
        self.batch_size = batch_size
        on_cpu = self.model.backend.name == "cpu"
        if threads is None:
            threads = threads_for(batch_size * c.n_head) if on_cpu else 1
        self._workers = Workers(threads)
        self._block = BLOCK if on_cpu else None
        kind = encoding_of(c).weights
        weights = [layer_weights(self.model.params, n, kind) for n in range(c.n_layer)]
        self._layers = [_Layer(self.model, w, batch_size) for w in weights]
        self._reach = 0  # L: for how many distances the positions are known
        self.reset()

    @classmethod
    def from_mems(cls, model: TransformerXL, mems, threads: int | None = 1, **lengths):
        """Return a reader that goes on from the memory that model.predict or score returned."""
        reader = cls(model, mems[0].shape[0], threads, **lengths)
        reader.mems = mems
        return reader

    # --- the memory -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Go back to a stream's start."""
        self.mems = self.model.start_mems(self.batch_size)

    @property
    def mems(self) -> list:
        """The memory as the model takes it: for each layer its inputs (B, M, D), copied."""
        xp, kept = self.model.backend.xp, slice(self._first, self._stop)
        return [xp.asarray(layer.states[:, kept, :], copy=True) for layer in self._layers]

    @mems.setter
    def mems(self, mems) -> None:
        mems = self.model.checked_mems(mems, self.batch_size)
        self._first, self._stop = 0, mems[0].shape[1]
        self._capacity = self._length_for(self._stop, self.config.tgt_len)
        for layer, mem in zip(self._layers, mems, strict=True):
            layer.load(mem, self._capacity)

    def _length_for(self, n_mem: int, t: int) -> int:
        """How long buffers are made for M kept and T new tokens.

        With room for half a memory more: so what is kept moves to the front of new buffers once in
        so many tokens, which is two rows for every token read, however long the memory. But no
        more than doubled at a time: a long memory takes its room when there is text to fill it.
        """
        return n_mem + t + max(t, min(self.config.mem_len // 2, max(ROOM, n_mem)))

    def _make_room(self, t: int) -> None:
        """See to it that T more tokens fit, and that positions are known for all distances."""
        n_mem = self._stop - self._first
        if n_mem == 0:  # nothing to keep, as ever with mem_len 0: begin at the front again
            self._first = self._stop = 0
        if self._stop + t > self._capacity:
            self._capacity = self._length_for(n_mem, t)
            for layer in self._layers:
                layer.move(self._first, self._stop, self._capacity)
            self._first, self._stop = 0, n_mem
        if n_mem + t > self._reach:
            self._reach = min(self.config.mem_len + t, max(ROOM, 2 * (n_mem + t)))
            for layer in self._layers:
                layer.r_t = _positions(layer.w.attn, self._reach, self.model)

    # --- reading --------------------------------------------------------------------------------

    def read(self, tokens, last=None, position_ids=None):
        """Read tokens (B, T) and return log-probabilities (B, last or T, V) of each next token.

        T is free. last: how many positions, counted from the end, are wanted; None: all T.
        position_ids (B, T): places in documents, see `TransformerXL.forward`.
        """
        options = dict(last=last, log_probs=ends_of(self.config).log_probs)
        return self._run(log_probs_forward, tokens, position_ids=position_ids, **options)

    def score(self, tokens, targets, position_ids=None):
        """Read tokens (B, T), return nll (B, S) of targets (B, S): the last S, one step later.

        position_ids: as in `read`.
        """
        tokens = self.model.checked_ids(tokens, "tokens")
        targets = self.model.checked_ids(targets, "targets")
        self.model.check_targets(tokens, targets)
        options = dict(rng=None, keep=False, nll_forward=ends_of(self.config).nll_forward)
        return self._run(forward, tokens, targets, position_ids=position_ids, **options)

    def _run(self, function, tokens, *targets, position_ids, **options):
        """Run `forward` or `log_probs_forward` with this reader in place of the layers."""
        tokens = self.model.checked_ids(tokens, "tokens")
        places = self.model.checked_places(position_ids, tokens)
        b, xp = tokens.shape[0], self.model.backend.xp
        if b != self.batch_size:
            raise MinitxlError(
                f"tokens has {b} rows, the reader {self.batch_size}: row b goes on where row b of "
                "the call before ended; make a reader of that batch_size"
            )
        with one_blas_thread():
            return function(
                self.model.params, tokens, *targets, None, self.config, xp=xp,
                hidden_forward=self._hidden, position_ids=places, **options,
            )[0]  # fmt: skip

    def _hidden(self, params, tokens, mems, config, *, rng, xp, inspect, keep, position_ids):
        """Read tokens (B, T) -> h_N (B, T, D), None, None; the memory moves on."""
        c, (b, t) = config, tokens.shape
        self._make_room(t)
        n_mem = self._stop - self._first
        self._keys = slice(self._first, self._stop + t)  # [memory ; segment] in the buffers
        h, _ = ends_of(c).embed_forward(params, xp.reshape(tokens, (-1,)), c, xp=xp)
        h = xp.reshape(h, (b, t, c.d_model)) * math.sqrt(c.d_model)  # (B*T, D) -> (B, T, D)
        mask = None if position_ids is None else segment_mask(h, n_mem, c, position_ids, xp=xp)
        for layer in self._layers:
            layer.states[:, self._stop : self._stop + t, :] = h
            # The layer is told of the segment alone: its memory is what `layer` has kept.
            attend = partial(self._attend, layer)
            h, _ = layer_forward(h, None, layer.w, mask, c, n_mem=0, rng=None, xp=xp, attend=attend)
        first, stop = kept_rows(n_mem=n_mem, n_new=t, config=c)
        self._first, self._stop = self._first + first, self._first + stop
        return h, None, None

    def _attend(self, layer: _Layer, x, h, pos, w, mask, *, dropatt, rng, xp, inspect=None):
        """Attention in the form that a layer calls; x, h (B, T, D) are the segment -> (B, T, D)."""
        c = self.config
        q, k, v, _ = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=c.n_head, xp=xp)
        t, scale = q.shape[2], 1.0 / math.sqrt(c.d_head)
        q, k = (layer.turn(x, self._keys.stop - t, xp=xp) for x in (q, k))
        layer.write(k, v, self._keys.stop - t)
        q_u = (q + layer.u) * scale
        ones = xp.ones((*q.shape[:3], 1), dtype=q.dtype, device=q.device)
        q_1 = xp.concat([q[..., : layer.r_t.shape[1] - 1], ones], axis=-1) * scale  # `_positions`
        k_t, v = layer.k_t[..., self._keys], layer.v[:, :, self._keys, :]
        n_mem = k_t.shape[3] - t
        max_keys = c.most_keys if c.same_length else None
        o = xp.empty(q.shape, dtype=q.dtype, device=q.device)

        def work(piece) -> None:
            b, heads, queries = piece
            # No query of the piece sees a later key, with max_keys none an earlier one either.
            first = 0 if max_keys is None else max(0, n_mem + queries.start + 1 - max_keys)
            keys = slice(first, n_mem + queries.stop)
            o[b, heads, queries, :] = attend_to_kept(
                q_u[b, heads, queries, :],
                q_1[b, heads, queries, :],
                k_t[b, heads, :, keys],
                v[b, heads, keys, :],
                layer.r_t[heads, ...],
                max_keys=max_keys,
                mask=None if mask is None else mask[b, :, queries, keys],
                xp=xp,
            )

        pieces = list(_pieces(q.shape[0], q.shape[1], t, n_mem + t, self._block))
        if len(pieces) == 1:
            work(pieces[0])
        else:
            self._workers.map(work, pieces)
        return linear_forward(merge_heads(o, xp=xp), w.w_o, xp=xp)  # (B, H, T, Dh) -> (B, T, D)


class _Layer:
    """What one layer keeps. n is the length of its buffers; the reader knows what is in use."""

    states: Array  # (B, n, D) the layer's inputs
    k_t: Array  # (B, H, Dh, n) keys, transposed: so a product with few queries is faster
    v: Array  # (B, H, n, Dh)
    r_t: Array  # (H, Dh+1 or 1, L+1) of the positions; see `_positions`

    def __init__(self, model: TransformerXL, w: LayerWeights, batch_size: int):
        self.config, self._back = model.config, model.backend
        self.w, self.batch_size = w, batch_size
        self.u = w.attn.r_w_bias[:, None, :] if "r_w_bias" in w.attn._fields else 0.0  # (H, 1, Dh)
        self.turn = encoding_of(model.config).turn

    def load(self, mem, n: int) -> None:
        """Make buffers of length n that begin with a memory (B, M, D)."""
        c, w, xp = self.config, self.w, self._back.xp
        self._allocate(n)
        self.states[:, : mem.shape[1], :] = mem
        if c.pre_lnorm:
            norm = (w.attn_gamma, w.attn_beta)
            mem, _ = layer_norm_forward(mem, *norm, eps=c.layer_norm_epsilon, xp=xp)
        projected = (linear_forward(mem, x, xp=xp)[0] for x in (w.attn.w_k, w.attn.w_v))
        k, v = (split_heads(y, n_head=c.n_head, xp=xp) for y in projected)
        self.write(self.turn(k, 0, xp=xp), v, 0)

    def move(self, first: int, stop: int, n: int) -> None:
        """Make buffers of length n that begin with what stood from first to stop."""
        kept = slice(first, stop)
        states, k_t, v = self.states, self.k_t, self.v
        self._allocate(n)
        self.states[:, : stop - first, :] = states[:, kept, :]
        k, xp = k_t[..., kept], self._back.xp
        k = self.turn(xp.matrix_transpose(k), -first, step=0, xp=xp)  # each by as much as it moves
        self.write(k, v[:, :, kept, :], 0)

    def write(self, k, v, at: int) -> None:
        """Put keys and values (B, H, L, Dh) at a place."""
        to = slice(at, at + k.shape[2])
        self.k_t[..., to] = self._back.xp.matrix_transpose(k)
        self.v[:, :, to, :] = v

    def _allocate(self, n: int) -> None:
        b, c, back = self.batch_size, self.config, self._back
        where = dict(dtype=back.dtype, device=back.device)
        self.states = back.xp.empty((b, n, c.d_model), **where)
        self.k_t = back.xp.empty((b, c.n_head, c.d_head, n), **where)
        self.v = back.xp.empty((b, c.n_head, n, c.d_head), **where)


def _positions(w, n_row: int, model: TransformerXL):
    """Return r_t (H, Dh+1, L+1) of an attention's weights: column c for distance L-1-c, then zeros.

    The score of a distance is q . r + e; e goes with r as one more row: (q, 1) . (r, e), or alone.
    """
    c, xp = model.config, model.backend.xp
    terms = encoding_of(c).position_terms
    assert terms is not None  # `can_cache` has said so
    r, e = terms(w, n_row, model.params, c, xp=xp)  # (H, L, Dh), (H, L)
    r = xp.concat([r, e[:, :, None]], axis=-1)  # -> (H, L, Dh + 1)
    # Written into an array of its own: what `concat` returns may keep the layout from before.
    r_t = xp.zeros((c.n_head, r.shape[2], n_row + 1), dtype=r.dtype, device=r.device)
    r_t[..., :n_row] = xp.matrix_transpose(r)
    return r_t


def _pieces(b: int, n_head: int, t: int, n_key: int, block: int | None):
    """Cut B rows of H heads of T queries on K keys into slices of about `block` scores."""
    if block is None:
        n_row, heads, queries = b, n_head, t
    else:
        queries = min(t, max(MIN_QUERIES, block // n_key))
        together = max(1, block // (queries * n_key))  # heads
        heads, n_row = min(together, n_head), max(1, together // n_head)

    def cuts(length, step):
        return [slice(at, min(at + step, length)) for at in range(0, length, step)]

    return product(cuts(b, n_row), cuts(n_head, heads), cuts(t, queries))


def attend_to_kept(q_u, q_1, k_t, v, r_t, *, max_keys, xp, mask=None):
    """o = softmax(q_u k^T + rel_shift(q_1 r^T), masked) v for the last T of K positions.

    q_u (B, H, T, Dh), q_1 (B, H, T, Dh+1), scaled; k_t (B, H, Dh, K), v (B, H, K, Dh);
    r_t (H, Dh+1, > K), its last column zeros -> o (B, H, T, Dh). max_keys as in `attention_mask`;
    K is at most T - 1 more. mask (B, 1, T, K), additive, comes where rows hold documents.
    """
    *lead, t, _ = q_u.shape
    k = k_t.shape[-1]
    # `rel_shift_forward` with its column of zeros brought along by r: the shift is then a view.
    s = q_1 @ r_t[..., r_t.shape[-1] - (k + 1) :]  # (B, H, T, K+1) by distance
    line = xp.reshape(s, (*lead, t * (k + 1)))[..., t - 1 : t - 1 + t * k]
    s = xp.reshape(line, (*lead, t, k))  # by key
    s += q_u @ k_t
    if mask is not None:
        s += mask
    elif t > 1:  # one query sees all K keys
        # What is hidden lies in two triangles: the future on the right, the too old on the left.
        where = dict(device=s.device, xp=xp)
        future = attention_mask(n_query=t, n_mem=0, max_keys=None, **where)
        s[..., k - t :] += additive_mask(future, dtype=s.dtype, xp=xp)
        if max_keys is not None and k > max_keys:
            old = attention_mask(n_query=t, n_mem=t, max_keys=max_keys - (k - t) + t, **where)
            s[..., :t] += additive_mask(old[:, :t], dtype=s.dtype, xp=xp)
    s -= xp.max(s, axis=-1, keepdims=True)
    p = xp.exp(s)
    o = p @ v
    o /= xp.sum(p, axis=-1, keepdims=True)  # after the product: Dh numbers to divide, not K
    return o
