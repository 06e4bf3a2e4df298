"""Heads by number: weight by distance, spans, and the four terms one by one."""

import json
from itertools import combinations

import numpy as np
import pytest

from helpers.models import make_model, make_tokens
from minitxl import Inspection, MinitxlError
from minitxl.backend import get_backend
from minitxl.experiments import attention_spans
from minitxl.experiments.attention_spans import (
    SUBSETS,
    Settings,
    by_distance,
    look,
    run,
    span,
    striking,
    summary,
    with_terms,
)
from minitxl.experiments.attention_spans_figure import draw_attention_spans
from minitxl.viz.attention import weight_by_distance

CPU = get_backend("cpu", "float64")


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# --- some of the terms ---


@pytest.mark.parametrize("pre_lnorm", [True, False])
@pytest.mark.parametrize("untie_r", [True, False])
def test_with_all_terms_the_model_is_the_same(untie_r, pre_lnorm):
    model = make_model(CPU, untie_r=untie_r, pre_lnorm=pre_lnorm)
    wide, tokens = with_terms(model, "abcd"), make_tokens(2, 10)
    mems = wide_mems = None
    for at in (0, 5):
        want, mems = model.predict(tokens[:, at : at + 5], mems)
        got, wide_mems = wide.predict(tokens[:, at : at + 5], wide_mems)
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("terms", ["", "a", "b", "c", "d", "acd", "abd", "bd"])
def test_terms_that_are_left_out_are_zero_and_the_others_as_they_were(terms):
    model, tokens = make_model(CPU, n_layer=1), make_tokens(2, 5)
    kept, whole = Inspection(), Inspection()
    with_terms(model, terms).predict(tokens, inspect=kept)
    model.predict(tokens, inspect=whole)
    for term in "abcd":
        want = whole.terms[0][term] * (term in terms)
        np.testing.assert_allclose(kept.terms[0][term], want, atol=1e-12)
        assert np.abs(whole.terms[0][term]).max() > 0.01
    scores = sum((whole.terms[0][term] for term in terms), np.zeros_like(whole.probs[0]))
    scores = np.where(whole.mask[0], -np.inf, scores)
    np.testing.assert_allclose(kept.probs[0], softmax(scores), atol=1e-12)


def test_other_encodings_have_no_four_terms():
    with pytest.raises(MinitxlError, match="attn_type=2 has no four terms"):
        with_terms(make_model(CPU, attn_type=2, mem_len=0), "abc")


# --- distances ---


def test_weight_by_distance_is_what_the_pictures_have():
    probs = np.random.default_rng(0).random((2, 3, 4, 10))  # T = 4, M = 6
    total = by_distance(probs)
    seen = np.minimum(4, 10 - np.arange(10))  # queries with a key at this distance
    for b, h in np.ndindex(2, 3):
        np.testing.assert_allclose(total[b, h] / seen, weight_by_distance(probs[b, h]))


def test_span():
    assert span(np.array([0.5, 0.3, 0.1, 0.1])) == 2
    assert span(np.array([0.95, 0.05])) == 0
    assert span(np.ones(100), share=0.5) == 49
    assert span(np.zeros(9) + np.eye(9)[7]) == 7


def test_look_adds_up_what_the_model_shows():
    """Against sums over all queries written as loops."""
    model = make_model(CPU, mem_len=5)  # T = M = 5
    tokens = make_tokens(2, 15)
    sums = look(model, tokens, segments=2)
    assert sums["n"] == 2 * 2 * 5
    mems, want = None, {}
    for at in (0, 5, 10):
        inspect = Inspection()
        _, mems = model.predict(tokens[:, at : at + 5], mems, inspect=inspect)
        for layer, b, h, i in np.ndindex(2, 2, 3, 5) if at else ():
            p, mask = inspect.probs[layer][b, h, i], inspect.mask[layer][i]
            terms = {x: inspect.terms[layer][x][b, h, i] for x in "abcd"}
            memory = want.setdefault("memory", np.zeros((2, 3)))
            memory[layer, h] += p[:5].sum()
            entropy = want.setdefault("entropy", np.zeros((2, 3)))
            entropy[layer, h] -= sum(x * np.log(x) for x in p if x > 0)
            weight = want.setdefault("weight", np.zeros((2, 3, 10)))
            for j in range(i + 6):
                weight[layer, h, i + 5 - j] += p[j]
            for subset in SUBSETS:
                alone = softmax(np.where(mask, -np.inf, sum(terms[x] for x in subset)))
                overlap = want.setdefault(f"overlap {subset}", np.zeros((2, 3)))
                overlap[layer, h] += np.minimum(p, alone).sum()
                profile = want.setdefault(f"alone {subset}", np.zeros((2, 10)))
                for j in range(i + 6):
                    profile[layer, i + 5 - j] += alone[j] / 3  # heads
    assert sums.keys() == want.keys() | {"n"}
    for key, value in want.items():
        np.testing.assert_allclose(sums[key], value, rtol=1e-10, err_msg=key)


