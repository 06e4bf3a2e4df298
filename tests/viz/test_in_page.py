"""Widgets that live in the page alone: their numbers are the model's, a browser plays with them."""

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.colours import contrast
from helpers.in_browser import chromium
from helpers.models import V, make_model
from minitxl import MinitxlError, viz
from minitxl.backend import get_backend
from minitxl.viz import in_browser
from minitxl.viz.widgets.cut import COLUMNS, LENGTHS, MEMORY, ROWS, cut_numbers, cut_scene, known
from minitxl.viz.widgets.in_page import STYLE, module
from minitxl.viz.widgets.scene import segment_pair, shades
from minitxl.viz.widgets.small_attention import attention_scene, worked

N = COLUMNS * ROWS


class Letters:
    """A vocabulary of V letters."""

    n_token = V

    def decode(self, tokens):
        return "".join(chr(ord("a") + int(t)) for t in tokens)


@pytest.fixture(scope="module")
def model():
    return make_model(get_backend("cpu", "float64"), n_layer=1)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, V, N + MEMORY + max(LENGTHS) + 1)


@pytest.fixture(scope="module")
def numbers(model, tokens):
    return cut_numbers(model, Letters(), tokens)


def texts(scene):
    return [s["words"] for s in scene.shapes if s["kind"] == "text"]


# --- the cut --------------------------------------------------------------------------------------


def test_a_character_is_predicted_from_those_since_the_cut(model, tokens, numbers):
    """Segment by segment, from nothing in each: the bits that the widget picks."""
    t, phase = 16, 5
    text = tokens[-N - t - 1 :]  # a segment more, for the cut one at the beginning
    begin = phase  # of the first segment, in `text`
    counts = known(N, t, phase)
    picked = numbers.alone.bits[np.arange(N), counts - 1]
    alone, found = model.with_options(tgt_len=t, mem_len=0), []
    for start in range(begin, len(text) - 1, t):
        end = min(start + t, len(text) - 1)
        nll, _ = alone.score(text[None, start:end], text[None, start + 1 : end + 1], None)
        found.append(nll[0] / math.log(2))
    np.testing.assert_allclose(picked, np.concatenate(found)[-N:], atol=1e-9)
    assert counts[phase] == 1 and counts[phase - 1] == t and counts.max() == t


def test_the_memory_has_read_all_before(model, tokens, numbers):
    reader, mems, found = model.with_options(tgt_len=32, mem_len=MEMORY), None, []
    for start in range(0, len(tokens) - 1, 32):
        x, y = tokens[None, start : start + 32], tokens[None, start + 1 : start + 33]
        nll, mems = reader.score(x[:, : y.shape[1]], y, mems)
        found.append(nll[0] / math.log(2))
    np.testing.assert_allclose(numbers.remembered.bits, np.concatenate(found)[-N:], atol=1e-9)
    best = numbers.remembered.shares
    assert (np.diff(best, axis=-1) <= 0).all() and (best.sum(axis=-1) <= 1 + 1e-9).all()


def test_the_cut_says_what_it_shows(numbers):
    state = dict(T=8, phase=3, memory=False, chosen=3)
    scene = cut_scene(numbers, **state)
    mean = numbers.alone.bits[np.arange(N), known(N, 8, 3) - 1].mean()
    assert f"segments of 8: {mean:.2f} bits per character" in scene.caption
    assert any("Guessed from 1 character (underlined)" in words for words in texts(scene))
    cost = f"with a memory, from 129 or more: {numbers.remembered.bits[3]:.1f} bits"
    assert any(cost in words for words in texts(cut_scene(numbers, **{**state, "memory": True})))


def test_too_short_a_text_is_an_error(model, tokens):
    with pytest.raises(MinitxlError, match=r"\(512,\).*513 or more"):
        viz.play_cut(model, Letters(), tokens[1:])


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("age", [0, 1])
def test_text_reads_on_every_shade(scheme, age):
    for fill, text in shades(segment_pair(age)):
        assert contrast(fill[scheme], text[scheme]) > 4.5


# --- the small attention --------------------------------------------------------------------------


def test_small_attention_by_eye():
    found = worked(keys=np.log([1, 2, 5]), values=[8, 0, 0], query=1.0, doutput=1.0)
    np.testing.assert_allclose(8 * found["weights"], [1, 2, 5])
    np.testing.assert_allclose(8 * found["dscores"], [7, -2, -5])
    np.testing.assert_allclose(found["dweight"], [7, 0, 0], atol=1e-12)
    assert found["output"] == pytest.approx(1)


def test_small_attention_by_finite_differences():
    rng = np.random.default_rng(1)
    point = {"keys": rng.normal(size=3), "values": rng.normal(size=3), "query": 0.7}
    found = worked(**point, doutput=-1.3)
    for name, got in (("keys", "dkeys"), ("values", "dvalues"), ("query", "dquery")):
        direction = rng.normal(size=np.shape(point[name]))
        up, down = (
            worked(**{**point, name: point[name] + step * direction}, doutput=-1.3)["output"]
            for step in (1e-6, -1e-6)
        )
        assert -1.3 * (up - down) / 2e-6 == pytest.approx(np.sum(found[got] * direction), rel=1e-6)


