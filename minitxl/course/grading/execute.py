"""The judge as a step of nbgrader: in place of running the notebook, its exercises are judged.

nbgrader reads points off the outputs of a check's cell (an error: none; a number: so many; else
all), so these are what is written here, with the line that the student is to read.
Needs nbgrader; `course_folder.py` puts this step into the configuration, so that `nbgrader
autograde` in a graded folder judges in the same way.
"""

from __future__ import annotations

import contextlib

from nbformat import NotebookNode, v4
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Float, Integer, List, Unicode

from minitxl.course.grading import sandbox
from minitxl.course.grading.feedback import SAME
from minitxl.course.grading.judge import Judged, Limits, judge
from minitxl.course.notebooks import check_id
from minitxl.course.variants import COMMON, word_of

NOT_RUN = "minitxl_not_run"  # a notebook's metadata: why there is nothing to judge


class JudgeSubmission(NbGraderPreprocessor):
    """Judges a notebook's exercises, and writes what came of it into the cells' outputs."""

    sandbox = Unicode("auto", help="of submissions: auto, bwrap, docker, none").tag(config=True)
    seed = Integer(0, help="of shapes and numbers").tag(config=True)
    timeout = Integer(60, help="seconds for an exercise").tag(config=True)
    total = Integer(900, help="seconds for a notebook").tag(config=True)
    memory = Float(4.0, help="GiB for a submission's process").tag(config=True)
    by_student = Bool(False, help="whether each student has a variant").tag(config=True)
    closed = List(Unicode(), help="paths that submissions have no business in").tag(config=True)

    aside = contextlib.nullcontext  # in which to judge, away from nbgrader's own work
    results: dict[str, list[Judged]] = {}  # noqa: RUF012  by notebook: what came of it last

    def preprocess(self, nb, resources):
        """Judge a notebook; its outputs are then in the cells."""
        if reason := nb.metadata.pop(NOT_RUN, None):
            for cell in nb.cells:
                if cell.metadata.get("nbgrader", {}).get("grade") and cell.cell_type == "code":
                    cell.outputs = [_error(reason)]
            return nb, resources
        kind = sandbox.choose(self.sandbox)[0] if self.sandbox == "auto" else self.sandbox
        limits = Limits(self.timeout, self.total, self.memory)
        whose = resources["nbgrader"]
        options = {"kind": kind, "seed": self.seed, "limits": limits, "closed": self.closed}
        options["variant"] = word_of(whose["student"]) if self.by_student else COMMON
        with JudgeSubmission.aside():
            found = judge(nb, **options)
        write_outputs(nb, found)
        JudgeSubmission.results[whose["notebook"]] = found
        return nb, resources


class OwnWork(NbGraderPreprocessor):
    """Leaves out of a page for a student what is as it was handed out, and has no error."""

    def preprocess(self, nb, resources):
        """Drop the cells that are the same."""
        nb.cells = [c for c in nb.cells if not c.metadata.get(SAME) or c.get("outputs")]
        return nb, resources


def write_outputs(book: NotebookNode, found: list[Judged]) -> None:
    """Put verdicts, prints and errors where the student will look for them."""
    cells = {c.metadata.get("nbgrader", {}).get("grade_id"): c for c in book.cells}
    for judged in found:
        for number, text in judged.errors:
            if 1 <= number <= len(book.cells) and book.cells[number - 1].cell_type == "code":
                cell = book.cells[number - 1]
                if not any(o.output_type == "error" for o in cell.outputs):
                    cell.outputs.append(_error(text))
        own = cells.get(judged.exercise.id)
        if judged.printed and own is not None:
            own.outputs.insert(0, v4.new_output("stream", name="stdout", text=judged.printed))
        check = cells[check_id(judged.exercise.id)]
        if judged.points == 0:
            check.outputs = [_error(judged.line)]
            continue
        check.outputs = [v4.new_output("stream", name="stdout", text=judged.line + "\n")]
        if not judged.verdict.passed:
            data = {"text/plain": f"{judged.points:g}"}
            check.outputs.append(v4.new_output("execute_result", data=data, execution_count=1))


def _error(text: str) -> NotebookNode:
    return v4.new_output("error", ename="minitxl", evalue=text, traceback=[text])
