"""Right answers to the exercises on other memories, in three styles each.

`FIRST` has one for each exercise, as `course_answers.ANSWERS`, which takes it in; `MEMORIES` the
others, as `other_answers.OTHERS`.
"""

import numpy as np


def compressive_update(coarse, fine, h, n_fine, n_coarse, rate):
    both = np.concatenate([fine, h], axis=1)
    b, n, d = both.shape
    groups = max(0, n - n_fine) // rate
    made = both[:, : groups * rate].reshape(b, groups, rate, d).mean(axis=2)
    coarse = np.concatenate([coarse, made], axis=1)
    return coarse[:, max(0, coarse.shape[1] - n_coarse) :], both[:, groups * rate :]


def update_by_queue(coarse, fine, h, n_fine, n_coarse, rate):
    """State by state: a group leaves as soon as it is beyond n_fine."""
    rows, waiting = list(coarse.swapaxes(0, 1)), list(fine.swapaxes(0, 1))
    for state in h.swapaxes(0, 1):
        waiting.append(state)
        if len(waiting) >= n_fine + rate:
            group, waiting = waiting[:rate], waiting[rate:]
            rows.append(sum(group) / rate)
    while len(rows) > n_coarse:
        rows.pop(0)
    empty = np.zeros((len(h), 0, h.shape[2]))
    return tuple(np.stack(x, axis=1) if x else empty for x in (rows, waiting))


