"""Memory, live in a browser: as a file without a network, and in JupyterLab.

Needs Playwright (`pip install playwright`) and a Chromium: the system's, or Playwright's own. The
page's policy forbids eval, so the tests wait by locators, not by functions given as text.
"""

import base64
import json
import re
import statistics

import nbformat
import numpy as np
import pytest

import minitxl
from helpers.in_browser import chromium, jupyterlab, run_all
from helpers.in_browser import opened as opened_notebook
from minitxl import Inspection
from minitxl.data import load_corpus
from minitxl.viz import live

pytestmark = pytest.mark.browser
T, M = 32, 64
NOTES = ".txl-note"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def trained():
    return minitxl.load_pretrained("tiny-xl")


@pytest.fixture(scope="module")
def text():
    return load_corpus("war-and-peace").test[5000:5400]


@pytest.fixture(scope="module")
def address(trained, text, tmp_path_factory):
    shown = live(trained.model, trained.vocab, text, tgt_len=T, mem_len=M, read=2 * T + 20)
    return shown.save(tmp_path_factory.mktemp("live") / "page.html").as_uri()


def opened(browser, address, scheme="light", size=(1366, 768)):
    """A page without a network that has read its opening, and what it complains of or asks for."""
    page = browser.new_context(
        color_scheme=scheme, viewport=dict(zip(("width", "height"), size, strict=True)),
        offline=True, reduced_motion="reduce",
    ).new_page()  # fmt: skip
    trouble = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url))
    page.goto(address)
    page.locator(".txl-strongest table").wait_for()
    return page, trouble


@pytest.fixture
def page(browser, address):
    page, trouble = opened(browser, address)
    yield page
    assert [t for t in trouble if t.split("#")[0] != address and not t.startswith("blob:")] == []
    page.context.close()


def n_read(page):
    """One more than the last position that is shown."""
    return int(page.locator(".txl-cell[data-at]").last.get_attribute("data-at")) + 1


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def settled(page, old=None):
    """The sentence, once it is another one than `old` and stays."""
    for _ in range(200):
        page.wait_for_timeout(25)
        now = page.inner_text(".txl-sentence")
        if now and now != old:
            page.wait_for_timeout(120)
            if page.inner_text(".txl-sentence") == now:
                return now
    raise AssertionError(f"nothing else is said than {old!r}")


