"""The look of every picture: colours, fonts, and figures that need no matplotlib backend.

Figures carry their own light background, so they read the same in a white and in a dark notebook.
Nothing here touches `pyplot` or the global style: a figure is made, drawn and encoded on its own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from minitxl.files import write_atomically

PAPER = "#FCFBF8"  # background of every figure
INK = "#1F2328"  # text, axes, the memory's edge
MUTED = "#5F656D"  # secondary text; 5.7 : 1 on PAPER
FAINT = "#DEDBD3"  # grid, frames
HIDDEN = "#EFEDE7"  # what a query may not see

# From the current segment back. After Okabe and Ito, with blue and purple darkened until neighbours
# differ for every kind of eye (a test simulates three). Each use has a label: never colour alone.
SEGMENT_COLOURS = ("#D55E00", "#005AA8", "#009E73", "#A2478F", "#8C6A00", "#5B6470")

DPI = 100  # pixels of the page per inch of a figure
SHARP = (
    150  # pixels of the picture per inch: more than the page shows, for screens with dense pixels
)

STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "hatch.color": "#BDB9AE",
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "minitxl",  # element ids of an SVG: the same on every run
}


def styled():
    """Context in which matplotlib follows this theme; outside it the user's settings stand."""
    return rc_context(STYLE)


def new_figure(width: float, height: float) -> Figure:
    """A figure of width x height inches with its own Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=SHARP)
    FigureCanvasAgg(figure)
    return figure


def level_lines(ax) -> None:
    """Faint lines at the ticks of the vertical axis, behind what is drawn."""
    ax.grid(True, axis="y", color=FAINT, lw=0.6)
    ax.set_axisbelow(True)


def segment_colour(age: int) -> str:
    """Colour of the segment `age` segments back; 0 is the current one."""
    return SEGMENT_COLOURS[age % len(SEGMENT_COLOURS)]


def segment_name(age: int) -> str:
    """Label of the segment `age` segments back; 0 is the current one."""
    return "this segment" if age == 0 else f"{age} back"


def strength(weight: np.ndarray) -> np.ndarray:
    """Attention weight -> depth of colour in 0..1: square root, full from a weight of one half."""
    return np.sqrt(np.clip(np.asarray(weight, dtype=np.float64) / 0.5, 0.0, 1.0))


def shade(colours: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Blend PAPER with `colours` (..., 3) by `depth` (...) in 0..1 -> RGB (..., 3)."""
    paper = np.asarray(to_rgb(PAPER))
    return paper + (colours - paper) * np.asarray(depth)[..., None]


def printable(symbol: str) -> str:
    """One visible character for a symbol: a dot for a space, an arrow for a new line."""
    if symbol == " ":
        return "·"
    if symbol in "\n\r":
        return "↵"
    if symbol == "\t":
        return "→"
    if len(symbol) == 1 and symbol.isprintable() and ord(symbol) in _drawable():
        return symbol
    return "□"


@cache
def _drawable() -> frozenset[int]:
    """Code points that the font has: Latin, Greek, Cyrillic and more, no CJK."""
    return frozenset(get_font(findfont("DejaVu Sans Mono")).get_charmap())


def spoken(symbol: str) -> str:
    """A symbol as it is named in a sentence: its character in quotes, or the word for it."""
    names = {" ": "the space", "\n": "the line break", "\r": "the carriage return"}
    names |= {"\t": "the tab", '"': "the quotation mark"}
    return names.get(symbol, f"“{printable(symbol)}”")


def percent(share: float) -> str:
    """A share as a percentage: `43 %`, `4.3 %`, `< 0.1 %`; `0 %` and `100 %` only if exact."""
    value = 100.0 * float(share)
    if 0.0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100.0:
        return "> 99.9 %"
    digits = 1 if 0.0 < value < 9.95 or 99.45 < value < 100.0 else 0
    return f"{value:.{digits}f} %"


