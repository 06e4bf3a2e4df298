"""Right answers in other styles to the exercises of several steps: layers, loops, clusters.

`WHOLE` maps an exercise's id to its functions, as `other_answers.py` does, which takes it in.
"""

import numpy as np

from helpers.memory_answers import MEMORIES
from minitxl.course.exercises.learning import small_model
from minitxl.course.exercises.stream import layer


def biases_by_table(ds, k, r):
    _, _, t, n = ds.shape
    du = np.zeros((k.shape[1], k.shape[3]))
    dv = np.zeros_like(du)
    for i in range(t):
        for j in range(i + n - t + 1):
            weight = ds[:, :, i, j, None] / np.sqrt(k.shape[-1])  # (B, H, 1)
            du += (weight * k[:, :, j]).sum(0)
            dv += (weight * r[:, n - 1 - (i + n - t - j)]).sum(0)
    return du, dv


def biases_by_sums(ds, k, r):
    n, t = ds.shape[3], ds.shape[2]
    total = ds.sum(0) * r.shape[2] ** -0.5  # (H, T, K)
    by_distance = np.zeros((len(r), n))
    for offset in range(1 - t, n):  # column j + T-1-i of row i
        if 0 <= offset + t - 1 < n:
            line = np.trace(total, offset, axis1=1, axis2=2)
            by_distance[:, offset + t - 1] += line
    du = np.tensordot(ds.sum(2), k, ((0, 2), (0, 2)))
    du = np.stack([du[h, h] for h in range(len(r))]) * r.shape[2] ** -0.5
    return [du, np.einsum("hc,hcd->hd", by_distance, r)]


def read_by_layers(x, weights, tgt_len, mem_len):
    """Layer by layer: a layer's memory is made of its own inputs alone."""
    h, mems = x, []
    for w in weights:
        outputs = []
        for first in range(0, h.shape[1], tgt_len):
            start = max(0, first - mem_len)
            outputs.append(layer(h[:, start : first + tgt_len], first - start, w))
        mems.append(h[:, max(0, h.shape[1] - mem_len) :])
        h = np.concatenate(outputs, axis=1)
    return h, np.stack(mems)


