"""Experiments: each module measures one question and gives results that JSON can hold.

A module has `Settings`, a frozen dataclass with `quick()` for a run of seconds (and a field `seeds`
where chance plays a part), `run(settings, parts, progress)` -> results, and `summary(results)` ->
text. `python -m minitxl experiment NAME` runs one; what it has done it keeps (`parts.py`), so that
an interrupted run goes on, and what it gives to `Parts.fill` is done side by side. Pictures are
drawn from the results alone, each by `draw_NAME` of `NAME_figure.py`. `stored` has the results that
ship, `draw` their pictures; `python -m minitxl figures` writes these.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from minitxl.errors import MinitxlError
from minitxl.storage.checkpoint import read_json

if TYPE_CHECKING:
    from minitxl.viz.theme import Picture
    from minitxl.viz.widgets.album import Album

RESULTS = Path(__file__).parent / "results"
DRAWN = (  # experiments that have a picture
    "ablation",
    "attention_spans",
    "coherence",
    "context",
    "evaluation_speed",
    "longer_memory",
    "memory_budget",
    "memory_ladder",
    "memory_text",
    "reach",
    "reading_cost",
    "recl",
    "stop_gradient",
)


def stored(name: str) -> dict:
    """Return the results of an experiment that ship with minitxl, as `run` has returned them.

    name: of its module, for instance "ablation".
    """
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    if name not in names:
        raise MinitxlError(f"no results {name!r} are stored; there are {', '.join(names)}")
    return read_json(RESULTS / f"{name}.json")


def draw(name: str, results: dict | None = None, *, part: str | None = None, **options) -> Picture:
    """Draw the results of an experiment, by default those that ship with minitxl.

    name: of its module, for instance "ablation"; results: what its `run` has returned; part: a
    smaller picture, of one of its findings (`PARTS` of the picture's module); options: of the
    part's own function.
    """
    if name not in DRAWN:
        raise MinitxlError(f"experiment {name!r} has no picture; there are {', '.join(DRAWN)}")
    module = import_module(f"minitxl.experiments.{name}_figure")
    parts = {None: getattr(module, f"draw_{name}")} | getattr(module, "PARTS", {})
    if part not in parts:
        known = ", ".join(repr(x) for x in parts)
        raise MinitxlError(f"the picture of {name!r} has no part {part!r}; there are {known}")
    return parts[part](stored(name) if results is None else results, **options)


def recl_explorer(results: dict | None = None) -> Album:
    """The results of `recl` to play with: RECL by another share, step, least gain; the control."""
    return import_module("minitxl.experiments.recl_explorer").recl_explorer(results)
