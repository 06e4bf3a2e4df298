"""Grade a folder of submissions with nbgrader: release, autograding, feedback pages, grade table.

A course folder as nbgrader wants it is written, with its configuration; nbgrader then does the
work, and `nbgrader` commands or its formgrader can go on from there. What is added here: nothing
that is handed in ends the run (`submissions.py`, `execute.py`), and every point lost has a reason.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from minitxl.backend.threads import core_count
from minitxl.course import SEED_VARIABLE
from minitxl.course.grading.processes import processes
from minitxl.course.grading.reasons import (
    KERNEL_LOST,
    NOT_RUN,
    TIME_OUT,
    errors,
    last_error,
    reason,
)
from minitxl.course.grading.submissions import find, received, students
from minitxl.course.notebooks import (
    SOURCE,
    check_id,
    environment,
    exercises_of,
    known,
    notebook_from,
    write,
)
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically

ASSIGNMENT = "minitxl"
MOST_JOBS = 60  # Windows waits for no more
CONFIG_FILE = "nbgrader_config.py"
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
    "minitxl.course.grading.execute.RunSubmission",  # for nbgrader's Execute, of which it is made
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
    "ename": "{time_out}",
    "evalue": "it took over {timeout} s, and was interrupted",
    "traceback": ["{time_out}: it took over {timeout} s, and was interrupted"],
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
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """Grade what students handed in; return the points, and remarks (student, notebook, text).

    submissions: one folder for each student, with notebooks. out: a new folder, which becomes
    nbgrader's course folder, with feedback/ID/minitxl/*.html, grades.csv (nbgrader's table) and
    exercises.csv (each exercise, with the reason). names: only these notebooks; default all that
    have exercises. seed: of shapes and numbers in the checks; default random. jobs: students graded
    at once; default as many as there are cores and free memory for. Raises MinitxlError where
    nbgrader is missing, out exists, or nobody handed anything in.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise MinitxlError('grading needs nbgrader, which is missing: pip install -e ".[lecturer]"')
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
    jobs = _jobs(limits) if jobs is None else jobs
    if not 1 <= jobs <= MOST_JOBS:
        raise MinitxlError(f"jobs = {jobs} must be 1 ... {MOST_JOBS}")
    jobs = min(jobs, len(people))
    out = out.resolve()
    with _settings(seed):
        api = _course(out, names, source, limits)
        _try_kernel(api)
        with api.gradebook as gradebook:
            for student in people:  # in this order, whoever is graded first
                gradebook.add_student(student)
        remarks = []
        progress(f"students: {len(people)}, {jobs} at once; notebooks: {', '.join(names)}")
        with processes(jobs, _start_worker, out) as run:
            found = run(partial(_grade_student, names, source), people.items())
            for student, texts in zip(people, found, strict=True):
                progress(f"{student}: graded")
                remarks += [(student, name, text) for name, text in texts]
            for student, result in zip(people, run(_write_feedback, people), strict=True):
                _done(result, f"feedback for {student}")
        rows, lost = _rows(api, out, people, names, source)
        _export(api, out)
    file = io.StringIO(newline="")
    csv.writer(file).writerows([COLUMNS, *rows])
    write_atomically(out / "exercises.csv", file.getvalue().encode("utf-8"))
    return rows, remarks + lost


def _jobs(limits: Limits) -> int:
    """Return how many submissions the machine can run at once, were each to use what it may."""
    import psutil  # comes with Jupyter's kernel

    free = psutil.virtual_memory().available / 2**30
    return max(1, min(core_count(), int(free / limits.memory), MOST_JOBS))


def table(rows: list[Row], remarks: list[tuple[str, str, str]]) -> str:
    """Return the table that `course grade` prints: student, points, remarks."""
    people = list(dict.fromkeys(row.student for row in rows))
    width = max(len("student"), *map(len, people))
    lines = [f"{'student':{width}}  {'points':>9}  remarks"]
    for student in people:
        own = [row for row in rows if row.student == student]
        points = f"{sum(r.points for r in own):g} / {sum(r.of for r in own):g}"
        notes = [f"{name}: {text}" for who, name, text in remarks if who == student]
        for why in dict.fromkeys(row.remark for row in own if row.remark):
            notes.append(f"{', '.join(r.exercise for r in own if r.remark == why)}: {why}")
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
    try:
        with environment(changes), warnings.catch_warnings():
            _quiet()
            yield
    finally:
        log.setLevel(level)


def _quiet() -> None:
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # SQLAlchemy's, of nbgrader's code


def _course(out: Path, names: list[str], source: Path, limits: Limits):
    """Write the course folder, release the assignment, and return nbgrader's interface."""
    folder = out / "source" / ASSIGNMENT
    folder.mkdir(parents=True)
    for name in names:
        write(notebook_from(name, source, solved=True, listing=False), folder / f"{name}.ipynb")
    text = CONFIG.format(**vars(limits), time_out=TIME_OUT)
    write_atomically(out / CONFIG_FILE, text.encode("utf-8"))
    api = _interface(out)
    _done(api.generate_assignment(ASSIGNMENT), "the assignment")
    return api


