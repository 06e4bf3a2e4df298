"""Record the token explorer as it is used: explorer.gif and, for a dark page, explorer_dark.gif.

    pip install -e ".[browser]"   # and a Chromium: the system's, or `playwright install chromium`
    python figures/record_explorer.py

The pages are those of `python -m minitxl explore --tgt-len 56`, moved by Playwright: real events of
a pointer, which is drawn in because a screenshot has none, and the heading as caption. The stills
explorer.png and explorer_dark.png are for readers who want no motion. Fonts are the system's, so
another machine gives other bytes.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from minitxl import cli

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)  # None: Playwright's own
WIDE, T = 900, 56  # pixels; characters of a segment
MOVE, LOOK = 70, 1700  # milliseconds: a frame of a movement; a picture to be read
# Room for what the film shows: without the controls and the table that it does not come to.
STYLE = """
.txl-keys, .txl-reset, .txl-note, .txl-panel:last-child { display: none }
.txl-controls { column-gap: 8px }
.txl .txl-sentence { font-size: 13.6px; white-space: nowrap }
.txl-plot svg { max-width: 370px }
.txl-grid { margin-top: -12px }
"""
CURSOR = """
const cursor = document.createElement("div");
cursor.id = "cursor";
cursor.style = "position: fixed; left: 0; top: 0; z-index: 9; pointer-events: none";
cursor.innerHTML = `<svg width="22" height="30" viewBox="0 0 22 30"><path fill="#000" stroke="#fff"
  stroke-width="2" d="M2 2V23L7.2 18.4L11 27L14.8 25.3L11.2 17H18.5Z"/></svg>`;
document.body.append(cursor);
"""


class Film:
    """Pictures of a page with the milliseconds that each stays, and a pointer at x, y."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        self.x, self.y = WIDE * 0.75, 560.0
        page.add_style_tag(content=STYLE)
        page.evaluate(CURSOR)
        panels = page.locator(".txl-panels").bounding_box()
        self.clip = {"x": 0, "y": 0, "width": WIDE, "height": panels["y"] + panels["height"] + 8}

    def say(self, words: str) -> None:
        self.page.evaluate("words => document.querySelector('h1').textContent = words", words)

    def shoot(self, milliseconds: int) -> None:
        """Keep the picture of now; one that has not changed stays longer instead."""
        drawn = "() => new Promise((end) => requestAnimationFrame(() => setTimeout(end, 0)))"
        for _ in range(2):
            self.page.evaluate(drawn)
        frame = Image.open(io.BytesIO(self.page.screenshot(clip=self.clip))).convert("RGB")
        if self.frames and frame == self.frames[-1]:
            self.times[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.times.append(milliseconds)

    def point(self, x: float, y: float) -> None:
        self.x, self.y = x, y
        self.page.mouse.move(x, y)
        place = f"translate({x - 2}px, {y - 2}px)"
        self.page.evaluate("place => { cursor.style.transform = place }", place)

    def go(self, target, steps: int) -> None:
        """Move to the middle of an element, slower at both ends."""
        box = target.bounding_box()
        x0, y0 = self.x, self.y
        x1, y1 = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6
        for step in range(1, steps + 1):
            part = step / steps
            part = part * part * (3 - 2 * part)
            self.point(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part)
            self.shoot(MOVE)

    def click(self) -> None:
        self.page.mouse.down()
        self.page.mouse.up()
        self.shoot(300)


def play(film: Film) -> Image.Image:
    """Use the page; return the picture that says most."""
    page = film.page
    cell = page.locator(".txl-cell")
    last = 3 * T  # the first character of the last segment

    def head(layer: int, number: int):
        return page.locator(f".txl-head[data-layer='{layer}'][data-head='{number}']")

    film.say("Point at a character: what does it attend to?")
    film.point(film.x, film.y)
    head(5, 5).click()
    film.point(film.x, film.y)
    film.go(cell.nth(last + 33), 5)
    film.go(cell.nth(last + 47), 11)
    film.say("After the full stop: the quotation mark, three segments back")
    film.shoot(LOOK)
    still = film.frames[-1]

    film.say("Another head ...")
    film.go(head(4, 5), 6)
    film.click()
    film.go(cell.nth(last + 45), 6)
    film.say("... looks for the last line break")
    film.shoot(LOOK)

    film.say("A third ...")
    film.go(head(6, 4), 6)
    film.click()
    film.go(cell.nth(last + 39), 6)
    film.say("... finds the same name in the segment before")
    film.shoot(LOOK)

    film.click()  # keeps the character while the pointer goes to the slider
    film.say("Now take the memory away ...")
    slider = page.locator("input[type=range]")
    film.go(slider, 6)
    box = slider.bounding_box()
    for part in (0.98, 0.66, 0.33, 0.02):
        film.point(box["x"] + box["width"] * part, film.y)
        page.mouse.down()
        film.shoot(300)
    page.mouse.up()
    film.say("... and it has to do with what its own segment holds")
    film.shoot(LOOK)
    return still


def save(film: Film, path: Path) -> None:
    """One palette for all frames, no dithering: flat areas stay flat, and the file small."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in film.frames[::4]])
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    # by the root of how often they are: a segment's colour counts beside so much paper
    sample = np.repeat(colours, np.ceil(counts**0.5).astype(int), axis=0)[None]
    palette = Image.fromarray(sample).quantize(255, method=Image.Quantize.MEDIANCUT, kmeans=2)
    first, *rest = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in film.frames)
    first.save(path, save_all=True, append_images=rest, duration=film.times, loop=0, optimize=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = Path(folder) / "page.html"
        cli.main(["explore", "--tgt-len", str(T), "--out", str(address)])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme, ending in (("light", ""), ("dark", "_dark")):
            page = browser.new_page(
                color_scheme=scheme,
                viewport={"width": WIDE, "height": 760},
                reduced_motion="reduce",
            )
            page.goto(address.as_uri())
            page.wait_for_selector(".txl-links path", state="attached")
            film = Film(page)
            still = play(film)
            still.save(HERE / f"explorer{ending}.png", optimize=True)
            save(film, HERE / f"explorer{ending}.gif")
            size = (HERE / f"explorer{ending}.gif").stat().st_size
            seconds = sum(film.times) / 1000
            print(f"{scheme}: {len(film.frames)} pictures, {seconds:.1f} s, {size / 1e6:.2f} MB")
        browser.close()


if __name__ == "__main__":
    main()
