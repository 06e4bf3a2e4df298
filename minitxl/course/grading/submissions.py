"""What students hand in, put in order before it is graded: whatever it is, it can then be run.

A submission is taken cell by cell. Sources count, nothing else: outputs, tags and other metadata
are dropped, the checks are those that were handed out, and a lost one is put back.
"""

from __future__ import annotations

import codecs
import copy
import re

import nbformat
from nbformat import NotebookNode

from minitxl.course import EXERCISES
from minitxl.course.grading.feedback import SAME
from minitxl.course.notebooks import check_id, check_sources
from minitxl.course.variants import common_of, words_in
from minitxl.errors import MinitxlError

LONGEST = 1_000_000  # characters of all cells, without outputs
NAMED = "minitxl_variants"  # a notebook's metadata: the variants that what was handed in names


def received(
    data: bytes | None, name: str, released: NotebookNode
) -> tuple[NotebookNode | None, list[str]]:
    """Return a submission in order, and remarks; None for the notebook if there is none to judge.

    data, name: of its file; None for one that is missing. released: the notebook as it was handed
    out, with nbgrader's metadata.
    """
    if data is None:
        return None, ["no notebook was handed in"]
    remarks: list[str] = []
    try:
        book = _read(data, name, remarks)
    except MinitxlError as error:
        return None, [str(error)]
    ours = {_grade_id(cell): cell for cell in released.cells if _grade_id(cell)}
    marks = _marks(book, ours)
    handed_out = {cell.source.strip() for cell in released.cells if not _grade_id(cell)}
    out = copy.deepcopy(released)
    out.metadata[NAMED] = sorted(words_in(cell["source"] for cell in book.cells))
    out.cells = []
    for number, cell in enumerate(book.cells):
        original = ours.get(marks.get(number))
        kind = original.cell_type if original else cell["cell_type"]
        source = cell["source"]
        if original and original.metadata.nbgrader.locked:
            known = check_sources(EXERCISES[_exercise_id(original)])
            if common_of(source.strip()) not in known:
                remarks.append(f"{_grade_id(original)}: the check was edited; the original counts")
            source = original.source
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        out.cells.append(new(source, id=f"submitted-{number}"))
        if original:
            out.cells[-1].metadata = copy.deepcopy(original.metadata)
        elif source.strip() in handed_out:
            out.cells[-1].metadata[SAME] = True
    for grade_id, original in ours.items():
        if original.metadata.nbgrader.grade and grade_id not in marks.values():
            if original.metadata.nbgrader.locked:
                remarks.append(f"{grade_id}: the check was deleted; it is put back at the end")
            out.cells.append(copy.deepcopy(original))
    return out, remarks


def _read(data: bytes, name: str, remarks: list[str]) -> NotebookNode:
    """Read a notebook of whatever version; MinitxlError says why not."""
    if not data.strip():
        raise MinitxlError(f"{name} is an empty file")
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
            remarks.append(f"{name} was saved as UTF-16, is read all the same")
        else:
            text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MinitxlError(f"{name} is no text in UTF-8: save it by Jupyter") from error
    if text.lstrip()[:1] != "{":
        what = "a web page" if text.lstrip()[:1] == "<" else "no notebook, which begins with {"
        what = "an unfinished merge of two" if text.lstrip()[:7] == "<" * 7 else what
        raise MinitxlError(f"{name} is no readable notebook: it is {what}")
    try:
        book = nbformat.reads(text, as_version=4)
        cells = [
            NotebookNode(
                id=str(cell.get("id", "")),
                cell_type="code" if cell["cell_type"] == "code" else "markdown",
                source=plain("".join(cell["source"])),
                mark=_grade_id(cell),
            )
            for cell in book["cells"]
        ]
    except Exception as error:  # whatever a broken file makes of the reader
        text = " ".join(str(error).split())[:80]
        what = type(error).__name__
        raise MinitxlError(f"{name} is no readable notebook ({what}: {text})") from error
    size = sum(len(cell.source) for cell in cells)
    if size > LONGEST:
        raise MinitxlError(f"{name} has {size:,} characters in its cells, at most {LONGEST:,}")
    return NotebookNode(cells=cells)


def plain(text: str) -> str:
    """Return a text that every file takes: whole characters, none that steer a terminal."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _grade_id(cell: NotebookNode) -> str | None:
    mark = cell.get("metadata", {}).get("nbgrader", {})
    return mark.get("grade_id") if isinstance(mark, dict) else None


def _exercise_id(cell: NotebookNode) -> str:
    """Return the exercise to which a cell of ours belongs; a question's cell belongs to none."""
    grade_id = _grade_id(cell)
    return next((e.id for e in EXERCISES.values() if grade_id in (e.id, check_id(e.id))), "")


def _marks(book: NotebookNode, ours: dict[str, NotebookNode]) -> dict[int, str]:
    """Return which cells are ours: their number and nbgrader's id, each id once.

    An editor may have dropped the metadata; then the cell's id tells, or what it says.
    """
    marks: dict[int, str] = {}
    for grade_id, original in ours.items():
        exercise = EXERCISES.get(_exercise_id(original))
        says = rf"^def {exercise.name}\(" if exercise else r"(?!)"
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
