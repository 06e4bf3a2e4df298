"""The second opinion: minitxl's hand-written gradients against autograd, in float64."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason='PyTorch is not installed; pip install -e ".[torch]" brings it'
)

from helpers.models import config_of  # noqa: E402
from helpers.torch_reference import (  # noqa: E402  (needs torch)
    reference,
    reference_hidden_gradients,
    reference_step,
    run_segment,
    to_tensors,
)
from minitxl import Inspection, TransformerXL  # noqa: E402
from minitxl.model.through_memory import hidden_gradients  # noqa: E402

torch.set_num_threads(1)  # the models are tiny; threads would only wait for each other

ABSOLUTE = 1e-10
RELATIVE = 1e-9  # of the largest entry of what is compared: small gradients must agree too
SHAPE = dict(n_token=13, n_layer=3, d_model=10, n_head=3, d_head=4, d_inner=11, dropout=0.0)
BATCH = 2

# mem_len, and the lengths of three consecutive segments.
LENGTHS = {
    "memory longer than the segment": (7, (5, 5, 3)),
    "memory shorter than the segment": (4, (6, 6, 6)),
    "memory fills over several segments": (12, (5, 5, 5)),
    "single tokens": (3, (1, 1, 1)),
    "no memory": (0, (5, 1, 5)),
}
OPTIONS = [
    dict(pre_lnorm=pre, untie_r=untie, clamp_len=clamp, same_length=same)
    for pre, untie, clamp, same in itertools.product(
        (False, True), (False, True), (-1, 3), (False, True)
    )
]
CASES = [
    pytest.param(options, *LENGTHS[name], id=f"{name}-" + "-".join(map(str, options.values())))
    for name, options in itertools.product(LENGTHS, OPTIONS)
    if not (options["same_length"] and LENGTHS[name][0] == 0)  # hides every key: not a model
]


def random_model(mem_len, lengths, **options):
    """A model whose every parameter is far from its start: biases not 0, LN weights not 1."""
    config = config_of(**SHAPE | options, tgt_len=max(lengths), mem_len=mem_len)
    model = TransformerXL(config, device="cpu", dtype="float64", seed=0)
    # The masks are recorded as the plain version draws them: whole. (The twin draws the same
    # numbers in blocks: test_twins.py.)
    model.backend.xp.twins.pop("dropout_forward")
    rng = np.random.default_rng(1)
    for name in model.params:
        centre = 1.3 if name.endswith("gamma") else 0.1
        array = model.params[name]
        array[...] = centre + rng.normal(0.0, 0.4, array.shape)
    return model


def random_segments(lengths, seed=2):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, SHAPE["n_token"], (BATCH, sum(lengths) + 1))
    start = 0
    for length in lengths:
        yield text[:, start : start + length], text[:, start + 1 : start + length + 1]
        start += length


def assert_same(ours, theirs, what):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} against {theirs.shape}"
    error = np.max(np.abs(ours - theirs), initial=0.0)
    size = np.max(np.abs(theirs), initial=0.0)
    limit = min(ABSOLUTE, RELATIVE * size + 1e-13)  # 1e-13: where the true gradient is zero
    assert error <= limit, f"{what}: differs by {error:.2e}, values reach {size:.2e}"


def assert_same_gradients(ours, theirs, what):
    assert set(ours) == set(theirs)
    for name in theirs:
        assert_same(ours[name], theirs[name], f"{what}: d loss / d {name}")


@pytest.mark.parametrize("options, mem_len, lengths", CASES)
def test_loss_memories_and_every_gradient_agree(options, mem_len, lengths):
    model = random_model(mem_len, lengths, **options)
    ours, theirs = None, None
    rng = np.random.default_rng(3)
    for n, (tokens, targets) in enumerate(random_segments(lengths)):
        given = (model.config, model.params, tokens, targets, theirs)
        nll, new_ours, cache = model.forward(tokens, targets, mems=ours)
        expected_nll, new_theirs, grads = reference_step(*given)
        assert_same(nll, expected_nll, f"segment {n}: nll")
        assert_same_gradients(model.backward(cache), grads, f"segment {n}")

        nll, new_ours, cache = model.forward(tokens, targets, mems=ours)
        dnll = rng.normal(size=nll.shape)
        *_, grads = reference_step(*given, dnll=dnll)
        assert_same_gradients(model.backward(cache, dnll), grads, f"segment {n}, weighted loss")

        assert len(new_ours) == len(new_theirs) == model.config.n_layer
        for layer, (a, b) in enumerate(zip(new_ours, new_theirs, strict=True)):
            assert_same(a, b, f"segment {n}: memory of layer {layer}")
        ours, theirs = new_ours, new_theirs


def assert_hidden_gradients(model, segments, through_memory):
    ours = hidden_gradients(model, segments, through_memory=through_memory)
    theirs = reference_hidden_gradients(
        model.config, model.params, segments, through_memory=through_memory
    )
    for s, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for n, (da, db) in enumerate(zip(a, b, strict=True)):
            assert_same(da, db, f"segment {s}: d loss / d h_{n}")
    earlier = max(np.max(np.abs(d)) for d in theirs[-2])
    assert (earlier > 1e-3) == through_memory


@pytest.mark.parametrize("through_memory", [False, True])
@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_gradients_of_hidden_states_agree(pre_lnorm, through_memory):
    lengths = (4, 4, 4)
    model = random_model(6, lengths, pre_lnorm=pre_lnorm)
    assert_hidden_gradients(model, list(random_segments(lengths)), through_memory)


class RecordingRng:
    """The backend's generator, remembering the uniform numbers that dropout drew."""

    def __init__(self, rng):
        self.rng, self.draws = rng, []

    def uniform(self, shape):
        self.draws.append(self.rng.uniform(shape))
        return self.draws[-1]


