"""The model that reads in a page (minitxl/viz/in_browser/model.js) says what minitxl says.

In a Chromium, in a worker from a `blob:` address that a page from a file has started: as it lives.
"""

import json
from functools import partial

import numpy as np
import pytest

import minitxl
from helpers.in_worker import JavaScriptError, text_of, worker
from helpers.models import make_model, make_tokens
from minitxl import Config, Inspection, Memory
from minitxl.backend import get_backend
from minitxl.data import load_corpus
from minitxl.model.attention import heads_forward
from minitxl.model.family.encodings import encoding_of
from minitxl.model.layers import layer_forward
from minitxl.model.ops import layer_norm_forward, linear_forward
from minitxl.model.params import layer_weights
from minitxl.pretrained import models_folder, shipped_models
from minitxl.storage.checkpoint import serialize
from minitxl.storage.model_arrays import params_of

pytestmark = pytest.mark.browser
ATOL = 1e-4


def run_of(name):
    return json.loads((models_folder() / name / "run.json").read_text())


RELATIVE = [n for n in shipped_models() if run_of(n)["config"].get("attn_type", 0) in (0, 1)]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """ask(job, ...) -> what the worker answers."""
    with worker(tmp_path_factory.mktemp("engine")) as ask:
        yield ask


def loaded(ask, name, model, dtype="<f8"):
    """Give the worker a model made here; float64 unless another type is wanted."""
    arrays = {name: array.astype(dtype) for name, array in params_of(model).items()}
    ask("load", name, model.config.to_dict(), text_of(serialize(arrays, metadata={})))
    return name


def small(**options):
    return make_model(get_backend("cpu", "float64"), **options)


def read_here(model, tokens, segments):
    """What minitxl says of tokens (n,) in segments of these lengths: log p (n, V), and for each
    segment [its start, its first key, the Inspection]."""
    log_p, seen, mems, at = [], [], None, 0
    for length in segments:
        look = Inspection()
        n_mem = 0 if mems is None else mems[0].shape[1]
        out, mems = model.predict(tokens[None, at : at + length], mems, inspect=look)
        log_p.append(out[0])
        seen.append((at, at - n_mem, look))
        at += length
    return np.concatenate(log_p), seen


def cut(n, length):
    return [min(length, n - at) for at in range(0, n, length)]


def nll_of(log_p, tokens):
    return -log_p[np.arange(len(tokens) - 1), tokens[1:]]


def assert_same_attention(answers, seen, places):
    """answers: rows of weights at places (t, layer, head)."""
    for row, (t, layer, head) in zip(answers, places, strict=True):
        start, first, look = next(s for s in reversed(seen) if s[0] <= t)
        p = look.probs[layer][0, head, t - start]  # (K,)
        hidden = int((p[: t - first] == 0).sum()) if look.mask[layer][t - start, 0] else 0
        np.testing.assert_allclose(row, p[hidden : t - first + 1], atol=ATOL)
        assert abs(sum(row) - 1) < 1e-5


# --- the models that ship -------------------------------------------------------------------------


def shipped(ask, name):
    data = (models_folder() / name / "best.safetensors").read_bytes()
    ask("load", name, run_of(name)["config"], text_of(data))
    return minitxl.load_pretrained(name).model


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n != "tiny-xl" else []) for n in RELATIVE],
)
def test_it_reads_2000_characters_as_minitxl_does(ask, name):
    model = shipped(ask, name)
    c, n = model.config, 2000
    tokens = load_corpus("war-and-peace").test[5000 : 5000 + n].astype(int)
    log_p, seen = read_here(model, tokens, cut(n, c.tgt_len))
    places = [
        (int(t), layer, head)
        for t in np.linspace(1, n - 1, 9)
        for layer in range(c.n_layer)
        for head in range(c.n_head)
    ]
    steps = [["pushAll", tokens.tolist()], ["nlls"], ["logProbs", n - 1]]
    steps += [["attention", *place] for place in places]
    _, nlls, last, *rows = ask("read", name, {}, steps)
    np.testing.assert_allclose(nlls[1:], nll_of(log_p, tokens), atol=ATOL)
    np.testing.assert_allclose(last, log_p[-1], atol=ATOL)
    assert_same_attention(rows, seen, places)


