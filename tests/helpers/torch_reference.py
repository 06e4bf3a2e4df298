"""A second opinion on minitxl: the whole family in PyTorch, from the definitions, with autograd.

It shares nothing with the package but the parameters' names and shapes, so that a mistake in one
of the two shows as a disagreement. It is written to be read, not to be fast, and goes other ways on
purpose: positions are gathered by the distance i - j itself, for every pair of query and key (no
relative shift); embeddings are looked up word by word, and the adaptive softmax is written out for
the whole vocabulary (`torch_words.py`).

Dims: B batch, T segment, S targets, M memory, K = M + T keys, D d_model, H heads, Dh d_head,
F d_inner, V vocabulary, L rows of a learned table of positions.
"""

from typing import NamedTuple

import numpy as np
import torch

from helpers.torch_words import embed, log_probabilities

RELATIVE, SHAW, SINUSOID, LEARNED, ROPE, ALIBI = range(6)  # attn_type


class Result(NamedTuple):
    """What one segment gives: nll (B, S) in nats, and lists over layers."""

    nll: torch.Tensor
    mems: list  # n_layer x (B, <= mem_len, D), cut from the graph
    hidden: list  # n_layer + 1 x (B, T, D): the embedding, then every layer's output
    probs: list  # n_layer x (B, H, T, K)
    terms: list  # n_layer x {"a" .. "d"}, scaled; each broadcasts to (B, H, T, K)


class Masks:
    """Dropout masks by name, already scaled by 1 / (1 - p); where there is none nothing is dropped.

    Names: "embedding" (B, T, D), of attn_type 2 (B, K, D), after the positions are added;
    "positions" (K, D) of attn_type 0, row 0 the longest distance; "output" (B, T, D); in layer n
    "n.probs" (B, H, T, K), "n.attn" (B, T, D), "n.inner" (B, T, F) and "n.ff" (B, T, D).
    """

    def __init__(self, arrays=None, dtype=torch.float64):
        self.arrays = {
            k: torch.as_tensor(np.asarray(a), dtype=dtype) for k, a in (arrays or {}).items()
        }

    def apply(self, name, x):
        return x * self.arrays[name] if name in self.arrays else x


def to_tensors(params, dtype=torch.float64, requires_grad=False):
    """Copies of the arrays of a mapping name -> array, as leaf tensors."""
    return {
        name: torch.tensor(np.asarray(params[name]), dtype=dtype, requires_grad=requires_grad)
        for name in params
    }


# --- positions ------------------------------------------------------------------------------------


def distances(n_query, n_mem):
    """(T, K): how far key j lies behind query i, i - j in the text; below 0 it is the future."""
    query = torch.arange(n_query)[:, None] + n_mem  # both counted from the memory's first row
    return query - torch.arange(n_mem + n_query)[None, :]


def hidden_keys(n_query, n_mem, config):
    """(T, K) bool, True where query i may not see key j: the future; same_length: the far past."""
    distance = distances(n_query, n_mem)
    if config.same_length:  # so many keys are seen, the query's own (distance 0) included
        return (distance < 0) | (distance >= config.mem_len + config.released.same_length_extra)
    return distance < 0


def sinusoids(distance, config, dtype):
    """(N,) -> (N, D), [sin | cos]; distances beyond clamp_len all alike."""
    distance = distance.to(dtype)
    if config.clamp_len > 0:
        distance = torch.clamp(distance, max=config.clamp_len)
    frequency = 10000.0 ** (-torch.arange(0, config.d_model, 2, dtype=dtype) / config.d_model)
    angle = distance[:, None] * frequency[None, :]
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


def learned(table, distance, config):
    """The row of a table (L, ...) for every distance (...); the last row belongs to distance 0.

    Only so many distances are told apart as the table has rows, or clamp_len where that is less;
    longer ones share the row of the longest. The future has no row: any will do, it is not seen.
    """
    n_row = table.shape[0]
    told_apart = min(n_row, config.clamp_len) if config.clamp_len > 0 else n_row
    return table[n_row - 1 - distance.clamp(min=0, max=told_apart - 1)]


