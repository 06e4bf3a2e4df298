"""What the other memories keep, how far they reach, and what they refuse."""

import json

import numpy as np
import pytest

from helpers.memories import KINDS, compressive, every_kind, matrix, text_of
from helpers.models import B, D, T, V, make_model, make_tokens, read
from minitxl import Config, Inspection, MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.config import Memory
from minitxl.model.family.memories.compressive import highest
from minitxl.model.family.memories.matrix import (
    has_denominator,
    memory_backward,
    memory_forward,
    substitute_backward,
    substitute_forward,
)
from minitxl.model.through_memory import sequence_gradients

CPU = get_backend("cpu", "float64")


def states_after(model, tokens, lengths):
    """Read tokens (B, n) in segments; the states, and each layer's inputs (B, n, D)."""
    mems, start, hidden = None, 0, []
    for length in lengths:
        seen = Inspection()
        _, mems = model.predict(tokens[:, start : start + length], mems, inspect=seen)
        hidden.append(seen.hidden)
        start += length
    return mems, [np.concatenate(h, axis=1) for h in zip(*hidden, strict=True)]


# --- compressive --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_fine, n_coarse, rate, compress", [
    (4, 3, 1, "mean"), (4, 3, 1, "max"), (4, 3, 1, "every"), (0, 5, 1, "mean"), (4, 0, 2, "mean"),
])  # fmt: skip
def test_without_compression_it_is_the_papers_memory(n_fine, n_coarse, rate, compress):
    """c = 1: a memory of n_fine + n_coarse states; n_coarse = 0, in whole blocks: of n_fine."""
    options = compressive(compress, rate=rate, n_coarse=n_coarse, mem_len=n_fine)
    ours = make_model(CPU, **options)
    config = ours.config.replace(memory=Memory(), mem_len=n_fine + n_coarse)
    xl = TransformerXL(config, CPU, params=ours.params)
    segments, upstream = text_of((4, 2, 6, 4))
    for through in (False, True):
        a, b = (sequence_gradients(m, segments, upstream, through) for m in (ours, xl))
        np.testing.assert_allclose(a.params.flat, b.params.flat, rtol=0, atol=1e-13)
        for ours_nll, nll in zip(a.nll, b.nll, strict=True):
            np.testing.assert_allclose(ours_nll, nll, rtol=1e-14)


@pytest.mark.parametrize("compress", ["mean", "max", "conv", "every", "random"])
def test_each_row_is_made_of_the_tokens_that_born_names(compress):
    model = make_model(CPU, **compressive(compress, rate=3, n_coarse=4, mem_len=5))
    tokens = make_tokens(B, 31)
    mems, hidden = states_after(model, tokens, [5, 9, 1, 7, 9])
    c = 1 if compress == "random" else 3
    for n, state in enumerate(mems):
        first = int(state.born[-1])
        np.testing.assert_array_equal(state.fine, hidden[n][:, first:])
        assert state.coarse.shape[1] == 4 and 5 <= state.fine.shape[1] < 5 + c
        for row, born in zip(np.moveaxis(state.coarse, 1, 0), state.born, strict=False):
            block = hidden[n][:, born : born + c]  # (B, c, D)
            kernel = model.params[f"layers.{n}.memory.w_c"] if compress == "conv" else None
            want = {
                "mean": lambda block=block: block.mean(axis=1),
                "max": lambda block=block: block.max(axis=1),
                "every": lambda block=block: block[:, -1],
                "random": lambda block=block: block[:, 0],
                "conv": lambda block=block, w=kernel: (
                    block.mean(axis=1) + np.einsum("bcd,cde->be", block, w)
                ),
            }[compress]()
            np.testing.assert_allclose(row, want, rtol=1e-12, atol=1e-13)
        if compress != "random":  # without a gap from the coarse rows to the fine ones
            assert (np.diff(state.born) == c).all()


