"""The widgets of the other memories: what they draw is what the library's members do."""

import numpy as np
import pytest

from helpers.models import LETTERS, Letters, V, make_model
from minitxl import Inspection, MinitxlError, load_corpus, load_pretrained, viz
from minitxl.backend import get_backend
from minitxl.viz.widgets.compression import KEPT, CompressedText
from minitxl.viz.widgets.overfull import answers, overfull_scene, random_pairs, written

SIZES = dict(tgt_len=4, n_fine=4, n_coarse=4)


@pytest.fixture(scope="module")
def model():
    return make_model(get_backend("cpu", "float64"), tgt_len=4, mem_len=8)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(3).integers(0, V, 40)


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("rate", [1, 2, 4])
def test_keys_stand_for_tokens(model, tokens, rate, kept):
    read = CompressedText(model, tokens, **SIZES).read(rate, KEPT[kept])
    firsts, stops = np.array(read.groups).T
    assert (firsts[1:] >= stops[:-1]).all() and stops[-1] == len(tokens)
    size = rate if KEPT[kept] in ("mean", "max") else 1
    assert (stops - firsts == np.where(np.arange(len(firsts)) < read.n_coarse, size, 1)).all()
    assert read.n_coarse == 4 and len(firsts) == 4 + 4 + 4
    np.testing.assert_allclose(read.probs.sum(axis=1), 1)


def test_rate_1_is_the_papers_memory(model, tokens):
    mems, seen = None, Inspection()
    paper = model.with_options(mem_len=8)
    for start in range(0, 36, 4):
        _, mems = paper.predict(tokens[None, start : start + 4], mems)
    paper.predict(tokens[None, 36:], mems, inspect=seen)
    read = CompressedText(model, tokens, **SIZES).read(1, "mean")
    expected = np.stack([p[0, :, -1].mean(axis=0) for p in seen.probs])
    np.testing.assert_allclose(read.probs, expected, atol=1e-12)


def test_what_is_lost_grows_with_the_rate(model, tokens):
    gaps = CompressedText(model, tokens, **SIZES).gaps(1)
    assert set(gaps) == {"mean", "maximum", "every c-th"}
    for values in gaps.values():
        assert values[0] == 0 and min(values[1:]) > 0.01


def test_the_widget_of_a_text(model, tokens):
    explorer = viz.compression_explorer(model, Letters(), tokens, **SIZES, rate=2, layer=2)
    assert "4 states and 4 coarse rows reach back 12 characters" in explorer.spoken.value
    explorer.controls["kept"].value = "random"
    assert "drawn at random" in explorer.spoken.value
    shown = {shape["words"] for shape in explorer.scene.shapes if shape["kind"] == "text"}
    assert {LETTERS[t].replace("\n", "↵") for t in tokens} <= shown
    with pytest.raises(MinitxlError, match="rate=3 must be one of"):
        viz.compression_explorer(model, Letters(), tokens, **SIZES, rate=3)
    with pytest.raises(MinitxlError, match="too few for 40 states, 40 rows"):
        viz.compression_explorer(model, Letters(), tokens, tgt_len=4, n_fine=40, n_coarse=40)


def test_an_overfull_matrix():
    """d keys are kept exactly; more can be named, by a matrix that was trained for it."""
    for n in (4, 8, 16):
        assert answers(n, 16, "least squares")[1] < 1e-20
    near, error = answers(128, 32, "trained")
    assert (near.argmax(axis=1) == np.arange(128)).all() and error > 1
    keys, values = random_pairs(24, 16)
    np.testing.assert_allclose(written(keys, values, "sum"), keys.T @ values, atol=1e-9)
    np.testing.assert_allclose(
        keys[-1] @ written(keys, values, "delta rule"), values[-1], atol=1e-9
    )


def test_recall_is_counted():
    scene = overfull_scene(pairs=24, width=16, rule="sum")
    right = (answers(24, 16, "sum")[0].argmax(axis=1) == np.arange(24)).sum()
    words = [shape["words"] for shape in scene.shapes if shape["kind"] == "text"]
    assert f"{right} of 24 recalled" in words
    dots = [len(shape["at"]) for shape in scene.shapes if shape["kind"] == "dots"]
    assert dots[:2] == [right, 24 - right]


def test_what_notebook_8_answers_of_an_overfull_matrix():
    """24 pairs, 16 wide: the sum recalls more, of old and new, with a larger error; 64: delta's."""

    def recalled(n, rule):
        near, error = answers(n, 16, rule)
        right = near.argmax(axis=1) == np.arange(n)
        return right[: n // 2].sum(), right[n // 2 :].sum(), error

    (old, new, error), (*delta, less) = recalled(24, "sum"), recalled(24, "delta rule")
    assert old > delta[0] and new > delta[1] and error > less
    old, new, _ = recalled(64, "delta rule")
    assert old == 0 and new > 10 and min(recalled(64, "sum")[:2]) > 5


def test_what_notebook_8_answers_of_compression():
    """By the shipped model and the passage shown there: every c-th state is nearer than a mean."""
    shipped = load_pretrained("war-and-peace", device="cpu").model
    passage = load_corpus("war-and-peace").test[3000:3352]
    text = CompressedText(shipped, passage, tgt_len=32, n_fine=32, n_coarse=32)
    nearer = []
    for layer in range(shipped.config.n_layer):
        gaps = text.gaps(layer)
        mean, every = (np.array(gaps[name][1:]) for name in ("mean", "every c-th"))
        assert mean[-1] > 1
        nearer.append((every < mean).all())
    assert nearer[2] and np.mean(nearer) > 0.5