@pytest.mark.parametrize("name", ["tiny-xl", "war-and-peace"])
def test_it_is_as_fast_as_one_writes(ask, name):
    shipped(ask, name)
    tokens = load_corpus("war-and-peace").test[5000:5400].astype(int).tolist()
    speed = max(ask("read", name, {}, [["speed", tokens]])[0] for _ in range(2))
    print(f"{name}: {speed:.0f} characters a second in Chromium")
    assert speed > 25  # a machine may be busy; a quiet core brings several hundred


# --- models of every kind -------------------------------------------------------------------------

VARIANTS = {
    "paper": {},
    "pre_lnorm": dict(pre_lnorm=True),
    "raw queries": dict(pre_lnorm=True, raw_queries=True),
    "untied u and v": dict(untie_r=True),
    "clamped": dict(clamp_len=4),
    "same length": dict(same_length=True),
    "same length, one more": dict(same_length=True, same_length_extra=1),
    "learned": dict(attn_type=1),
    "learned, clamped": dict(attn_type=1, clamp_len=3, max_klen=7),
    "untied softmax": dict(tie_weight=False, pre_lnorm=True),
    "eps": dict(layer_norm_epsilon=0.3),
}
LENGTHS = [(5, 6), (7, 3), (4, 11), (1, 1), (5, 0)]  # M > T, M < T, M > 2 T, none


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_small_models_of_every_kind(ask, options):
    model, tokens, n = small(**options), make_tokens(29), 29
    name = loaded(ask, "small", model)
    heads = [(n_layer, h) for n_layer in range(2) for h in range(3)]
    for t_len, m_len in LENGTHS:
        if m_len == 0 and model.config.same_length and not model.config.released.same_length_extra:
            continue
        here = model.with_options(tgt_len=t_len, mem_len=m_len)
        log_p, seen = read_here(here, tokens, cut(n, t_len))
        places = [(t, *head) for t in range(n) for head in heads]
        steps = [["pushAll", tokens.tolist()], *(["logProbs", t] for t in range(n))]
        steps += [["attention", *place] for place in places]
        _, *found = ask("read", name, {"T": t_len, "M": m_len}, steps)
        np.testing.assert_allclose(found[:n], log_p, atol=ATOL)
        assert_same_attention(found[n:], seen, places)


def test_weights_may_be_float32(ask):
    model, tokens = small(), make_tokens(12)
    steps = [["pushAll", tokens.tolist()], ["nlls"]]
    answers = [ask("read", loaded(ask, "one", model, kind), {}, steps) for kind in ("<f4", "<f8")]
    np.testing.assert_allclose(answers[0][1][1:], answers[1][1][1:], atol=1e-5)


def test_minus_one_means_all(ask):
    name, tokens = loaded(ask, "small", small()), make_tokens(9)
    ways = [(0, 0), (0, 1), (0, 2), (0, -1), (1, 0), (1, 1), (1, 2), (1, -1), (-1, -1), (-1, 2)]
    steps = [["pushAll", tokens.tolist()], *(["attention", 8, *way] for way in ways)]
    rows = dict(zip(ways, map(np.array, ask("read", name, {}, steps)[1:]), strict=True))
    for layer in (0, 1):
        mean = (rows[layer, 0] + rows[layer, 1] + rows[layer, 2]) / 3
        np.testing.assert_allclose(rows[layer, -1], mean, atol=1e-6)
    np.testing.assert_allclose(rows[-1, -1], (rows[0, -1] + rows[1, -1]) / 2, atol=1e-6)
    np.testing.assert_allclose(rows[-1, 2], (rows[0, 2] + rows[1, 2]) / 2, atol=1e-6)


# --- a memory that is changed while one reads -----------------------------------------------------

