"""nbgrader's course folder: its configuration, the release, the gradebook, pages for students.

What nbgrader does is left to it; `nbgrader` commands and its formgrader can go on from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from pathlib import Path

from minitxl.course.notebooks import environment, notebook_from, write
from minitxl.course.questions import BLANK, PREFIX
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically

ASSIGNMENT = "minitxl"
CONFIG_FILE = "nbgrader_config.py"
CONFIG = """\
# nbgrader's configuration for the minitxl course; see `nbgrader autograde --help-all`.
from pathlib import Path

c = get_config()
c.CourseDirectory.course_id = "minitxl"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.ClearSolutions.code_stub = {{"python": "raise NotImplementedError"}}  # that of the exercises
c.ClearSolutions.text_stub = "{blank}"  # that of the questions

# No notebook is run: the exercises are judged, in a process apart from the submission's.
c.Autograde.autograde_preprocessors = [
    "minitxl.course.grading.execute.JudgeSubmission",  # for nbgrader's Execute
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.ClearMetadataPreprocessor.enabled = True
c.ClearMetadataPreprocessor.preserve_cell_metadata_mask = [
    "nbgrader", "deletable", "editable", "minitxl_same"
]
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades",
    "minitxl.course.grading.execute.OwnWork",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
c.JudgeSubmission.sandbox = "{kind}"
c.JudgeSubmission.seed = {seed}  # of shapes and numbers
c.JudgeSubmission.timeout = {limits.timeout}  # seconds for an exercise
c.JudgeSubmission.total = {limits.total}  # seconds for a notebook
c.JudgeSubmission.memory = {limits.memory}  # GiB for the process
c.JudgeSubmission.by_student = {by_student}  # its own variant for each
c.JudgeSubmission.closed = {closed!r}
c.AssignLatePenalties.plugin_class = "minitxl.course.grading.late_plugin.LatePenalty"
c.LatePenalty.rule = "{late}"
c.HTMLExporter.sanitize_html = True  # what a student writes is no page's script
c.OverwriteCells.add_missing_cells = True
"""


@contextlib.contextmanager
def quiet():
    """Give nbgrader its helper program, and keep its log to itself."""
    # nbgrader calls alembic, which is installed beside this Python.
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    log = logging.getLogger("traitlets")
    level = log.level
    try:
        with environment({"PATH": path}), warnings.catch_warnings():
            be_quiet()
            yield
    finally:
        log.setLevel(level)


def be_quiet() -> None:
    """Hear no warning but one that ends the grading."""
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # SQLAlchemy's, of nbgrader's code


def make(out: Path, names: list[str], source: Path, settings: dict):
    """Write a course folder, release the assignment, and return nbgrader's interface.

    settings: what CONFIG has to fill in.
    """
    folder = out / "source" / ASSIGNMENT
    folder.mkdir(parents=True)
    for name in names:
        book = notebook_from(
            name, source, solved=True, listing=False, questions=settings["questions"]
        )
        write(book, folder / f"{name}.ipynb")
    configure(out, settings)
    api = interface(out)
    done(api.generate_assignment(ASSIGNMENT), "the assignment")
    return api


def configure(out: Path, settings: dict) -> None:
    """Write nbgrader's configuration."""
    write_atomically(out / CONFIG_FILE, CONFIG.format(blank=BLANK, **settings).encode("utf-8"))


def interface(out: Path):
    """Return nbgrader's interface to a course folder."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    return NbGraderAPI(config=PyFileConfigLoader(CONFIG_FILE, path=str(out)).load_config())


def done(result: dict, what: str) -> None:
    """Raise MinitxlError where a step of nbgrader failed."""
    if not result["success"]:
        raise MinitxlError(f"nbgrader could not make {what}: {why(result)}")


def why(result: dict) -> str:
    """Return the first error in nbgrader's log: it gives its traceback there."""
    text = f"{result.get('log', '')}\n{result.get('error', '')}"
    found = re.search(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Invalid)\b.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else "no reason given"


def asked_by_hand(api, student: str) -> tuple[float, float, int]:
    """Return what a student's answers to questions got, of how many points, and how many wait."""
    points = of = 0.0
    waiting = 0
    with api.gradebook as gradebook:
        for notebook in gradebook.find_submission(ASSIGNMENT, student).notebooks:
            for grade in notebook.grades:
                if grade.name.startswith(PREFIX):
                    of += grade.max_score
                    points += grade.score
                    waiting += bool(grade.needs_manual_grade and grade.manual_score is None)
    return points, of, waiting


def export(api, out: Path) -> None:
    """Write nbgrader's own table of grades."""
    from nbgrader.plugins import CsvExportPlugin

    plugin = CsvExportPlugin(parent=api)
    plugin.to = str(out / "grades.csv")
    with api.gradebook as gradebook:
        plugin.export(gradebook)
