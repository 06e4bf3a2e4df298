"""A second opinion on minitxl: a Transformer-XL in PyTorch, from the paper, with autograd.

It shares nothing with the package but the parameter names, so that a mistake in one of the two
shows as a disagreement. It is written to be read, not to be fast: the position scores are gathered
by the distance i - j itself, for every pair of query and key; no relative shift is needed.

Dims: B batch, T segment, M memory, K = M + T keys, D d_model, H heads, Dh d_head, F d_inner.
"""

from typing import NamedTuple

import numpy as np
import torch


class Result(NamedTuple):
    """What one segment gives: nll (B, T) in nats, and lists over layers."""

    nll: torch.Tensor
    mems: list  # n_layer x (B, min(mem_len, M + T), D), cut from the graph
    hidden: list  # n_layer + 1 x (B, T, D): the embedding, then every layer's output
    probs: list  # n_layer x (B, H, T, K)
    terms: list  # n_layer x {"a" .. "d"}, scaled; each broadcasts to (B, H, T, K)


class Masks:
    """Dropout masks by name, already scaled by 1 / (1 - p); where there is none nothing is dropped.

    Names: "embedding" (B, T, D); "positions" (K, D), row 0 the longest distance; "output"
    (B, T, D); in layer n "n.probs" (B, H, T, K), "n.attn" (B, T, D), "n.inner" (B, T, F) and
    "n.ff" (B, T, D).
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


def layer_norm(x, gamma, beta, eps):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)  # divided by D, not D - 1
    return centred / torch.sqrt(variance + eps) * gamma + beta


def sinusoids(n_distance, d_model, clamp_len, dtype):
    """R (n_distance, D): row d encodes distance d, [sin | cos]; beyond clamp_len all alike."""
    distance = torch.arange(n_distance, dtype=dtype)
    if clamp_len > 0:
        distance = torch.clamp(distance, max=clamp_len)
    frequency = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=dtype) / d_model)
    angle = distance[:, None] * frequency[None, :]
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


def hidden_keys(n_query, n_mem, config):
    """(T, K) bool, True where query i may not see key j: the future; same_length: the far past."""
    query = torch.arange(n_query)[:, None] + n_mem  # both counted from the memory's first row
    key = torch.arange(n_mem + n_query)[None, :]
    forbidden = key > query
    if config.same_length:
        forbidden = forbidden | (query - key >= config.mem_len)
    return forbidden


def attention(config, params, layer, queries_in, keys_in, positions, masks):
    """Relative multi-head attention of one layer: output (B, T, D), probabilities, terms."""
    (n_batch, n_query, _), n_key = queries_in.shape, keys_in.shape[1]
    n_head, d_head = config.n_head, config.d_head
    n_mem = n_key - n_query
    name = f"layers.{layer}."
    bias = name if config.untie_r else ""
    u, v = params[bias + "r_w_bias"], params[bias + "r_r_bias"]  # (H, Dh)

    def split(x):  # (..., H * Dh) -> (..., H, Dh)
        return x.reshape(*x.shape[:-1], n_head, d_head)

    q = split(queries_in @ params[name + "attn.w_q"])  # (B, T, H, Dh)
    k = split(keys_in @ params[name + "attn.w_k"])  # (B, K, H, Dh)
    value = split(keys_in @ params[name + "attn.w_v"])  # (B, K, H, Dh)
    r = split(positions @ params[name + "attn.w_r"])  # (distance, H, Dh)

    # Paper sec. 3.3, the four terms one by one. Keys of the future have no distance: any row does.
    distance = torch.arange(n_query)[:, None] + n_mem - torch.arange(n_key)[None, :]
    r_ij = r[distance.clamp(min=0)]  # (T, K, H, Dh)
    a = torch.einsum("bihd,bjhd->bhij", q, k)
    b = torch.einsum("bihd,ijhd->bhij", q, r_ij)
    c = torch.einsum("hd,bjhd->bhj", u, k)[:, :, None, :]
    d = torch.einsum("hd,ijhd->hij", v, r_ij)[None]
    terms = {name: x / d_head**0.5 for name, x in zip("abcd", (a, b, c, d), strict=True)}

    score = terms["a"] + terms["b"] + terms["c"] + terms["d"]
    score = score.masked_fill(hidden_keys(n_query, n_mem, config), float("-inf"))
    probs = torch.softmax(score, dim=-1)
    dropped = masks.apply(f"{layer}.probs", probs)
    out = torch.einsum("bhij,bjhd->bihd", dropped, value)
    out = out.reshape(n_batch, n_query, n_head * d_head) @ params[name + "attn.w_o"]
    return out, probs, terms


def feed_forward(params, layer, x, masks):
    name = f"layers.{layer}.ff."
    inner = torch.relu(x @ params[name + "w_1"] + params[name + "b_1"])
    inner = masks.apply(f"{layer}.inner", inner)
    return masks.apply(f"{layer}.ff", inner @ params[name + "w_2"] + params[name + "b_2"])


def decoder_layer(config, params, layer, h, mem, positions, masks):
    """One layer on its input h (B, T, D) and the remembered inputs mem (B, M, D)."""

    def norm(which, x):
        name = f"layers.{layer}.{which}_norm."
        return layer_norm(
            x, params[name + "gamma"], params[name + "beta"], config.layer_norm_epsilon
        )

    context = torch.cat([mem, h], dim=1)  # (B, K, D)
    queries_in, keys_in = (
        (norm("attn", h), norm("attn", context)) if config.pre_lnorm else (h, context)
    )
    attended, *seen = attention(config, params, layer, queries_in, keys_in, positions, masks)
    attended = masks.apply(f"{layer}.attn", attended)
    if config.pre_lnorm:
        x = h + attended
        return x + feed_forward(params, layer, norm("ff", x), masks), *seen
    x = norm("attn", h + attended)
    return norm("ff", x + feed_forward(params, layer, x, masks)), *seen


def run_segment(config, params, tokens, targets, mems=None, masks=None, through_memory=False):
    """The model on one segment, as tensors: a Result whose nll can be differentiated.

    params: mapping name -> tensor. mems: None or n_layer tensors (B, M, D); they are treated as
    data (the paper's stop-gradient) unless through_memory is true.
    """
    masks = masks or Masks(dtype=params["word_emb"].dtype)
    embedding = params["word_emb"]
    tokens = torch.as_tensor(np.asarray(tokens), dtype=torch.long)
    targets = torch.as_tensor(np.asarray(targets), dtype=torch.long)
    n_batch, n_query = tokens.shape
    if mems is None:
        empty = embedding.new_zeros((n_batch, 0, config.d_model))
        mems = [empty] * config.n_layer
    if not through_memory:
        mems = [mem.detach() for mem in mems]
    n_key = mems[0].shape[1] + n_query

    positions = sinusoids(n_key, config.d_model, config.clamp_len, embedding.dtype)
    # The mask's row 0 belongs to the longest distance, row 0 of `positions` to distance 0.
    positions = masks.apply("positions", positions.flip(0)).flip(0)

    h = masks.apply("embedding", embedding[tokens] * config.d_model**0.5)
    hidden, probs, terms = [h], [], []
    for layer in range(config.n_layer):
        h, p, t = decoder_layer(config, params, layer, h, mems[layer], positions, masks)
        hidden.append(h)
        probs.append(p)
        terms.append(t)

    logits = masks.apply("output", h) @ embedding.T + params["out_bias"]  # (B, T, V)
    log_probs = torch.log_softmax(logits, dim=-1)
    nll = -log_probs.gather(-1, targets[..., None])[..., 0]

    keep = min(config.mem_len, n_key)
    new_mems = [
        torch.cat([mem, inputs], dim=1)[:, n_key - keep :]
        for mem, inputs in zip(mems, hidden, strict=False)  # the top output is never remembered
    ]
    if not through_memory:
        new_mems = [mem.detach() for mem in new_mems]
    return Result(nll, new_mems, hidden, probs, terms)


def _mems_to_tensors(mems, dtype):
    return None if mems is None else [torch.as_tensor(np.asarray(m), dtype=dtype) for m in mems]


def reference(config, params, tokens, targets, mems, masks=None, dtype=torch.float64):
    """nll (B, T) in nats and the new memories, as NumPy arrays; arguments are NumPy arrays too."""
    tensors = to_tensors(params, dtype)
    with torch.no_grad():
        out = run_segment(
            config, tensors, tokens, targets, _mems_to_tensors(mems, dtype), Masks(masks, dtype)
        )
    return out.nll.numpy(), [mem.numpy() for mem in out.mems]


def reference_gradients(
    config, params, tokens, targets, mems, dnll=None, masks=None, dtype=torch.float64
):
    """Gradient of nll.mean(), or of (nll * dnll).sum(), for every parameter: name -> array."""
    tensors = to_tensors(params, dtype, requires_grad=True)
    out = run_segment(
        config, tensors, tokens, targets, _mems_to_tensors(mems, dtype), Masks(masks, dtype)
    )
    loss = out.nll.mean() if dnll is None else (out.nll * torch.as_tensor(dnll, dtype=dtype)).sum()
    grads = torch.autograd.grad(loss, list(tensors.values()))
    return {name: grad.numpy() for name, grad in zip(tensors, grads, strict=True)}


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
