"""What a screen reader is told of a widget: its caption at every change, and its controls' names.

ipywidgets draws a label beside a slider but does not tie it to the slider's handle, and announces
the number of a choice instead of the choice. A small script in the page mends both.
"""

from __future__ import annotations

from functools import cache

from minitxl.viz.widgets.in_page import anywidget_and_traitlets

SCRIPT = """
function render({ model, el }) {
  const line = document.createElement("span");
  line.setAttribute("role", "status");  // announced when it changes
  el.append(line);
  function say() {
    line.textContent = model.get("value");
    const box = el.parentElement;  // the Explorer's, once it is in the page
    for (const slider of box?.querySelectorAll(".widget-slider") ?? []) {
      const handle = slider.querySelector("[role=slider]");
      handle?.setAttribute("aria-label", slider.querySelector(".widget-label").textContent);
      handle?.setAttribute("aria-valuetext", slider.querySelector(".widget-readout").textContent);
    }
    for (const group of box?.querySelectorAll(".widget-toggle-buttons") ?? []) {
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", group.querySelector(".widget-label").textContent);
      for (const button of group.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
      }
    }
  }
  model.on("change:value", say);
  const settled = () => (el.parentElement?.isConnected ? say() : requestAnimationFrame(settled));
  settled();
  return () => model.off("change:value", say);
}
export default { render };
"""


@cache
def spoken_class() -> type:
    """Class of the widget: `value` is the caption; give it the layout of something not seen."""
    anywidget, traitlets = anywidget_and_traitlets()

    class Spoken(anywidget.AnyWidget):
        _esm = SCRIPT
        value = traitlets.Unicode().tag(sync=True)

    return Spoken