# --- the experiment, on the shipped model ---


@pytest.fixture(scope="module")
def results():
    """A run of seconds, after a way through JSON."""
    return json.loads(json.dumps(run(Settings.quick())))


def test_numbers_of_the_heads_agree(results):
    t, n_mem = results["tgt_len"], results["mem_len"]
    k = t + n_mem
    assert results["n_query"] == 2 * t and len(results["heads"]) == 30
    assert results["even"] == pytest.approx(np.mean([n_mem / (n_mem + 1 + i) for i in range(t)]))
    seeing = np.minimum(1.0, (k - np.arange(k)) / t)
    for h in results["heads"]:
        weight = np.array(h["weight"]) * seeing  # of three digits
        assert weight.sum() == pytest.approx(1.0, rel=2e-3)
        assert h["mean_distance"] == pytest.approx(weight @ np.arange(k), rel=5e-3)
        assert weight[: h["span"]].sum() < 0.902 and weight[: h["span"] + 1].sum() > 0.898
        # A key more than T - 1 back is in memory for all queries; within T - 1 not for all.
        assert weight[t:].sum() - 2e-3 <= h["memory_share"] <= 1.0
        assert 1.0 <= h["keys"] <= k and all(0 < x <= 1 for x in h["overlap"].values())
    for rows in results["alone"].values():
        assert len(rows) == 6
        for row in rows:
            assert (np.array(row) * seeing).sum() == pytest.approx(1.0, rel=2e-3)


def test_leaving_terms_out_costs(results):
    bpc = results["bpc"]
    assert 1.0 < bpc["abcd"] < 2.0
    assert all(x > bpc["abcd"] for terms, x in bpc.items() if terms != "abcd")
    assert bpc["ac"] > bpc["acd"] and bpc["bd"] > bpc["abd"]


def test_striking_heads_are_the_extremes(results):
    heads = results["heads"]
    found = striking(heads)
    assert found["previous character"]["weight"][1] == max(h["weight"][1] for h in heads) > 0.3
    assert found["farthest"]["mean_distance"] == max(h["mean_distance"] for h in heads)
    assert found["nearest"]["mean_distance"] == min(h["mean_distance"] for h in heads)
    assert found["broadest"]["keys"] == max(h["keys"] for h in heads)
    lean = [h["overlap"]["ac"] - h["overlap"]["bd"] for h in heads]
    assert heads.index(found["most by content"]) == int(np.argmax(lean))
    assert heads.index(found["most by position"]) == int(np.argmin(lean))


def test_summary(results):
    text = summary(results)
    assert "256 queries" in text and "previous character" in text and "bcd" in text


def test_a_text_that_is_too_short():
    with pytest.raises(MinitxlError, match="rows=1000 of"):
        run(Settings(rows=1000))


def test_done_parts_are_not_computed_again(monkeypatch, results):
    from minitxl.experiments.parts import Parts

    parts = Parts({})
    for name in ("heads", *(f"terms {x}" for x in results["bpc"])):
        parts.get(name, lambda name=name: 1.5 if name != "heads" else {"heads": [], "n_query": 0})
    monkeypatch.setattr(attention_spans, "look", lambda *_: pytest.fail("looked again"))
    monkeypatch.setattr(attention_spans, "evaluate", lambda *_, **__: pytest.fail("read again"))
    assert run(Settings.quick(), parts)["bpc"]["acd"] == 1.5


# --- the picture ---


def test_picture_is_byte_stable(tmp_path, results):
    files = []
    for name in "ab":
        picture = draw_attention_spans(results)
        saved = [picture.save(tmp_path / f"{name}{suffix}") for suffix in (".png", ".svg")]
        files.append([path.read_bytes() for path in saved])
    assert files[0] == files[1]
    spans = [h["span"] for h in results["heads"]]
    assert f"{min(spans)} to {max(spans)} characters" in picture.caption


def test_labels_neither_overlap_nor_leave_the_picture(results):
    figure = draw_attention_spans(results).figure
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    boxes = [(t.get_text(), t.get_window_extent()) for t in (*texts, *figure.texts) if t.get_text()]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        assert inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (a, one), (b, other) in combinations(boxes, 2):
        assert not one.overlaps(other), f"{a!r} lies on {b!r}"
