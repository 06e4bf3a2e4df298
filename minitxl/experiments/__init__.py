"""Experiments: each module measures one question and gives results that JSON can hold.

A module has `Settings`, with `quick()` for a run of seconds, `run(settings)` -> results, and
`summary(results)` -> text. `python -m minitxl experiment NAME` runs one; pictures are drawn from
the stored results (`minitxl.viz.make_figures`), so that they can be made anew without measuring.
"""