def test_only_what_is_stopped_is_hatched():
    state = dict(keys=[1, 2, 3], values=[1, 0, 2], query=1.0, doutput=1.0)
    for n_mem, stopped, hatched in ((2, True, 2), (1, True, 1), (2, False, 0), (0, True, 0)):
        scene = attention_scene(**state, n_mem=n_mem, stopped=stopped)
        assert sum(bool(s.get("hatch")) for s in scene.shapes) == hatched
        assert ("stopped there" in scene.caption) == (hatched > 0)
    with pytest.raises(MinitxlError, match="n_mem=3"):
        viz.play_attention(n_mem=3)


def test_no_class_is_also_the_live_components():
    """Both stand in one page, and a style is the page's."""
    folder = Path(in_browser.__file__).parent
    kinds = (".js", ".css", ".html")
    live = "".join(p.read_text(encoding="utf-8") for p in folder.iterdir() if p.suffix in kinds)
    mine = set(re.findall(r"txl-[a-z]+", STYLE + module("cut.js") + module("small_attention.js")))
    assert mine > {"txl-play", "txl-tools"}
    assert not mine & set(re.findall(r"txl-[a-z]+", live))


# --- in the page ----------------------------------------------------------------------------------

PAGE = (
    "<!doctype html><meta charset=utf-8><style>{style}</style><body style='margin:8px'><div></div>"
)
MOUNT = """async ([script, data, text]) => {
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const given = { data, blocks: new DataView(bytes.buffer) };
  const { default: widget } = await import(address);
  widget.render({ model: { get: (name) => given[name], on() {}, off() {} },
    el: document.querySelector("div") });
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def mounted(browser, widget):
    page = browser.new_context(viewport={"width": 1080, "height": 640}).new_page()
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(message.text))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.set_content(PAGE.format(style=STYLE))
    data = json.loads(json.dumps(widget.data))
    blocks = base64.b64encode(widget.blocks).decode("ascii")
    page.evaluate(MOUNT, [module(widget._script), data, blocks])
    return page


def caption(page):
    return page.locator("svg[role=img]").get_attribute("aria-label")


@pytest.mark.browser
def test_a_cut_is_dragged_and_a_character_pointed_at(browser, model, tokens, numbers):
    widget = viz.play_cut(model, Letters(), tokens)
    page = mounted(browser, widget)
    start = dict(widget.data["start"])
    assert caption(page).startswith(cut_scene(numbers, **start).caption)
    box = page.locator("svg[role=img]").bounding_box()
    x, y = box["x"] + 24 + 32 * 15.5, box["y"] + 74 + 13  # the second cut of the first line
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 5 * 15.5, y, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 24 + 37.5 * 15.5, y)  # the first character after it
    page.get_by_role("button", name="16", exact=True).click()
    page.wait_for_function("document.querySelector('svg').ariaLabel.includes('segments of 16')")
    state = dict(T=16, phase=5, memory=False, chosen=37)
    assert caption(page).startswith(cut_scene(numbers, **state).caption)
    assert "Guessed from 1 character (underlined)" in caption(page)
    page.get_by_role("button", name="with a memory").click()
    page.wait_for_function(
        "document.querySelector('svg').ariaLabel.includes('costs with the memory')"
    )
    page.locator(".txl-field").focus()
    page.keyboard.press("ArrowDown")
    came = Letters().decode([tokens[-N + 37 + COLUMNS]])
    page.wait_for_function(f"document.querySelector('svg').ariaLabel.includes('came “{came}”')")
    assert page.trouble == []
    page.context.close()


@pytest.mark.browser
def test_every_number_of_a_small_attention_follows(browser):
    widget = viz.play_attention(values=(8.0, 1.0, -2.0))
    page = mounted(browser, widget)
    page.locator("[role=slider][aria-label='key 2']").press("PageUp")
    page.locator("[role=slider][aria-label='query']").press("ArrowRight")
    handle = page.locator("[role=slider][aria-label='upstream do']").bounding_box()
    page.mouse.move(handle["x"] + 40, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(handle["x"] + 60, handle["y"] + 8, steps=3)
    page.mouse.up()
    page.get_by_role("button", name="let through").click()
    state = dict(keys=[0.0, 1.7, math.log(5)], values=[8.0, 1.0, -2.0], query=1.1, doutput=1.4)
    want = attention_scene(**state, n_mem=2, stopped=False)
    assert page.locator("svg[role=img] text").all_text_contents() == texts(want)
    page.get_by_role("button", name="as in the text").click()
    want = attention_scene(**widget.data["start"])
    assert caption(page) == want.caption
    assert page.locator("svg[role=img] text").all_text_contents() == texts(want)
    assert page.trouble == []
    page.context.close()