def dropout_masks(config, draws):
    """Masks by the reference's names; the draws come in the order of the computation."""
    names = [("embedding", config.dropout)]
    if config.attn_type == 0:
        names += [("positions", config.dropout)]
    for n in range(config.n_layer):
        names += [(f"{n}.probs", config.dropatt)]
        names += [(f"{n}.{place}", config.dropout) for place in ("attn", "inner", "ff")]
    names += [("output", config.dropout)]
    return {
        name: (np.asarray(draw) >= rate) / (1.0 - rate)
        for (name, rate), draw in zip([x for x in names if x[1]], draws, strict=True)
    }


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_dropout_agrees_given_the_same_masks(pre_lnorm):
    lengths = (5, 5, 3)
    model = random_model(7, lengths, pre_lnorm=pre_lnorm, dropout=0.3, dropatt=0.2)
    ours, theirs = None, None
    for n, (tokens, targets) in enumerate(random_segments(lengths)):
        rng = RecordingRng(model.backend.rng(n))
        given = (model.config, model.params, tokens, targets, theirs)
        nll, ours, cache = model.forward(tokens, targets, mems=ours, rng=rng)
        masks = dropout_masks(model.config, rng.draws)
        expected_nll, theirs, grads = reference_step(*given, masks=masks)
        assert_same(nll, expected_nll, f"segment {n}: nll")
        assert_same_gradients(model.backward(cache), grads, f"segment {n}")
        for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"segment {n}: memory of layer {layer}")


@pytest.mark.parametrize("same_length", [False, True])
@pytest.mark.parametrize("attn_type", range(6))
def test_inspection_agrees(attn_type, same_length):
    lengths, clamp = (5, 5), -1 if attn_type == 4 else 3
    model = random_model(7, lengths, attn_type=attn_type, same_length=same_length, clamp_len=clamp)
    tensors, ours, theirs = to_tensors(model.params), None, None
    for tokens, targets in random_segments(lengths):
        seen = Inspection()
        _, ours, _ = model.forward(tokens, targets, mems=ours, inspect=seen)
        with torch.no_grad():
            expected = run_segment(model.config, tensors, tokens, targets, theirs)
        theirs = expected.mems
        for n, h in enumerate(expected.hidden):
            assert_same(seen.hidden[n], h, f"h_{n}")
        for n, p in enumerate(expected.probs):
            assert_same(seen.probs[n], p, f"probabilities of layer {n}")
            visible = np.broadcast_to(~np.asarray(seen.mask[n]), p.shape)
            assert np.array_equal(visible, p.numpy() > 0.0)
            assert set(seen.terms[n]) == set(expected.terms[n])
            for name, term in expected.terms[n].items():
                a = np.broadcast_to(seen.terms[n][name], p.shape)[visible]
                b = np.broadcast_to(term, p.shape)[visible]
                assert_same(a, b, f"term {name} of layer {n}")


@pytest.mark.parametrize(
    "change",
    [dict(pre_lnorm=True), dict(clamp_len=3), dict(same_length=True), dict(mem_len=5)],
    ids=str,
)
def test_every_option_matters(change):
    """Were an option ignored by both models they would still agree; here the loss must move."""
    lengths = (5, 5, 5)
    model = random_model(7, lengths)
    other = model.config.replace(**change)
    losses = []
    for config in (model.config, other):
        mems = None
        for tokens, targets in random_segments(lengths):
            nll, mems = reference(config, model.params, tokens, targets, mems)
        losses.append(nll)
    assert np.max(np.abs(losses[0] - losses[1])) > 1e-3


