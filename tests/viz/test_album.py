"""Albums: all pictures are in the page, and say what is in their numbers."""

import json

import numpy as np
import pytest

from helpers.in_browser import chromium
from helpers.models import V, make_model
from minitxl import MinitxlError, load_corpus, viz
from minitxl.backend import get_backend
from minitxl.experiments import recl_explorer, stored
from minitxl.experiments.recl import mean_of
from minitxl.viz.lessons.samples import LINES, PER_LINE, Samples, whole_words, write_on
from minitxl.viz.widgets.album import Album, Choice
from minitxl.viz.widgets.in_page import STYLE, module
from minitxl.viz.widgets.scene import Scene

T = 4


def page_of(a, b):
    return Scene(400, 80).headed(f"{a} and {b}", "a note")


@pytest.fixture
def album():
    choices = {
        "a": Choice("size", {"small": 1, "large": 2}),
        "b": Choice("kind", {"x": 8, "y": 9}, False),
    }
    return Album(choices, page_of, start={"b": "y"}, stills=[{}, {"a": "large"}])


def texts(scene):
    return [s["words"] for s in scene.shapes if s["kind"] == "text"]


def test_an_album_has_a_picture_for_every_choice(album):
    pages, start = album.data["pages"], album.data["start"]
    assert {key: page["caption"][:7] for key, page in pages.items()} == {
        "0,0": "1 and 8", "0,1": "1 and 9", "1,0": "2 and 8", "1,1": "2 and 9"
    }  # fmt: skip
    assert start == [0, 1] and [c["labels"] for c in album.data["choices"]][1] == ["x", "y"]
    assert [s.caption[:7] for s in album.scenes] == ["1 and 9", "2 and 9"]  # of the static picture
    json.dumps(album.data)
    too_many = {"a": Choice("a", {str(i): i for i in range(101)}), "b": Choice("b", {"x": 0})}
    for choices in (too_many, {"a": Choice("a", {}), "b": Choice("b", {"x": 0})}):
        with pytest.raises(MinitxlError, match="1 to 100 go into a page"):
            Album(choices, page_of, start={}, stills=[{}])


@pytest.mark.browser
def test_a_slider_and_buttons_turn_the_pages(album):
    script = f"{module('album.js')}\nrender({{ model: {{ get: () => DATA }}, el: AT }});"
    script = script.replace("export default", "const exported =")
    data = json.dumps(album.data)
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(
            f"<style>{STYLE}</style><div id=at></div><script type=module>"
            f"const DATA = {data}, AT = document.getElementById('at');\n{script}</script>"
        )
        page.evaluate("document.addEventListener('keydown', () => (window.heard = true))")
        picture = page.get_by_role("img")
        assert picture.get_attribute("aria-label").startswith("1 and 9")
        slider = page.get_by_role("slider", name="size")
        slider.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "large"
        assert picture.get_attribute("aria-label").startswith("2 and 9")
        assert not page.evaluate("window.heard")  # JupyterLab would move on to another cell
        page.get_by_role("button", name="x").click()
        assert page.get_by_role("button", pressed=True).inner_text() == "x"
        assert page.get_by_role("status").inner_text().startswith("2 and 8")


# --- samples while learning ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    return load_corpus(path)


def models(corpus, **lengths):
    back = get_backend("cpu", "float64")
    sizes = dict(n_token=corpus.vocab.n_token, tgt_len=T)
    return {name: make_model(back, mem_len=m, **sizes) for name, m in lengths.items()}


def test_samples_are_taken_at_their_steps_alone(corpus):
    both = models(corpus, kept=T, none=0)
    samples = Samples(both, corpus, at=(0, 3), rows=2)
    with pytest.raises(MinitxlError, match=r"call look\(0\) first"):
        samples.album()
    samples.look(0)
    first = samples.found[0]
    assert list(first) == ["kept", "none"] and len(first["kept"].text) == LINES * PER_LINE * T
    both["kept"].params.flat[:] = 0.0  # has learned something else: every symbol costs the same
    samples.look(0), samples.look(1)
    assert samples.found == {0: first}  # what was is kept
    samples.look(3)
    assert samples.found[3]["kept"].bits == pytest.approx(np.log2(corpus.vocab.n_token))
    pages = samples.album()
    assert pages.data["start"] == [1]
    assert [page["caption"][:23] for page in pages.data["pages"].values()] == [
        "Before the first step: ", "After 3 steps: a charac"
    ]  # fmt: skip
    assert {"kept", "none"} <= set(texts(pages.scenes[0]))


def test_words_that_are_not_of_the_text_are_underlined(corpus):
    samples = Samples(models(corpus, one=T), corpus, at=(0,), rows=2)
    wide = PER_LINE * T
    text = "the lazy dog" + " quik the fo" + "x over zz.  "
    found = {"one": viz.lessons.samples.Written(2.0, 0.8, text)}
    scene = viz.lessons.samples.samples_scene(7, found, samples._words, tgt_len=T)
    under = [s["at"] for s in scene.shapes if s["kind"] == "lines" and s.get("width") == 1.6]
    step = (under[0][0][2] - under[0][0][0]) / 4  # of "quik", on the second line
    assert len(under) == 2 and [len(row) for row in under] == [1, 1]
    assert (under[1][0][2] - under[1][0][0]) / step == pytest.approx(2, abs=0.05)  # "zz"
    assert wide == 12 and "2.00 bits one" in scene.caption
    assert whole_words("he ran aw") == ["he", "ran"]


def test_it_writes_in_segments_as_it_reads(corpus):
    """Without a memory what comes before the segment is forgotten, with one it is not."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, corpus.vocab.n_token, (2, 3 * T))
    other = prompts.copy()
    other[:, : 2 * T] = (other[:, : 2 * T] + 1) % corpus.vocab.n_token
    for model, same in zip(models(corpus, none=0, kept=T).values(), (True, False), strict=True):
        one, two = (write_on(model, p, 4 * T) for p in (prompts, other))
        assert (one == two).all() == same and one.shape == (2, 4 * T)


def test_what_samples_refuse(corpus):
    back = get_backend("cpu", "float64")
    unlike = {str(t): make_model(back, n_token=V, tgt_len=t, mem_len=0) for t in (2, 4)}
    with pytest.raises(MinitxlError, match=r"segments of \[2, 4\]"):
        Samples(unlike, corpus, at=(0,))
    long = {"a": make_model(back, n_token=V, tgt_len=64, mem_len=0)}
    with pytest.raises(MinitxlError, match="prompts of 192 need 384"):
        Samples(long, corpus, at=(0,))


# --- RECL ---------------------------------------------------------------------------------------


def test_recl_explorer_says_what_the_experiment_found():
    results = stored("recl")
    pages, names = recl_explorer().pages, ("as they are", "from elsewhere")
    assert len(pages) == 2 * 2 * 3 * 3
    for delta in (16, 8):
        for ratio in (0.1, 0.5, 1.0):
            mean = mean_of(results, "xl", delta, ratio)
            for name, key in zip(names, ("recl", "null_recl"), strict=True):
                scene = pages[name, str(delta), f"{ratio:.0%}", "1.0%"]
                vanilla = mean_of(results, "abs-alone", delta, ratio)[key]["mean"]
                want = f"{mean[key]['mean']:.0f}, {mean[key]['mean'] / vanilla - 1:+.0%}"
                assert want in texts(scene)
    strict, lax = (pages[names[0], "16", "10%", x].caption for x in ("2.0%", "0.5%"))
    assert strict != lax