# Steps, and for every token [its first key, its segment's start] as the words in model.js have it.
CHANGES = {
    "T=3, M=4": ([["p", 9]], [[0, 0]] * 3 + [[0, 3]] * 3 + [[2, 6]] * 3),
    "wiped in a segment": (
        [["p", 5], ["wipe"], ["p", 3]],
        [[0, 0]] * 3 + [[0, 3]] * 2 + [[3, 3]] + [[3, 6]] * 2,
    ),
    "wiped at an edge": ([["p", 3], ["wipe"], ["p", 2]], [[0, 0]] * 3 + [[3, 3]] * 2),
    "a shorter memory at once": (
        [["p", 7], ["setLengths", 3, 1], ["p", 4]],
        [[0, 0]] * 3 + [[0, 3]] * 3 + [[2, 6]] + [[5, 6]] * 2 + [[8, 9]] * 2,
    ),
    "a longer one by and by": (
        [["p", 7], ["setLengths", 3, 9], ["p", 4]],
        [[0, 0]] * 3 + [[0, 3]] * 3 + [[2, 6]] * 3 + [[2, 9]] * 2,
    ),
    "shorter segments end this one": (
        [["p", 5], ["setLengths", 2, 4], ["p", 3]],
        [[0, 0]] * 3 + [[0, 3]] * 2 + [[1, 5]] * 2 + [[3, 7]],
    ),
    "longer segments": (
        [["p", 4], ["setLengths", 5, 4], ["p", 5]],
        [[0, 0]] * 3 + [[0, 3]] * 5 + [[4, 8]],
    ),
    "ended early": (
        [["p", 4], ["endSegment"], ["endSegment"], ["p", 2]],
        [[0, 0]] * 3 + [[0, 3]] + [[0, 4]] * 2,
    ),
    "undone, with the wipe": (
        [["p", 4], ["wipe"], ["p", 1], ["truncate", 3], ["p", 2]],
        [[0, 0]] * 3 + [[0, 3]] * 2,
    ),
    "undone up to the wipe": (
        [["p", 4], ["wipe"], ["p", 3], ["truncate", 4], ["p", 1]],
        [[0, 0]] * 3 + [[0, 3]] + [[3, 3]],
    ),
    "undone, with other lengths": (
        [["p", 2], ["setLengths", 1, 1], ["p", 4], ["truncate", 1], ["p", 3]],
        [[0, 0]] * 3 + [[0, 3]],
    ),
}


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_a_memory_changed_in_the_middle(ask, pre_lnorm):
    """Each token is read here on the states that its range names, one after the other."""
    model, tokens = small(pre_lnorm=pre_lnorm), make_tokens(16)
    name = loaded(ask, "small", model)
    here = model.with_options(mem_len=99)
    for what, (steps, ranges) in CHANGES.items():
        calls, at = [], 0
        for call, *given in steps:
            if call == "p":
                calls.append(["pushAll", tokens[at : at + given[0]].tolist()])
                at += given[0]
            else:
                calls.append([call, *given])
                at = min(at, given[0]) if call == "truncate" else at
        n = at
        asks = [["ranges"], *(["logProbs", t] for t in range(n))]
        found = ask("read", name, {"T": 3, "M": 4}, calls + asks)[len(calls) :]
        assert found[0] == ranges, what
        states = None  # N of (1, t, D)
        for t, (first, _) in enumerate(ranges):
            look = Inspection()
            mems = None if t == first else [s[:, first:, :] for s in states]
            log_p, _ = here.predict(tokens[None, t : t + 1], mems, inspect=look)
            np.testing.assert_allclose(found[1 + t], log_p[0, 0], atol=ATOL, err_msg=what)
            new = look.hidden[:-1]
            states = (
                new if t == 0 else [np.concatenate(s, 1) for s in zip(states, new, strict=True)]
            )


def test_undoing_all_leaves_nothing(ask):
    name, tokens = loaded(ask, "small", small()), make_tokens(200).tolist()  # rows have grown
    fresh = ask("read", name, {}, [["pushAll", tokens], ["nlls"], ["now"]])
    back = [["pushAll", tokens[:150]], ["wipe"], ["setLengths", 2, 1], ["pushAll", tokens[:9]]]
    again = ask("read", name, {}, [*back, ["truncate", 0], ["now"], *fresh_steps(tokens)])
    assert again[5] == [0, 0, 0, 5, 6]
    assert again[-2:] == fresh[-2:]


def fresh_steps(tokens):
    return [["pushAll", tokens], ["nlls"], ["now"]]


def test_a_clone_goes_its_own_way(ask):
    name, tokens = loaded(ask, "small", small()), make_tokens(30).tolist()
    alone = ask("read", name, {}, [["pushAll", tokens], ["nlls"]])[1]
    both = ask("read", name, {}, [["pushAll", tokens[:13]], ["cloned", tokens[13:]], ["nlls"]])
    assert both[1] == alone and both[2] == alone[:13]


# --- the four terms -------------------------------------------------------------------------------