def encode(figure: Figure) -> bytes:
    """PNG bytes of what the figure's canvas holds now, lightly compressed: for a live redraw."""
    pixels = np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def stored(image: Image.Image) -> bytes:
    """PNG bytes for a file: as small as can be without changing a pixel."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def shown_as(width: float, caption: str, widget=None) -> dict:
    """Metadata of a picture in a notebook: pixels of the page, and words for who cannot see it.

    A dark JupyterLab turns pictures that ask for a light ground; `turned_in_the_dark` says how.
    widget: the anywidget that the output also holds; Google Colab needs what its own metadata say.
    """
    turned_in_the_dark()
    about = {"width": round(width), "alt": caption.replace("\n", " ")}
    bundle = None if widget is None else widget._repr_mimebundle_()
    own = bundle[1] if isinstance(bundle, tuple) else {}
    return {**own, "image/png": about, "needs_background": "light"}


@cache
def turned_in_the_dark() -> None:
    """Tell the notebook's page, once a kernel: figures are no white slabs where it is dark.

    Lightness is inverted and the hue turned back, so that colours keep their names.
    """
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:  # no notebook either
        return
    if get_ipython() is not None:
        image = 'body[data-jp-theme-light="false"] img.jp-needs-light-background'
        display(HTML(f"<style>{image} {{ filter: invert(0.91) hue-rotate(180deg); }}</style>"))


class Picture:
    """A finished figure with its caption: shows itself in a notebook, saves itself to a file."""

    def __init__(self, figure: Figure, caption: str) -> None:
        self.figure = figure
        self.caption = caption

    def __repr__(self) -> str:
        return self.caption

    def image(self, dpi: int = SHARP) -> Image.Image:
        """The picture as pixels."""
        buffer = io.BytesIO()
        with styled():
            self.figure.savefig(buffer, format="png", dpi=dpi)
        return Image.open(buffer).convert("RGB")

    def png(self, dpi: int = SHARP) -> bytes:
        """PNG bytes, byte-stable: no date, no version."""
        return stored(self.image(dpi))

    def save(self, path: str | Path) -> Path:
        """Write the picture to `path` (.png or .svg) and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            with styled():
                buffer = io.BytesIO()
                self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            write_atomically(path, buffer.getvalue().replace(b"\r\n", b"\n"))
        else:
            write_atomically(path, self.png())
        return path

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": base64.b64encode(self.png()).decode("ascii"), "text/plain": repr(self)}
        return data, shown_as(self.figure.get_figwidth() * DPI, repr(self))


def titled(
    figure: Figure, title: str, note: str, *, top: float, bottom: float, size=10, color=INK
) -> Picture:
    """Write the finding above a figure and a note below it, at these heights in 0..1; finish it."""
    figure.text(0.016, top, title, size=13, weight="bold")
    figure.text(0.016, bottom, note, size=size, color=color)
    return Picture(figure, f"{title}. {note}")


def drawing(width: float, height: float, *, top: float, bottom: float) -> Callable:
    """Make a function that draws into the figure it is given first, and returns title and note, one
    that takes the other arguments and returns the `Picture`, width x height inches; heights 0..1.
    """

    def with_frame(draw: Callable[..., tuple[str, str]]) -> Callable[..., Picture]:
        @wraps(draw)
        def drawn(*args, **options) -> Picture:
            with styled():
                figure = new_figure(width, height)
                title, note = draw(figure, *args, **options)
                return titled(figure, title, note, top=top, bottom=bottom, size=9, color=MUTED)

        return drawn

    return with_frame


class LiveFigure:
    """A figure redrawn in place: what never changes is drawn once and kept as pixels.

    A subclass puts every artist that changes into `self.moving`, in drawing order. The first
    `png()` draws the rest; from then on it costs only the moving artists and the encoding. A
    figure whose rest has a few states (another colour scale) names the present one in `scene`.
    """

    figure: Figure
    caption: str = ""

    def __init__(self) -> None:
        self.moving: list = []
        self.scene = None
        self._stills: dict = {}

    def _freeze(self) -> None:
        """Draw everything but the moving artists and keep the pixels."""
        for artist in self.moving:
            artist.set_visible(False)
        with styled():
            self.figure.canvas.draw()
        self._stills[self.scene] = self.figure.canvas.copy_from_bbox(self.figure.bbox)
        for artist in self.moving:
            artist.set_visible(True)

    def png(self) -> bytes:
        """PNG bytes of the present state, at screen resolution."""
        if self.scene not in self._stills:
            self._freeze()
        self.figure.canvas.restore_region(self._stills[self.scene])
        with styled():
            for artist in self.moving:
                self.figure.draw_artist(artist)
        return encode(self.figure)

    def picture(self) -> Picture:
        """The present state as a `Picture`: for a file or for a notebook without a kernel."""
        return Picture(self.figure, self.caption)