def read_by_rows(x, weights, tgt_len, mem_len):
    n_layer, steps = len(weights), -(-x.shape[1] // tgt_len)
    out, past = np.empty_like(x), [[] for _ in range(n_layer)]
    for s in range(steps):
        h = x[:, s * tgt_len : (s + 1) * tgt_len]
        for n in range(n_layer):
            rows = [h[:, i] for i in range(h.shape[1])]
            both = np.stack(past[n] + rows, axis=1)
            h = layer(both, len(past[n]), weights[n])
            past[n] = (past[n] + rows)[::-1][:mem_len][::-1]
        out[:, s * tgt_len : (s + 1) * tgt_len] = h
    mems = [np.stack(p, axis=1) if p else x[:, :0] for p in past]
    return [out, mems]


def _norm(z):
    z = z - np.mean(z, axis=-1, keepdims=True)
    std = np.sqrt(np.mean(z**2, axis=-1, keepdims=True) + 1e-5)
    return z / std, std


def layer_by_loop(h, bias, w, n_mem):
    y = []
    for row in h:
        x = row[n_mem:]
        q, k, v = x @ w[0], row @ w[1], row @ w[2]
        scores = np.array([[qi @ kj for kj in k] for qi in q]) * len(q[0]) ** -0.5 + bias
        e = np.exp(scores - scores.max(axis=1)[:, None])
        o = np.einsum("tk,ke,t->te", e, v, 1 / e.sum(axis=1))
        a, _ = _norm(x + o @ w[3])
        f = a @ w[4]
        y.append(_norm(a + (f * (f > 0)) @ w[5])[0])
    return np.array(y)


def layer_by_einsum(h, bias, w, n_mem):
    q = np.einsum("btd,de->bte", h[:, n_mem:], w[0]) / np.sqrt(w[0].shape[1])
    s = np.einsum("bte,bke->btk", q, h @ w[1]) + bias
    p = np.exp(s - np.log(np.exp(s - s.max()).sum(2))[..., None] - s.max())
    a = h[:, n_mem:] + p @ h @ w[2] @ w[3]
    a = (a - a.mean(2)[..., None]) / np.sqrt(a.var(2)[..., None] + 1e-5)
    z = a + np.where(a @ w[4] > 0, a @ w[4], 0) @ w[5]
    return (z - z.mean(2)[..., None]) / np.sqrt(z.var(2)[..., None] + 1e-5)


def _norm_back(dy, y, std):
    d = y.shape[-1]
    jacobian = np.eye(d) - 1 / d - y[..., :, None] * y[..., None, :] / d
    return (dy[..., None, :] @ jacobian)[..., 0, :] / std


def layer_back_by_rows(dy, h, bias, w, n_mem):
    dw = [np.zeros_like(x) for x in w]
    dx = np.zeros_like(dy)
    for n, row in enumerate(h):
        x = row[n_mem:]
        q, k, v = x @ w[0], row @ w[1], row @ w[2]
        root = q.shape[1] ** 0.5
        s = q @ k.T / root + bias
        p = np.exp(s - np.logaddexp.reduce(s, axis=1)[:, None])
        a, std_a = _norm(x + p @ v @ w[3])
        f = np.maximum(a @ w[4], 0)
        y, std_y = _norm(a + f @ w[5])
        dz = _norm_back(dy[n], y, std_y)
        df = np.where(f > 0, dz @ w[5].T, 0)
        da = _norm_back(dz + df @ w[4].T, a, std_a)
        do = da @ w[3].T
        dp = do @ v.T
        ds = (dp - (do * (p @ v)).sum(axis=1, keepdims=True)) * p / root
        dh = ds.T @ q @ w[1].T + p.T @ do @ w[2].T
        dx[n] = da + ds @ k @ w[0].T + dh[n_mem:]
        parts = (x.T @ ds @ k, row.T @ ds.T @ q, row.T @ p.T @ do, (p @ v).T @ da, a.T @ df)
        for total, part in zip(dw, (*parts, f.T @ dz), strict=True):
            total += part
    return dx, *dw


def layer_back_by_tape(dy, h, bias, w, n_mem):
    """Each operation leaves on a tape what is to be done on the way back."""
    grads, tape = {}, []

    def add(name, g):
        grads[name] = grads.get(name, 0) + g

    def product(x, y, out, a, b):
        tape.append(lambda: (add(a, grads[out] @ y.swapaxes(-1, -2)),
                             add(b, x.swapaxes(-1, -2) @ grads[out])))  # fmt: skip
        return x @ y

    def norm(z, out, a):
        y, std = _norm(z)
        tape.append(lambda: add(a, _norm_back(grads[out], y, std)))
        return y

    b = len(h)
    w_q, w_k, w_v, w_o, w_1, w_2 = (np.broadcast_to(x, (b, *x.shape)) for x in w)
    x, root = h[:, n_mem:], np.sqrt(w_q.shape[2])
    q, k = product(x, w_q, "q", "x", "w_q"), product(h, w_k, "k", "h", "w_k")
    v = product(h, w_v, "v", "h", "w_v")
    tape.append(lambda: add("k", grads["k^T"].swapaxes(1, 2)))
    s = product(q, k.swapaxes(1, 2), "qk", "q", "k^T") / root + bias
    p = np.exp(s - s.max(axis=2, keepdims=True))
    p = p / p.sum(axis=2, keepdims=True)
    tape.append(lambda: add("qk", (grads["p"] - (grads["p"] * p).sum(2)[..., None]) * p / root))
    o = product(p, v, "o", "p", "v")
    z = x + product(o, w_o, "z", "o", "w_o")
    tape.append(lambda: add("x", grads["z"]))
    a = norm(z, "a", "z")
    f = product(a, w_1, "f", "a", "w_1")
    tape.append(lambda: add("f", grads["relu"] * (f > 0)))
    y = a + product(np.maximum(f, 0), w_2, "y", "relu", "w_2")
    tape.append(lambda: add("a", grads["y"]))
    norm(y, "out", "y")
    grads["out"] = dy
    for back in tape[::-1]:
        back()
    names = ("w_q", "w_k", "w_v", "w_o", "w_1", "w_2")
    return grads["x"] + grads["h"][:, n_mem:], *(grads[name].sum(axis=0) for name in names)


def nll_by_words(h, targets, w_head, w_tail, proj):
    n_head, out = len(w_head) - 1, []
    for x, y in zip(h, targets, strict=True):
        z = w_head @ x
        loss = z.max() + np.log(np.exp(z - z.max()).sum()) - z[min(y, n_head)]
        if y >= n_head:
            z = w_tail @ (x @ proj)
            loss += z.max() + np.log(np.exp(z - z.max()).sum()) - z[y - n_head]
        out.append(loss)
    return out


def nll_by_table(h, targets, w_head, w_tail, proj):
    """All words' log p (N, V), of which the targets' are taken."""
    head, tail = np.longdouble(h @ w_head.T), np.longdouble(h @ proj @ w_tail.T)
    head = head - np.logaddexp.reduce(head, axis=1, keepdims=True)
    tail = tail - np.logaddexp.reduce(tail, axis=1, keepdims=True)
    table = np.hstack([head[:, :-1], head[:, -1:] + tail])
    return -np.take_along_axis(table, targets[:, None], axis=1)[:, 0].astype(float)


def train_by_accumulation(theta, x, y, fresh, mem_len, rate, clip):
    """Adam with its corrections in the rate, theta updated in place: in a copy."""
    theta, losses = theta.copy(), np.empty(len(x))
    means = np.zeros((2, *theta.shape))
    states = []
    for s in range(len(x)):
        states = [] if fresh[s] else states
        mem = np.stack(states, axis=1) if states else np.zeros((x.shape[1], 0, theta.shape[1]))
        losses[s], grad, h = small_model(theta, x[s], y[s], mem)
        norm = np.sqrt(np.sum(grad * grad))
        if norm > clip:
            grad *= clip / norm
        for mean, new, beta in zip(means, (grad, grad**2), (0.9, 0.999), strict=True):
            mean += (1 - beta) * (new - mean)
        size = np.sqrt(1 - 0.999 ** (s + 1)) / (1 - 0.9 ** (s + 1))
        theta -= rate[s] * size * means[0] / (np.sqrt(means[1]) + 1e-8)
        states = [*states, *(h[:, t] for t in range(h.shape[1]))]
        states = states[max(0, len(states) - mem_len) :]
    left = np.stack(states, axis=1) if states else np.zeros((x.shape[1], 0, theta.shape[1]))
    return losses, theta, left


class _Adam:
    def __init__(self, shape):
        self.t, self.m, self.v = 0, np.zeros(shape), np.zeros(shape)

    def step(self, g):
        self.t += 1
        self.m = 0.9 * self.m + (1 - 0.9) * g
        self.v = 0.999 * self.v + (1 - 0.999) * g * g
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def train_by_object(theta, x, y, fresh, mem_len, rate, clip):
    adam, found, mem = _Adam(theta.shape), [], np.zeros((x.shape[1], 0, theta.shape[1]))
    for inputs, outputs, new, lr in zip(x, y, fresh, rate, strict=True):
        loss, g, h = small_model(theta, inputs, outputs, mem[:, : 0 if new else None])
        theta = theta - lr * adam.step(g / max(1.0, np.linalg.norm(g) / clip))
        both = h if new else np.hstack([mem, h])
        mem = both[:, -mem_len:] if mem_len else both[:, :0]
        found += [loss]
    return found, theta, mem


WHOLE = {
    "bias-gradients": (biases_by_table, biases_by_sums),
    "read-segments": (read_by_layers, read_by_rows),
    "layer-forward": (layer_by_loop, layer_by_einsum),
    "layer-backward": (layer_back_by_rows, layer_back_by_tape),
    "adaptive-softmax": (nll_by_words, nll_by_table),
    "training-loop": (train_by_accumulation, train_by_object),
} | MEMORIES
