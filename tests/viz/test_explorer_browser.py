"""The token explorer in a browser: as a file without a network, and in JupyterLab.

Needs Playwright (`pip install playwright`) and a Chromium: the system's, or Playwright's own.
"""

import json
import re

import nbformat
import numpy as np
import pytest

import minitxl
from helpers.in_browser import chromium, jupyterlab, run_all
from helpers.in_browser import opened as opened_notebook
from minitxl.data import load_corpus
from minitxl.viz import explorer
from minitxl.viz.explorer import token_explorer

pytestmark = pytest.mark.browser
T, LAYER, HEAD, QUERY = 48, 4, 2, 20


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shown():
    trained = minitxl.load_pretrained("war-and-peace")
    tokens = load_corpus("war-and-peace").test[5000 : 5000 + 4 * T + 1]
    return token_explorer(
        trained.model, trained.vocab, tokens, tgt_len=T, layer=LAYER, head=HEAD, query=QUERY
    )


@pytest.fixture(scope="module")
def address(shown, tmp_path_factory):
    return shown.save(tmp_path_factory.mktemp("explorer") / "page.html").as_uri()


def opened(browser, address, scheme="light"):
    """A page without a network, and the list of everything it complains about or asks for."""
    page = browser.new_context(
        color_scheme=scheme, viewport={"width": 1160, "height": 860}, offline=True
    ).new_page()
    trouble = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url))
    page.goto(address)
    page.wait_for_selector(".txl-links path", state="attached")
    assert page.locator(".txl-loading").count() == 0
    return page, [t for t in trouble if t != address], trouble


@pytest.fixture
def page(browser, address):
    page, _, _ = opened(browser, address)
    yield page
    page.context.close()