def bits_of(page):
    """The sums that are compared: as it was read, and the other."""
    said = page.inner_text(".txl-worth p >> nth=1")
    return [float(x) for x in re.findall(r"[\d.]+(?= bits)|(?<=, )[\d.]+", said)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_fits_on_a_laptop_and_nothing_is_fetched(browser, address, scheme):
    page, trouble = opened(browser, address, scheme)
    ground = page.evaluate("getComputedStyle(document.querySelector('.txl')).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 80) == (scheme == "dark")
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth") <= 1366
    assert page.evaluate(f"{root}.scrollHeight") <= 768
    assert [t for t in trouble if t != address and not t.startswith("blob:")] == []
    page.context.close()


def test_a_telephone_scrolls_down_only(browser, address):
    page, _ = opened(browser, address, size=(390, 844))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_what_is_typed_is_read_as_the_model_reads_it(page, trained, text):
    """Type on; the last character's attention and the sums of bits are Python's."""
    before, more = settled(page), "It was no use, "
    page.locator(".txl-box").fill(more)
    page.locator(f".txl-cell[data-at='{2 * T + 20 + len(more) - 1}']").wait_for()
    settled(page, before)
    tokens = np.concatenate([text[: 2 * T + 20], trained.vocab.encode(more)])
    reader = trained.model.with_options(tgt_len=T, mem_len=M)
    mems, cost, before = None, None, None
    for start in range(0, len(tokens), T):
        segment, seen = tokens[start : start + T], Inspection()
        log_p, mems = reader.predict(segment[None], mems, inspect=seen)
        expected = log_p[0] if before is None else np.concatenate([before[None], log_p[0, :-1]])
        cost = -expected[np.arange(len(expected)), segment[: len(expected)]].sum() / np.log(2)
        before = log_p[0, -1]
    assert bits_of(page)[0] == pytest.approx(cost, abs=0.06)
    cell = page.locator(".txl-head[aria-selected=true]")
    layer, head = (int(x) for x in re.findall(r"\d+", cell.get_attribute("aria-label"))[:2])
    p = seen.probs[layer - 1][0, head - 1, -1]
    cell.filter(has_text=f"{100 * p[: -len(segment)].sum():.0f}").wait_for(timeout=5000)


def test_backspace_takes_back_and_steps_go_both_ways(page):
    n = n_read(page)
    page.locator(".txl-box").press("Backspace")
    page.locator(f".txl-cell[data-at='{n - 1}']").wait_for(state="detached")
    press(page, "One back")
    page.locator(f".txl-cell[data-at='{n - 2}']").wait_for(state="detached")
    press(page, "One further")
    page.locator(f".txl-cell[data-at='{n - 2}']").wait_for()


def test_a_full_segment_slides_into_the_memory_and_back(page):
    edge = page.locator(".txl-edge")
    assert f"{M} of {M} kept" in edge.inner_text()
    names = page.locator(".txl-name")
    assert names.last.inner_text() == "this segment" and "1 back" in names.all_inner_texts()[-2]
    page.locator(".txl-box").fill("abcdefghijklm")  # 20 + 13: one goes into the next segment
    page.locator(f".txl-cell[data-at='{3 * T}']").wait_for()
    page.wait_for_timeout(150)
    current = page.locator(".txl-current .txl-cell[data-at]")
    assert current.count() == 1
    page.locator(".txl-box").press("Backspace")
    page.locator(".txl-box").press("Backspace")
    page.locator(f".txl-cell[data-at='{3 * T - 1}']").wait_for(state="detached")
    assert current.count() == T - 1


def test_wiping_changes_the_prediction_and_says_what_it_cost(page):
    before, bars = settled(page), page.inner_text(".txl-next")
    press(page, "wipe the memory")
    settled(page, before)
    assert f"0 of {M} kept" in page.inner_text(".txl-edge")
    assert page.inner_text(".txl-next") != bars
    assert re.match(r"wiping the memory (costs|saves) \d", page.inner_text(".txl-number"))
    now, then = bits_of(page)[:2]
    assert now != then and page.locator(".txl-worth select").input_value() == "before"
    # compared with no memory at all it is the same thing, twice
    page.locator(".txl-worth select").select_option("none")
    page.get_by_text("saves 0.0 bits").wait_for()


def test_a_shorter_memory_hides_what_lies_beyond(page):
    before = settled(page)
    page.get_by_label("memory M").fill("32")
    page.get_by_text("32 of 32 kept").wait_for()
    page.get_by_label("memory M").fill("64")
    page.get_by_text("64 of 64 kept").wait_for()
    assert settled(page) == before  # what had fallen out was kept as it was computed


def test_terms_can_be_left_out(page):
    before, shown = settled(page), page.inner_text(".txl-next")
    page.locator(".txl-terms input").nth(1).uncheck()
    assert "Without b" in settled(page, before)
    assert page.inner_text(".txl-next") != shown


def test_it_writes_and_stops_and_its_text_can_be_gone_on_with(page):
    n = n_read(page)
    page.get_by_label("speed").fill("6")
    press(page, "✎ write")
    page.locator(f".txl-cell[data-at='{n + 40}']").wait_for()
    press(page, "■ stop")
    page.get_by_role("button", name="✎ write", exact=True).wait_for()
    page.wait_for_timeout(200)  # the frame in which the last of it is drawn
    m = n_read(page)
    page.wait_for_timeout(200)
    assert n_read(page) == m
    page.locator(".txl-box").fill("end")
    page.locator(f".txl-cell[data-at='{m + 2}']").wait_for()


def test_reading_that_is_stopped_loses_nothing(page, text):
    def kept():
        press(page, "link")
        return json.loads(base64.b64decode(page.evaluate("location.hash.slice(3)"), altchars=b"-_"))

    n = n_read(page)
    press(page, "▶ read")
    page.locator(f".txl-cell[data-at='{n + 3}']").wait_for()
    press(page, "■ stop")
    page.get_by_role("button", name="▶ read", exact=True).wait_for()
    state = kept()
    assert len(state["tokens"]) > n and state["tokens"] + state["pending"] == text.tolist()


def test_unknown_signs_are_left_out_and_named(page):
    n = n_read(page)
    page.locator(".txl-box").fill("a🙂é")
    page.locator(f".txl-cell[data-at='{n}']").wait_for()
    assert "“🙂”" in page.inner_text(NOTES) and "“é”" in page.inner_text(NOTES)
    assert n_read(page) == n + 1


def test_the_gradient_ends_at_the_edge_and_can_be_let_through(page):
    press(page, "learn from this segment")
    page.locator(".txl-zero").first.wait_for()
    assert page.locator(".txl-boxes.txl-zero").count() >= 2 * T
    assert "of exactly 0" in page.inner_text(".txl-sentence")
    shares = page.locator(".txl-share").all_inner_texts()
    assert shares[:-1] == ["exactly 0"] * (len(shares) - 1) and "not 0" in shares[-1]
    press(page, "let it through")
    page.get_by_text("Let through:").first.wait_for()
    assert "exactly 0" not in page.locator(".txl-share").all_inner_texts()
    press(page, "✕ close")
    assert page.locator(".txl-zero").count() == 0
    page.locator(".txl-box").fill("x")
    page.locator(f".txl-cell[data-at='{2 * T + 20}']").wait_for()
    press(page, "learn from this segment")  # a page has numbers for its opening alone
    assert "in a notebook for any text" in page.inner_text(NOTES)


def test_every_memory_length_is_tried(page):
    press(page, "every M")
    page.get_by_role("img", name=re.compile("M 0: .* bits, M 8: .* M 64:")).wait_for()


def test_arrow_keys_move_through_the_text_and_the_heads(page):
    cell = page.locator(".txl-cell[tabindex='0']")
    assert cell.count() == 1  # one Tab stop for the whole text
    cell.focus()
    said = settled(page)
    for key in ("ArrowLeft", "ArrowUp", "Home"):
        page.keyboard.press(key)
        said = settled(page, said)
    assert page.locator(".txl-me").get_attribute("data-at") == "0"
    page.keyboard.press("Escape")
    settled(page, said)
    page.locator(".txl-head[tabindex='0']").focus()
    chosen = page.locator(".txl-head[aria-selected=true]").get_attribute("aria-label")
    page.keyboard.press("ArrowUp" if chosen.startswith("layer 3") else "ArrowDown")
    page.wait_for_timeout(100)
    assert page.locator(".txl-head[aria-selected=true]").get_attribute("aria-label") != chosen


def test_a_click_keeps_and_several_are_averaged(page):
    cells = page.locator(".txl-current .txl-cell[data-at]")
    before = settled(page)
    cells.nth(5).click()
    kept = settled(page, before)
    cells.nth(9).hover()
    page.wait_for_timeout(150)
    assert page.inner_text(".txl-sentence") == kept
    cells.nth(9).click(modifiers=["Shift"])
    assert settled(page, kept).startswith("2 characters")
    assert page.locator(".txl-me").count() == 2


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll(".txl button, .txl input, .txl select, .txl textarea, " +
             ".txl [role=gridcell], .txl [role=grid], .txl svg[role=img]")]
           .filter((e) => !e.hidden && !e.labels?.length && !e.textContent)
           .filter((e) => !e.getAttribute("aria-label"))
           .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_a_state_is_kept_in_the_address_and_in_a_saved_page(page, browser, tmp_path):
    press(page, "wipe the memory")
    page.get_by_text("wiping the memory").first.wait_for()
    page.locator(".txl-box").fill("</script>So")
    page.get_by_text("left out").wait_for()
    page.wait_for_timeout(300)
    n, number = n_read(page), page.inner_text(".txl-number")
    press(page, "link")
    address = page.evaluate("location.href")
    with page.expect_download() as coming:
        press(page, "save")
    coming.value.save_as(tmp_path / "saved.html")
    for kept in (address, (tmp_path / "saved.html").as_uri()):
        other, trouble = opened(browser, kept)
        other.locator(f".txl-cell[data-at='{n - 1}']").wait_for()
        other.get_by_text(number).first.wait_for()
        assert not [t for t in trouble if "olicy" in t or "rror" in t]
        other.context.close()


@pytest.mark.parametrize("kept", ["e30", "eyJ0b2tlbnMiOls5OTk5XSwicGVuZGluZyI6W119", "!!!", "AAAA"])
def test_a_damaged_address_opens_the_first_passage(browser, address, kept):
    page, trouble = opened(browser, f"{address}#s={kept}")
    assert n_read(page) == 2 * T + 20
    assert not [t for t in trouble if "rror" in t]
    page.context.close()


# From an event to the frame in which the sentence is another one.
HOVERS = """async () => {
  const cells = [...document.querySelectorAll(".txl-cell[data-at]")], found = [];
  const sentence = document.querySelector(".txl-sentence");
  for (let i = 0; i < 41; i++) {
    const changed = new Promise((end) => {
      const seen = new MutationObserver(() => { seen.disconnect(); setTimeout(end, 0); });
      seen.observe(sentence, { childList: true, subtree: true, characterData: true });
    });
    const start = performance.now();
    const event = new PointerEvent("pointerover", { bubbles: true });
    cells[(i * 37) % cells.length].dispatchEvent(event);
    await changed;
    found.push(performance.now() - start);
  }
  return found.sort((a, b) => a - b);
}"""


def test_a_picture_follows_the_pointer_at_once(page):
    """From the event to the frame in which all is drawn; the best, for other work may run."""
    ms = page.evaluate(HOVERS)
    print(f"hover to picture: median {statistics.median(ms):.0f} ms, 95 % within {ms[38]:.0f} ms")
    assert ms[0] < 50


# --- JupyterLab -----------------------------------------------------------------------------------

CELL = f"""
import minitxl
trained = minitxl.load_pretrained("tiny-xl")
text = minitxl.load_corpus("war-and-peace").test[5000:5400]
minitxl.viz.live(trained.model, trained.vocab, text, tgt_len={T}, mem_len={M})
"""


@pytest.mark.slow
def test_it_lives_in_jupyterlab_in_both_themes(browser, tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / "live.ipynb")
    with jupyterlab(tmp_path) as address:
        page, trouble = opened_notebook(browser, f"{address}/live.ipynb")
        run_all(page, 120)
        page.locator(".txl-strongest table").wait_for()
        n = n_read(page)
        page.locator(".txl-box").press_sequentially("ab c")  # JupyterLab has shortcuts on letters
        page.locator(f".txl-cell[data-at='{n + 3}']").wait_for()
        press(page, "learn from this segment")  # Python is asked, for any text
        page.get_by_text("of exactly 0").first.wait_for()
        slider = page.get_by_label("memory M")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert slider.input_value() == f"{M - 8}"
        assert page.locator(".jp-CodeCell").count() == 1  # the notebook took no key
        ground = """(light) => { document.body.dataset.jpThemeLight = light;
          return getComputedStyle(document.querySelector(".txl")).backgroundColor; }"""
        dark, light = (page.evaluate(ground, light) for light in ("false", "true"))
        assert max(json.loads(f"[{dark[4:-1]}]")) < 80 < min(json.loads(f"[{light[4:-1]}]"))
        assert trouble == []
        page.context.close()
