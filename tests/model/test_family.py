"""The whole family: every encoding, with and without memory, and every kind of vocabulary."""

import itertools

import numpy as np
import pytest

from helpers.models import (
    DH,
    B,
    D,
    H,
    M,
    T,
    V,
    assert_right,
    config_of,
    make_model,
    make_tokens,
    read,
    second_segment,
)
from minitxl import Config, Inspection, MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.config import Released
from minitxl.model.attention import attention_mask
from minitxl.model.family.absolute import AbsoluteWeights
from minitxl.model.family.alibi import alibi_forward, slopes
from minitxl.model.family.rope import rope_forward, rotary_table
from minitxl.model.gradcheck import check_model
from minitxl.model.reach import exact_reach

CPU = get_backend("cpu", "float64")
HERE = dict(dtype=np.float64, device=None, xp=np)
ENCODINGS = [
    {"attn_type": 1},
    {"attn_type": 1, "clamp_len": 4},
    {"attn_type": 1, "max_klen": 7},
    {"attn_type": 2},
    {"attn_type": 2, "clamp_len": 4},
    {"attn_type": 3},
    {"attn_type": 3, "max_klen": 7, "clamp_len": 5},
    {"attn_type": 4},
    {"attn_type": 5},
    {"attn_type": 5, "clamp_len": 4},
]
WORDS = [
    {"cutoffs": (3, 7)},
    {"cutoffs": (3, 7), "cluster_order": "reversed", "tie_weight": False},
    {"d_embed": 6},
    {"d_embed": 6, "tie_projs": (True,)},
    {"d_embed": 6, "cutoffs": (4,), "tie_projs": (True, True)},
    {"d_embed": 6, "cutoffs": (4,), "tie_projs": (True, False), "tie_weight": False},
    {"div_val": 2, "cutoffs": (3, 7)},
    {"div_val": 2, "cutoffs": (3, 7), "d_embed": 8, "cluster_order": "reversed"},
    {"div_val": 2, "cutoffs": (3, 7), "tie_weight": False, "tie_projs": (True, False, True)},
    {"div_val": 2},
]


def name(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "default"


@pytest.mark.parametrize("options", [*ENCODINGS, *WORDS], ids=name)
@pytest.mark.parametrize("m", [0, M])
def test_gradients(backend, options, m):
    model = make_model(backend, **options, dropout=0.2, dropatt=0.1)
    assert_right(check_model(model, *second_segment(model, T, m), key=(1, 2)))


@pytest.mark.parametrize(
    "options",
    [
        *({"attn_type": a, "pre_lnorm": True, "same_length": True} for a in range(1, 6)),
        *({"attn_type": a, "pre_lnorm": True, "raw_queries": True} for a in range(2, 6)),
        {"same_length": True, "same_length_extra": 1},
        {"ext_len": 2},
        {"start_mems": "zeros"},
        *({"attn_type": a, "ext_len": 2, "start_mems": "zeros"} for a in (4, 5)),
        {"n_head": 2, "d_head": 5, "attn_type": 3},
    ],
    ids=name,
)
def test_gradients_of_combinations(backend, options):
    model = make_model(backend, **options)
    assert_right(check_model(model, *second_segment(model, T, M)))
    tokens, targets, _ = second_segment(model, T, 0)
    assert_right(check_model(model, tokens, targets, None))  # from the start of a stream


@pytest.mark.parametrize("options", [{}, *ENCODINGS[::3], WORDS[6]], ids=name)
def test_loss_on_the_last_positions(backend, options):
    """Targets of the last S positions: the same losses, and the gradient of those alone."""
    model = make_model(backend, **options)
    tokens, targets, mems = second_segment(model, T, M)
    to_numpy = backend.to_numpy
    nll, _, cache = model.forward(tokens, targets, mems)
    part, _, part_cache = model.forward(tokens, targets[:, 2:], mems)
    np.testing.assert_allclose(to_numpy(part), to_numpy(nll)[:, 2:], rtol=1e-14)
    dnll = np.random.default_rng(0).normal(size=(B, T))
    dnll[:, :2] = 0.0
    whole = to_numpy(model.backward(cache, dnll).flat)
    np.testing.assert_allclose(
        to_numpy(model.backward(part_cache, dnll[:, 2:]).flat), whole, rtol=0, atol=1e-13
    )
    assert_right(check_model(model, tokens, targets[:, 2:], mems))


# --- properties ---


@pytest.mark.parametrize("options", [*ENCODINGS, *WORDS], ids=name)
def test_causality(options):
    """A changed token changes nothing before it - exactly - and something from it on."""
    model = make_model(CPU, **options)
    tokens = make_tokens(1, 10)
    changed = tokens.copy()
    changed[0, 7] = (changed[0, 7] + 1) % V
    a, b = (read(model, x, [T, T]) for x in (tokens, changed))
    np.testing.assert_array_equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] != b[:, 7:]).any(axis=-1).all()


