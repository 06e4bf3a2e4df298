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

SMALL = 60  # nodes of a syntax tree: shorter answers are alike without being copied


def shape(book: NotebookNode, exercise: Exercise) -> str:
    """Return a text that two answers share if they differ in names, comments and layout alone.

    Empty for an answer that is missing, unreadable, or so short that many will have it.
    """
    cells = [c for c in book.cells if c.metadata.get("nbgrader", {}).get("grade_id") == exercise.id]
    try:
        tree = ast.parse(cells[-1].source) if cells else ast.Module([], [])
        given = {ast.dump(node) for node in ast.parse(exercise.stub).body}  # all have it
        tree.body = [node for node in tree.body if ast.dump(node) not in given]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return _shape(tree)


def is_copy(book: NotebookNode, exercise: Exercise) -> bool:
    """Whether a function of an answer is one of the library's, but for names, comments, layout."""
    cells = [c for c in book.cells if c.metadata.get("nbgrader", {}).get("grade_id") == exercise.id]
    bodies = set()
    for shown in exercise.shown:
        bodies |= _bodies(textwrap.dedent(inspect.getsource(shown)))
    return bool(bodies.intersection(*[_bodies(cell.source) for cell in cells[-1:]]) if cells else 0)


def _bodies(source: str) -> set[str]:
    """Shapes of the bodies of all functions in a source, as far as they are long enough."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {_shape(ast.Module(node.body, [])) for node in functions} - {""}


def _shape(tree: ast.AST) -> str:
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
        label += repr(node.value)[:40] if isinstance(node, ast.Constant) else ""
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
