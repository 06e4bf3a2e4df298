"""What students hand in, put in order before it is graded: whatever it is, it can then be run.

A submission is taken cell by cell. Sources count, nothing else: outputs, tags and other metadata
are dropped, the checks are those that were handed out, and a lost one is put back.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from minitxl.course import EXERCISES, Exercise
from minitxl.course.notebooks import check_id, check_sources
from minitxl.errors import MinitxlError

LARGEST = 50_000_000  # bytes of a notebook file
SAFE = re.compile(r"[^\w.@-]+")  # what a student's id must not have: nbgrader writes it into CSV


def students(folder: Path) -> dict[str, Path]:
    """Return id and folder of each student: the folders in a folder, in order of their names."""
    if not folder.is_dir():
        raise MinitxlError(f"{folder} is no folder; give one that holds a folder for each student")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        name = SAFE.sub("_", path.name).strip("_.") or "student"
        if name in found:
            raise MinitxlError(f"{found[name].name!r} and {path.name!r} look alike: rename one")
        found[name] = path
    if not found:
        raise MinitxlError(f"{folder} holds no folders; it must hold one for each student")
    return found


def find(folder: Path, name: str) -> Path | None:
    """Return a student's notebook, be it in a folder below or with something added to its name."""
    files = sorted(
        path
        for path in folder.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts and not path.is_symlink() and path.is_file()
    )
    exact = [path for path in files if path.stem == name]
    return next(iter(exact or [path for path in files if name in path.stem]), None)


def received(path: Path | None, released: NotebookNode) -> tuple[NotebookNode | None, list[str]]:
    """Return a submission in order, and remarks; None for the notebook if there is none to run.

    released: the notebook as it was handed out, with nbgrader's metadata.
    """
    if path is None:
        return None, ["no notebook was handed in"]
    try:
        book = _read(path)
    except MinitxlError as error:
        return None, [str(error)]
    remarks: list[str] = []
    ours = {_grade_id(cell): cell for cell in released.cells if _grade_id(cell)}
    marks = _marks(book, ours)
    out = copy.deepcopy(released)
    out.cells = []
    for number, cell in enumerate(book.cells):
        original = ours.get(marks.get(number))
        kind = original.cell_type if original else cell["cell_type"]
        source = cell["source"]
        if original and original.metadata.nbgrader.locked:
            if source.strip() not in check_sources(_exercise(_grade_id(original))):
                remarks.append(f"{_grade_id(original)}: the check was edited; the original counts")
            source = original.source
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        out.cells.append(new(source, id=f"submitted-{number}"))
        if original:
            out.cells[-1].metadata = copy.deepcopy(original.metadata)
    for grade_id, original in ours.items():
        if original.metadata.nbgrader.grade and grade_id not in marks.values():
            remarks.append(f"{grade_id}: the check was deleted; it is put back at the end")
            out.cells.append(copy.deepcopy(original))
    return out, remarks


def _read(path: Path) -> NotebookNode:
    """Read a notebook of whatever version; MinitxlError says why not."""
    size = path.stat().st_size
    if size == 0:
        raise MinitxlError(f"{path.name} is an empty file")
    if size > LARGEST:
        raise MinitxlError(f"{path.name} has {size / 1e6:.0f} MB, at most {LARGEST / 1e6:.0f}")
    try:
        book = nbformat.read(path, as_version=4)
        cells = [
            NotebookNode(
                id=str(cell.get("id", "")),
                cell_type="code" if cell["cell_type"] == "code" else "markdown",
                source="".join(cell["source"]),
                mark=_grade_id(cell),
            )
            for cell in book["cells"]
        ]
    except Exception as error:  # whatever a broken file makes of the reader
        text = " ".join(str(error).split())[:80]
        what = type(error).__name__
        raise MinitxlError(f"{path.name} is no readable notebook ({what}: {text})") from error
    return NotebookNode(cells=cells)


def _grade_id(cell: NotebookNode) -> str | None:
    mark = cell.get("metadata", {}).get("nbgrader", {})
    return mark.get("grade_id") if isinstance(mark, dict) else None


def _exercise(grade_id: str) -> Exercise:
    """Return the exercise to which a cell of ours belongs."""
    return next(e for e in EXERCISES.values() if grade_id in (e.id, check_id(e.id)))


def _marks(book: NotebookNode, ours: dict[str, NotebookNode]) -> dict[int, str]:
    """Return which cells are ours: their number and nbgrader's id, each id once.

    An editor may have dropped the metadata; then the cell's id tells, or what it says.
    """
    marks: dict[int, str] = {}
    for grade_id, original in ours.items():
        exercise = _exercise(grade_id)
        says = rf"^def {exercise.name}\("
        if original.metadata.nbgrader.locked:
            says = rf"\bcheck\(\s*[\"']{re.escape(exercise.id)}[\"']"
        tests = (
            lambda cell, grade_id=grade_id: cell.mark == grade_id,
            lambda cell, original=original: cell.id == original.id,
            lambda cell, says=says: cell.cell_type == "code" and re.search(says, cell.source, re.M),
        )
        for test in tests:
            hits = [n for n, cell in enumerate(book.cells) if n not in marks and test(cell)]
            if hits:  # of copies the last: it runs last
                marks[hits[-1]] = grade_id
                break
    return marks
