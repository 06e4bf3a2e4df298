"""A picture as a list of shapes: a browser draws it at every key, Matplotlib where no kernel runs.

All lengths are pixels of the page, y downwards. A colour is a name of the theme, or a pair: for a
light page and for a dark one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.collections import PatchCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from minitxl.viz.in_browser.pack import THEMES
from minitxl.viz.theme import DPI, new_figure, styled

LIGHT, DARK = THEMES
NAMES = {name: (LIGHT[name], DARK[name]) for name in ("paper", "ink", "muted", "hidden")}
NAMES |= {"faint": ("#DEDBD3", "#363B42"), "hatch": ("#BDB9AE", "#5A6069")}
SIDES = {"start": "left", "middle": "center", "end": "right"}
Colour = str | tuple[str, str]
ADVANCE = 0.602  # width of a character of DejaVu Sans Mono, of its size; shapes.js has it too
LEVELS = 17  # depths of a shade, 0 ... 16


def segment_pair(age: int) -> tuple[str, str]:
    """Colour of the segment `age` segments back, never one twice: beyond five a grey that fades."""
    if age < len(LIGHT["segments"]):
        return LIGHT["segments"][age], DARK["segments"][age]
    fading = 1 - 1 / (1 + 0.12 * (age - len(LIGHT["segments"]) + 1))  # 0 ... 1, rising for ever
    light, dark = (round(a + (b - a) * fading) for a, b in ((0x64, 0xD2), (0xA8, 0x48)))
    return f"#{light:02x}{light + 4:02x}{light + 8:02x}", f"#{dark:02x}{dark + 4:02x}{dark + 8:02x}"


def shades(hue: tuple[str, str], most: float = 0.85) -> list[tuple[Colour, Colour]]:
    """LEVELS fills from the paper to `most` of a hue, each with a colour of text to read on it."""
    found = []
    for level in range(LEVELS):
        pairs = []
        for scheme in (0, 1):
            paper, full = (np.array(to_rgb(x[scheme])) for x in (NAMES["paper"], hue))
            fill = paper + (full - paper) * most * level / (LEVELS - 1)
            texts = [NAMES["ink"][scheme], "#000000", "#FFFFFF"]
            pairs.append((to_hex(fill), max(texts, key=lambda text: contrast(fill, text))))
        found.append(tuple(zip(*pairs, strict=True)))
    return found


def contrast(a, b) -> float:
    """Ratio of the luminances of two colours, 1 ... 21 (WCAG 2)."""

    def luminance(colour) -> float:
        c = np.array(to_rgb(colour))
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


class Scene:
    """Shapes in drawing order, and `caption`: the picture in words."""

    def __init__(self, width: int, height: int, caption: str = "") -> None:
        self.width, self.height, self.caption = width, height, caption
        self.shapes: list[dict] = []

    def lines(self, lines: Iterable[Sequence], **look) -> None:
        """Lines of one look, each a sequence of points (x, y)."""
        flat = [np.round(np.ravel(line), 1).tolist() for line in lines]
        self._add("lines", flat, look)

    def boxes(self, boxes: Iterable[Sequence], **look) -> None:
        """Rectangles (left, top, width, height) of one look."""
        self._add("boxes", np.round(list(boxes), 1).tolist(), look)

    def dots(self, at: Iterable[Sequence], radius: float, **look) -> None:
        """Circles of one look around points (x, y)."""
        self._add("dots", [np.round((x, y, radius), 1).tolist() for x, y in at], look)

    def _add(self, kind: str, at: list, look: dict) -> None:
        """look: fill and stroke (colours), width, alpha, dash (two lengths), hatch (a fill)."""
        if at:  # an empty path would be none
            colours = {name: _pair(look[name]) for name in ("fill", "stroke") if look.get(name)}
            self.shapes.append({"kind": kind, "at": at, **look, **colours})

    def text(
        self, x, y, words, *, size=14, anchor="start", bold=False, colour: Colour = "ink",
        halo=False, turn=0, mono=False,
    ) -> None:  # fmt: skip
        """Write at (x, y): left end, middle or right end of a line, at half its height; halo: a
        ground of paper around the letters; turn: degrees, against the clock; mono: each character,
        a space too, ADVANCE * size wide."""
        place = dict(x=round(float(x), 1), y=round(float(y), 1), words=str(words), turn=turn)
        look = dict(size=size, anchor=anchor, bold=bold, fill=_pair(colour), halo=halo, mono=mono)
        self.shapes.append({"kind": "text", **place, **look})

    def headed(self, title: str, note: str = "") -> Scene:
        """Write the finding above and a note of one or two lines below; they are the caption."""
        self.text(16, 24, title, size=18, bold=True)
        lines = note.split("\n") if note else []
        for n, line in enumerate(lines):
            self.text(16, self.height - 17 - 19 * (len(lines) - 1 - n), line)
        self.caption = f"{title}. {note}".replace("\n", " ").strip()
        return self

    def data(self) -> dict:
        """What shapes.js draws, as JSON holds it."""
        looks = dict(paper=NAMES["paper"], hatch=NAMES["hatch"])
        size = dict(width=self.width, height=self.height)
        return {**size, "caption": self.caption, "shapes": self.shapes, "looks": looks}

    def figure(self) -> Figure:
        """The same as a figure, on light paper."""
        with styled():
            figure = new_figure(self.width / DPI, self.height / DPI)
            ax = figure.add_axes((0, 0, 1, 1))
            ax.axis("off")
            ax.set_xlim(0, self.width)
            ax.set_ylim(self.height, 0)
            for order, shape in enumerate(self.shapes):
                draw = _write if shape["kind"] == "text" else _paint
                draw(ax, order, **shape)
        return figure


def _pair(colour: Colour) -> tuple[str, str]:
    return NAMES[colour] if isinstance(colour, str) else colour


def _write(ax, order, *, kind, x, y, words, turn, size, anchor, bold, fill, halo, mono) -> None:
    points = 72 / DPI
    effects = [withStroke(linewidth=6 * points, foreground=LIGHT["paper"])] if halo else []
    style = dict(color=fill[0], weight="bold" if bold else "normal", rotation=turn)
    style["family"] = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    place = dict(ha=SIDES[anchor], va="center_baseline", zorder=order, path_effects=effects)
    ax.text(x, y, words.replace("$", r"\$"), size=size * points, **style, **place)


def _paint(
    ax, order, *, kind, at, fill=None, stroke=None, width=1.0, alpha=1.0, dash=None, hatch=False
) -> None:
    points = 72 / DPI
    style = dict(facecolor=fill[0] if fill else "none", alpha=alpha, zorder=order)
    style |= dict(edgecolor=stroke[0] if stroke else "none", linewidth=width * points)
    if dash:
        style["linestyle"] = (0, tuple(d / width for d in dash))
    if kind == "lines":
        paths = [Path(list(zip(line[::2], line[1::2], strict=True))) for line in at]
        ax.add_collection(PathCollection(paths, **style), autolim=False)
        return
    shapes = [
        Circle(place[:2], place[2]) if kind == "dots" else Rectangle(place[:2], *place[2:])
        for place in at
    ]
    ax.add_collection(PatchCollection(shapes, **style), autolim=False)
    if hatch:
        for shape in shapes:
            path = shape.get_transform().transform_path(shape.get_path())
            ax.add_patch(PathPatch(path, fc="none", lw=0, hatch="////", zorder=order + 0.5))
