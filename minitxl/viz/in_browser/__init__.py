"""Memory, live: a model that runs where it is looked at, in a notebook or in a page of its own.

`live(model, vocab, text)` gives one component: one types, sees the states slide into the memory,
points at a character, lets the model write, wipes its memory. The forward pass is `model.js`, read
beside `minitxl/model/attention.py`; `session.js` keeps the text, `live.js` draws. Python packs the
weights and computes the gradient. Browsers need CSS `light-dark()`: Chrome 123, Firefox 120, Safari
17.5 or later.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import warnings
from functools import cache
from pathlib import Path

from PIL import Image

from minitxl.errors import MinitxlError
from minitxl.files import write_atomically
from minitxl.viz.attention import AttentionFigure
from minitxl.viz.in_browser.gradient import gradient_numbers
from minitxl.viz.in_browser.pack import THEMES, packed, weights_of, why_not
from minitxl.viz.theme import DPI, Picture, shown_as, spoken, stored

HERE = Path(__file__).parent
VIEW = "application/vnd.jupyter.widget-view+json"
TITLE = "Memory, live"
IN_PAGE = ("engine.js", "look.js", "panels.js", "text.js", "gradient.js", "live.js")
IN_WORKER = ("model.js", "session.js", "worker.js", "start.js")


def live(model, vocab, text, *, tgt_len: int = 64, mem_len: int | None = None, **start) -> Live:
    """The live component for `text`: a string, tokens (n,), or (title, text) pairs to choose from.

    It begins with segments of `tgt_len` and a memory of `mem_len` (None: three segments). `start`:
    `read` tokens already read, `layer` 1 ... n_layer, `head` 1 ... n_head or 0 for their mean; by
    default as far as a token that looks far back, and its head. Raises `MinitxlError` for a model
    that cannot run in a page: with other positions than types 0 and 1, an adaptive softmax,
    another memory.
    """
    refused = why_not(model.config)
    if refused:
        raise MinitxlError(refused)
    mem_len = 3 * tgt_len if mem_len is None else mem_len
    return Live(model, vocab, text, tgt_len, mem_len, start)


class Live:
    """Shows itself in a notebook, as a picture where no kernel runs; `save` writes an HTML page.

    `data`: what the script is given, as JSON holds it.
    """

    def __init__(self, model, vocab, text, tgt_len, mem_len, start) -> None:
        self._model = model
        self.data, self._picture_of = packed(model, vocab, text, tgt_len, mem_len, start)
        self._widget = None

    def widget(self):
        """The live component as an anywidget; the same one each time."""
        if self._widget is None:
            self._widget = _widget_class()(data=self.data, weights=weights_of(self._model))
            self._widget.on_msg(self._answer)
        return self._widget

    def _answer(self, widget, question, buffers) -> None:
        """What the page asks Python: where the gradient of its segment goes."""
        try:
            numbers = gradient_numbers(
                self._model, question["tokens"], question["segments"], question["M"]
            )
            widget.send({"id": question["id"], "gradient": numbers})
        except MinitxlError as error:
            widget.send({"id": question["id"], "error": str(error)})

    def html(self, title: str = TITLE, *, below: str = "", style: str = "") -> str:
        """The component as one HTML page: with all that it needs inside.

        below: HTML that is to stand under it; style: rules for that.
        """
        script, style = f"\n{_script()}\n{_file('page.js')}", _style() + style
        # "<" never stands in the data, so no text can end the script element
        data = json.dumps(self.data, ensure_ascii=False).replace("<", "\\u003c")
        parts = {
            "TITLE": html.escape(title),
            "LEAD": html.escape(self.data["lead"]),
            "STYLE_HASH": _hash(style),
            "SCRIPT_HASH": _hash(script),
            "BELOW": below,
            "STYLE": style,
            "SCRIPT": script,
            "WEIGHTS": base64.b64encode(weights_of(self._model)).decode("ascii"),
            "DATA": data,
        }
        page = _file("page.html")
        for name, text in parts.items():  # data last: nothing in it is replaced
            page = page.replace(f"@@{name}@@", text)
        return page

    def save(self, path: str | Path, title: str = TITLE) -> Path:
        """Write the page to `path` (.html) and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html(title).encode("utf-8", errors="replace"))
        return path

    def picture(self) -> Picture:
        """A state of the component, drawn by `AttentionFigure`: what stands where nothing runs."""
        reading, symbols, layer, head, query = self._picture_of
        longest = min(self.data["M"], reading.longest_memory)
        probs = reading.attention(longest)[layer]  # (H, T, K)
        figure = AttentionFigure(symbols, tgt_len=reading.tgt_len)
        name = spoken(symbols[reading.longest_memory + query])
        where = f"head {head + 1}" if head >= 0 else f"mean of {len(probs)} heads"
        title = f"What {name} attends to: layer {layer + 1}, {where}"
        figure.update(probs[head] if head >= 0 else probs.mean(axis=0), query, title)
        return figure.picture()

    def __repr__(self) -> str:
        return self.picture().caption

    def _repr_mimebundle_(self, include=None, exclude=None):
        picture = self.picture()
        data = {"text/plain": picture.caption}
        small = picture.image().quantize(128, dither=Image.Dither.NONE)  # and looks the same
        data["image/png"] = base64.b64encode(stored(small)).decode("ascii")
        try:
            model_id = self.widget().model_id
            data[VIEW] = {"version_major": 2, "version_minor": 1, "model_id": model_id}
        except MinitxlError as error:
            warnings.warn(f"only a picture: {error}", stacklevel=2)
        width = picture.figure.get_figwidth() * DPI
        return data, shown_as(width, picture.caption, self._widget)


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _script() -> str:
    """One module out of several files; those of the worker are a string in it."""
    worker = "\n".join(_file(name) for name in IN_WORKER).replace("\nexport ", "\n")
    page = "\n".join(_file(name) for name in IN_PAGE)
    return f"const WORKER = {json.dumps(worker)};\n{page}".replace("</", "<\\/")


def _style() -> str:
    return colours() + "\n" + _file("live.css")


def colours() -> str:
    """The theme's plain colours as variables of CSS, for a light and for a dark page."""
    light, dark = THEMES
    pairs = (
        f"--{name}: light-dark({light[name]}, {dark[name]});"
        for name in light
        if name != "segments"
    )
    return ".txl, .txl-page { " + " ".join(pairs) + " }"


def _hash(text: str) -> str:
    """What a content security policy calls a script or a style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def _widget_class():
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MinitxlError(
            "the live component needs anywidget, which is not installed; run: pip install anywidget"
        ) from error

    class LiveWidget(anywidget.AnyWidget):
        _esm = _script()
        _css = _style()
        data = traitlets.Dict().tag(sync=True)
        weights = traitlets.Bytes().tag(sync=True)

    return LiveWidget