def says(page):
    """What a screen reader is told, once it has been told the present state."""
    page.wait_for_timeout(350)
    return page.inner_text("[role=status]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_network_and_without_a_complaint(browser, address, scheme):
    page, at_start, later = opened(browser, address, scheme)
    background = page.evaluate("getComputedStyle(document.querySelector('.txl')).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 80) == (scheme == "dark")
    for key in ("ArrowLeft", "ArrowUp", "Escape"):
        page.locator(".txl-cell[tabindex='0']").press(key)
    page.locator("input[type=range]").press("ArrowLeft")
    for box in page.locator("input[type=checkbox]").all():
        box.uncheck()
    page.wait_for_timeout(100)
    assert "all keys weigh alike" in page.inner_text(".txl-note")
    page.click("text=back to the model")
    page.wait_for_timeout(100)
    assert page.inner_text(".txl-note").startswith("= As the model computed it")
    assert at_start == [] and [t for t in later if t != address] == []
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "the page scrolls sideways"
    page.context.close()


def test_chromium_computes_the_models_probabilities(page, shown):
    """As node does in test_explorer.py; and what is written on the page follows from them."""
    source = explorer._script() + "globalThis.explorer = { unpack, attend };"
    rows = page.evaluate(
        """async ([source, layer, head, data]) => {
          await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
          const { unpack, attend } = globalThis.explorer;
          const model = await unpack(data);
          const state = { layer, head, memory: model.memories.at(-1), terms: "abcd" };
          const last = [...Array(model.n).keys()].slice(-model.tgt_len);
          return last.map((query) => [...attend(model, { ...state, query })]);
        }""",
        [source, LAYER, HEAD, shown.data],
    )
    p = shown._reading.attention(3 * T)[LAYER - 1][HEAD - 1]
    np.testing.assert_allclose(rows, p, atol=1e-4)
    share = float(p[QUERY, : 3 * T].sum())
    assert page.inner_text(".txl-head[aria-selected=true]") == f"{round(100 * share)}"
    assert f"position {QUERY} of segment 4" in says(page)


def test_arrow_keys_move_the_token_and_the_spoken_line(page):
    before = says(page)
    cell = page.locator(".txl-cell[tabindex='0']")
    assert cell.count() == 1  # one Tab stop for the whole text
    cell.focus()
    seen = [before]
    for key, where in (
        ("ArrowRight", f"position {QUERY + 1} of segment 4"),
        ("ArrowUp", f"position {QUERY + 1} of segment 3"),
        ("Home", "position 0 of segment 3"),
        ("ArrowLeft", f"position {T - 1} of segment 2"),
        ("End", f"position {T - 1} of segment 2"),
    ):
        page.keyboard.press(key)
        seen.append(says(page))
        assert where in seen[-1]
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert where in focused
    assert len(set(seen)) == 5  # the last key had nowhere to go
    page.locator(".txl-cell").nth(3).hover()
    assert says(page) == seen[-1]  # the pointer does not take over from the keys
    page.locator(".txl-head[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert f"layer {LAYER + 1}, head {HEAD}" in says(page)


def test_a_click_keeps_a_token_and_escape_lets_go(page):
    cells = page.locator(".txl-cell")
    cells.nth(100).hover()
    assert f"position {100 % T} of segment 3" in says(page)
    cells.nth(100).click()
    cells.nth(10).hover()
    assert f"position {100 % T} of segment 3" in says(page)
    page.keyboard.press("Escape")
    cells.nth(11).hover()
    assert "position 11 of segment 1" in says(page)
    assert "nothing in memory" in says(page)


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll(
             ".txl button, .txl input, .txl [role=gridcell], .txl [role=grid], .txl svg[role=img]")]
           .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent))
           .length"""
    )
    assert unnamed == 0


def test_memory_shrinks_what_is_seen(page):
    """Segments beyond the memory are named, not only grey; the page says what it has changed."""
    page.locator(".txl-cell").nth(3 * T + 5).click()
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(100)
    names = page.locator(".txl-name").all_inner_texts()
    assert names == ["not in memory", "not in memory", "1 back", "this segment"]
    assert page.locator(".txl-unseen").count() == 2 * T + (T - 6)
    assert f"memory of {T}" in page.inner_text(".txl-note")


def test_a_picture_follows_the_pointer_at_once(page):
    """From the event to the frame in which all is drawn; the best, for other work may run."""
    seconds = page.evaluate(
        """async () => {
          const cells = [...document.querySelectorAll(".txl-cell")], found = [];
          const drawn = () => new Promise((end) =>
            requestAnimationFrame(() => setTimeout(end, 0)));
          for (let i = 0; i < 41; i++) {
            const start = performance.now();
            cells[(i * 37) % cells.length].dispatchEvent(
              new PointerEvent("pointerover", { bubbles: true }));
            await drawn();
            found.push((performance.now() - start) / 1000);
          }
          return found.sort((a, b) => a - b);
        }"""
    )
    best, median, high = seconds[0], seconds[20], seconds[38]
    print(f"hover to picture: median {median * 1000:.0f} ms, 95 % within {high * 1000:.0f} ms")
    assert best < 0.05


# --- JupyterLab -----------------------------------------------------------------------------------

CELL = f"""
import minitxl
from minitxl.data import load_corpus
from minitxl.viz.explorer import token_explorer
trained = minitxl.load_pretrained("war-and-peace")
tokens = load_corpus("war-and-peace").test[5000 : 5000 + 4 * {T} + 1]
token_explorer(trained.model, trained.vocab, tokens, tgt_len={T})
"""


@pytest.mark.slow
def test_it_lives_in_jupyterlab_in_both_themes(browser, tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / "explorer.ipynb")
    with jupyterlab(tmp_path) as address:
        page, trouble = opened_notebook(browser, f"{address}/explorer.ipynb")
        run_all(page, 120)
        page.wait_for_selector(".txl-links path", state="attached")
        before = says(page)
        page.locator(".txl-cell[tabindex='0']").focus()
        page.keyboard.press("ArrowRight")
        assert says(page) != before
        slider = page.locator(".txl input[type=range]")
        slider.focus()
        page.keyboard.press("ArrowLeft")  # JupyterLab has a shortcut on it
        assert slider.input_value() == "2"
        assert page.locator(".jp-CodeCell").count() == 1  # the notebook took no key
        ground = """(light) => { document.body.dataset.jpThemeLight = light;
          return getComputedStyle(document.querySelector(".txl")).backgroundColor; }"""
        dark, light = (page.evaluate(ground, light) for light in ("false", "true"))
        assert max(json.loads(f"[{dark[4:-1]}]")) < 80 < min(json.loads(f"[{light[4:-1]}]"))
        assert trouble == []
        page.context.close()