def update_by_matrix(coarse, fine, h, n_fine, n_coarse, rate):
    both = np.hstack([fine, h])
    out = max(0, both.shape[1] - n_fine)
    out -= out % rate
    place = np.arange(out)
    means = (place // rate == np.arange(out // rate)[:, None]) / rate
    rows = np.hstack([coarse, means @ both[:, :out]])
    return rows[:, ::-1][:, :n_coarse][:, ::-1], both[:, out:]


def compression_gradient(q, old, new, w_k, w_v):
    def read(rows):
        s = q @ (rows @ w_k).T / np.sqrt(q.shape[1])
        p = np.exp(s - s.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p, p @ rows @ w_v

    p, o = read(new)
    do = 2 * (o - read(old)[1]) / len(q)
    dp = do @ (new @ w_v).T
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    return ds.T @ q / np.sqrt(q.shape[1]) @ w_k.T + p.T @ do @ w_v.T


def loss_by_queries(q, old, new, w_k, w_v):
    keys, values = new @ w_k / w_k.shape[1] ** 0.5, new @ w_v
    total = np.zeros_like(new)
    for x in q:
        s_old = old @ w_k @ x / w_k.shape[1] ** 0.5
        p_old = np.exp(s_old - s_old.max())
        s = keys @ x
        p = np.exp(s - s.max())
        p, p_old = p / sum(p), p_old / sum(p_old)
        gap = p @ values - p_old @ old @ w_v
        jacobian = np.diag(p) - np.outer(p, p)
        ds = jacobian @ values @ gap * 2
        total += np.outer(ds, w_k @ x) / w_k.shape[1] ** 0.5 + 2 * np.outer(p, w_v @ gap)
    return total / len(q)


def loss_by_einsum(q, old, new, w_k, w_v):
    (t, d), n = q.shape, len(new)
    s = np.einsum("td,md,->tm", q, np.vstack([new, old]) @ w_k, d**-0.5)
    p, p_old = (np.exp(x - np.logaddexp.reduce(x, axis=1)[:, None]) for x in (s[:, :n], s[:, n:]))
    v = new @ w_v
    o = p @ v
    gap = (o - p_old @ (old @ w_v)) / t
    # d o_t / d v_j = p_tj; d o_t / d s_tj = p_tj (v_j - o_t)
    ds = p * (np.einsum("te,je->tj", gap, v) - np.einsum("te,te->t", gap, o)[:, None])
    half = np.einsum("tj,td,kd->jk", ds, q, w_k) / d**0.5 + np.einsum("tj,te,ke->jk", p, gap, w_v)
    return half + half


def delta_backward(do, dnew, q, k, v, b, s):
    states = [s]
    for t in range(len(q)):
        new = v[t] - k[t] @ states[-1]
        states.append(states[-1] + b[t] * np.outer(k[t], new))
    dq, dk, dv, db = (np.empty_like(x) for x in (q, k, v, b))
    g = dnew
    for t in range(len(q) - 1, -1, -1):
        before, new = states[t], v[t] - k[t] @ states[t]
        dq[t] = states[t + 1] @ do[t]
        g = g + np.outer(q[t], do[t])
        du = k[t] @ g
        db[t] = du @ new
        dv[t] = b[t] * du
        dk[t] = b[t] * (g @ new) - before @ dv[t]
        g = g - np.outer(k[t], dv[t])
    return dq, dk, dv, db, g


def delta_by_maps(do, dnew, q, k, v, b, s):
    """S_t = A_t S_{t-1} + b_t k_t v_t^T with A_t = I - b_t k_t k_t^T: a linear recurrence."""
    a = np.eye(k.shape[1]) - b[:, None, None] * k[:, :, None] * k[:, None, :]
    states = [s]
    for t, map_t in enumerate(a):
        states.append(map_t @ states[t] + np.outer(k[t], b[t] * v[t]))
    found, g = [], dnew.copy()
    for t in reversed(range(len(a))):
        g += np.outer(q[t], do[t])
        da = g @ states[t].T  # of A_t
        both = da + da.T
        dk = b[t] * (g @ v[t] - both @ k[t])
        db = k[t] @ g @ v[t] - k[t] @ da @ k[t]
        found.append((states[t + 1] @ do[t], dk, b[t] * (k[t] @ g), db))
        g = a[t].T @ g
    dq, dk, dv, db = (np.array(x)[::-1] for x in zip(*found, strict=True))
    return dq, dk, dv, db, g


def delta_by_segment(do, dnew, q, k, v, b, s):
    """All tokens at once: (I + tril(b K K^T, -1)) U = b (V - K S)."""
    t, b = len(q), b[:, None]
    system = np.eye(t) + np.tril(b * (k @ k.T), -1)
    missing = v - k @ s
    u = np.linalg.solve(system, b * missing)
    dscores = np.tril(do @ u.T)
    du = np.tril(q @ k.T).T @ do + k @ dnew
    dy = np.linalg.solve(system.T, du)
    da = -np.tril(dy @ u.T, -1)
    dq = do @ s.T + dscores @ k
    dk = dscores.T @ q + u @ dnew.T - (b * dy) @ s.T + (b * da) @ k + (b * da).T @ k
    db = (dy * missing).sum(axis=1) + (da * (k @ k.T)).sum(axis=1)
    return dq, dk, b * dy, db, q.T @ do + dnew - k.T @ (b * dy)


def memory_tokens_gradient(dy2, m0, x1, x2, p1, p2, w):
    m, one, two = len(m0), len(x1), len(x2)
    r1 = np.concatenate([m0, x1, m0])
    m1 = (p1 @ r1 @ w)[m + one :]
    r2 = np.concatenate([m1, x2, m1])
    dy = np.zeros_like(r2)
    dy[m : m + two] = dy2
    dw = (p2 @ r2).T @ dy
    dr2 = p2.T @ dy @ w.T
    dy1 = np.zeros_like(r1)
    dy1[m + one :] = dr2[:m] + dr2[m + two :]
    dw += (p1 @ r1).T @ dy1
    dr1 = p1.T @ dy1 @ w.T
    return dw, dr1[m : m + one], dr1[:m] + dr1[m + one :]


def tokens_by_places(dy2, m0, x1, x2, p1, p2, w):
    """With matrices that put rows in their places, and take them out."""

    def put(n):
        eye, none = np.eye(m), np.zeros((n, m))
        return np.vstack([eye, none, eye]), np.eye(n + 2 * m)[m : m + n].T

    m = m0.shape[0]
    (a1, c1), (a2, c2) = put(len(x1)), put(len(x2))
    last = np.eye(len(p1))[len(p1) - m :]  # m1 = last y1
    write, read = last @ p1, c2.T @ p2
    r1 = a1 @ m0 + c1 @ x1
    dm1 = (read @ a2).T @ dy2 @ w.T
    dw = (write @ r1).T @ dm1 + (read @ (a2 @ (write @ r1 @ w) + c2 @ x2)).T @ dy2
    dr1 = write.T @ dm1 @ w.T
    return dw, c1.T @ dr1, a1.T @ dr1


def tokens_by_rows(dy2, m0, x1, x2, p1, p2, w):
    m = len(m0)
    start, stop = len(x1) + m, len(x2) + m
    mixed1 = np.einsum("ij,jd->id", p1[start:], np.vstack([m0, x1, m0]))
    m1 = mixed1 @ w
    mixed2 = np.einsum("ij,jd->id", p2[m:stop], np.vstack([m1, x2, m1]))
    dmixed = dy2 @ w.T
    dm1 = np.zeros_like(m0)
    for i in range(m):
        for j in range(len(x2)):
            dm1[i] += (p2[m + j, i] + p2[m + j, stop + i]) * dmixed[j]
    dr1 = np.einsum("ij,id->jd", p1[start:], dm1 @ w.T)
    dw = np.einsum("id,ie->de", np.vstack([mixed1, mixed2]), np.vstack([dm1, dy2]))
    first, own, second = np.split(dr1, [m, start])
    return dw, own, first + second


FIRST = {
    "compressive-update": compressive_update,
    "compression-gradient": compression_gradient,
    "delta-backward": delta_backward,
    "memory-tokens-gradient": memory_tokens_gradient,
}
MEMORIES = {
    "compressive-update": (update_by_queue, update_by_matrix),
    "compression-gradient": (loss_by_queries, loss_by_einsum),
    "delta-backward": (delta_by_maps, delta_by_segment),
    "memory-tokens-gradient": (tokens_by_places, tokens_by_rows),
}
MISTAKES = {
    "compressive-update": (".mean(axis=2)", ".max(axis=2)", "the largest of its group"),
    "compression-gradient": (" + p.T @ do @ w_v.T", "", "what comes by the values is missing"),
    "delta-backward": (" - before @ dv[t]", "", "k_t stands twice"),
    "memory-tokens-gradient": (
        "dr2[:m] + dr2[m + two :]",
        "dr2[m + two :]",
        "m1 is read at both ends of r2; the first m rows",
    ),
}
