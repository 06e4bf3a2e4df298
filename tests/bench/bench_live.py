"""How fast the live component is, in a headless Chromium: from a key to the picture.

    python tests/bench/bench_live.py             # the page of `python -m minitxl explore`

A time runs from the event to the frame after the one in which the last of what it changes was
drawn.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from minitxl import cli

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.in_browser import chromium

# From the event to the frame after all that it asks for was answered and drawn.
WATCH = """(event) => {
  window.latency = new Promise((end, fail) => {
    const whole = document.querySelector(".txl");
    const begin = () => {
      const start = performance.now();
      setTimeout(function look() {
        if (performance.now() - start > 20000) fail(new Error("nothing is drawn"));
        else if (whole.ariaBusy === "true") requestAnimationFrame(look);
        else end(performance.now() - start);
      });
    };
    document.addEventListener(event, begin, { capture: true, once: true });
  });
}"""


def times_of(page, event: str, do, n: int = 25) -> list[float]:
    """Milliseconds of n repetitions of do(i), sorted."""
    found = []
    for i in range(n):
        page.evaluate(WATCH, event)
        do(i)
        found.append(page.evaluate("window.latency"))
    return sorted(found)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "page.html"
        cli.main(["explore", "--out", str(path)])
        page = browser.new_page(viewport={"width": 1366, "height": 768}, reduced_motion="reduce")
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.locator(".txl-current .txl-cell[data-at]").first.wait_for()
        text = time.perf_counter() - start
        page.locator(".txl-strongest table").wait_for()
        whole = time.perf_counter() - start
        print(f"page of {path.stat().st_size / 1e6:.1f} MB: text {text:.2f} s, arcs {whole:.2f} s")
        cells = page.locator(".txl-current .txl-cell[data-at]")
        box, slider = page.locator(".txl-box"), page.get_by_label("memory M")
        heads = page.locator(".txl-head")
        for name, event, do in (
            ("typing", "input", lambda i: box.press("abcde"[i % 5])),
            ("hovering", "pointerover", lambda i: cells.nth(i % 9).hover()),
            ("layer and head", "click", lambda i: heads.nth((7 * i) % 36).click()),
            ("memory", "input", lambda i: slider.fill(str(8 * (i % 9)))),
        ):
            ms = times_of(page, event, do)
            print(f"{name:15} median {statistics.median(ms):4.0f} ms, 95% {ms[23]:4.0f} ms")
        page.get_by_label("speed").fill("6")
        page.get_by_role("button", name="✎ write", exact=True).click()
        page.wait_for_timeout(8000)
        page.get_by_role("button", name="■ stop", exact=True).click()
        page.wait_for_timeout(500)
        print(page.inner_text(".txl-note"))


if __name__ == "__main__":
    main()
