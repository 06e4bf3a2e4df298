"""Why points were lost: read from the outputs of a graded notebook's cells."""

from __future__ import annotations

import re

from minitxl.course import Exercise
from minitxl.course.notebooks import check_id

NOT_RUN = "NotRun"  # also a notebook's metadata: why there is nothing to run
KERNEL_LOST, TIME_OUT, NOT_JUDGED = "KernelLost", "CellTimeoutError", "NotJudged"
OURS = (NOT_RUN, KERNEL_LOST, TIME_OUT, NOT_JUDGED)  # names of errors that are put into cells


def reason(exercise: Exercise, cells: dict) -> str:
    """Return in one line why an exercise has not all its points, from the outputs of its cells.

    cells: of the graded notebook, by nbgrader's id.
    """
    check = cells[check_id(exercise.id)]
    text = last_error(check) or _printed(check) or "no reason found: see the feedback page"
    # "AssertionError: ✗ wrong, 0 of 6 points | softmax_backward: the sum is missing [seed 1]"
    text = re.sub(rf"^.* \| ({exercise.name}: )?|\s+\[seed \d+\]$", "", text, flags=re.DOTALL)
    own = last_error(cells[exercise.id]) if exercise.id in cells else ""
    if own and own != text:
        text = f"its cell: {own}; its check: {text}"
    return " ".join(text.split())[:300]


def errors(cell) -> list:
    """Return the outputs of a cell that are errors."""
    return [o for o in cell.get("outputs", []) if o.output_type == "error"]


def last_error(cell) -> str:
    """Return a cell's last error, ours without its name."""
    found = errors(cell)
    if not found:
        return ""
    if found[-1].ename in OURS:
        return found[-1].evalue
    return f"{found[-1].ename}: {found[-1].evalue}".removesuffix(": ")


def _printed(cell) -> str:
    """Return the last line of text; stderr first: nbgrader gives nothing for a check with any."""
    texts = {o.name: o.text.strip() for o in cell.get("outputs", []) if o.output_type == "stream"}
    if texts.get("stderr"):
        return f"the check wrote to stderr: {texts['stderr'].splitlines()[-1]}"
    return texts["stdout"].splitlines()[-1] if texts.get("stdout") else ""