def kept_here(model, seen):
    """For each layer q, k, v (H, n, Dh) of all tokens, and by distance r (H, n, Dh), e (H, n)."""
    c, layers, n = model.config, [], sum(look.hidden[0].shape[1] for _, _, look in seen)
    for layer in range(c.n_layer):
        h = np.concatenate([look.hidden[layer] for _, _, look in seen], axis=1)
        w = layer_weights(model.params, layer, encoding_of(c).weights)
        if c.pre_lnorm:
            eps = c.layer_norm_epsilon
            h, _ = layer_norm_forward(h, w.attn_gamma, w.attn_beta, eps=eps, xp=np)
        q, k, v, _ = heads_forward(h, h, w.attn.w_q, w.attn.w_k, w.attn.w_v, n_head=3, xp=np)
        r, e = encoding_of(c).position_terms(w.attn, n, model.params, c, xp=np)
        layers.append((w, q[0], k[0], v[0], r[:, ::-1], e[:, ::-1]))
    return layers


def terms_of(layer, q, t, first):
    """a, b, c, d (H, K) of the query q (H, Dh) of token t, over sqrt(Dh)."""
    w, _, k, _, r, e = layer
    keys, far = np.arange(first, t + 1), t - np.arange(first, t + 1)
    a, b = (np.einsum("hd,hjd->hj", q, x) for x in (k[:, keys], r[:, far]))
    c = np.einsum("hd,hjd->hj", w.attn.r_w_bias, k[:, keys])
    return np.stack([a, b, c, e[:, far]]) / np.sqrt(q.shape[-1])


TERMS = [[False, True, True, True], [True, False, True, False], [False] * 4, [True] * 4]


@pytest.mark.parametrize("name", ["paper", "pre_lnorm", "untied u and v", "learned"])
def test_terms_one_by_one_and_left_out(ask, name):
    model, tokens, t, t_len, m_len = small(**VARIANTS[name]), make_tokens(12), 10, 4, 5
    here = model.with_options(tgt_len=t_len, mem_len=m_len)
    _, seen = read_here(here, tokens, cut(12, t_len))
    layers, c, first = kept_here(model, seen), model.config, 3
    places = [(n, head) for n in range(2) for head in range(3)]
    steps = [["pushAll", tokens.tolist()], *(["allScores", t, *place] for place in places)]
    steps += [["without", t, terms, *place] for terms in TERMS for place in places]
    steps += [["logProbs", t]]
    name = loaded(ask, "small", model)
    _, *found, whole = ask("read", name, {"T": t_len, "M": m_len}, steps)
    for (n, head), got in zip(places, found, strict=False):
        want = terms_of(layers[n], layers[n][1][:, t], t, first)[:, head]
        np.testing.assert_allclose(got, want, atol=ATOL)
        model_says = seen[-1][-1].terms[n]  # of the last segment, 8 ... 11
        np.testing.assert_allclose(want, [model_says[x][0, head, 2, :8] for x in "abcd"])

    def attend(n, terms, rows, x, h, pos, w, mask, **_):
        """One query on keys and values as they were kept."""
        q = np.reshape(x[0, 0] @ w.w_q, (3, -1))
        s = terms_of(layers[n], q, t, first)[np.array(terms)].sum(axis=0)
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        rows.append(p)
        o = np.einsum("hj,hjd->hd", p, layers[n][3][:, first : t + 1])
        return linear_forward(np.reshape(o, (1, 1, -1)), w.w_o, xp=np)

    found = found[len(places) :]
    for terms in TERMS:
        h = model.params["word_emb"][tokens[t]][None, None] * np.sqrt(c.d_model)
        rows = []
        for n, (w, *_) in enumerate(layers):
            run = partial(attend, n, terms, rows)
            h, _ = layer_forward(h, None, w, None, c, n_mem=0, attend=run, rng=None, xp=np)
        z = model.params["word_emb"] @ h[0, 0] + model.params["out_bias"]
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        for (n, head), (got, weights) in zip(places, found, strict=False):
            np.testing.assert_allclose(got, log_p, atol=ATOL)
            np.testing.assert_allclose(weights, rows[n][head], atol=ATOL)
        found = found[len(places) :]
    assert got == whole  # with all terms nothing changes, to the last bit
    assert first == ask("read", name, {"T": t_len, "M": m_len}, [*steps[:1], ["firstKey", t]])[1]


