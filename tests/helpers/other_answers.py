"""Right answers in other styles than those of `course_answers.py`: loops, einsum, detours, prints.

`OTHERS` maps an exercise's id to its functions. Nothing in them is known to the judge.
"""

import math

import numpy as np

from helpers.whole_answers import WHOLE


def lengths_by_counting(n_target, tgt_len):
    out, seen = [], 0
    for _ in range(n_target):
        seen = 1 if seen == tgt_len else seen + 1
        out.append(seen)
    return out  # a plain list


def lengths_by_tile(n_target, tgt_len):
    return np.tile(np.arange(1, tgt_len + 1), n_target // tgt_len + 1)[:n_target].astype(np.int32)


def batch_by_loop(text, batch_size, tgt_len, n):
    steps = (len(text) - 1) // batch_size // tgt_len
    tokens = np.zeros((batch_size, tgt_len), dtype=int)
    targets = np.zeros_like(tokens)
    for b in range(batch_size):
        for t in range(tgt_len):
            at = b * steps * tgt_len + n * tgt_len + t
            tokens[b, t], targets[b, t] = text[at], text[at + 1]
    return [tokens, targets]


def batch_by_split(text, batch_size, tgt_len, n):
    per_row = (len(text) - 1) // (batch_size * tgt_len) * tgt_len
    rows = [text[b * per_row : (b + 1) * per_row + 1] for b in range(batch_size)]
    here = [row[n * tgt_len : (n + 1) * tgt_len + 1] for row in rows]
    return np.array([x[:-1] for x in here], np.float32), np.array([x[1:] for x in here])


def softmax_backward_by_jacobian(dp, p):
    jacobian = np.einsum("btk,kj->btkj", p, np.eye(p.shape[-1])) - p[..., None] * p[..., None, :]
    return (dp[..., None, :] @ jacobian)[..., 0, :]


def softmax_backward_aloud(dp, p):
    print("shapes", dp.shape, p.shape)
    inner = np.matmul(dp[..., None, :], p[..., :, None])[..., 0]
    print("inner", inner.ravel()[:3])
    return dp * p - inner * p


def layer_norm_backward_by_jacobian(dy, x, gamma, eps):
    d = x.shape[-1]
    centred = x - x.mean(-1)[..., None]
    std = np.sqrt((centred**2).mean(-1) + eps)[..., None]
    x_hat = centred / std
    jacobian = np.eye(d) - 1 / d - x_hat[..., :, None] * x_hat[..., None, :] / d
    dx = np.einsum("btj,btjk->btk", dy * gamma, jacobian) / std
    return dx, np.einsum("btd,btd->d", dy, x_hat), dy.reshape(-1, d).sum(0)


def layer_norm_backward_by_steps(dy, x, gamma, eps):
    n = x.shape[-1]
    mu = np.mean(x, axis=-1, keepdims=True)
    xmu = x - mu
    var = np.mean(xmu**2, axis=-1, keepdims=True)
    ivar = (var + eps) ** -0.5
    dxhat = dy * gamma
    divar = np.sum(dxhat * xmu, axis=-1, keepdims=True)
    dvar = -0.5 * ivar**3 * divar
    dxmu = dxhat * ivar + 2 * xmu / n * dvar
    dmu = -np.sum(dxmu, axis=-1, keepdims=True)
    dgamma = sum(dy[b, t] * (xmu * ivar)[b, t] for b in range(len(x)) for t in range(x.shape[1]))
    return [dxmu + dmu / n, dgamma, np.sum(np.sum(dy, axis=0), axis=0)]


def loss_gradient_by_loop(logits, targets):
    out = np.empty_like(logits)
    for n, (row, y) in enumerate(zip(logits, targets, strict=True)):
        e = [math.exp(v - max(row)) for v in row]
        out[n] = [(ev / sum(e) - (v == y)) / len(logits) for v, ev in enumerate(e)]
    return out


def loss_gradient_by_logsumexp(logits, targets):
    top = logits.max(-1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return np.float32((np.exp(logp) - np.eye(logits.shape[1])[targets]) / targets.shape[0])


def attend_by_loop(q, k, v, mask):
    out = np.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if not mask[i, j]]
                s = np.array([q[b, h, i] @ k[b, h, j] for j in seen]) / q.shape[3] ** 0.5
                w = np.exp(s - s.max())
                out[b, h, i] = w / w.sum() @ v[b, h, seen]
    return out


def attend_by_masked_array(q, k, v, mask):
    s = np.matmul(q, np.transpose(k, (0, 1, 3, 2))) * q.shape[-1] ** -0.5
    s = s + np.where(mask, -np.inf, 0)
    s = s - np.amax(s, axis=3, keepdims=True)
    p = np.exp(s)
    np.divide(p, p.sum(axis=3, keepdims=True), out=p)
    print(f"{p.shape=}")
    return np.einsum("bhqk,bhkd->bhqd", p, v)


def attention_backward_by_heads(do, q, k, v, p):
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    root = np.sqrt(q.shape[-1])
    for at in np.ndindex(q.shape[:2]):
        dv[at] = p[at].T @ do[at]
        dp = do[at] @ v[at].T
        ds = p[at] * dp - p[at] * (p[at] * dp).sum(1)[:, None]
        dq[at], dk[at] = ds @ k[at] / root, ds.T @ q[at] / root
    return dq, dk, dv


def attention_backward_by_outputs(do, q, k, v, p):
    o = p @ v  # sum_k dp p = do . o
    ds = p * (do @ v.transpose(0, 1, 3, 2) - (do * o).sum(-1, keepdims=True))
    ds *= q.shape[-1] ** -0.5
    return [ds @ k, ds.transpose(0, 1, 3, 2) @ q, p.transpose(0, 1, 3, 2) @ do]


def positions_by_outer(n_key, d_model):
    w = 1 / 10000 ** (np.arange(0, d_model, 2) / d_model)
    angle = np.outer(np.arange(n_key - 1, -1, -1.0), w)
    return np.hstack([np.sin(angle), np.cos(angle)])


def positions_by_complex(n_key, d_model):
    w = np.exp(-np.log(1e4) * 2 * np.arange(d_model // 2) / d_model)
    z = np.exp(1j * np.arange(n_key)[:, None] * w)[::-1]
    return np.concatenate((z.imag, z.real), axis=1)


def shift_by_index(x):
    *_, t, k = x.shape
    padded = np.concatenate([np.zeros((*x.shape[:-1], 1)), x], -1).reshape(*x.shape[:-2], -1)
    where = np.arange(t * k).reshape(t, k) + t
    return padded[..., where]


def shift_by_loop(x):
    t, k = x.shape[-2:]
    out = np.zeros_like(x)
    for i in range(t):
        line = [x[..., i, c] for c in range(t - 1 - i, k)]
        line += [np.zeros(x.shape[:-2])] if i + 1 < t else []
        line += [x[..., i + 1, c] for c in range(k - len(line))] if i + 1 < t else []
        for c, column in enumerate(line):
            out[..., i, c] = column
    return out


def unshift_by_matrix(dy):
    t, k = dy.shape[-2:]
    back = np.zeros((t * k, t * k))
    for n in range(t * k):  # which number of x came to place n of y?
        row, column = divmod(n + t, k + 1)
        if column:
            back[row * k + column - 1, n] = 1
    return (dy.reshape(-1, t * k) @ back.T).reshape(dy.shape)


def unshift_by_scatter(dy):
    *lead, t, k = dy.shape
    line = np.zeros((*lead, t * (k + 1)))
    line[..., t : t + t * k] += dy.reshape(*lead, t * k)
    return np.delete(line.reshape(*lead, t, k + 1), 0, axis=-1)


def terms_by_index(q, k, r, u, v):
    t, n = q.shape[2], k.shape[2]
    column = np.clip(np.arange(n)[None, :] + t - 1 - np.arange(t)[:, None], 0, n - 1)
    scale = q.shape[-1] ** -0.5
    b = np.take_along_axis(q @ r.transpose(0, 2, 1), column[None, None] + np.zeros(
        (*q.shape[:2], 1, 1), dtype=int), axis=-1)  # fmt: skip
    d = np.einsum("hd,hcd->hc", v, r)[:, column]
    c = np.einsum("hd,bhjd->bhj", u, k)[:, :, None]
    a = np.einsum("bhid,bhjd->bhij", q, k)
    return [scale * a, scale * b, scale * (c + 0 * a), scale * (d[None] + 0 * a)]


def terms_by_shift(q, k, r, u, v):
    def shifted(x):
        *lead, t, n = x.shape
        x = np.pad(x, [(0, 0)] * len(lead) + [(0, 0), (1, 0)])
        return x.reshape(*lead, n + 1, t)[..., 1:, :].reshape(*lead, t, n)

    root = math.sqrt(q.shape[-1])
    kt, rt = k.swapaxes(-1, -2), r.swapaxes(-1, -2)
    us, vs = (np.broadcast_to(x[None, :, None], q.shape) for x in (u, v))
    return q @ kt / root, shifted(q @ rt) / root, us @ kt / root, shifted(vs @ rt) / root


def memory_by_loop(mem, h, mem_len):
    rows = [mem[:, i] for i in range(mem.shape[1])] + [h[:, i] for i in range(h.shape[1])]
    rows = rows[max(0, len(rows) - mem_len) :]
    return np.stack(rows, axis=1) if rows else np.empty((len(h), 0, h.shape[2]))


def memory_by_hstack(mem, h, mem_len):
    if mem_len == 0:
        return h[:, :0]
    return np.hstack([mem, h])[:, -mem_len:].astype(np.float32)


def mask_by_lists(n_query, n_mem, max_keys):
    rows = []
    for i in range(n_query):
        last = i + n_mem
        first = 0 if max_keys is None else last - max_keys + 1
        rows.append([not first <= j <= last for j in range(n_mem + n_query)])
    return rows


def mask_by_triangles(n_query, n_mem, max_keys):
    ones = np.ones((n_query, n_mem + n_query))
    hidden = np.triu(ones, n_mem + 1)
    if max_keys is not None:
        hidden = hidden + np.tril(ones, n_mem - max_keys)
    return hidden  # numbers for truth values


def stop_by_loop(dk, dv, h, w_k, w_v, n_mem):
    dw_k, dw_v = np.zeros_like(w_k), np.zeros_like(w_v)
    dh = np.zeros_like(h)
    for b in range(len(h)):
        dw_k += h[b].T @ dk[b]
        dw_v += h[b].T @ dv[b]
        dh[b] = dk[b] @ w_k.T + dv[b] @ w_v.T
    return dh[:, n_mem:], dw_k, dw_v


def stop_by_reshape(dk, dv, h, w_k, w_v, n_mem):
    flat = h.reshape(-1, h.shape[-1])
    both = np.concatenate([dk, dv], axis=-1)
    dh = both[:, n_mem:] @ np.concatenate([w_k, w_v], axis=1).T
    dw = flat.T @ both.reshape(len(flat), -1)
    return dh, *np.split(dw, 2, axis=1)


def reach_by_formula(n_layer, tgt_len, mem_len):
    return (n_layer - 1) * tgt_len * math.ceil(mem_len / tgt_len) + mem_len


def reach_by_sets(n_layer, tgt_len, mem_len):
    oldest = 0
    for layer in range(n_layer, 0, -1):
        oldest -= mem_len
        if layer > 1:
            oldest = max(s for s in range(oldest - tgt_len, oldest + 1) if s % tgt_len == 0)
    return float(-oldest)


def influence_by_formula(n_layer, tgt_len, mem_len, offset):
    whole = (mem_len + tgt_len - 1) // tgt_len
    return 1 + offset + mem_len + sum(tgt_len * whole for _ in range(n_layer - 1))


def influence_by_walk(n_layer, tgt_len, mem_len, offset):
    first = 0
    for layer in range(n_layer):
        first -= mem_len
        if layer < n_layer - 1:
            first -= first % tgt_len
    return np.array(offset - first + 1)


def bits_by_log2(nll):
    return np.mean(np.concatenate([x.ravel() for x in nll])) * np.log2(np.e)


def bits_by_loop(nll):
    total, count = 0.0, 0
    for segment in nll:
        for row in segment:
            for x in row:
                total, count = total + x, count + 1
    print(total, count)
    return total / count / np.log(2)


def gain_by_loop(near, far, ratio):
    b = [min(column) for column in near.T]
    n = max(1, round(ratio * len(b)))
    chosen = sorted(range(len(b)), key=lambda i: b[i])[-n:]
    f = sum(b[i] for i in chosen) / n
    gains = []
    for model in far:
        later = sum(min(b[i], model[i]) for i in chosen) / n
        gains.append((math.exp(f) - math.exp(later)) / math.exp(f))
    return tuple(gains)


def gain_by_partition(near, far, ratio):
    best = np.min(near, axis=0)
    n = max(1, round(ratio * best.size))
    top = np.argpartition(best, best.size - n)[best.size - n :]
    return 1 - np.exp(np.minimum(best[top], far[:, top]).mean(1) - best[top].mean())


def speed_by_parts(attention_len, segment_len, d_model, d_inner):
    def product(n, k, m):
        return 2 * n * k * m

    A, S, D, F = attention_len, segment_len, d_model, d_inner
    window = 4 * product(A, D, D) + 2 * product(A, D, A) + product(A, D, F) + product(A, F, D)
    memory = 2 * product(S, D, D) + 2 * product(A, D, D) + product(A, D, D)
    memory += 3 * product(S, D, A) + product(S, D, F) + product(S, F, D)
    return window / memory * S


def speed_per_token(attention_len, segment_len, d_model, d_inner):
    a, s, d, f = map(float, (attention_len, segment_len, d_model, d_inner))
    each = 4 * d * d + 6 * a * d + 4 * d * f + 6 * a * d * d / s
    return np.float32(a * (8 * d * d + 4 * a * d + 4 * d * f) / each)


def affordable_by_search(n_layer, d_model, d_inner, segment_len, flops):
    def price(m):
        keys = m + segment_len
        return n_layer * (8 * d_model**2 + 6 * keys * d_model + 4 * d_model * d_inner)

    low, high = 0, 10**7
    for _ in range(30):
        middle = (low + high) // 2
        low, high = (middle, high) if price(middle) <= flops else (low, middle)
    return low


def affordable_by_steps(n_layer, d_model, d_inner, segment_len, flops):
    fixed = n_layer * (8 * d_model * d_model + 4 * d_model * d_inner)
    keys = math.floor((flops - fixed) / (n_layer * 6 * d_model))
    return max(keys - segment_len, 0)


def culprits_by_table(bugs):
    model = {"mask": 4, "stream": 3, "keys": 2, "positions": 1, "zeros": 0}
    places = [0] * 5
    for n in range(len(bugs)):
        if bugs[n] in model:
            places[model[bugs[n]]] = n
    return tuple(places)


def culprits_by_array(bugs):
    wanted = np.array(["zeros", "positions", "keys", "stream", "mask"])
    return list((np.array(bugs) == wanted[:, None]).argmax(axis=1))


def culprits_by_search(bugs):
    model = [None] * 5
    for n in range(len(bugs)):
        if bugs[n] == "zeros":
            model[0] = n
        if bugs[n] == "positions":
            model[1] = n
        if bugs[n] == "keys":
            model[2] = n
        if bugs[n] == "stream":
            model[3] = n
        if bugs[n] == "mask":
            model[4] = n
    return model


OTHERS = {
    "bug-hunt": (culprits_by_table, culprits_by_array, culprits_by_search),
    "context-lengths": (lengths_by_counting, lengths_by_tile),
    "contiguous-batch": (batch_by_loop, batch_by_split),
    "softmax-backward": (softmax_backward_by_jacobian, softmax_backward_aloud),
    "layer-norm-backward": (layer_norm_backward_by_jacobian, layer_norm_backward_by_steps),
    "cross-entropy-gradient": (loss_gradient_by_loop, loss_gradient_by_logsumexp),
    "attention-forward": (attend_by_loop, attend_by_masked_array),
    "attention-backward": (attention_backward_by_heads, attention_backward_by_outputs),
    "relative-positions": (positions_by_outer, positions_by_complex),
    "rel-shift": (shift_by_index, shift_by_loop),
    "rel-shift-backward": (unshift_by_matrix, unshift_by_scatter),
    "four-terms": (terms_by_index, terms_by_shift),
    "memory-update": (memory_by_loop, memory_by_hstack),
    "same-length-mask": (mask_by_lists, mask_by_triangles),
    "the-stop": (stop_by_loop, stop_by_reshape),
    "reach": (reach_by_formula, reach_by_sets),
    "influence": (influence_by_formula, influence_by_walk),
    "bits-per-character": (bits_by_log2, bits_by_loop),
    "recl-gain": (gain_by_loop, gain_by_partition),
    "speed-up": (speed_by_parts, speed_per_token),
    "affordable-memory": (affordable_by_search, affordable_by_steps),
} | WHOLE
