"""Right answers to all exercises of the course, in plain NumPy: what a learner might hand in.

`ANSWERS` maps an exercise's id to its function; `source_of` returns one as the text of a cell,
`with_mistake` with one of `MISTAKES` in it.
"""

import inspect
import math

import numpy as np

from helpers.memory_answers import FIRST
from helpers.memory_answers import MISTAKES as MEMORY_MISTAKES
from minitxl.course import EXERCISES
from minitxl.course.exercises.learning import small_model
from minitxl.course.exercises.stream import layer


def context_lengths(n_target, tgt_len):
    return np.array([t % tgt_len + 1 for t in range(n_target)])


def contiguous_batch(text, batch_size, tgt_len, n):
    n_segment = (len(text) - 1) // (batch_size * tgt_len)
    used = batch_size * n_segment * tgt_len
    window = slice(n * tgt_len, (n + 1) * tgt_len)
    tokens = text[:used].reshape(batch_size, -1)[:, window]
    targets = text[1 : used + 1].reshape(batch_size, -1)[:, window]
    return tokens, targets


def softmax_backward(dp, p):
    return p * (dp - (p * dp).sum(axis=-1, keepdims=True))


def layer_norm_backward(dy, x, gamma, eps):
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    x_hat = (x - x.mean(axis=-1, keepdims=True)) * rstd
    g = dy * gamma
    dx = g - g.mean(axis=-1, keepdims=True) - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)
    return dx * rstd, (dy * x_hat).sum(axis=(0, 1)), dy.sum(axis=(0, 1))


def cross_entropy_gradient(logits, targets):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(targets)), targets] -= 1
    return p / len(targets)


def attend(q, k, v, mask):
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    scores[:, :, mask] = -np.inf
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ v


def attention_backward(do, q, k, v, p):
    dp = np.einsum("bhid,bhjd->bhij", do, v)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    dq = np.einsum("bhij,bhjd->bhid", ds, k)
    dk = np.einsum("bhij,bhid->bhjd", ds, q)
    return dq, dk, np.einsum("bhij,bhid->bhjd", p, do)