def with_positions(config, params, layer, context, masks):
    """What a layer reads (B, K, D): the absolute encodings add a position to every state."""
    n_key = context.shape[1]
    from_end = torch.arange(n_key - 1, -1, -1)  # K-1 ... 0
    if config.attn_type == SINUSOID and layer == 0:
        context = context + sinusoids(from_end, config, context.dtype)
        return masks.apply("embedding", context)
    if config.attn_type == LEARNED:
        return context + learned(params[f"layers.{layer}.pos_emb"], from_end, config)
    return context


def turned_products(q, k, distance):
    """(B, H, T, K): q_i . R k_j, where R turns pair n of k, as a complex number, by (j - i) w_n.

    Numbers n and n + Dh/2 make pair n; as complex numbers q . k is the real part of q k*.
    """
    n_pair = q.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(n_pair, dtype=q.dtype) / n_pair)
    turn = torch.exp(1j * distance.to(q.dtype)[..., None] * frequency)  # (T, K, Dh/2), of k*
    q, k = (torch.complex(x[..., :n_pair], x[..., n_pair:]) for x in (q, k))
    return torch.einsum("bihn,bjhn,ijn->bhij", q, k.conj(), turn).real


def slopes(n_head):
    """Of ALiBi's heads: 1/256 is the last of a power of two, whose roots are the others."""
    power = 2 ** int(np.log2(n_head))
    first = (1 / 256) ** (1 / power)
    if power == n_head:
        return [first**h for h in range(1, n_head + 1)]
    return slopes(power) + slopes(2 * power)[: 2 * (n_head - power) : 2]


# --- layers ---------------------------------------------------------------------------------------


def layer_norm(x, gamma, beta, eps):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)  # divided by D, not D - 1
    return centred / torch.sqrt(variance + eps) * gamma + beta


def score_terms(config, params, layer, q, k, masks):
    """The terms of the score, (B or 1, H, T or 1, K), not yet scaled: paper sec. 3.3, one by one.

    q (B, T, H, Dh), k (B, K, H, Dh).
    """
    name, n_query, n_key = f"layers.{layer}.", q.shape[1], k.shape[1]
    distance = distances(n_query, n_key - n_query)
    if config.attn_type == ROPE:
        return {"a": turned_products(q, k, distance)}
    terms = {"a": torch.einsum("bihd,bjhd->bhij", q, k)}
    if config.attn_type in (SINUSOID, LEARNED):
        return terms
    if config.attn_type == ALIBI:
        far = distance.clamp(max=config.clamp_len) if config.clamp_len > 0 else distance
        slope = torch.tensor(slopes(config.n_head), dtype=q.dtype)
        # Not scaled, as published: what comes later is undone.
        return terms | {"d": -torch.einsum("h,ij->hij", slope, far) * config.d_head**0.5}
    if config.attn_type == SHAW:
        u = params[name + "r_w_bias"]  # (H, Dh)
        r_ij = learned(params[name + "r_emb"], distance, config)  # (L, H, Dh) -> (T, K, H, Dh)
        d_ij = learned(params[name + "r_bias"], distance, config)  # (L, H) -> (T, K, H)
    else:
        bias = name if config.untie_r else ""
        u, v = params[bias + "r_w_bias"], params[bias + "r_r_bias"]  # (H, Dh)
        table = sinusoids(torch.arange(n_key), config, q.dtype)  # row d: distance d
        # The mask's row 0 belongs to the longest distance, row 0 of `table` to distance 0.
        table = masks.apply("positions", table.flip(0)).flip(0)
        r = (table @ params[name + "attn.w_r"]).reshape(n_key, *u.shape)
        r_ij = r[distance.clamp(min=0)]  # any row for the future, it is not seen
        d_ij = torch.einsum("hd,ijhd->ijh", v, r_ij)
    terms["b"] = torch.einsum("bihd,ijhd->bhij", q, r_ij)
    terms["c"] = torch.einsum("hd,bjhd->bhj", u, k)[:, :, None, :]
    terms["d"] = d_ij.permute(2, 0, 1)[None]
    return terms


