"""Widgets for a notebook: sliders on the left hand, a picture that is redrawn in place.

No matplotlib backend is switched and nothing is printed: a redraw writes PNG bytes into an image.
Where no kernel runs, on GitHub or on paper, the same output holds a static picture instead.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from PIL import Image

from minitxl.errors import MinitxlError
from minitxl.viz.gradient import GradientFigure, colour_limits
from minitxl.viz.reading import LOSSES, Reading
from minitxl.viz.theme import DPI, LiveFigure, stored
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


def gradient_explorer(model, tokens, *, tgt_len: int = 64, mem_len: int | None = None) -> Explorer:
    """Widget: d loss / d hidden by layer and position, with the gradient stopped or not.

    `tokens` (S * tgt_len + 1,) are read as S segments with a memory of `mem_len` (None: one
    segment); the loss is taken on the last one. The static picture shows both settings.
    """
    widgets = _ipywidgets()
    reading = Reading(model, tokens, tgt_len=tgt_len)
    lengths = [m for m in reading.mem_lens() if m > 0]
    start = _nearest(lengths, tgt_len if mem_len is None else mem_len)
    controls = {
        "through": _buttons(
            widgets, "gradient", [("stopped", False), ("let through", True)], False, "130px"
        ),
        "mem_len": _slider(widgets, "memory (characters)", [(str(m), m) for m in lengths], start),
        "loss": _slider(widgets, "loss on", list(LOSSES), LOSSES[0]),
    }
    scales = {}

    def limits(loss: str) -> tuple[float, float]:
        # one scale per kind of loss, from the full gradient: stopping it then changes no colour
        if loss not in scales:
            scales[loss] = colour_limits(reading.gradient(start, through_memory=True, loss=loss))
        return scales[loss]

    figure = GradientFigure(
        n_layer=model.config.n_layer,
        tgt_len=tgt_len,
        n_segments=reading.n_segments,
        limits=limits(LOSSES[0]),
    )

    def draw(*, through: bool, mem_len: int, loss: str) -> None:
        norms = reading.gradient(mem_len, through_memory=through, loss=loss)
        figure.rescale(limits(loss))
        way = "let through the memory" if through else "stopped at the memory"
        figure.update(
            norms,
            f"Gradient of the loss on {loss}, {way}",
            mem_len=mem_len,
            loss_at=reading.loss_positions(loss),
        )

    return Explorer(figure, controls, draw, states=[{"through": False}, {"through": True}])