@pytest.mark.parametrize("attn_type", [1, 4, 5])
def test_segments_do_not_show(attn_type):
    """Relative encodings (Shaw's table is long enough): 12 = 5 + 1 + 6."""
    model = make_model(CPU, attn_type=attn_type, mem_len=12)
    tokens = make_tokens(B, 12)
    whole, cut = read(model, tokens, [12]), read(model, tokens, [5, 1, 6])
    np.testing.assert_allclose(whole, cut, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attn_type", [2, 3])
def test_absolute_positions_collide(attn_type):
    """With a memory, absolute encodings are not seamless: the paper's point in sec. 3.3.

    One layer only reads embeddings, to which positions are added afresh: that is sound. From two
    layers on the remembered states were computed under other positions.
    """
    one = make_model(CPU, attn_type=attn_type, mem_len=12, n_layer=1, max_klen=20)
    two = make_model(CPU, attn_type=attn_type, mem_len=12, n_layer=2, max_klen=20)
    tokens = make_tokens(B, 12)
    for model, seamless in ((one, True), (two, False)):
        last = read(model, tokens, [12])[:, -1] - read(model, tokens, [7, 5])[:, -1]
        assert (np.abs(last).max() < 1e-12) == seamless


@pytest.mark.parametrize("attn_type", [2, 3])
def test_memory_holds_no_positions(attn_type):
    """mems[0] are the embeddings themselves; so positions cannot pile up in the memory."""
    model = make_model(CPU, attn_type=attn_type, mem_len=3 * T, pre_lnorm=True)
    tokens = make_tokens(B, T)
    table = model.params["word_emb"]
    _, mems = model.predict(tokens)
    np.testing.assert_allclose(mems[0], table[tokens] * np.sqrt(D), rtol=1e-13)
    before = mems[0].copy()
    _, mems = model.predict(tokens, mems)
    np.testing.assert_array_equal(mems[0][:, :T], before)


@pytest.mark.parametrize("attn_type", [1, 4, 5])
def test_terms(backend, attn_type):
    """The terms that there are add up to the scores whose softmax are the probabilities."""
    model = make_model(backend, attn_type=attn_type)
    tokens, _, mems = second_segment(model, T, M)
    seen = Inspection()
    model.predict(tokens, mems, inspect=seen)
    to_numpy = backend.to_numpy
    for probs, terms, mask in zip(seen.probs, seen.terms, seen.mask, strict=True):
        scores = np.where(to_numpy(mask), -np.inf, sum(map(to_numpy, terms.values())))
        p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(to_numpy(probs), p, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("attn_type", [4, 5])
def test_only_distances_count(attn_type):
    """All places shifted alike: the same numbers. Some of them shifted: others."""
    rng = np.random.default_rng(0)
    h, w = rng.normal(size=(B, T + M, D)), [rng.normal(size=(D, H * DH)) for _ in range(3)]
    weights = AbsoluteWeights(*w, rng.normal(size=(H * DH, D)))
    hidden = attention_mask(n_query=T, n_mem=M, max_keys=None, device=None, xp=np)
    options = dict(mask=np.where(hidden, -np.inf, 0.0), dropatt=0.0, rng=None, xp=np)

    def attended(distances):
        if attn_type == 5:
            pos = -slopes(H, **HERE)[:, None] * distances
            return alibi_forward(h[:, M:], h, pos, weights, **options)[0]
        pos = rotary_table(distances, d_head=DH, dtype=np.float64, xp=np)
        return rope_forward(h[:, M:], h, pos, weights, n_head=H, **options)[0]

    far = np.arange(T + M - 1, -1, -1)
    np.testing.assert_allclose(attended(far + 1000), attended(far), rtol=0, atol=1e-10)
    assert np.abs(attended(far + (far > 3)) - attended(far)).max() > 1e-2


@pytest.mark.parametrize(
    ("n_head", "first"),
    [(8, [1 / 2, 1 / 4, 1 / 8]), (16, [2**-0.5, 2**-1, 2**-1.5]), (3, [1 / 16, 1 / 256, 1 / 4])],
)
def test_slopes(n_head, first):
    found = slopes(n_head, **HERE)
    np.testing.assert_allclose(found[:3], first, rtol=1e-15)
    assert len(found) == n_head and min(found) == 1 / 256


@pytest.mark.parametrize("attn_type", [4, 5])
def test_reach_of_a_memory(attn_type):
    """The oldest token that can show does, and the one before it does not."""
    model = make_model(CPU, attn_type=attn_type, n_layer=2, mem_len=M, n_head=2, d_head=4)
    far = exact_reach(2, T, M)
    tokens = make_tokens(1, 5 * T)
    last = read(model, tokens, [T] * 5)[:, 4 * T :]
    for distance, shows in ((far, True), (far + 1, False)):
        changed = tokens.copy()
        changed[0, 4 * T - distance] = (changed[0, 4 * T - distance] + 1) % V
        assert (read(model, changed, [T] * 5)[:, 4 * T :] != last).any() == shows


# --- words ---


@pytest.mark.parametrize("options", WORDS, ids=name)
def test_probabilities_of_words(backend, options):
    """The full distribution sums to 1 and says what the loss says of each target."""
    model = make_model(backend, **options)
    tokens, targets, mems = second_segment(model, T, M)
    log_p = backend.to_numpy(model.predict(tokens, mems)[0])
    assert log_p.shape == (B, T, V)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1.0, rtol=1e-12)
    nll = backend.to_numpy(model.score(tokens, targets, mems)[0])
    picked = np.take_along_axis(log_p, targets[:, :, None], axis=-1)[:, :, 0]
    np.testing.assert_allclose(nll, -picked, rtol=1e-12)
    last = backend.to_numpy(model.predict(tokens, mems, last=2)[0])
    np.testing.assert_allclose(last, log_p[:, -2:], rtol=1e-12)


def test_order_of_the_clusters():
    """Natural and reversed differ by which column of the head belongs to which tail."""
    a = make_model(CPU, cutoffs=(3, 7))
    b = TransformerXL(
        a.config.replace(released=Released(cluster_order="reversed")), "cpu", params=a.params
    )
    tokens = make_tokens(B, T)
    natural = a.predict(tokens)[0]
    weight, bias = a.params["cluster_weight"].copy(), a.params["cluster_bias"].copy()
    assert np.abs(natural - b.predict(tokens)[0]).max() > 1e-3
    a.params["cluster_weight"], a.params["cluster_bias"] = weight[::-1], bias[::-1]
    np.testing.assert_allclose(natural, b.predict(tokens)[0], rtol=1e-12)


@pytest.mark.parametrize("options", WORDS, ids=name)
def test_clusters_that_no_word_is_in(options):
    """A batch of the commonest word alone; the rare clusters' parameters get no gradient."""
    model = make_model(CPU, **options)
    tokens = np.zeros((B, T), dtype=np.int64)
    nll, _, cache = model.forward(tokens, tokens)
    grads = model.backward(cache)
    assert np.isfinite(nll).all() and np.isfinite(grads.flat).all()
    if model.config.div_val > 1 and model.config.cutoffs:
        assert (grads["word_emb.1"] == 0).all() and (grads["cluster_weight"] != 0).any()


def test_adaptive_with_one_cluster_is_plain():
    """Without cutoffs, projections or ties to break, both kinds compute the same."""
    from minitxl.model.family.network import ADAPTIVE, PLAIN

    plain = make_model(CPU)
    params = dict(plain.params)
    params["word_emb.0"], params["out_bias.0"] = params["word_emb"], params["out_bias"]
    h = np.random.default_rng(0).normal(size=(6, D))
    ids = make_tokens(6)
    for kind in ("embed_forward", "log_probs"):
        argument = ids if kind == "embed_forward" else h
        a, b = (getattr(v, kind)(params, argument, plain.config, xp=np) for v in (PLAIN, ADAPTIVE))
        a, b = (a[0], b[0]) if isinstance(a, tuple) else (a, b)
        np.testing.assert_allclose(a, b, rtol=1e-14)


# --- ext_len and the rest ---


def test_ext_len_reads_again():
    """The last ext_len tokens stay out of the memory and come again: all positions stay right."""
    model = make_model(CPU, ext_len=2, mem_len=12)
    plain = model.with_options(ext_len=0)
    tokens = make_tokens(B, 12)
    whole = read(plain, tokens, [12])
    first, mems = model.predict(tokens[:, :6])
    assert mems[0].shape[1] == 4
    second, mems = model.predict(tokens[:, 4:12], mems)
    assert mems[0].shape[1] == 10
    np.testing.assert_allclose(np.concatenate([first, second[:, 2:]], axis=1), whole, atol=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
def test_ext_len_longer_than_the_segment(swapped):
    """Then nothing new is remembered; the released call, M and T swapped, remembers T tokens."""
    model = make_model(CPU, ext_len=9, mem_len=12, ext_len_swapped=swapped)
    _, mems = model.predict(make_tokens(B, 5))
    assert mems[0].shape[1] == (5 if swapped else 0)


def test_start_from_zeros():
    model = make_model(CPU, start_mems="zeros")
    mems = [np.zeros((B, M, D))] * 2
    tokens = make_tokens(B, T)
    got, given = model.predict(tokens)[0], model.predict(tokens, mems)[0]
    np.testing.assert_array_equal(got, given)
    empty = TransformerXL(model.config.replace(start_mems="empty"), "cpu", params=model.params)
    assert np.abs(got - empty.predict(tokens)[0]).max() > 1e-3


def test_tables_keep_their_length():
    """A learned table is as long as in training, whatever the memory is at evaluation."""
    model = make_model(CPU, attn_type=1)
    longer = model.with_options(mem_len=4 * M)
    assert longer.config.table_len == model.config.table_len == T + M
    read(longer, make_tokens(B, 20), [5] * 4)


def test_float32_stays_float32():
    for options in (*ENCODINGS, *WORDS):
        config = config_of(n_token=V, n_layer=2, d_model=16, dropout=0.1, **options)
        model = TransformerXL(config, device="cpu")
        x = make_tokens(2, 8)
        nll, mems, cache = model.forward(x, x, rng=model.backend.rng(1))
        assert nll.dtype == mems[0].dtype == model.backward(cache).flat.dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(attn_type=6), "attn_type=6 must be 0 to 5"),
        (dict(attn_type=4, d_head=5), "d_head=5 must be even: RoPE"),
        (dict(attn_type=4, clamp_len=9), "clamp_len=9 must be -1: RoPE"),
        (dict(cutoffs=(3, 3)), "cutoffs"),
        (dict(cutoffs=(20,)), "cutoffs"),
        (dict(cutoffs=(3, 7), div_val=20), "div_val=20"),
        (dict(div_val=0), "div_val=0"),
        (dict(cutoffs=(3,), tie_projs=(True,)), "tie_projs"),
        (dict(ext_len=-1), "ext_len=-1"),
        (dict(start_mems="none"), "start_mems"),
        (dict(cluster_order="random"), "cluster_order"),
        (dict(cutoffs=[3]), "cutoffs must be of type tuple"),
    ],
)
def test_wrong_config(fields, words):
    with pytest.raises(MinitxlError, match=words):
        config_of(n_token=11, **fields)


def test_config_round_trip():
    """JSON has lists, not tuples."""
    import json

    for options in itertools.chain(ENCODINGS, WORDS):
        config = config_of(n_token=11, d_model=16, **options)
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
