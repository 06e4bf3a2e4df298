"""Experiments: each module measures one question and gives results that JSON can hold.

A module has `Settings`, a frozen dataclass with `quick()` for a run of seconds (and a field `seeds`
where chance plays a part), `run(settings, parts, progress)` -> results, and `summary(results)` ->
text. `python -m minitxl experiment NAME` runs one; what it has done it keeps (`parts.py`), so that
an interrupted run goes on. Pictures are drawn from the stored results alone (`python -m
minitxl figures`).
"""
