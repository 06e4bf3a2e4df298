"""Widgets that live in the page alone: their numbers are computed once, and played with there.

No kernel answers while one plays; where a script cannot run, the same output holds a picture.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from PIL import Image

from minitxl.errors import MinitxlError
from minitxl.viz.theme import Picture, shown_as, stored
from minitxl.viz.widgets.scene import Scene

HERE = Path(__file__).parent
STYLE = """
.txl-drawing { color-scheme: light dark; font-family: system-ui, "DejaVu Sans", sans-serif; }
.txl-drawing svg { display: block; max-width: 100%; height: auto; border-radius: 4px; }
body[data-jp-theme-light="true"] .txl-drawing { color-scheme: light; }
body[data-jp-theme-light="false"] .txl-drawing { color-scheme: dark; }
.txl-play { max-width: 1040px; }
.txl-play .txl-tools { display: flex; flex-wrap: wrap; gap: 6px 22px; align-items: center;
  padding: 4px 2px; font-size: 13px; color: light-dark(#1F2328, #ECEAE4); }
.txl-play .txl-choice { display: inline-flex; gap: 6px; align-items: center; }
.txl-play button { font: inherit; color: inherit; background: transparent; padding: 3px 10px;
  border: 1px solid light-dark(#8A9099, #6E7681); border-radius: 4px; cursor: pointer; }
.txl-play button[aria-pressed="true"] { color: light-dark(#FCFBF8, #16191D);
  background: light-dark(#1F2328, #ECEAE4); }
.txl-play input[type="range"] { width: 200px; accent-color: light-dark(#005AA8, #4F97FA); }
.txl-play .txl-choice b { min-width: 3.2em; }
.txl-play :focus-visible { outline: 2px solid light-dark(#005AA8, #4F97FA); outline-offset: 1px; }
.txl-play .txl-field { touch-action: pan-y; user-select: none; -webkit-user-select: none; }
.txl-said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  margin: 0; }
"""


class InPage:
    """Shows itself in a notebook; as a picture where no script runs.

    script: name of its JavaScript file here, which exports `render`; data: what it is given, as
    JSON holds it; blocks: bytes besides; scenes: of the picture, one above the other.
    """

    def __init__(self, script: str, data: dict, scenes: list[Scene], blocks: bytes = b"") -> None:
        self._script, self.data, self.scenes, self.blocks = script, data, scenes, blocks
        self._widget = None

    def widget(self):
        """The anywidget; the same one each time."""
        if self._widget is None:
            self._widget = _class_of(self._script)(data=self.data, blocks=self.blocks)
        return self._widget

    def __repr__(self) -> str:
        return "\n".join(scene.caption for scene in self.scenes)

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = dict(self.widget()._repr_mimebundle_()[0] or {})
        data["image/png"] = base64.b64encode(stacked(self.scenes)).decode("ascii")
        data["text/plain"] = repr(self)
        return data, shown_as(self.scenes[0].width, repr(self))


def stacked(scenes: list[Scene]) -> bytes:
    """PNG bytes of scenes, one above the other."""
    pictures = [Picture(scene.figure(), scene.caption).image() for scene in scenes]
    whole = Image.new("RGB", (pictures[0].width, sum(p.height for p in pictures)))
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    # Several pictures in one: a palette makes a third of it, and looks the same.
    return stored(whole.quantize(256, dither=Image.Dither.NONE))


def module(script: str) -> str:
    """A widget's JavaScript: what draws shapes, and its own file."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("shapes.js", script))


def anywidget_and_traitlets() -> tuple:
    """The two packages, or `MinitxlError` where they are not installed."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MinitxlError(
            "widgets need anywidget, which is not installed; run: pip install anywidget"
        ) from error
    return anywidget, traitlets


@cache
def _class_of(script: str) -> type:
    anywidget, traitlets = anywidget_and_traitlets()

    class InPageWidget(anywidget.AnyWidget):
        _esm = module(script)
        _css = STYLE
        data = traitlets.Dict().tag(sync=True)
        blocks = traitlets.Bytes().tag(sync=True)

    return InPageWidget
