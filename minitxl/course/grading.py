"""Grade a folder of submissions with nbgrader: release, autograding, feedback pages, grade table.

A course folder as nbgrader wants it is written, with its configuration; nbgrader then does the
work, and `nbgrader` commands or its formgrader can go on from there. What is added here: nothing
that is handed in ends the run (`submissions.py`, `execute.py`), and every point lost has a reason.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nbformat

from minitxl.course import SEED_VARIABLE, Exercise
from minitxl.course.notebooks import (
    SOURCE,
    check_id,
    environment,
    exercises_of,
    known,
    notebook_from,
    write,
)
from minitxl.course.submissions import find, received, students
from minitxl.errors import MinitxlError

ASSIGNMENT = "minitxl"
KERNEL_LOST, TIME_OUT = "KernelLost", "CellTimeoutError"
NOT_RUN = "NotRun"  # also a notebook's metadata: why there is nothing to run
OURS = (KERNEL_LOST, TIME_OUT, NOT_RUN, "NotJudged")  # names of errors that execute.py puts there
COLUMNS = ("student", "notebook", "exercise", "points", "of", "remark")

CONFIG = """\
# nbgrader's configuration for the minitxl course; see `nbgrader autograde --help-all`.
from pathlib import Path

c = get_config()
c.CourseDirectory.course_id = "minitxl"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.ClearSolutions.code_stub = {{"python": "raise NotImplementedError"}}  # that of the exercises

# A submission runs in a process of its own. A cell is interrupted after `timeout` seconds; one that
# cannot be, or that ends the process, is left out and the notebook runs again without it.
c.Autograde.autograde_preprocessors = [
    "minitxl.course.execute.RunSubmission",  # in place of nbgrader's Execute, from which it is made
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.ClearMetadataPreprocessor.enabled = True
c.ClearMetadataPreprocessor.preserve_cell_metadata_mask = ["nbgrader", "deletable", "editable"]
c.RunSubmission.timeout = {timeout}  # seconds for a cell
c.RunSubmission.total = {total}  # seconds for a notebook
c.RunSubmission.memory = {memory}  # GiB for the process
c.RunSubmission.interrupt_on_timeout = True
c.RunSubmission.error_on_timeout = {{
    "ename": "CellTimeoutError",
    "evalue": "it took over {timeout} s, and was interrupted",
    "traceback": ["CellTimeoutError: it took over {timeout} s, and was interrupted"],
}}
c.RunSubmission.iopub_timeout = 10  # seconds until an interrupted cell counts as lost
c.RunSubmission.shutdown_kernel = "immediate"
c.RunSubmission.store_widget_state = False  # no browser will show it
c.OverwriteCells.add_missing_cells = True
"""


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    timeout: int = 60  # seconds for a cell
    total: int = 900  # seconds for a notebook
    memory: float = 4.0  # GiB for its process

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise MinitxlError(f"the limit {name} = {value} must be more than 0")


class Row(NamedTuple):
    """Points of a student for one exercise, and why they are not all."""

    student: str
    notebook: str
    exercise: str
    points: float
    of: float
    remark: str


def grade(
    submissions: Path,
    out: Path,
    *,
    names: Iterable[str] = (),
    source: Path = SOURCE,
    limits: Limits = Limits(),
    seed: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """Grade what students handed in; return the points, and remarks (student, notebook, text).

    submissions: one folder for each student, with notebooks. out: a new folder, which becomes
    nbgrader's course folder, with feedback/ID/minitxl/*.html, grades.csv (nbgrader's table) and
    exercises.csv (each exercise, with the reason). names: only these notebooks; default all that
    have exercises. seed: of shapes and numbers in the checks; default random. Raises MinitxlError
    where nbgrader is missing, out exists, or nobody handed anything in.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise MinitxlError("grading needs nbgrader, which is missing: pip install -e .[lecturer]")
    names = list(names) or [name for name in known(source) if exercises_of(name, source)]
    for name in names:
        if not exercises_of(name, source):
            raise MinitxlError(f"notebook {name} has no exercises: there is nothing to grade")
    people = students(submissions)
    if out.exists() and any(out.iterdir()):
        raise MinitxlError(f"{out} is not empty: give a new folder, to keep what was graded before")
    seed = secrets.randbits(32) if seed is None else seed
    if seed < 0:
        raise MinitxlError(f"seed = {seed} must be 0 or more")
    out = out.resolve()
    with _settings(seed):
        api = _course(out, names, source, limits)
        _try_kernel(api)
        remarks = []
        for student, folder in people.items():
            for name in names:
                progress(f"{student}: {name}")
                found = _grade_notebook(api, out, student, name, find(folder, name), source)
                remarks += [(student, name, text) for text in found]
            _done(api.generate_feedback(ASSIGNMENT, student), f"feedback for {student}")
        rows, lost = _rows(api, out, people, names, source)
        _export(api, out)
    with open(out / "exercises.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return rows, remarks + lost


def table(rows: list[Row], remarks: list[tuple[str, str, str]]) -> str:
    """Return the table that `course grade` prints: student, points, remarks."""
    people = list(dict.fromkeys(row.student for row in rows))
    width = max(len("student"), *map(len, people))
    lines = [f"{'student':{width}}  {'points':>9}  remarks"]
    for student in people:
        own = [row for row in rows if row.student == student]
        points = f"{sum(r.points for r in own):g} / {sum(r.of for r in own):g}"
        notes = [f"{name}: {text}" for who, name, text in remarks if who == student]
        notes += [f"{r.exercise}: {r.remark}" for r in own if r.remark]
        for n, note in enumerate(notes or [""]):
            first = (student, points) if n == 0 else ("", "")
            lines.append(f"{first[0]:{width}}  {first[1]:>9}  {note}".rstrip())
    return "\n".join(lines)


# --- nbgrader ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _settings(seed: int):
    """Give the checks their seed, nbgrader its helper program, and keep its log to itself."""
    changes = {
        SEED_VARIABLE: str(seed),
        # nbgrader calls alembic, which is installed beside this Python.
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath),
    }
    log = logging.getLogger("traitlets")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with environment(changes), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, of nbgrader's code
            yield
    finally:
        log.setLevel(level)


