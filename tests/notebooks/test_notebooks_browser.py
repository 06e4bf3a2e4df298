"""The notebooks in JupyterLab, in a real browser: all cells run, every control moves its picture.

Needs Playwright (extra `browser`) and a Chromium. Prints how long a picture takes, from the key to
the frame in which it is drawn.
"""

import re
import shutil
import statistics

import pytest

from helpers.in_browser import ROOT, chromium, jupyterlab, opened, run_all

NOTEBOOKS = ROOT / "notebooks"
WIDGET = re.compile(r"^viz\.(\w+_explorer)\(", re.MULTILINE)
NAMES = [p.stem for p in sorted(NOTEBOOKS.glob("source/*.py")) if WIDGET.search(p.read_text())]
PRESSES = 5  # for each slider
SLOW = 1000  # ms that no picture may take, whatever else the machine does; 100 is what we aim at

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# From the key to the frame after the one in which `what` has changed.
WATCH = """(what) => {
  window.latency = new Promise((end, fail) => {
    let start = null;
    const from = () => { start ??= performance.now(); };
    document.addEventListener("keydown", from, { capture: true, once: true });
    const drawn = () => requestAnimationFrame(() =>
      setTimeout(() => end(performance.now() - start), 0));
    const observer = new MutationObserver(() => { observer.disconnect(); drawn(); });
    observer.observe(what, { subtree: true, childList: true });
    setTimeout(() => fail(new Error("nothing has changed")), 20000);
  });
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    for name in NAMES:
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder)
    with jupyterlab(folder) as base:
        yield base


def press(page, control, key, what) -> float:
    """Press a key on a control; milliseconds until `what` is drawn anew."""
    control.focus()
    page.evaluate(WATCH, what.element_handle())
    page.keyboard.press(key)
    return page.evaluate("window.latency")


def move_sliders_and_buttons(page, box) -> dict[str, list[float]]:
    """Move every control of an ipywidgets box by keyboard; its times by the control's label."""
    image, spoken = box.locator(".txl-drawing"), box.locator("[role=status]")
    found = {}

    def picture():
        return image.locator("svg[role=img]").inner_html()

    for slider in box.locator(".widget-slider").all():
        label = slider.locator(".widget-label").inner_text()
        handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
        assert handle.get_attribute("aria-label") == label
        shown, times, key = picture(), [], "ArrowRight"
        said = {(readout.inner_text(), spoken.inner_text())}
        for _ in range(PRESSES):
            now, high = (float(handle.get_attribute(f"aria-value{x}")) for x in ("now", "max"))
            low = float(handle.get_attribute("aria-valuemin"))
            key = "ArrowLeft" if now == high else "ArrowRight" if now == low else key
            times.append(press(page, handle, key, image))
            assert picture() != shown
            shown = picture()
            said.add((readout.inner_text(), spoken.inner_text()))
        assert len(said) > 1, f"{label} moves, and nothing is said"
        page.wait_for_timeout(100)
        named = image.locator("svg[role=img]").get_attribute("aria-label")
        assert named == spoken.inner_text()
        found[label] = times
    for group in box.locator(".widget-toggle-buttons").all():
        times = []
        for button in group.locator("button").all()[::-1]:  # the first is the one that is on
            times.append(press(page, button, "Enter", image))
            page.wait_for_timeout(100)
            assert button.get_attribute("aria-pressed") == "true"
        found[group.get_attribute("aria-label")] = times
    return found


@pytest.mark.parametrize("name", NAMES)
def test_all_runs_and_every_control_moves_its_picture(browser, address, name):
    page, trouble = opened(browser, f"{address}/{name}.ipynb")
    seconds = run_all(page, 240)
    print(f"\n{name}: all cells in {seconds:.0f} s")
    for kind in ("error", "stderr"):
        said = page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']")
        assert said.all_inner_texts() == []
    widgets = WIDGET.findall((NOTEBOOKS / "source" / f"{name}.py").read_text(encoding="utf-8"))
    boxes = page.locator(".widget-vbox:has(.txl-drawing)")
    boxes.nth(len(widgets) - 1).wait_for()
    assert boxes.count() == len(widgets)
    cells = page.locator(".jp-Cell").count()
    for kind, box in zip(widgets, boxes.all(), strict=True):
        box.scroll_into_view_if_needed()
        for label, times in move_sliders_and_buttons(page, box).items():
            print(
                f"{kind:24} {label:40} median {statistics.median(times):4.0f} ms, "
                f"slowest {max(times):4.0f} ms"
            )
            assert min(times) < SLOW
    assert page.locator(".jp-Cell").count() == cells  # no key went to the notebook
    assert trouble == []
    page.context.close()