def attention(config, params, layer, queries_in, keys_in, masks, mix=None):
    """Multi-head attention of one layer: output (B, T, D), probabilities, terms.

    mix: what a memory beside it makes of its heads' output (B, T, H, Dh) (`torch_memories.py`).
    """
    (n_batch, n_query, _), n_key = queries_in.shape, keys_in.shape[1]
    name = f"layers.{layer}.attn."

    def split(x):  # (..., H * Dh) -> (..., H, Dh)
        return x.reshape(*x.shape[:-1], config.n_head, config.d_head)

    q = split(queries_in @ params[name + "w_q"])  # (B, T, H, Dh)
    k = split(keys_in @ params[name + "w_k"])  # (B, K, H, Dh)
    value = split(keys_in @ params[name + "w_v"])  # (B, K, H, Dh)

    terms = score_terms(config, params, layer, q, k, masks)
    terms = {x: term / config.d_head**0.5 for x, term in terms.items()}
    score = sum(terms.values())
    score = score.masked_fill(hidden_keys(n_query, n_key - n_query, config), float("-inf"))
    probs = torch.softmax(score, dim=-1)
    dropped = masks.apply(f"{layer}.probs", probs)
    out = torch.einsum("bhij,bjhd->bihd", dropped, value)
    if mix is not None:
        out = mix(out, queries_in, q, k, value)
    return out.reshape(n_batch, n_query, -1) @ params[name + "w_o"], probs, terms


def feed_forward(params, layer, x, masks):
    name = f"layers.{layer}.ff."
    inner = torch.relu(x @ params[name + "w_1"] + params[name + "b_1"])
    inner = masks.apply(f"{layer}.inner", inner)
    return masks.apply(f"{layer}.ff", inner @ params[name + "w_2"] + params[name + "b_2"])


def decoder_layer(config, params, layer, context, n_query, masks, mix=None):
    """One layer on context (B, K, D) = [memory ; segment]: output (B, T, D), probs, terms."""

    def norm(which, x):
        name = f"layers.{layer}.{which}_norm."
        return layer_norm(
            x, params[name + "gamma"], params[name + "beta"], config.layer_norm_epsilon
        )

    h = context[:, context.shape[1] - n_query :]
    queries_in, keys_in = h, context
    if config.pre_lnorm:
        queries_in = h if config.released.raw_queries else norm("attn", h)
        keys_in = norm("attn", context)
    attended, *seen = attention(config, params, layer, queries_in, keys_in, masks, mix)
    attended = masks.apply(f"{layer}.attn", attended)
    if config.pre_lnorm:
        x = h + attended
        return x + feed_forward(params, layer, norm("ff", x), masks), *seen
    x = norm("attn", h + attended)
    return norm("ff", x + feed_forward(params, layer, x, masks)), *seen


# --- the model ------------------------------------------------------------------------------------


def remembered(n_mem, n_query, config):
    """The rows of [memory ; segment] that the next segment gets as its memory, a list.

    It begins ext_len tokens before this segment's end (but not before its beginning) and remembers
    the mem_len rows before that. The released code takes M for T and T for M here.
    """
    old, new = (n_query, n_mem) if config.released.ext_len_swapped else (n_mem, n_query)
    begin = old + max(0, new - config.ext_len)
    return [row for row in range(n_mem + n_query) if begin - config.mem_len <= row < begin]


