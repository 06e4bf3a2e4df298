"""What the model must be, whatever its parameters: causal, seamless, of exact reach, readable."""

import math

import numpy as np
import pytest

from helpers.models import DH, B, D, F, H, M, T, V, make_model, make_tokens, read
from minitxl import Config, Inspection, MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.model import attention, embedding, ops
from minitxl.model.through_memory import hidden_gradients

CPU = get_backend("cpu", "float64")


def mask_of(t, m, mem_len, same_length=False):
    """attention_mask on the CPU: (t, m + t) bool, True where hidden."""
    max_keys = mem_len if same_length else None
    return attention.attention_mask(n_query=t, n_mem=m, max_keys=max_keys, device="cpu", xp=np)


# --- relative positions ---


@pytest.mark.parametrize(("t", "k"), [(5, 11), (5, 5), (1, 4), (4, 7)])
def test_rel_shift_is_what_it_says(backend, t, k):
    """Entry by entry: x[i, j + T-1-i]; then one 0; then the next row's scores."""
    x = np.random.default_rng(0).normal(size=(B, H, t, k))
    y, _ = ops.rel_shift_forward(backend.asarray(x), xp=backend.xp)
    y, m = backend.to_numpy(y), k - t
    for i in range(t):
        for j in range(k):
            if j <= i + m:
                expected = x[:, :, i, j + t - 1 - i]
            elif j == i + m + 1:
                expected = np.zeros((B, H))
            else:
                expected = x[:, :, i + 1, j - i - m - 2]
            np.testing.assert_array_equal(y[:, :, i, j], expected)


@pytest.mark.parametrize(("t", "k"), [(5, 11), (5, 5), (1, 4), (4, 7)])
def test_rel_shift_adjoint(backend, t, k):
    """<shift x, y> = <x, unshift y>, to rounding."""
    rng, xp = np.random.default_rng(0), backend.xp
    x, y = (backend.asarray(rng.normal(size=(B, H, t, k))) for _ in range(2))
    left = float(xp.sum(ops.rel_shift_forward(x, xp=xp)[0] * y))
    right = float(xp.sum(x * ops.rel_shift_backward(y, xp=xp)))
    assert left == pytest.approx(right, rel=1e-12)


def test_core_equals_loops():
    """The vectorised core against the four terms of the paper, written as loops."""
    rng = np.random.default_rng(0)
    t, m = 4, 3
    k_len = t + m
    q, k, v = (rng.normal(size=(B, H, n, DH)) for n in (t, k_len, k_len))
    r, u, v_bias = (rng.normal(size=s) for s in ((H, k_len, DH), (H, DH), (H, DH)))
    mask = attention.additive_mask(mask_of(t, m, m), dtype=np.float64, xp=np)
    o, _ = attention.core_forward(q, k, v, r, u, v_bias, mask, dropatt=0.0, rng=None, xp=np)
    for b in range(B):
        for h in range(H):
            for i in range(t):
                scores = []
                for j in range(i + m + 1):
                    position = r[h, k_len - 1 - (i + m - j)]  # of the distance i + m - j
                    score = q[b, h, i] @ k[b, h, j] + q[b, h, i] @ position
                    score += u[h] @ k[b, h, j] + v_bias[h] @ position
                    scores.append(score / math.sqrt(DH))
                p = np.exp(scores) / np.sum(np.exp(scores))
                expected = sum(w * v[b, h, j] for j, w in enumerate(p))
                np.testing.assert_allclose(o[b, h, i], expected, rtol=1e-12)


