"""Controls above a picture that the page itself draws; what the course's widgets are made of.

At a key the kernel computes a `Scene`, some kilobytes of shapes, and a script in the page draws it.
Where no kernel runs, on GitHub or on paper, the same output holds a static picture instead.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache

from minitxl.errors import MinitxlError
from minitxl.viz.theme import shown_as
from minitxl.viz.widgets.in_page import STYLE, anywidget_and_traitlets, module, stacked
from minitxl.viz.widgets.scene import Scene
from minitxl.viz.widgets.spoken import spoken_class


class Explorer:
    """Controls above a drawing; showing it in a notebook gives the widget or its picture.

    `controls`: name -> ipywidgets control. `draw(**values)`: the scene of a state. `states`: values
    of the static picture, one above the other where there are several.
    """

    def __init__(self, controls: dict, draw: Callable[..., Scene], states: list[dict]) -> None:
        widgets = ipywidgets()
        self.controls, self._draw, self.states = controls, draw, states
        self.scene = self._draw(**self.values())
        for control in controls.values():
            control.tooltip = control.description
            control.observe(lambda _: self.refresh(), names="value")
        wide = dict(width=f"{self.scene.width}px", max_width="100%", margin="0")
        flow = widgets.Layout(flex_flow="row wrap", overflow="hidden", **wide)
        self.drawing = drawing_class()(scene=self.scene.data(), layout=widgets.Layout(**wide))
        # the caption stands in the picture; this copy is announced when it changes
        unseen = widgets.Layout(height="0", margin="0", overflow="hidden")
        self.spoken = spoken_class()(value=self.scene.caption, layout=unseen)
        row = widgets.HBox(list(controls.values()), layout=flow)
        self.box = widgets.VBox([row, self.drawing, self.spoken])

    def values(self) -> dict:
        """Present value of every control."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> None:
        """Compute the present state; the page draws it."""
        self.scene = self._draw(**self.values())
        self.drawing.scene = self.scene.data()
        self.spoken.value = self.scene.caption

    def static(self) -> tuple[bytes, str]:
        """PNG bytes and caption of the picture that stands for the widget without a kernel."""
        scenes = [self._draw(**{**self.values(), **state}) for state in self.states]
        return stacked(scenes), "\n".join(scene.caption for scene in scenes)

    def __repr__(self) -> str:
        return self.scene.caption

    def _repr_mimebundle_(self, include=None, exclude=None):
        png, caption = self.static()
        data = dict(self.box._repr_mimebundle_() or {})
        data["image/png"] = base64.b64encode(png).decode("ascii")
        data["text/plain"] = caption
        return data, shown_as(self.scene.width, caption, self.drawing)


@cache
def drawing_class() -> type:
    """Class of the anywidget that draws `scene`."""
    anywidget, traitlets = anywidget_and_traitlets()

    class Drawing(anywidget.AnyWidget):
        _esm = module("drawing.js")
        _css = STYLE
        scene = traitlets.Dict().tag(sync=True)

    return Drawing


# --- controls -----------------------------------------------------------------------------------


def ipywidgets():
    """The package, or `MinitxlError` where it is not installed."""
    try:
        import ipywidgets
    except ImportError as error:
        raise MinitxlError(
            "widgets need ipywidgets, which is not installed; run: pip install ipywidgets"
        ) from error
    return ipywidgets


def looks() -> dict:
    """Width of a control and of its label: two controls side by side, labels aligned.

    A control has 2 px of margin on each side. On a page too narrow for two they stand in a column.
    """
    wide = dict(width="calc(50% - 4px)", min_width="min(440px, 100% - 4px)", max_width="490px")
    layout = ipywidgets().Layout(**wide, margin="2px")
    return {"style": {"description_width": "140px"}, "layout": layout}


def slider(description: str, options: list, value):
    """A slider over a few named stops."""
    make = ipywidgets().SelectionSlider
    return make(options=options, value=value, description=description, **looks())


def numbers(description: str, name: str, value: int, low: int, high: int):
    """A slider over whole numbers; `MinitxlError` where the argument `name` is none of them."""
    if not low <= value <= high:
        raise MinitxlError(f"{name}={value} must be {low} ... {high}, its slider's ends")
    make = ipywidgets().IntSlider
    return make(min=low, max=high, value=value, description=description, **looks())


def buttons(description: str, options: list, value, wide: str):
    """Buttons of which one is pressed, beside their label as sliders are."""
    style = looks()
    style["style"]["button_width"] = wide
    style["layout"].display = "flex"  # ipywidgets puts the label above
    make = ipywidgets().ToggleButtons
    return make(options=options, value=value, description=description, **style)
