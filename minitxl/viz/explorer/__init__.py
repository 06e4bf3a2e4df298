"""The token explorer: point at a token that a model has read, and see what it attends to.

One script, `explorer.js` with the three it stands on, draws it in JupyterLab (through anywidget)
and in a single HTML file that needs neither kernel nor network. `data.py` packs what it shows.
Browsers need CSS `light-dark()`: Chrome 123, Firefox 120, Safari 17.5 or later.
"""

from __future__ import annotations

import base64
import html
import json
import warnings
from functools import cache
from pathlib import Path

from minitxl.errors import MinitxlError
from minitxl.files import write_atomically
from minitxl.viz.attention import AttentionFigure
from minitxl.viz.explorer.data import colour_variables, layer_inputs, pack
from minitxl.viz.reading import Reading
from minitxl.viz.theme import DPI, Picture, spoken

HERE = Path(__file__).parent
VIEW = "application/vnd.jupyter.widget-view+json"


def token_explorer(
    model,
    vocab,
    tokens,
    *,
    tgt_len: int = 64,
    mem_len: int | None = None,
    layer: int = 1,
    head: int = 0,
    query: int | None = None,
) -> TokenExplorer:
    """Explorer of what every token of a passage attends to, over the cached segments and its own.

    `tokens` (S * tgt_len + 1,) are read as S segments with a memory of `mem_len` (None: all that
    was read). It starts with `layer` 1 ... n_layer, `head` 1 ... n_head or 0 for the mean of the
    heads, and the token at `query` 0 ... tgt_len - 1 of the last segment (None: the middle one).
    Raises `MinitxlError` for a model with absolute positions (attn_type 2 and 3).
    """
    reading = Reading(model, tokens, tgt_len=tgt_len)
    mem_len = reading.longest_memory if mem_len is None else mem_len
    query = tgt_len // 2 if query is None else query
    for name, value, low, high in (
        ("layer", layer, 1, model.config.n_layer),
        ("head", head, 0, model.config.n_head),
        ("query", query, 0, tgt_len - 1),
        ("mem_len", mem_len, 0, reading.longest_memory),
    ):
        if not low <= value <= high:
            raise MinitxlError(f"{name}={value} must be {low} ... {high} for this passage")
    return TokenExplorer(reading, vocab, mem_len, layer, head, query)


def looking_far(
    reading: Reading, mem_len: int | None = None, *, layer: int | None = None, head=None
) -> dict:
    """A state that shows the memory at work: layer, head, query as `token_explorer` takes them.

    It is the token of the last segment that gives one key, two segments back or more, the most
    weight; one segment back where no more is in memory. `layer` and `head`: already chosen.
    """
    mem_len = reading.longest_memory if mem_len is None else mem_len
    best = (-1.0, layer or 1, head or 0, None)
    for n, p in enumerate(reading.attention(mem_len), start=1):
        cached = p.shape[2] - reading.tgt_len
        far = cached - reading.tgt_len if cached > reading.tgt_len else cached
        if far == 0 or layer not in (None, n):
            continue
        for h, weights in enumerate([p.mean(axis=0), *p]):  # (T, K); 0 is the mean
            if h == head or (head is None and h > 0):
                most = weights[:, :far].max(axis=1)  # (T, K) -> (T,)
                best = max(best, (float(most.max()), n, h, int(most.argmax())))
    return dict(zip(("layer", "head", "query"), best[1:], strict=True))


class TokenExplorer:
    """Shows itself in a notebook, as a picture where no kernel runs; `save` writes an HTML file.

    `data`: what the script is given, as JSON holds it.
    """

    def __init__(self, reading: Reading, vocab, mem_len, layer, head, query) -> None:
        self._reading = reading
        self._symbols = [vocab.decode([token]) for token in reading.tokens]
        self._start = (mem_len, layer, head, query)
        self._widget = None
        layers = layer_inputs(reading.model, reading, mem_len)
        start = {"layer": layer, "head": head, "query": reading.longest_memory + query}
        config = reading.model.config
        self.data = pack(layers, reading, self._symbols, config, mem_len, start)

    def widget(self):
        """The live explorer as an anywidget; the same one each time."""
        if self._widget is None:
            self._widget = _widget_class()(data=self.data)
        return self._widget

    def html(self, title: str = "What a Transformer-XL attends to") -> str:
        """The explorer as one HTML page: script, style and data inside, nothing loaded."""
        # "<" never stands in the data, so no text can end the script element
        data = json.dumps(self.data, ensure_ascii=False).replace("<", "\\u003c")
        page = _file("page.html")
        parts = {"TITLE": html.escape(title), "STYLE": _style(), "SCRIPT": _script()}
        for name, text in {**parts, "DATA": data}.items():  # data last: nothing in it is replaced
            page = page.replace(f"@@{name}@@", text)
        return page

    def save(self, path: str | Path, title: str = "What a Transformer-XL attends to") -> Path:
        """Write the page to `path` (.html) and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html(title).encode("utf-8", errors="replace"))
        return path

    def picture(self) -> Picture:
        """The state that the explorer starts with, drawn by `AttentionFigure`."""
        mem_len, layer, head, query = self._start
        probs = self._reading.attention(mem_len)[layer - 1]  # (H, T, K)
        figure = AttentionFigure(self._symbols, tgt_len=self._reading.tgt_len)
        name = spoken(self._symbols[self._reading.longest_memory + query])
        where = f"head {head}" if head else f"mean of {len(probs)} heads"
        title = f"What {name} attends to: layer {layer}, {where}, memory {mem_len}"
        figure.update(probs[head - 1] if head else probs.mean(axis=0), query, title)
        return figure.picture()

    def __repr__(self) -> str:
        return self.picture().caption

    def _repr_mimebundle_(self, include=None, exclude=None):
        picture = self.picture()
        data = {"text/plain": picture.caption}
        data["image/png"] = base64.b64encode(picture.png()).decode("ascii")
        try:
            data[VIEW] = {
                "version_major": 2,
                "version_minor": 1,
                "model_id": self.widget().model_id,
            }
        except MinitxlError as error:
            warnings.warn(f"only a picture: {error}", stacklevel=2)
        return data, {"image/png": {"width": round(picture.figure.get_figwidth() * DPI)}}


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _script() -> str:
    """One module out of four files, which are shorter to read."""
    names = ("numbers.js", "plot.js", "elements.js", "explorer.js")
    return "\n".join(_file(name) for name in names)


def _style() -> str:
    return colour_variables() + _file("explorer.css")


@cache
def _widget_class():
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MinitxlError(
            "the live token explorer needs anywidget, which is not installed; run: pip install "
            "anywidget"
        ) from error

    class TokenExplorerWidget(anywidget.AnyWidget):
        _esm = _script()
        _css = _style()
        data = traitlets.Dict().tag(sync=True)

    return TokenExplorerWidget
