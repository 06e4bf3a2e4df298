"""Answers that are the same but for names, comments and layout."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable

from nbformat import NotebookNode

from minitxl.course import Exercise
from minitxl.course.grading.feedback import SAME
from minitxl.course.grading.student import Notebook, python_of
from minitxl.course.notebooks import check_id

SMALL = 60  # nodes of a syntax tree: shorter answers are alike without being copied


def shape(book: NotebookNode, exercise: Exercise, value=None) -> str:
    """Return a text that two answers share if they differ in names, comments and layout alone.

    An answer is what its function needs of the student's own cells, whichever they are; value: the
    parameter of the student's variant, which is taken for everyone's. Empty for one that is
    missing, unreadable, or so short that many will have it.
    """
    cells = [{"number": n, "source": source} for n, source in _own(book)]
    checks = [n for n, c in enumerate(book.cells) if _mark(c) == check_id(exercise.id)]
    try:
        answer = Notebook(cells, exercise.name, checks[-1] if checks else len(book.cells))
        nodes = [answer.statements[n][1] for n in sorted(answer.needed())]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    given = {ast.dump(node) for node in ast.parse(exercise.stub).body}  # all have it
    nodes = [x for x in nodes if not isinstance(x, ast.Import | ast.ImportFrom)]
    nodes = [x for x in nodes if ast.dump(x) not in given]
    return _shape(ast.Module(nodes), value)


def is_copy(book: NotebookNode, exercise: Exercise) -> bool:
    """Whether a function in a student's cells is one of the library's that answer an exercise.

    But for names, comments and layout.
    """
    bodies = set()
    for shown in exercise.shown:
        bodies |= _bodies(textwrap.dedent(inspect.getsource(shown)))
    return any(bodies & _bodies(source) for _, source in _own(book))


def _own(book: NotebookNode) -> list[tuple[int, str]]:
    """The student's own code: (number, source) of the cells that are neither checks nor ours."""
    return [
        (number, python_of(cell.source))
        for number, cell in enumerate(book.cells)
        if cell.cell_type == "code" and not cell.metadata.get(SAME)
        and not cell.metadata.get("nbgrader", {}).get("locked")
    ]  # fmt: skip


def _mark(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _bodies(source: str) -> set[str]:
    """Shapes of the bodies of all functions in a source, as far as they are long enough."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {_shape(ast.Module(node.body, [])) for node in functions} - {""}


def _shape(tree: ast.AST, value=None) -> str:
    names: dict[str, str] = {}
    parts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            continue
        label = type(node).__name__
        for attribute in ("id", "arg", "name"):
            name = getattr(node, attribute, None)
            if isinstance(name, str):
                label += names.setdefault(name, f" n{len(names)}")
        label += str(getattr(node, "attr", ""))
        if isinstance(node, ast.Constant):
            label += "its own" if node.value == value is not None else repr(node.value)[:40]
        parts.append(label)
    if len(parts) < SMALL:
        return ""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def alike(records: Iterable) -> list[tuple[str, str, list[str]]]:
    """Return pairs of students with the same answers, and to which exercises: most first.

    An answer that more than a quarter of the class has, three at least, tells nothing.
    """
    records = list(records)
    common = Counter((e, s) for r in records for e, s in r.shapes.items())
    most = max(3, len(records) // 4)
    pairs = []
    for n, one in enumerate(records):
        for other in records[:n]:
            same = [
                e
                for e, s in one.shapes.items()
                if other.shapes.get(e) == s and common[e, s] <= most
            ]
            if same:
                pairs.append((other.student, one.student, same))
    return sorted(pairs, key=lambda pair: -len(pair[2]))
