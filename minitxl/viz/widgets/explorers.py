"""Widgets for a notebook: sliders on the left hand, a picture that is redrawn in place.

No matplotlib backend is switched and nothing is printed: a redraw writes PNG bytes into an image.
Where no kernel runs, on GitHub or on paper, the same output holds a static picture instead.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from PIL import Image

from minitxl.errors import MinitxlError
from minitxl.viz.attention import AttentionFigure
from minitxl.viz.reading import Reading
from minitxl.viz.theme import DPI, LiveFigure, spoken, stored
from minitxl.viz.widgets.spoken import spoken_class


def _ipywidgets():
    try:
        import ipywidgets
    except ImportError as error:
        raise MinitxlError(
            "widgets need ipywidgets, which is not installed; run: pip install ipywidgets"
        ) from error
    return ipywidgets


class Explorer:
    """Controls above a live figure; showing it in a notebook gives the widget or its picture.

    `controls`: name -> ipywidgets control. `draw(**values)` puts the figure into a state.
    `states`: values of the static picture, one above the other where there are several.
    """

    def __init__(
        self, figure: LiveFigure, controls: dict, draw: Callable, states: list[dict]
    ) -> None:
        widgets = _ipywidgets()
        self.figure, self.controls, self._draw, self.states = figure, controls, draw, states
        width = figure.figure.get_figwidth() * DPI
        self._draw(**self.values())
        self.image = widgets.Image(
            value=figure.png(),
            format="png",
            layout=widgets.Layout(
                width=f"{width:.0f}px", max_width="100%", height="auto", margin="0"
            ),
        )
        for control in controls.values():
            control.tooltip = control.description
            control.observe(lambda _: self.refresh(), names="value")
        row = widgets.HBox(
            list(controls.values()),
            layout=widgets.Layout(
                flex_flow="row wrap",
                width=f"{width:.0f}px",
                max_width="100%",
                margin="0",  # else 2 px, which max_width does not count
                overflow="hidden",
            ),
        )
        # the caption stands in the picture; this copy is for screen readers
        self.spoken = spoken_class()(
            value=figure.caption, layout=widgets.Layout(height="0", margin="0", overflow="hidden")
        )
        self.box = widgets.VBox([row, self.image, self.spoken])

    def values(self) -> dict:
        """Present value of every control."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> None:
        """Compute and draw the present state."""
        self._draw(**self.values())
        self.image.value = self.figure.png()
        self.spoken.value = self.figure.caption

    def static(self) -> tuple[bytes, str]:
        """PNG bytes and caption of the picture that stands for the widget without a kernel."""
        pictures, captions = [], []
        for state in self.states:
            self._draw(**{**self.values(), **state})
            pictures.append(self.figure.picture().image())
            captions.append(self.figure.caption)
        self._draw(**self.values())
        whole = Image.new("RGB", (pictures[0].width, sum(p.height for p in pictures)))
        top = 0
        for picture in pictures:
            whole.paste(picture, (0, top))
            top += picture.height
        # Several pictures in one: a palette makes a third of it, and looks the same.
        return stored(whole.quantize(256, dither=Image.Dither.NONE)), "\n".join(captions)

    def _repr_mimebundle_(self, include=None, exclude=None):
        png, caption = self.static()
        data = dict(self.box._repr_mimebundle_() or {})
        data["image/png"] = base64.b64encode(png).decode("ascii")
        data["text/plain"] = caption
        return data, {"image/png": {"width": round(self.figure.figure.get_figwidth() * DPI)}}


def _looks(widgets) -> dict:
    """Width of a control and of its label: two controls side by side, labels aligned.

    A control has 2 px of margin on each side. On a page too narrow for two they stand in a column.
    """
    return {
        "style": {"description_width": "140px"},
        "layout": widgets.Layout(
            width="calc(50% - 4px)",
            min_width="min(440px, 100% - 4px)",
            max_width="490px",
            margin="2px",
        ),
    }


def _slider(widgets, description: str, options: list, value):
    """A slider over a few named stops."""
    return widgets.SelectionSlider(
        options=options, value=value, description=description, **_looks(widgets)
    )


def _buttons(widgets, description: str, options: list, value, wide: str):
    """Buttons of which one is pressed, beside their label as sliders are."""
    looks = _looks(widgets)
    looks["style"]["button_width"] = wide
    looks["layout"].display = "flex"  # ipywidgets puts the label above
    return widgets.ToggleButtons(options=options, value=value, description=description, **looks)


def _nearest(options: list[int], value: int) -> int:
    return min(options, key=lambda option: abs(option - value))


def attention_explorer(
    model,
    vocab,
    tokens,
    *,
    tgt_len: int = 64,
    mem_len: int | None = None,
    layer: int = 1,
    head: int = 0,
    query: int | None = None,
) -> Explorer:
    """Widget: what a character attends to, over the cached segments and its own.

    `tokens` (S * tgt_len + 1,) are read as S segments; the last one is the current one. It starts
    with `mem_len` (None: all that was read), `layer` 1 ... n_layer, `head` 1 ... n_head or 0 for
    the mean of the heads, and the character at `query` 0 ... tgt_len - 1 (None: the middle one).
    """
    widgets = _ipywidgets()
    reading = Reading(model, tokens, tgt_len=tgt_len)
    symbols = [vocab.decode([token]) for token in reading.tokens]
    n_layer, n_head = model.config.n_layer, model.config.n_head
    for name, value, low, high in (
        ("layer", layer, 1, n_layer),
        ("head", head, 0, n_head),
        ("query", query or 0, 0, tgt_len - 1),
    ):
        if not low <= value <= high:
            raise MinitxlError(f"{name}={value} must be {low} ... {high} for this model")
    lengths = reading.mem_lens()
    start = _nearest(lengths, reading.longest_memory if mem_len is None else mem_len)
    heads = [("mean", 0), *((str(h), h) for h in range(1, n_head + 1))]
    controls = {
        "layer": _slider(widgets, "layer", [(str(n), n) for n in range(1, n_layer + 1)], layer),
        "head": _slider(widgets, "head", heads, head),
        "mem_len": _slider(widgets, "memory (characters)", [(str(m), m) for m in lengths], start),
        "query": widgets.IntSlider(
            min=0,
            max=tgt_len - 1,
            value=tgt_len // 2 if query is None else query,
            description="query (character)",
            **_looks(widgets),
        ),
    }
    figure = AttentionFigure(symbols, tgt_len=tgt_len)

    def draw(*, layer: int, head: int, mem_len: int, query: int) -> None:
        probs = reading.attention(mem_len)[layer - 1]  # (H, T, K)
        one = probs[head - 1] if head else probs.mean(axis=0)
        symbol = spoken(symbols[figure.cached + query])
        where = f"layer {layer}, {f'head {head}' if head else f'mean of {n_head} heads'}"
        figure.update(one, query, f"What {symbol} attends to: {where}, memory {mem_len}")

    return Explorer(figure, controls, draw, states=[{}])