# --- what it refuses ------------------------------------------------------------------------------


def test_what_it_cannot_read_it_says(ask):
    fields = dict(n_token=11)
    for options in VARIANTS.values():
        assert ask("whyNot", small(**options).config.to_dict()) == ""
    for options, word in (
        (dict(attn_type=2), "types 0 and 1"),
        (dict(attn_type=3), "types 0 and 1"),
        (dict(cutoffs=(4,)), "adaptive"),
        (dict(d_embed=6), "projected"),
        (dict(ext_len=2), "ext_len"),
        (dict(start_mems="zeros"), "start_mems"),
        (dict(memory=Memory(kind="matrix")), "memory"),
    ):
        why = ask("whyNot", Config(**fields, **options).to_dict())
        assert word in why and why.endswith(".") and "\n" not in why
    for config in (None, {}, [], "x", {**Config(**fields).to_dict(), "n_layer": 1e9 + 0.5}):
        assert "n_" in ask("whyNot", config)
    with pytest.raises(JavaScriptError, match="types 0 and 1"):
        ask(
            "load",
            "x",
            Config(**fields, attn_type=2).to_dict(),
            text_of(serialize(params_of(small()), {})),
        )


def test_weights_that_do_not_fit_are_refused(ask):
    model = small()
    arrays, config = params_of(model), model.config.to_dict()
    wrong = {
        "params.out_bias is not in the file": {"params.out_bias": None},
        "params.word_emb has shape 14,11, not 11,14": {
            "params.word_emb": arrays["params.word_emb"].T.copy()
        },
        "constants.inv_freq are not 7 numbers": {"constants.inv_freq": np.ones(6)},
        "params.r_w_bias holds NaN": {"params.r_w_bias": np.full((3, 4), np.nan)},
    }
    for reason, change in wrong.items():
        changed = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        with pytest.raises(JavaScriptError, match=reason):
            ask("load", "x", config, text_of(serialize(changed, metadata={})))
    with pytest.raises(JavaScriptError, match=r"layers.2.* is not in the file"):
        whole = text_of(serialize(arrays, metadata={}))
        ask("load", "x", {**config, "n_layer": 10**9}, whole)


def test_damaged_files_end_in_one_line(ask):
    data = serialize({"a": np.ones(5, "<f4"), "b": np.ones((2, 3), "<f2")}, metadata={"x": "y"})
    assert ask("names", text_of(data)) == ["a", "b"]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])

    def file(header, tail=data[-32:]):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + tail

    def entry(**change):
        return file({**header, "a": {**header["a"], **change}})

    damaged = [data[:n] for n in (0, 1, 7, 8, 20, len(data) - 1)] + [data + b"\0", b"\xff" * 40]
    damaged += [file(text) for text in (b"", b"null", b"1", b"[1]", b"{", b"\xff\xfe", b'{"a": 1}')]
    damaged += [entry(dtype=t) for t in ("BF16", "toString", None, 3)]
    damaged += [entry(shape=s) for s in ([4], [-5], [5.5], "5", None, [2**40, 2**40])]
    damaged += [entry(data_offsets=p) for p in ([0, 20, 1], [0], [4, 24], [-1, 19], [12, 32], 7)]
    for bad in damaged:
        with pytest.raises(JavaScriptError, match="no whole safetensors file") as error:
            ask("names", text_of(bad))
        assert "\n" not in str(error.value) and len(str(error.value)) < 160


@pytest.mark.parametrize(
    ("step", "said"),
    [
        *((["push", token], str(token)) for token in (11, -1, 0.5, "x")),
        *([["logProbs", 2], "2"], [["nll", -1], "-1"], [["firstKey", 7], "7"]),
        *([["attention", 9, 0, 0], "9"], [["attention", 0, 2, 0], "2"]),
        *([["attention", 0, 0, 3], "3"], [["truncate", -1], "-1"]),
        *([["setLengths", 0, 1], "0"], [["setLengths", 2, -5], "-5"]),
        [["setLengths", 2, 2**31], str(2**31)],
    ],
)
def test_misuse_ends_in_one_line(ask, step, said):
    name = loaded(ask, "small", small())
    with pytest.raises(JavaScriptError, match=said) as error:
        ask("read", name, {}, [["pushAll", [1, 2]], step])
    assert "\n" not in str(error.value) and "undefined" not in str(error.value)