def _try_kernel(api) -> None:
    """See that a kernel starts within the limits: else everyone would get nothing."""
    from minitxl.course.grading.execute import RunSubmission

    cell = nbformat.v4.new_code_cell("from minitxl import course")
    book = nbformat.v4.new_notebook(cells=[cell])
    try:
        RunSubmission(parent=api).preprocess(book, {})
        problem = last_error(cell)
    except RuntimeError as error:  # nbclient's, for one that does not start
        problem = str(error)
    if problem:
        raise MinitxlError(f"Python does not start within the limits; allow more memory: {problem}")


def _interface(out: Path):
    """Return nbgrader's interface to a course folder."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    return NbGraderAPI(config=PyFileConfigLoader(CONFIG_FILE, path=str(out)).load_config())


def _done(result: dict, what: str) -> None:
    if not result["success"]:
        raise MinitxlError(f"nbgrader could not make {what}: {_why(result)}")


def _why(result: dict) -> str:
    """Return the first error in nbgrader's log: it gives its traceback there."""
    text = f"{result.get('log', '')}\n{result.get('error', '')}"
    found = re.search(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Invalid)\b.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else "no reason given"


def _export(api, out: Path) -> None:
    from nbgrader.plugins import CsvExportPlugin

    plugin = CsvExportPlugin(parent=api)
    plugin.to = str(out / "grades.csv")
    with api.gradebook as gradebook:
        plugin.export(gradebook)


# --- in a process of its own ---------------------------------------------------------------------


class _Worker(NamedTuple):
    api: Any
    gradebook: Any  # the lock: nbgrader's steps write into one SQLite file


_worker: _Worker | None = None


def _start_worker(out: Path, lock) -> Callable:
    """Be ready to grade for the course folder `out`; return what ends the submissions that run."""
    global _worker
    from minitxl.course.grading.execute import RunSubmission, end_kernels

    @contextlib.contextmanager
    def aside():
        lock.release()
        try:
            yield
        finally:
            lock.acquire()

    _quiet()
    RunSubmission.aside = aside  # a submission runs while others use the gradebook
    _worker = _Worker(_interface(out), lock)
    return end_kernels


def _grade_student(names: list[str], source: Path, student: tuple[str, Path]):
    """Have a student's notebooks graded; return remarks (notebook, text)."""
    who, folder = student
    return [
        (name, text)
        for name in names
        for text in _grade_notebook(who, name, find(folder, name), source)
    ]


def _grade_notebook(student: str, name: str, path: Path | None, source: Path) -> list[str]:
    api = _worker.api
    released = notebook_from(name, source)
    book, remarks = received(path, released)
    target = Path(api.coursedir.root, "submitted", student, ASSIGNMENT, f"{name}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    api.coursedir.notebook_id = name
    try:
        if book is not None:
            write(book, target)
            with _worker.gradebook:
                result = api.autograde(ASSIGNMENT, student)
            if result["success"]:
                return remarks
            remarks.append(f"it could not be graded: {_why(result)}")
        released.metadata[NOT_RUN] = remarks[-1]
        write(released, target)
        with _worker.gradebook:
            _done(api.autograde(ASSIGNMENT, student), f"the grades of {student}, {name}")
    finally:
        api.coursedir.notebook_id = "*"
    return [] if book is None else remarks  # else the reason is at every exercise


def _write_feedback(student: str) -> dict:
    """Write a student's feedback pages. It only reads the gradebook: all may do it at once."""
    return _worker.api.generate_feedback(ASSIGNMENT, student)


# --- results -------------------------------------------------------------------------------------


def _rows(api, out: Path, people: Iterable[str], names: list[str], source: Path):
    """Return the rows of all students, and remarks on cells that ended the kernel."""
    rows, remarks = [], []
    with api.gradebook as gradebook:
        for student in people:
            for name in names:
                path = out / "autograded" / student / ASSIGNMENT / f"{name}.ipynb"
                cells = nbformat.read(path, as_version=4).cells
                for number, cell in enumerate(cells, 1):
                    if any(e.ename == KERNEL_LOST for e in errors(cell)):
                        text = f"cell {number} was left out: {last_error(cell)}"
                        remarks.append((student, name, text))
                marked = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in cells}
                for exercise in exercises_of(name, source):
                    got = gradebook.find_grade(check_id(exercise.id), name, ASSIGNMENT, student)
                    why = "" if got.score == got.max_score else reason(exercise, marked)
                    rows.append(Row(student, name, exercise.id, got.score, got.max_score, why))
    return rows, remarks