@pytest.mark.parametrize("compress", ["mean", "every", "random"])
def test_what_is_kept_does_not_depend_on_the_cuts(compress):
    """In the first layer, whose inputs are embeddings; later layers saw other memories."""
    model = make_model(CPU, **compressive(compress, rate=2, n_coarse=4, mem_len=4))
    tokens = make_tokens(B, 20)
    whole, cut = (states_after(model, tokens, n)[0] for n in ([20], [5, 1, 6, 8]))
    for a, b in zip(whole[0], cut[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    assert np.abs(whole[1].coarse - cut[1].coarse).max() > 1e-3


def test_a_random_sample_is_uniform():
    """Each eighth of the past, and every gap, has its share; a stream begins at place 0."""
    kept = highest(np.arange(100_000), 10_000, xp=np)
    assert (np.diff(kept) > 0).all() and len(kept) == 10_000
    for past in (kept, *(highest(np.arange(n), n // 8, xp=np) for n in (512, 1024, 4096))):
        n = 8 * len(past) if past is not kept else 100_000
        share, _ = np.histogram(past, 8, (0, n))
        want = len(past) / 8
        assert ((share - want) ** 2 / want).sum() < 20.3  # chi squared, 7 degrees: p = 0.005
    gaps = np.bincount(np.diff(kept), minlength=4)[1:4] / len(kept)
    np.testing.assert_allclose(gaps, [0.1, 0.09, 0.081], atol=0.01)  # as of independent draws
    # The sample of more tokens is that of fewer, but for those which new ones have driven out.
    for n in (1000, 1001, 1500):
        old, new = (highest(np.arange(k), 50, xp=np) for k in (1000, n))
        assert set(new[new < 1000]) <= set(old)


# --- reach --------------------------------------------------------------------------------------


def first_that_matters(model, tokens, lengths):
    """The first token that the last segment's first prediction depends on, changed by itself."""
    last = sum(lengths[:-1])
    before = read(model, tokens, lengths)[0, last]
    for i in range(last + 1):
        changed = tokens.copy()
        changed[0, i] = (changed[0, i] + 1) % V
        if not np.array_equal(read(model, changed, lengths)[0, last], before):
            return last - i
    raise AssertionError("nothing matters")


@pytest.mark.parametrize("compress", ["mean", "conv"])
@pytest.mark.parametrize("n_coarse", [1, 2, 4])
def test_reach_of_the_compressive_memory(compress, n_coarse):
    """n_fine + c n_coarse tokens a layer; below the top from where the segment begins they are of.

    Where that is whole segments, N (n_fine + c n_coarse): as sec. 3.2 with M in its place.
    """
    t, n_fine, c, n_layer = 4, 4, 2, 3
    model = make_model(
        CPU, n_layer=n_layer, tgt_len=t, **compressive(compress, rate=c, n_coarse=n_coarse)
    )
    window = n_fine + c * n_coarse
    want = (n_layer - 1) * t * -(-window // t) + window
    if window % t == 0:
        assert want == n_layer * window
    tokens = make_tokens(1, 48)
    assert first_that_matters(model, tokens, [t] * 12) == want


@pytest.mark.parametrize("kind", ["sum-unit-all", "delta-unit-all", "delta-unit-past", "tokens"])
def test_reach_without_a_bound(kind):
    """The first of 60 tokens is not forgotten, with one layer, where the paper's memory has M."""
    model = make_model(CPU, n_layer=1, **KINDS[kind])
    tokens = make_tokens(1, 60)
    assert first_that_matters(model, tokens, [T] * 12) == 55
    xl = make_model(CPU, n_layer=1, mem_len=T)
    assert first_that_matters(xl, tokens, [T] * 12) == T


@every_kind
def test_causality(kind):
    """A changed token changes nothing before it - exactly - and something from it on."""
    model = make_model(CPU, **KINDS[kind])
    tokens = make_tokens(1, 15)
    changed = tokens.copy()
    changed[0, 7] = (changed[0, 7] + 1) % V
    a, b = (read(model, x, [T, T, T]) for x in (tokens, changed))
    np.testing.assert_array_equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] != b[:, 7:]).any(axis=-1).all()


# --- matrix -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sum", "delta"])
@pytest.mark.parametrize("feature", ["unit", "elu"])
def test_segments_do_not_show_to_a_matrix(rule, feature):
    """12 = 5 + 1 + 6: the first layer's matrix is the same; with all rows in reach, everything.

    Not so where a token does not read what its own segment writes, and not for the matrices of
    later layers where the softmax sees its segment alone.
    """
    tokens = make_tokens(B, 12)
    for reads, mem_len in (("all", 0), ("all", 12), ("past", 0), ("past", 12)):
        model = make_model(CPU, **matrix(rule, feature, reads, mem_len))
        whole, cut = (states_after(model, tokens, n)[0] for n in ([12], [5, 1, 6]))
        np.testing.assert_allclose(whole[0].s, cut[0].s, rtol=0, atol=1e-12)
        seamless = reads == "all" and mem_len == 12
        assert (np.abs(whole[1].s - cut[1].s).max() < 1e-11) == seamless
        apart = read(model, tokens, [12]) - read(model, tokens, [5, 1, 6])
        assert (np.abs(apart).max() < 1e-11) == seamless


def test_the_delta_rule_returns_what_was_stored_last():
    """Written with strength 1 under a key of length 1 it is read back, whatever stood there."""
    rng = np.random.default_rng(0)
    key, values = rng.normal(size=4), rng.normal(size=(3, 4))
    k = np.broadcast_to(key, (1, 1, 3, 4))  # one key, three values after another
    ones, zero = np.ones((1, 1, 3, 1)), np.zeros((1, 1, 4, 4))
    arguments = (k, k, values[None, None], ones, zero)
    delta, total = (
        memory_forward(*arguments, Memory(kind="matrix", rule=rule), xp=np)[0][0, 0]
        for rule in ("delta", "sum")
    )
    np.testing.assert_allclose(delta, values, rtol=1e-9)
    np.testing.assert_allclose(total, np.cumsum(values, axis=0), rtol=1e-9)


@pytest.mark.parametrize("t", [1, 2, 7])
def test_substitution_solves(backend, t):
    rng, xp = np.random.default_rng(t), backend.xp
    below, y = np.tril(rng.normal(size=(2, 3, t, t)), -1), rng.normal(size=(2, 3, t, 4))
    system = np.eye(t) + below
    given = [backend.asarray(a) for a in (below, y)]
    u = backend.to_numpy(substitute_forward(*given, xp=xp))
    np.testing.assert_allclose(system @ u, y, rtol=0, atol=1e-12)
    dy = backend.to_numpy(substitute_backward(given[1], given[0], xp=xp))
    np.testing.assert_allclose(system.swapaxes(-1, -2) @ dy, y, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(backend.to_numpy(given[1]), y)  # the argument stays


def test_equal_keys_do_not_overflow():
    """128 tokens of one key, strength 1, float32: the system's inverse stays small, and so S."""
    one = np.ones((1, 1, 128, 4), np.float32)
    s = np.zeros((1, 1, 4, 4), np.float32)
    settings = Memory(kind="matrix")
    read_, new, _ = memory_forward(one, one, one, one[..., :1], s, settings, xp=np)
    np.testing.assert_allclose(read_, 1.0, rtol=1e-5)
    np.testing.assert_allclose(new.sum(axis=-2), 2.0, rtol=1e-5)  # |k| = 1, four entries of 1/2


@pytest.mark.parametrize("rule", ["sum", "delta"])
@pytest.mark.parametrize("feature", ["unit", "elu"])
def test_keys_of_nothing_but_zeros(rule, feature):
    """Have no length to divide by; nothing becomes NaN, forwards or backwards."""
    m = Memory(kind="matrix", rule=rule, feature=feature)
    zeros, s = np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 4, 4 + has_denominator(m)))
    read_, new, cache = memory_forward(zeros, zeros, zeros + 1, zeros[..., :1] + 0.5, s, m, xp=np)
    found = [read_, new, *memory_backward(zeros + 1, s + 1, cache, xp=np)]
    assert all(np.isfinite(a).all() for a in found)


# --- tokens -------------------------------------------------------------------------------------


def test_memory_tokens_stand_at_both_ends():
    model = make_model(CPU, **KINDS["tokens"])
    tokens, seen = make_tokens(B, 2 * T), Inspection()
    _, mems = model.predict(tokens[:, :T], inspect=seen)
    start = np.broadcast_to(model.params["memory.start"], (B, 3, D))
    for end in (seen.hidden[0][:, :3], seen.hidden[0][:, -3:]):  # learned, read at both ends
        np.testing.assert_array_equal(end, start)
    assert [m.shape for m in mems] == [(B, 3, D), (B, 0, D)]
    assert seen.probs[0].shape[2:] == (T + 6, T + 6)
    assert [h.shape[1] for h in seen.hidden] == [T + 6, T + 6, T]
    seen = Inspection()
    model.predict(tokens[:, T:], mems, inspect=seen)
    for end in (seen.hidden[0][:, :3], seen.hidden[0][:, -3:]):
        np.testing.assert_array_equal(end, mems[0])


# --- what is refused ----------------------------------------------------------------------------


def full_states(kind, batch=B):
    model = make_model(CPU, **KINDS[kind])
    return model, states_after(model, make_tokens(batch, 4 * T), [T] * 4)[0]


@every_kind
def test_states_that_do_not_fit(kind):
    model, mems = full_states(kind)
    tokens = make_tokens(B, T)
    model.predict(tokens, mems)
    other = full_states(kind, B + 1)[1]
    xl = [np.zeros((B, 2, D))] * 2
    changed = [
        s._replace(**{s._fields[0]: s[0][:, 1:]}) if isinstance(s, tuple) else s[:, 1:]
        for s in mems
    ]
    wrong = [mems[:1], other, [np.zeros((B, 2))] * 2, [None, None], [mems[0], other[1]]]
    if KINDS[kind]["memory"].kind != "tokens":
        wrong += [xl]
    if mems[0][0].shape[1] if isinstance(mems[0], tuple) else True:
        wrong += [[changed[0], mems[1]]]
    for given in wrong:
        with pytest.raises(MinitxlError, match=r"^mems.*start with mems=None$"):
            model.predict(tokens, given)
    float32 = TransformerXL(model.config, get_backend("cpu"))
    with pytest.raises(MinitxlError, match="is of type float64, the model of float32"):
        float32.predict(tokens, mems)


def test_states_that_are_too_long():
    """c - 1 states may wait for their block beside the n_fine, and no more."""
    model, (state, _) = full_states("mean")
    tokens, n_fine = make_tokens(B, T), model.config.mem_len
    model.predict(tokens, [state._replace(fine=np.zeros((B, n_fine + 1, D)))] * 2)
    longer = [state._replace(fine=np.zeros((B, n_fine + 2, D)))] * 2
    with pytest.raises(MinitxlError, match=r"mems\[0\].fine has shape .* \(2, 0 to 5, 14\)"):
        model.predict(tokens, longer)


@pytest.mark.parametrize("fields, words", [
    (dict(kind="lstm"), "kind='lstm' must be one of xl, compressive, matrix, tokens"),
    (dict(compress="min"), "compress='min' must be one of mean, max, conv, every, random"),
    (dict(rule="hebb"), "rule='hebb' must be one of sum, delta"),
    (dict(feature="relu"), "feature='relu' must be one of unit, elu"),
    (dict(reads="none"), "reads='none' must be one of all, past"),
    (dict(loss="mse", compress="conv"), "loss='mse' must be one of none, attention, autoencode"),
    (dict(loss="attention"), 'set compress="conv" or loss="none"'),
    (dict(rate=0), "rate=0 must be between 1 and"),
    (dict(n_coarse=-1), "n_coarse=-1 must be between 0 and"),
    (dict(n_slot=2.5), "n_slot must be of type int, got 2.5"),
])  # fmt: skip
def test_wrong_settings(fields, words):
    with pytest.raises(MinitxlError, match=words):
        Memory(**fields)


@pytest.mark.parametrize("kind", ["mean", "delta-rows", "tokens"])
@pytest.mark.parametrize("fields, words", [
    (dict(attn_type=2), "attn_type=2 must be 0 with a"),
    (dict(ext_len=1), "ext_len=1 must be 0 with a"),
    (dict(same_length=True), "same_length"),
    (dict(start_mems="zeros"), "start_mems='zeros' must be 'empty' with a"),
])  # fmt: skip
def test_settings_that_do_not_go_together(kind, fields, words):
    options = dict(KINDS[kind])
    with pytest.raises(MinitxlError, match=words):
        Config(n_token=V, **{**options, **fields})


@pytest.mark.parametrize("fields, words", [
    (dict(memory=Memory(kind="tokens")), "n_slot of 1 or more"),
    (dict(mem_len=3, memory=Memory(kind="tokens", n_slot=2)), "mem_len=3 must be 0"),
    (dict(memory=dict(kind="matrix")), "memory must be of type Memory"),
])  # fmt: skip
def test_wrong_configs(fields, words):
    with pytest.raises(MinitxlError, match=words):
        Config(n_token=V, **{"mem_len": 0, **fields})


@every_kind
def test_documents_are_refused(kind):
    tokens = make_tokens(B, T)
    with pytest.raises(MinitxlError, match=r"position_ids cannot be used with a \w+ memory"):
        make_model(CPU, **KINDS[kind]).predict(tokens, position_ids=np.zeros_like(tokens))


@every_kind
def test_config_round_trip(kind):
    config = Config(n_token=V, **KINDS[kind])
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(MinitxlError, match="Memory has no field n_slots"):
        Config.from_dict(config.to_dict() | {"memory": {"n_slots": 3}})