# ------------------------------------------------------------- who checks the reference itself


def loop_nll(config, params, tokens, targets, mems):
    """One layer, one head, post-LN, one query, key and word at a time, from the formula."""
    p = {name.removeprefix("layers.0."): np.asarray(params[name]) for name in params}
    n_d, n_m = config.d_model, mems[0].shape[1]
    nll = np.zeros(tokens.shape)

    def norm(x, name):
        scaled = (x - x.mean()) / np.sqrt(x.var() + config.layer_norm_epsilon)
        return scaled * p[name + ".gamma"] + p[name + ".beta"]

    def sinusoid(distance):
        if config.clamp_len > 0:
            distance = min(distance, config.clamp_len)
        angles = [distance / 10000 ** (2 * n / n_d) for n in range(n_d // 2)]
        return np.array([np.sin(x) for x in angles] + [np.cos(x) for x in angles])

    def learned(name, distance):
        rows = list(p[name])[::-1]  # now the first one is distance 0
        if config.clamp_len > 0:
            rows = rows[: config.clamp_len]
        return rows[distance] if distance < len(rows) else rows[-1]

    def position(distance):  # of the absolute encodings
        if config.attn_type == 2:
            return sinusoid(distance)
        return learned("pos_emb", distance) if config.attn_type == 3 else 0.0

    def turned(x, place):
        n_pair = len(x) // 2
        for n in range(n_pair):
            angle = place / 10000 ** (2 * n / len(x))
            turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            x = x.copy()
            x[[n, n + n_pair]] = np.array(turn) @ x[[n, n + n_pair]]
        return x

    def position_score(q, k, distance):
        if config.attn_type == 4:
            return turned(q, 100) @ turned(k, 100 - distance) - q @ k
        if config.attn_type == 5:  # one head: 1/256
            far = min(distance, config.clamp_len) if config.clamp_len > 0 else distance
            return -far / 256 * np.sqrt(config.d_head)
        if config.attn_type == 0:
            r = sinusoid(distance) @ p["attn.w_r"]
            return q @ r + p["r_w_bias"][0] @ k + p["r_r_bias"][0] @ r
        if config.attn_type == 1:
            shift = learned("r_bias", distance)[0]
            return q @ learned("r_emb", distance)[0] + p["r_w_bias"][0] @ k + shift
        return 0.0

    for b, i in np.ndindex(tokens.shape):
        rows = list(mems[0][b]) + [loop_embedding(p, word) * np.sqrt(n_d) for word in tokens[b]]
        rows = [x + position(len(rows) - 1 - j) for j, x in enumerate(rows)]
        q = rows[n_m + i] @ p["attn.w_q"]
        weights, values = [], []
        for j in range(n_m + i + 1):  # nothing after the query itself
            distance = n_m + i - j
            if (
                config.same_length
                and distance >= config.mem_len + config.released.same_length_extra
            ):
                continue
            k = rows[j] @ p["attn.w_k"]
            score = q @ k + position_score(q, k, distance)
            weights.append(np.exp(score / np.sqrt(config.d_head)))
            values.append(rows[j] @ p["attn.w_v"])
        attended = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
        a = norm(rows[n_m + i] + attended @ p["attn.w_o"], "attn_norm")
        inner = np.maximum(a @ p["ff.w_1"] + p["ff.b_1"], 0.0)
        top = norm(a + inner @ p["ff.w_2"] + p["ff.b_2"], "ff_norm")
        nll[b, i] = -loop_log_p(p, top, targets[b, i])
    return nll


def loop_embedding(p, word):
    """The head's words have a row of E numbers, the rest one of E / 2, if there are two tables."""
    if "word_emb" in p:
        return p["word_emb"][word]
    n_head = len(p["word_emb.0"])
    if word < n_head:
        return p["word_emb.0"][word] @ p["emb_proj.0"]
    return p["word_emb.1"][word - n_head] @ p["emb_proj.1"]


def loop_log_p(p, h, word):
    def log_softmax(logits, choice):
        return logits[choice] - np.log(sum(np.exp(x) for x in logits))

    if "word_emb" in p:
        return log_softmax(p["word_emb"] @ h + p["out_bias"], word)
    z = h @ p["out_proj.0"]  # the head's own, the tail's is the embedding's
    head = [row @ z + x for row, x in zip(p["word_emb.0"], p["out_bias.0"], strict=True)]
    head.append(p["cluster_weight"][0] @ z + p["cluster_bias"][0])
    if word < len(head) - 1:
        return log_softmax(head, word)
    tail = p["word_emb.1"] @ (p["emb_proj.1"] @ h) + p["out_bias.1"]
    return log_softmax(head, -1) + log_softmax(tail, word - (len(head) - 1))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("same_length", [False, True])
@pytest.mark.parametrize(
    ("attn_type", "clamp_len"),
    [x for x in itertools.product(range(6), (-1, 3)) if x != (4, 3)],  # RoPE has no clamp_len
)
def test_reference_equals_a_double_loop(attn_type, clamp_len, same_length, adaptive):
    options = dict(attn_type=attn_type, clamp_len=clamp_len, same_length=same_length)
    config = one_head_config(adaptive=adaptive, **options)
    config.released.same_length_extra = int(adaptive)
    params = one_head_params(config)
    mems = [np.random.default_rng(5).normal(size=(BATCH, 4, config.d_model))]
    (tokens, targets), *_ = random_segments((6,))
    nll, _ = reference(config, params, tokens, targets, mems)
    np.testing.assert_allclose(
        nll, loop_nll(config, params, tokens, targets, mems), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("attn_type", range(6))
def test_reference_gradients_equal_finite_differences(attn_type):
    config = one_head_config(attn_type=attn_type, clamp_len=3, adaptive=attn_type > 0)
    params = one_head_params(config)
    tensors = to_tensors(params, requires_grad=True)
    (tokens, targets), *_ = random_segments((4,))
    mems = [torch.from_numpy(np.random.default_rng(5).normal(size=(BATCH, 3, config.d_model)))]

    def loss(*values):
        return run_segment(
            config, dict(zip(tensors, values, strict=True)), tokens, targets, mems
        ).nll

    assert torch.autograd.gradcheck(loss, tuple(tensors.values()), fast_mode=True)


def one_head_config(*, adaptive, **options):
    """Attributes of a Config with one layer and one head; no minitxl code runs in these tests."""
    fields = dict(
        n_token=SHAPE["n_token"], n_layer=1, d_model=6, n_head=1, mem_len=4,
        d_head=4 if options["attn_type"] == 4 else 5,
        layer_norm_epsilon=1e-5, untie_r=False, pre_lnorm=False, same_length=False,
        start_mems="empty", ext_len=0,
        d_embed=0, tie_weight=True, tie_projs=(),
        cutoffs=(4,) if adaptive else (), div_val=2 if adaptive else 1,
    )  # fmt: skip
    released = SimpleNamespace(
        ext_len_swapped=False, cluster_order="natural", same_length_extra=0, raw_queries=False
    )
    return SimpleNamespace(**fields | options, released=released)


def one_head_params(config):
    d, dh, f, n_token, n_row = config.d_model, config.d_head, 7, config.n_token, 8
    shapes = {"word_emb": (n_token, d), "out_bias": (n_token,)}
    if config.cutoffs:
        shapes = {"word_emb.0": (4, d), "word_emb.1": (n_token - 4, d // 2)}
        shapes |= {"out_bias.0": (4,), "out_bias.1": (n_token - 4,)}
        shapes |= {"emb_proj.0": (d, d), "emb_proj.1": (d // 2, d), "out_proj.0": (d, d)}
        shapes |= {"cluster_weight": (1, d), "cluster_bias": (1,)}
    if config.attn_type == 0:
        shapes |= {"r_w_bias": (1, dh), "r_r_bias": (1, dh), "layers.0.attn.w_r": (d, dh)}
    if config.attn_type == 1:
        shapes |= {"layers.0.r_w_bias": (1, dh), "layers.0.r_emb": (n_row, 1, dh)}
        shapes |= {"layers.0.r_bias": (n_row, 1)}
    if config.attn_type == 3:
        shapes |= {"layers.0.pos_emb": (n_row, d)}
    shapes |= {f"layers.0.attn.w_{x}": (d, dh) for x in "qkv"} | {"layers.0.attn.w_o": (dh, d)}
    shapes |= {f"layers.0.{x}_norm.{y}": (d,) for x in ("attn", "ff") for y in ("gamma", "beta")}
    shapes |= {"layers.0.ff.w_1": (d, f), "layers.0.ff.b_1": (f,)}
    shapes |= {"layers.0.ff.w_2": (f, d), "layers.0.ff.b_2": (d,)}
    rng = np.random.default_rng(4)
    return {name: 0.2 + rng.normal(0.0, 0.4, shape) for name, shape in shapes.items()}