def _course(out: Path, names: list[str], source: Path, limits: Limits):
    """Write the course folder, release the assignment, and return nbgrader's interface."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    folder = out / "source" / ASSIGNMENT
    folder.mkdir(parents=True)
    for name in names:
        write(notebook_from(name, source, solved=True, listing=False), folder / f"{name}.ipynb")
    config = out / "nbgrader_config.py"
    config.write_text(CONFIG.format(**vars(limits)), encoding="utf-8")
    api = NbGraderAPI(config=PyFileConfigLoader(config.name, path=str(out)).load_config())
    _done(api.generate_assignment(ASSIGNMENT), "the assignment")
    return api


def _try_kernel(api) -> None:
    """See that a kernel starts within the limits: else everyone would get nothing."""
    from minitxl.course.execute import RunSubmission

    cell = nbformat.v4.new_code_cell("from minitxl import course")
    book = nbformat.v4.new_notebook(cells=[cell])
    try:
        RunSubmission(parent=api).preprocess(book, {})
        problem = _error(cell)
    except RuntimeError as error:  # nbclient's, for one that does not start
        problem = str(error)
    if problem:
        raise MinitxlError(f"Python does not start within the limits; allow more memory: {problem}")


def _done(result: dict, what: str) -> None:
    if not result["success"]:
        raise MinitxlError(f"nbgrader could not make {what}: {_why(result)}")


def _why(result: dict) -> str:
    """Return the first error in nbgrader's log: it gives its traceback there."""
    text = f"{result.get('log', '')}\n{result.get('error', '')}"
    found = re.search(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Invalid)\b.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else "no reason given"


def _grade_notebook(api, out: Path, student: str, name: str, path: Path | None, source: Path):
    """Have one notebook of a student graded; return remarks."""
    released = notebook_from(name, source)
    book, remarks = received(path, released)
    target = out / "submitted" / student / ASSIGNMENT / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    api.coursedir.notebook_id = name
    try:
        if book is not None:
            write(book, target)
            result = api.autograde(ASSIGNMENT, student)
            if result["success"]:
                return remarks
            remarks.append(f"it could not be graded: {_why(result)}")
        released.metadata[NOT_RUN] = remarks[-1]
        write(released, target)
        _done(api.autograde(ASSIGNMENT, student), f"the grades of {student}, {name}")
    finally:
        api.coursedir.notebook_id = "*"
    return [] if book is None else remarks  # else the reason is at every exercise


def _export(api, out: Path) -> None:
    from nbgrader.plugins import CsvExportPlugin

    plugin = CsvExportPlugin(parent=api)
    plugin.to = str(out / "grades.csv")
    with api.gradebook as gradebook:
        plugin.export(gradebook)


# --- reasons -------------------------------------------------------------------------------------


def _rows(api, out: Path, people: Iterable[str], names: list[str], source: Path):
    """Return the rows of all students, and remarks on cells that ended the kernel."""
    rows, remarks = [], []
    with api.gradebook as gradebook:
        for student in people:
            for name in names:
                path = out / "autograded" / student / ASSIGNMENT / f"{name}.ipynb"
                cells = nbformat.read(path, as_version=4).cells
                for number, cell in enumerate(cells, 1):
                    if any(e.ename == KERNEL_LOST for e in _errors(cell)):
                        text = f"cell {number} was left out: {_error(cell)}"
                        remarks.append((student, name, text))
                marked = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in cells}
                for exercise in exercises_of(name, source):
                    got = gradebook.find_grade(check_id(exercise.id), name, ASSIGNMENT, student)
                    why = "" if got.score == got.max_score else reason(exercise, marked)
                    rows.append(Row(student, name, exercise.id, got.score, got.max_score, why))
    return rows, remarks


def reason(exercise: Exercise, cells: dict) -> str:
    """Return in one line why an exercise has not all its points, from the outputs of its cells.

    cells: of the graded notebook, by nbgrader's id.
    """
    check = cells[check_id(exercise.id)]
    text = _error(check) or _printed(check) or "no reason found: see the feedback page"
    # "AssertionError: ✗ wrong, 0 of 6 points | softmax_backward: the sum is missing [seed 1]"
    text = re.sub(rf"^.* \| ({exercise.name}: )?|\s+\[seed \d+\]$", "", text, flags=re.DOTALL)
    own = _error(cells[exercise.id]) if exercise.id in cells else ""
    if own and own != text:
        text = f"its cell: {own}; its check: {text}"
    return " ".join(text.split())[:300]


def _errors(cell) -> list:
    return [o for o in cell.get("outputs", []) if o.output_type == "error"]


def _error(cell) -> str:
    """Return a cell's last error, ours without its name."""
    errors = _errors(cell)
    if not errors:
        return ""
    if errors[-1].ename in OURS:
        return errors[-1].evalue
    return f"{errors[-1].ename}: {errors[-1].evalue}".removesuffix(": ")


def _printed(cell) -> str:
    """Return the last line of text; stderr first: nbgrader gives nothing for a check with any."""
    texts = {o.name: o.text.strip() for o in cell.get("outputs", []) if o.output_type == "stream"}
    if texts.get("stderr"):
        return f"the check wrote to stderr: {texts['stderr'].splitlines()[-1]}"
    return texts["stdout"].splitlines()[-1] if texts.get("stdout") else ""
