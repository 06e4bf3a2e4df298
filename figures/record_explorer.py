"""Record the live component as it is used: explorer.gif and, for a dark page, explorer_dark.gif.

    pip install -e ".[browser]"   # and a Chromium: the system's, or `playwright install chromium`
    python figures/record_explorer.py

The page is that of `python -m minitxl explore`, moved by Playwright: real events of a pointer and
of keys. The pointer is drawn in, because a screenshot has none, and the heading is the caption.
The stills explorer.png and explorer_dark.png are for readers who want no motion. Fonts are the
system's, so another machine gives other bytes.
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
WIDE, HIGH = 1125, 665  # pixels of the page; the film shows four fifths
MOVE, LOOK = 90, 1500  # milliseconds: a frame of a movement; a picture to be read
STYLE = ".txl-lead, .txl-links-out { display: none !important }"  # of no use in a film
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
        self.clip = {"x": 0, "y": 0, "width": WIDE, "height": HIGH}

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

    def named(name: str):
        return page.get_by_role("button", name=name, exact=True)

    film.say("This model runs in the page. After the full stop: the quotation mark")
    film.point(film.x, film.y)
    film.shoot(LOOK)
    still = film.frames[-1]

    film.say("Another head looks for the last line break")
    head = page.locator(".txl-head[aria-label^='layer 4, head 5']")
    film.go(head, 4)
    film.click()
    page.wait_for_timeout(250)
    film.shoot(LOOK)

    film.say("Learn from this segment: where does the gradient go?")
    film.go(named("learn from this segment"), 4)
    film.click()
    page.locator(".txl-zero").first.wait_for()
    film.say("It stops at the memory's edge: beyond, it is exactly 0")
    film.shoot(LOOK)
    film.go(named("✕ close"), 3)
    film.click()

    film.say("Type: each character becomes states, one for each layer")
    film.go(page.locator(".txl-box"), 4)
    film.click()
    n = count(page)
    for i, letter in enumerate("But nobody was at "):
        page.keyboard.type(letter)
        page.locator(f".txl-cell[data-at='{n + i}']").wait_for()
        page.wait_for_timeout(200)
        if i % 3 == 2:
            film.shoot(330)

    film.say("Let it write: a full segment slides up into the memory")
    page.get_by_label("temperature").fill("0")
    page.get_by_label("speed").fill("2")
    film.go(named("✎ write"), 3)
    film.click()
    n = count(page)
    for i in range(0, 36, 4):
        page.locator(f".txl-cell[data-at='{n + i}']").wait_for()
        page.wait_for_timeout(60)
        film.shoot(300)
    film.go(named("■ stop"), 2)
    film.click()
    page.wait_for_timeout(400)

    film.say("Wipe the memory: what was it worth, in bits?")
    film.go(named("wipe the memory"), 4)
    film.click()
    page.get_by_text("wiping the memory").first.wait_for()
    page.wait_for_timeout(400)
    film.shoot(LOOK + 600)
    return still


def count(page: Page) -> int:
    """How many tokens were read."""
    return int(page.locator(".txl-cell[data-at]").last.get_attribute("data-at")) + 1


def save(film: Film, path: Path) -> None:
    """One palette for all frames, no dithering: flat areas stay flat, and the file small."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in film.frames[::4]])
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    # by the root of how often they are: a segment's colour counts beside so much paper
    sample = np.repeat(colours, np.ceil(counts**0.5).astype(int), axis=0)[None]
    palette = Image.fromarray(sample).quantize(47, method=Image.Quantize.MEDIANCUT, kmeans=2)
    first, *rest = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in film.frames)
    first.save(path, save_all=True, append_images=rest, duration=film.times, loop=0, optimize=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = Path(folder) / "page.html"
        cli.main(["explore", "--out", str(address)])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme, ending in (("light", ""), ("dark", "_dark")):
            page = browser.new_page(
                color_scheme=scheme,
                viewport={"width": WIDE, "height": HIGH},
                device_scale_factor=0.8,
                reduced_motion="reduce",
                bypass_csp=True,  # for the pointer that is drawn in
            )
            page.goto(address.as_uri())
            page.locator(".txl-links path").first.wait_for(state="attached")
            page.wait_for_timeout(500)
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