def test_mask():
    """By hand: T = 2, M = 3, and with same_length at most 3 keys, the query's own included."""
    plain, same = mask_of(2, 3, 3), mask_of(2, 3, 3, same_length=True)
    assert plain.astype(int).tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert same.astype(int).tolist() == [[1, 0, 0, 0, 1], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize("same_length", [False, True])
@pytest.mark.parametrize("m", [0, 2, 6])
def test_every_query_sees_itself(m, same_length):
    """Also at a stream's start: an empty memory must not mask everything."""
    mask = mask_of(5, m, 6, same_length=same_length)
    assert not mask[np.arange(5), np.arange(5) + m].any()
    seen = (~mask).sum(axis=1)
    assert (seen <= 6).all() if same_length else (seen == np.arange(5) + m + 1).all()


def test_sinusoid_by_hand():
    """Two distances, D = 4: frequencies 1 and 1/100, sines first."""
    w = ops.inverse_frequencies(d_model=4, dtype=np.float64, device="cpu", xp=np)
    got = ops.sinusoid(np.array([3, 0]), w, xp=np)
    expected = [[math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)], [0, 0, 1, 1]]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_large_scores_are_harmless():
    p, _ = ops.softmax_forward(np.array([[1000.0, 0.0, -np.inf]]), xp=np)
    np.testing.assert_array_equal(p, [[1.0, 0.0, 0.0]])
    logits, targets = np.array([[1000.0, 0.0]]), np.array([1])
    nll, _ = ops.cross_entropy_forward(logits, targets, xp=np)
    assert nll[0] == 1000.0


def test_layer_norm_of_a_constant_row():
    """eps keeps the division finite; mean 0 and variance 1 elsewhere."""
    x = np.array([[5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 6.0]])
    y, _ = ops.layer_norm_forward(x, np.ones(4), np.zeros(4), eps=1e-5, xp=np)
    np.testing.assert_array_equal(y[0], 0.0)
    assert y[1].mean() == pytest.approx(0.0, abs=1e-12) and y[1].var() == pytest.approx(1, rel=1e-4)


def test_clamp_len():
    """Distances of clamp_len and more share one encoding, shorter ones keep their own."""
    model = make_model(CPU, clamp_len=3)
    _, mems = model.predict(make_tokens(1, M))
    seen = Inspection()
    model.predict(make_tokens(1, T), mems, inspect=seen)
    for term in ("b", "d"):
        last = seen.terms[0][term][0, 0, -1]  # of the last query; column K-1-d has distance d
        by_distance = last[::-1]
        np.testing.assert_allclose(by_distance[3:], by_distance[3], rtol=1e-12)
        assert len(np.unique(by_distance[:4].round(9))) == 4


def test_where_dropout_falls():
    """Embedding, R, and in every layer: probabilities, block output, inside and after the FF."""
    plain = get_backend("cpu", "float64", fused=False)  # the twin draws in blocks
    model, shapes = make_model(plain, dropout=0.5, dropatt=0.5), []

    class Spy:
        def uniform(self, shape):
            shapes.append(tuple(shape))
            return np.full(shape, 0.9)

    _, mems = model.predict(make_tokens(B, M))
    model.forward(make_tokens(B, T), make_tokens(B, T), mems, rng=Spy())
    k, x = M + T, (B, T, D)
    layer = [(B, H, T, k), x, (B, T, F), x]
    assert shapes == [x, (k, D), *layer, *layer, x]


def test_random_keys_do_not_collide():
    draws = [
        tuple(CPU.rng(*key).uniform((4,)))
        for key in [(7,), (7, 0), (7, 0, 0), (7, 1), (8,), (0, 7), (2**32 + 5,), (5, 1)]
    ]
    assert len(set(draws)) == len(draws)


# --- properties of the whole model ---

VARIANTS = [{}, {"pre_lnorm": True}, {"clamp_len": 3}, {"untie_r": True}]


@pytest.mark.parametrize("options", [*VARIANTS, {"same_length": True}])
def test_causality(backend, options):
    """A changed token changes nothing before it - exactly - and something from it on."""
    model = make_model(backend, **options)
    tokens = make_tokens(1, 10)
    changed = tokens.copy()
    changed[0, 7] = (changed[0, 7] + 1) % V
    a, b = (read(model, x, [T, T]) for x in (tokens, changed))
    np.testing.assert_array_equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] != b[:, 7:]).any(axis=-1).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_segments_do_not_show(backend, options):
    """12 tokens at once = 5 + 1 + 6 with a memory that holds them all, to 1e-12."""
    model = make_model(backend, mem_len=12, **options)
    tokens = make_tokens(B, 12)
    whole, cut = read(model, tokens, [12]), read(model, tokens, [5, 1, 6])
    np.testing.assert_allclose(whole, cut, rtol=0, atol=1e-12)
    short = read(model.with_options(mem_len=2), tokens, [5, 1, 6])
    assert np.abs(whole - short).max() > 1e-6  # the test can tell the difference