def run_segment(config, params, tokens, targets, mems=None, masks=None, through_memory=False):
    """The model on one segment, as tensors: a Result whose nll can be differentiated.

    params: mapping name -> tensor. targets (B, S), S <= T: those of the last S positions. mems:
    None or n_layer tensors (B, M, D); they are treated as data (the paper's stop-gradient) unless
    through_memory is true.
    """
    dtype = next(iter(params.values())).dtype
    masks = masks or Masks(dtype=dtype)
    tokens, targets = (torch.as_tensor(np.asarray(x), dtype=torch.long) for x in (tokens, targets))
    n_batch, n_query = tokens.shape
    if mems is None:
        n_start = config.mem_len if config.start_mems == "zeros" else 0
        mems = [torch.zeros((n_batch, n_start, config.d_model), dtype=dtype)] * config.n_layer
    if not through_memory:
        mems = [mem.detach() for mem in mems]

    h = embed(config, params, tokens) * config.d_model**0.5
    if config.attn_type != SINUSOID:
        h = masks.apply("embedding", h)
    hidden, new_mems, probs, terms = [h], [], [], []
    keep = remembered(mems[0].shape[1], n_query, config)
    for layer in range(config.n_layer):
        context = torch.cat([mems[layer], h], dim=1)  # (B, K, D)
        new_mems.append(context[:, keep])  # states as they are, without positions
        context = with_positions(config, params, layer, context, masks)
        h, p, t = decoder_layer(config, params, layer, context, n_query, masks)
        hidden.append(h)
        probs.append(p)
        terms.append(t)
    if not through_memory:
        new_mems = [mem.detach() for mem in new_mems]

    h = masks.apply("output", h)[:, n_query - targets.shape[1] :]
    nll = -log_probabilities(config, params, h).gather(-1, targets[..., None])[..., 0]
    return Result(nll, new_mems, hidden, probs, terms)


# --- with NumPy arrays ----------------------------------------------------------------------------


def reference_step(
    config, params, tokens, targets, mems, dnll=None, masks=None, dtype=torch.float64
):
    """nll (B, S) in nats, new memories and gradients by name, all as NumPy arrays.

    The gradients are those of nll.mean(), or of (nll * dnll).sum().
    """
    tensors = to_tensors(params, dtype, requires_grad=True)
    mems = None if mems is None else [torch.as_tensor(np.asarray(m), dtype=dtype) for m in mems]
    out = run_segment(config, tensors, tokens, targets, mems, Masks(masks, dtype))
    loss = out.nll.mean() if dnll is None else (out.nll * torch.as_tensor(dnll, dtype=dtype)).sum()
    # A table of words or positions that this segment does not look up is not used.
    leaves = list(tensors.values())
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    grads = {name: grad.numpy() for name, grad in zip(tensors, grads, strict=True)}
    return out.nll.detach().numpy(), [mem.numpy() for mem in out.mems], grads


def reference(config, params, tokens, targets, mems, **options):
    """nll and the new memories; see `reference_step`."""
    return reference_step(config, params, tokens, targets, mems, **options)[:2]


def reference_hidden_gradients(
    config, params, segments, through_memory=False, dnll=None, dtype=torch.float64
):
    """d loss / d h_n for each segment and n = 0 .. n_layer; the loss is that of the last segment.

    segments: consecutive (tokens, targets). Returns a list over segments of lists of (B, T, D)
    arrays; a state that the loss does not depend on has gradient zero.
    """
    tensors = to_tensors(params, dtype, requires_grad=True)
    mems, states = None, []
    for tokens, targets in segments:
        out = run_segment(config, tensors, tokens, targets, mems, through_memory=through_memory)
        mems = out.mems
        states.append(out.hidden)
    loss = out.nll.mean() if dnll is None else (out.nll * torch.as_tensor(dnll, dtype=dtype)).sum()
    flat = [h for hidden in states for h in hidden]
    grads = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
    return [[next(grads).numpy() for _ in hidden] for hidden in states]