def relative_positions(n_key, d_model):
    out = np.empty((n_key, d_model))
    for row in range(n_key):
        for k in range(d_model // 2):
            angle = (n_key - 1 - row) * 10000 ** (-2 * k / d_model)
            out[row, k], out[row, d_model // 2 + k] = math.sin(angle), math.cos(angle)
    return out


def rel_shift(x):
    *lead, t, k = x.shape
    padded = np.concatenate([np.zeros((*lead, t, 1)), x], axis=-1)  # (..., T, K+1)
    return padded.reshape(*lead, k + 1, t)[..., 1:, :].reshape(*lead, t, k)


def rel_shift_backward(dy):
    *lead, t, k = dy.shape
    rows = np.concatenate([np.zeros((*lead, 1, t)), dy.reshape(*lead, k, t)], axis=-2)
    return rows.reshape(*lead, t, k + 1)[..., 1:]


def four_terms(q, k, r, u, v):
    b, h, t, dh = q.shape
    n_key = k.shape[2]
    a, terms_b, c, d = np.zeros((4, b, h, t, n_key))
    for i in range(t):
        for j in range(i + n_key - t + 1):  # the future stays 0
            distance = i + n_key - t - j
            there = r[:, n_key - 1 - distance]  # (H, Dh)
            a[:, :, i, j] = (q[:, :, i] * k[:, :, j]).sum(axis=-1)
            terms_b[:, :, i, j] = (q[:, :, i] * there).sum(axis=-1)
            c[:, :, i, j] = (u * k[:, :, j]).sum(axis=-1)
            d[:, :, i, j] = (v * there).sum(axis=-1)
    return tuple(x / math.sqrt(dh) for x in (a, terms_b, c, d))


def bias_gradients(ds, k, r):
    t, n = ds.shape[2:]
    du = np.einsum("bhij,bhjd->hd", ds, k)
    dv = np.zeros_like(du)
    for i in range(t):
        seen = n - t + i + 1  # keys 0 ... i + M, at distances i + M ... 0
        dv += np.einsum("bhj,hjd->hd", ds[:, :, i, :seen], r[:, n - seen :])
    return du / math.sqrt(k.shape[-1]), dv / math.sqrt(k.shape[-1])


def update_memory(mem, h, mem_len):
    both = np.concatenate([mem, h], axis=1)
    return both[:, max(0, both.shape[1] - mem_len) :]


def attention_mask(n_query, n_mem, max_keys):
    mask = np.ones((n_query, n_mem + n_query), dtype=bool)
    for i in range(n_query):
        at = i + n_mem
        first = 0 if max_keys is None else max(0, at - max_keys + 1)
        mask[i, first : at + 1] = False
    return mask


def key_value_backward(dk, dv, h, w_k, w_v, n_mem):
    dh = dk[:, n_mem:] @ w_k.T + dv[:, n_mem:] @ w_v.T
    return dh, np.einsum("bkd,bke->de", h, dk), np.einsum("bkd,bke->de", h, dv)


def read_segments(x, weights, tgt_len, mem_len):
    mems = [x[:, :0] for _ in weights]
    parts = []
    for first in range(0, x.shape[1], tgt_len):
        h = x[:, first : first + tgt_len]
        for n, w in enumerate(weights):
            both = np.concatenate([mems[n], h], axis=1)
            h = layer(both, mems[n].shape[1], w)
            mems[n] = both[:, max(0, both.shape[1] - mem_len) :]
        parts.append(h)
    return np.concatenate(parts, axis=1), np.array(mems)


def layer_forward(h, bias, w, n_mem):
    def norm(z):
        return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)

    w_q, w_k, w_v, w_o, w_1, w_2 = w
    x = h[:, n_mem:]
    s = x @ w_q @ np.swapaxes(h @ w_k, 1, 2) / math.sqrt(w_q.shape[1]) + bias
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    a = norm(x + p @ (h @ w_v) @ w_o)
    return norm(a + np.maximum(a @ w_1, 0) @ w_2)


def layer_backward(dy, h, bias, w, n_mem):
    def norm(z):
        rstd = 1 / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
        return (z - z.mean(-1, keepdims=True)) * rstd, rstd

    def norm_backward(dy, y, rstd):
        return rstd * (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True))

    w_q, w_k, w_v, w_o, w_1, w_2 = w
    x, root = h[:, n_mem:], math.sqrt(w[0].shape[1])
    q, k, v = x @ w_q, h @ w_k, h @ w_v
    s = q @ k.swapaxes(1, 2) / root + bias
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    o = p @ v
    a, rstd_a = norm(x + o @ w_o)
    f = np.maximum(a @ w_1, 0)
    y, rstd_y = norm(a + f @ w_2)
    dz = norm_backward(dy, y, rstd_y)
    df = (dz @ w_2.T) * (f > 0)
    da = norm_backward(dz + df @ w_1.T, a, rstd_a)
    do = da @ w_o.T
    dp = do @ v.swapaxes(1, 2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / root
    dq, dk, dv = ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ do
    dh = dk @ w_k.T + dv @ w_v.T
    pairs = ((x, dq), (h, dk), (h, dv), (o, da), (a, df), (f, dz))
    return da + dq @ w_q.T + dh[:, n_mem:], *(np.einsum("btd,bte->de", *pair) for pair in pairs)


def reach(n_layer, tgt_len, mem_len):
    start = 0  # of what the top layer sees, counted from the segment's start
    for _ in range(n_layer - 1):
        start = (start - mem_len) // tgt_len * tgt_len  # the segment that made the oldest state
    return mem_len - start


def influence(n_layer, tgt_len, mem_len, offset):
    return (n_layer - 1) * tgt_len * -(-mem_len // tgt_len) + mem_len + offset + 1


def bits_per_character(nll):
    return sum(x.sum() for x in nll) / sum(x.size for x in nll) / math.log(2)


def recl_gain(near, far, ratio):
    best = near.min(axis=0)
    hard = np.argsort(best)[::-1][: max(1, round(ratio * len(best)))]
    f = best[hard].mean()
    return [(math.exp(f) - math.exp(np.minimum(best, x)[hard].mean())) / math.exp(f) for x in far]


def speed_up(attention_len, segment_len, d_model, d_inner):
    a, s, d, f = attention_len, segment_len, d_model, d_inner
    window = a * (8 * d**2 + 4 * a * d + 4 * d * f)
    memory = s * (4 * d**2 + 6 * a * d + 4 * d * f) + 4 * a * d**2 + 2 * a * d**2
    return window / (memory / s)


def affordable_memory(n_layer, d_model, d_inner, segment_len, flops):
    left = flops // n_layer - 8 * d_model**2 - 4 * d_model * d_inner
    return max(0, left // (6 * d_model) - segment_len)


def adaptive_nll(h, targets, w_head, w_tail, proj):
    def log_softmax(x):
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    n_head = len(w_head) - 1
    head = log_softmax(h @ w_head.T)
    nll = -head[np.arange(len(h)), np.minimum(targets, n_head)]
    rare = targets >= n_head
    tail = log_softmax(h[rare] @ proj @ w_tail.T)
    nll[rare] -= tail[np.arange(len(tail)), targets[rare] - n_head]
    return nll


def train(theta, x, y, fresh, mem_len, rate, clip):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    losses = []
    for s in range(len(x)):
        if fresh[s]:
            mem = np.zeros((x.shape[1], 0, theta.shape[1]))
        loss, grad, h = small_model(theta, x[s], y[s], mem)
        losses.append(loss)
        grad = grad * min(1, clip / np.linalg.norm(grad))
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad**2
        step = m / (1 - 0.9 ** (s + 1)) / (np.sqrt(v / (1 - 0.999 ** (s + 1))) + 1e-8)
        theta = theta - rate[s] * step
        both = np.concatenate([mem, h], axis=1)
        mem = both[:, max(0, both.shape[1] - mem_len) :]
    return losses, theta, mem


def culprits(bugs):
    return [bugs.index(bug) for bug in ("zeros", "positions", "keys", "stream", "mask")]


ANSWERS = {
    "bug-hunt": culprits,
    "context-lengths": context_lengths,
    "contiguous-batch": contiguous_batch,
    "softmax-backward": softmax_backward,
    "layer-norm-backward": layer_norm_backward,
    "cross-entropy-gradient": cross_entropy_gradient,
    "attention-forward": attend,
    "attention-backward": attention_backward,
    "relative-positions": relative_positions,
    "rel-shift": rel_shift,
    "rel-shift-backward": rel_shift_backward,
    "four-terms": four_terms,
    "bias-gradients": bias_gradients,
    "memory-update": update_memory,
    "same-length-mask": attention_mask,
    "the-stop": key_value_backward,
    "read-segments": read_segments,
    "layer-forward": layer_forward,
    "layer-backward": layer_backward,
    "reach": reach,
    "influence": influence,
    "bits-per-character": bits_per_character,
    "recl-gain": recl_gain,
    "speed-up": speed_up,
    "affordable-memory": affordable_memory,
    "adaptive-softmax": adaptive_nll,
    "training-loop": train,
} | FIRST


def source_of(exercise_id: str) -> str:
    """Return an answer as the text of a cell."""
    given = EXERCISES[exercise_id].given
    above = f"{inspect.getsource(given)}\n\n" if given else ""
    head = f"import math\n\nimport numpy as np\n\n\n{above}"
    return head + inspect.getsource(ANSWERS[exercise_id])


# A mistake in each right answer: what is put in place of what, and what the learner must be told.
MISTAKES = {
    "context-lengths": ("t % tgt_len + 1", "t % tgt_len", "one too small"),
    "contiguous-batch": (
        "targets = text[1 : used + 1]",
        "targets = text[:used]",
        "the tokens themselves",
    ),
    "softmax-backward": ("(p * dp).sum", "dp.sum", "must be weighted by p"),
    "layer-norm-backward": ("g.mean(axis=-1, keepdims=True) -", "0 -", "it lacks - mean(g)"),
    "cross-entropy-gradient": (" / len(targets)", "", "divide by N"),
    "bug-hunt": (
        '"zeros", "positions"',
        '"positions", "zeros"',
        "not 'positions': its gradient is",
    ),
    "attention-forward": (" / np.sqrt(q.shape[-1])", "", "forgot to divide the scores"),
    "attention-backward": ("dp - (p * dp).sum(axis=-1, keepdims=True)", "dp", "lacks its sum"),
    "relative-positions": ("(n_key - 1 - row)", "row", "the distances rise"),
    "rel-shift": ("[..., 1:, :]", "[..., :-1, :]", "the last of the K+1 rows is dropped"),
    "rel-shift-backward": ("[..., 1:]", "[..., :-1]", "the wrong column is dropped"),
    "four-terms": (" / math.sqrt(dh)", "", "forgot to divide by sqrt(d_head)"),
    "bias-gradients": (
        "r[:, n - seen :]",
        "r[:, :seen][:, ::-1]",
        "the distances run the wrong way",
    ),
    "memory-update": ("[mem, h]", "[h, mem]", "the past first"),
    "same-length-mask": ("first : at + 1", "first:at", "hidden from itself"),
    "the-stop": (
        'np.einsum("bkd,bke->de", h, dk)',
        'np.einsum("bkd,bke->de", h[:, n_mem:], dk[:, n_mem:])',
        "your gradient lacks the memory rows",
    ),
    "read-segments": ("both[:, max(0, both.shape[1] - mem_len) :]", "both", "nothing is forgotten"),
    "layer-forward": (" / math.sqrt(w_q.shape[1])", "", "forgot to divide the scores by sqrt(E)"),
    "layer-backward": (" * (f > 0)", "", "relu is not undone"),
    "reach": ("return mem_len - start", "return n_layer * mem_len", "only where T divides M"),
    "influence": ("offset + 1", "offset", "it is one too few"),
    "bits-per-character": (" / math.log(2)", "", "it is in nats still"),
    "recl-gain": ("np.minimum(best, x)[hard]", "x[hard]", "the minimum is missing"),
    "speed-up": (" / (memory / s)", " / memory", "divide its FLOPs by S"),
    "affordable-memory": (" - segment_len", "", "these are all the keys"),
    "adaptive-softmax": ("nll[rare] -=", "nll[rare] = -", "lacks the tail's own probability"),
    "training-loop": (" * min(1, clip / np.linalg.norm(grad))", "", "is not clipped"),
} | MEMORY_MISTAKES


def with_mistake(exercise_id: str) -> str:
    """Return an answer with its mistake, as the text of a cell."""
    right, wrong, _ = MISTAKES[exercise_id]
    source = source_of(exercise_id)
    assert source.count(right) == 1
    return source.replace(right, wrong)
