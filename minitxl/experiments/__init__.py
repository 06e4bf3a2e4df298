"""Experiments: each module measures one question and gives results that JSON can hold.

A module has `Settings`, a frozen dataclass with `quick()` for a run of seconds (and a field `seeds`
where chance plays a part), `run(settings, parts, progress)` -> results, and `summary(results)` ->
text. `python -m minitxl experiment NAME` runs one; what it has done it keeps (`parts.py`), so that
an interrupted run goes on. Pictures are drawn from the stored results alone (`python -m
minitxl figures`); `stored` has those that ship.
"""

from __future__ import annotations

from pathlib import Path

from minitxl.errors import MinitxlError
from minitxl.storage.checkpoint import read_json

RESULTS = Path(__file__).parent / "results"


def stored(name: str) -> dict:
    """Return the results of an experiment that ship with minitxl, as `run` has returned them.

    name: of its module, for instance "ablation".
    """
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    if name not in names:
        raise MinitxlError(f"no results {name!r} are stored; there are {', '.join(names)}")
    return read_json(RESULTS / f"{name}.json")