def test_same_length_seamless():
    """With same_length a window of mem_len keys is what every query sees, however it is cut."""
    model = make_model(CPU, same_length=True, mem_len=4)
    tokens = make_tokens(B, 12)
    one_by_one = read(model, tokens, [1] * 12)
    np.testing.assert_allclose(read(model, tokens, [5, 1, 6]), one_by_one, rtol=0, atol=1e-12)


REACH = [
    # (layers, segment, memory)
    (1, 4, 4), (2, 4, 4), (3, 4, 4), (3, 4, 0), (2, 4, 6), (3, 4, 2), (2, 3, 7), (3, 2, 5),
    (2, 1, 3), (4, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize(("n", "t", "m"), REACH)
def test_reach(n, t, m):
    """Tokens before the segment's start that can change it: (N-1) T ceil(M/T) + M, exactly."""
    reach = (n - 1) * t * math.ceil(m / t) + m if m else 0
    model = make_model(CPU, n_layer=n, tgt_len=t, mem_len=m)
    segments = math.ceil(reach / t) + 2
    start = segments * t
    tokens = make_tokens(1, start + t)
    lengths = [t] * (segments + 1)
    base = read(model, tokens, lengths)[:, start:]
    for distance in range(1, reach + t + 1):
        changed = tokens.copy()
        changed[0, start - distance] = (changed[0, start - distance] + 1) % V
        differs = (read(model, changed, lengths)[:, start:] != base).any()
        assert differs == (distance <= reach), f"distance {distance}, reach {reach}"


def test_memory_holds_layer_inputs():
    """mems[n] are the last rows of h_n, the input of layer n: neither its output nor its keys."""
    model = make_model(CPU)
    seen = Inspection()
    _, mems, _ = model.forward(make_tokens(B, T), make_tokens(B, T), inspect=seen)
    for n in range(2):
        np.testing.assert_array_equal(mems[n], seen.hidden[n])
    _, mems2, _ = model.forward(make_tokens(B, T, seed=1), make_tokens(B, T), mems)
    assert mems2[0].shape == (B, M, D)  # 6 of 10
    np.testing.assert_array_equal(mems2[0][:, : M - T], mems[0][:, T - (M - T) :])


def test_inputs_are_left_alone(backend):
    model = make_model(backend, dropout=0.2, dropatt=0.2)
    tokens, targets = make_tokens(B, T), make_tokens(B, T, seed=1)
    _, mems, _ = model.forward(tokens, targets)
    kept = [backend.to_numpy(m).copy() for m in mems]
    flat = backend.to_numpy(model.params.flat).copy()
    _, _, cache = model.forward(tokens, targets, mems, rng=backend.rng(1))
    first = backend.to_numpy(model.backward(cache).flat)
    second = backend.to_numpy(model.backward(cache).flat)  # the cache too is left as it was
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(flat, backend.to_numpy(model.params.flat))
    for before, after in zip(kept, mems, strict=True):
        np.testing.assert_array_equal(before, backend.to_numpy(after))


def test_inspection(backend):
    """The four terms add up to the scores whose softmax are the probabilities."""
    model = make_model(backend, pre_lnorm=True)
    tokens = make_tokens(B, T)
    _, mems = model.predict(make_tokens(B, M, seed=5))
    seen = Inspection()
    log_p, _ = model.predict(tokens, mems, inspect=seen)
    plain, _ = model.predict(tokens, mems)
    log_p, plain = backend.to_numpy(log_p), backend.to_numpy(plain)
    np.testing.assert_allclose(log_p, plain, rtol=0, atol=1e-13)  # looking changes nothing
    assert len(seen.hidden) == 3 and len(seen.probs) == len(seen.terms) == len(seen.mask) == 2
    for probs, terms, mask in zip(seen.probs, seen.terms, seen.mask, strict=True):
        scores = sum(backend.to_numpy(terms[x]) for x in "abcd")
        scores = np.where(backend.to_numpy(mask), -np.inf, scores)
        p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(backend.to_numpy(probs), p, rtol=1e-11, atol=1e-14)


def test_dropout_is_a_function_of_its_key(backend):
    model = make_model(backend, dropout=0.5, dropatt=0.5)
    tokens, targets = make_tokens(B, T), make_tokens(B, T, seed=1)

    def nll(rng):
        return backend.to_numpy(model.forward(tokens, targets, rng=rng)[0])

    np.testing.assert_array_equal(nll(backend.rng(1, 2)), nll(backend.rng(1, 2)))
    assert np.abs(nll(backend.rng(1, 2)) - nll(backend.rng(1, 3))).max() > 1e-3
    assert np.abs(nll(backend.rng(1, 2)) - nll(None)).max() > 1e-3


def test_dropout_keeps_the_mean():
    y, _ = ops.dropout_forward(np.ones((400, 400)), rate=0.3, rng=CPU.rng(0), xp=np)
    assert y.mean() == pytest.approx(1.0, abs=0.01)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)


# --- through the memory ---


def test_gradient_stops_at_the_memory():
    model = make_model(CPU, mem_len=8, n_layer=3)
    segments = [(make_tokens(B, T, seed=s), make_tokens(B, T, seed=s + 50)) for s in range(3)]
    stopped = hidden_gradients(model, segments)
    for n in range(4):
        assert (stopped[0][n] == 0).all() and (stopped[1][n] == 0).all()
        assert (stopped[2][n] != 0).any()
    full = hidden_gradients(model, segments, through_memory=True)
    assert (full[1][0] != 0).any() and (full[0][0] != 0).any()
    assert (full[1][3] == 0).all()  # the top layer's output is never in a memory


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_gradient_through_the_memory(pre_lnorm, monkeypatch):
    """Full back-propagation against a numeric derivative by the embedding of each segment."""
    model = make_model(CPU, mem_len=8, n_layer=3, pre_lnorm=pre_lnorm)
    segments = [(make_tokens(B, T, seed=s), make_tokens(B, T, seed=s + 50)) for s in range(3)]
    full = hidden_gradients(model, segments, through_memory=True)
    direction = np.random.default_rng(0).normal(size=(B, T, D))
    original = embedding.embedding_forward

    def loss(segment, e):
        calls = iter(range(3))

        def nudged(tokens, w, *, xp):
            y, cache = original(tokens, w, xp=xp)
            return (y + e * direction.reshape(-1, D) if next(calls) == segment else y), cache

        monkeypatch.setattr(embedding, "embedding_forward", nudged)
        mems = None
        for tokens, targets in segments:
            nll, mems, _ = model.forward(tokens, targets, mems)
        return nll.mean()

    for s in range(3):
        numeric = (loss(s, 1e-5) - loss(s, -1e-5)) / 2e-5
        analytic = (full[s][0] * math.sqrt(D) * direction).sum()
        assert analytic == pytest.approx(numeric, rel=1e-6)


# --- parameters and errors ---


def test_params_are_one_buffer(backend):
    model = make_model(backend)
    xp = backend.xp
    assert sum(math.prod(a.shape) for a in model.params.values()) == model.n_params
    offset, _ = model.params.layout["layers.1.attn.w_k"]
    model.params.flat[offset] = 123.0
    assert float(model.params["layers.1.attn.w_k"][0, 0]) == 123.0
    model.params["out_bias"] += xp.ones_like(model.params["out_bias"])
    grads = model.params.zeros_like()
    assert list(grads) == list(model.params) and float(xp.sum(grads.flat * grads.flat)) == 0.0
    with pytest.raises(ValueError, match="out_bias"):
        model.params["out_bias"] = xp.zeros((V + 1,), device=backend.device)


def test_same_seed_same_weights():
    a, b, c = (TransformerXL(Config(n_token=5), device="cpu", seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.params.flat, b.params.flat)
    assert (a.params.flat != c.params.flat).any()
    assert a.params["layers.0.attn.w_q"].std() == pytest.approx(0.02, rel=0.05)
    assert a.params["layers.0.attn_norm.gamma"].mean() == pytest.approx(1.0, abs=0.01)
    assert (a.params["out_bias"] == 0).all()


def test_float32_stays_float32():
    model = TransformerXL(Config(n_token=V, n_layer=2), device="cpu")
    nll, mems, cache = model.forward(make_tokens(2, 8), make_tokens(2, 8), rng=model.backend.rng(1))
    assert nll.dtype == mems[0].dtype == model.backward(cache).flat.dtype == np.float32


WRONG_CONFIGS = [
    (dict(n_layer=0), "n_layer=0"),
    (dict(d_model=7), "even"),
    (dict(dropout=1.0), "dropout=1.0"),
    (dict(mem_len=0, same_length=True), "same_length"),
    (dict(clamp_len=0), "clamp_len=0"),
    (dict(n_head=2.5), "int"),
    (dict(init_std=float("nan")), "init_std"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG_CONFIGS)
def test_wrong_config(fields, words):
    with pytest.raises(MinitxlError, match=words):
        Config(n_token=5, **fields)


def test_config_round_trip():
    config = Config(n_token=5, same_length=True, clamp_len=9)
    assert Config.from_dict(config.to_dict()) == config
    for wrong in ({"n_token": 5, "n_layers": 2}, {}, [], {"n_token": "5"}):
        with pytest.raises(MinitxlError):
            Config.from_dict(wrong)


def wrong_calls(model):
    x = make_tokens(B, T)
    _, mems, _ = model.forward(x, x)
    other = make_model(CPU, d_model=D + 2)
    return [
        (lambda: model.forward(x[:, 1:], x), r"\(2, 5\).*\(2, 4\)"),
        (lambda: model.forward(x[0], x[0]), r"\(5,\)"),
        (lambda: model.forward(x[:, :0], x[:, :0]), r"at least 1"),
        (lambda: model.forward(x + V, x), r"ids from .* 0 to 10"),
        (lambda: model.forward(x, x - V), r"targets holds ids from -"),
        (lambda: model.forward(x, x, mems[:1]), "1 arrays.*2 layers"),
        (lambda: model.forward(x[:1], x[:1], mems), "batch size 2, tokens has 1"),
        (lambda: other.forward(x, x, mems), "d_model=14, the model has 16"),
        (lambda: model.with_options(mem_len=2).forward(x, x, mems), "5 tokens.*mem_len=2"),
        (lambda: model.forward(x, x, [mems[0], mems[1][:, 1:]]), "one M for all layers"),
        (lambda: model.with_options(d_model=3), "d_model"),
        (lambda: model.backward(model.forward(x, x)[2], np.ones(3)), r"dnll has shape \(3,\)"),
        (lambda: model.forward(x, x, [m.astype(np.float32) for m in mems]), "float32.*float64"),
        (lambda: model.forward(x.astype(float), x), "float64; token ids must be integers"),
        (lambda: TransformerXL(model.config, device="tpu"), "tpu"),
        (lambda: TransformerXL(model.config, device="cpu", dtype="float16"), "float16"),
    ]


@pytest.mark.parametrize("i", range(16))
def test_wrong_calls(i):
    """One line that says what was wrong, both values, and the way out."""
    call, words = wrong_calls(make_model(CPU))[i]
    with pytest.raises(MinitxlError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_rows", [11, 1000])
def test_scatter_add(n_rows):
    """Both ways of the CPU against np.add.at."""
    rng = np.random.default_rng(0)
    index, rows = rng.integers(0, n_rows, 300), rng.normal(size=(300, 4))
    expected = np.zeros((n_rows, 4))
    np.add.at(expected, index, rows)
    np.testing.assert_allclose(CPU.scatter_add(rows, index, n_rows=n_rows), expected, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_gpu_agrees(pre_lnorm):
    """The same model on the GPU: loss, memories and gradients, in float64."""
    gpu = get_backend("cuda", "float64")
    results = []
    for back in (CPU, gpu):
        model = make_model(back, pre_lnorm=pre_lnorm)
        x, y = make_tokens(B, T), make_tokens(B, T, seed=1)
        _, mems, _ = model.forward(x, y)
        nll, mems, cache = model.forward(y, x, mems)
        results.append([back.to_numpy(a) for a in (nll, *mems, model.backward(cache).flat)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
