"""Attention with linear biases and recurrence (ALiBi, Press et al. 2021); attn_type 5.

The score of query i on key j is
  (a) q_i . k_j / sqrt(Dh)      (d) - m_h (i - j)
where the slope m_h of head h is fixed: with every token that a key falls behind, its weight loses
the factor e^(-m_h), from 0.61 in the first of 8 heads to 0.996 in the last. Of the paper's four
terms (d) alone knows places, and it is not learned; as published it is not divided by sqrt(Dh), and
there is no u. It depends on the distance alone, so the paper's memory works unchanged, and a longer
one at evaluation meets no distance that has no number.
"""

from __future__ import annotations

from minitxl.model.attention import heads_forward, merge_heads
from minitxl.model.family.absolute import (
    AbsoluteCache,
    AbsoluteWeights,
    absolute_backward,
    content_forward,
    content_term,
)
from minitxl.model.ops import linear_forward, rel_shift_forward


def slopes(n_head, *, dtype, device, xp):
    """m_h = 2^(-8h/H) for h = 1 ... H, if H is a power of two -> (H,).

    Else those of the power P below H, and then between them, h = 1/2, 3/2 ..., as published.
    """
    p = 1 << (n_head.bit_length() - 1)
    where = dict(dtype=dtype, device=device)
    h = xp.concat([xp.arange(1, p + 1, **where), xp.arange(n_head - p, **where) + 0.5])
    return 2.0 ** (-8 * h / p)


def linear_biases(n_key, *, n_head, clamp_len=-1, dtype, device, xp):
    """-m_h d for the distances K-1 ... 0, from clamp_len on all alike -> (H, K)."""
    where = dict(dtype=dtype, device=device)
    distances = xp.arange(n_key - 1, -1, -1, device=device)
    if clamp_len > 0:
        distances = xp.clip(distances, None, clamp_len)
    distances = xp.astype(distances, dtype)
    return -slopes(n_head, **where, xp=xp)[:, None] * distances  # (H, 1) * (K,) -> (H, K)


def alibi_forward(x, h, pos, w: AbsoluteWeights, mask, *, dropatt, rng, xp, inspect=None):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [memory ; segment] -> (B, T, D).

    pos (H, K): `linear_biases`; mask as in `attention_forward`.
    """
    n_head, n_key = pos.shape
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    d = xp.broadcast_to(pos[:, None, :], (n_head, x.shape[1], n_key))  # (H, K) -> (H, T, K)
    # By distance -> by key. Where nothing is clamped a row changes by a constant, which the softmax
    # does not see.
    d, _ = rel_shift_forward(d, xp=xp)
    o, core = content_forward(q, k, v, mask + d, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        a = content_term(core, xp=xp)
        inspect.look(core.attend, mask, {"a": a, "d": xp.zeros_like(a) + d})
    y, o_cache = linear_forward(merge_heads(o, xp=xp), w.w_o, xp=xp)  # -> (B, T, D)
    return y, AbsoluteCache(heads, core, o_cache)


# (d) is added and holds no parameter, so nothing of it is left in backward.
alibi_backward = absolute_backward
