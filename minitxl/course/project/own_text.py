"""The text of the lecturer's model solution: what Python's own library says of itself.

A text that everyone has who can run this, and that does not ship with minitxl: the docstrings of
the standard library, as prose. It differs from one version of Python to the next.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = ("test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo")
SHORTEST = 60  # characters of a paragraph
WORDS = 4  # in a row, by which a paragraph is known again
KNOWN = 0.1  # share of such rows that a paragraph may have in common with those before


def paragraphs(folder: Path | None = None) -> Iterator[str]:
    """Yield the docstrings' paragraphs of prose; folder: of modules, default the standard library.

    Paragraphs that say what another has said are left out: a test text whose sentences stand in
    the training text too measures how well a file is remembered.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    seen: set[tuple] = set()
    for path in sorted(folder.rglob("*.py")):
        if not set(path.relative_to(folder).parts).intersection(LEFT_OUT):
            for text in _docstrings(path):
                for part in re.split(r"\n\s*\n", text):
                    words = part.split()
                    rows = {tuple(words[n : n + WORDS]) for n in range(len(words) - WORDS + 1)}
                    prose = len(part) >= SHORTEST and ">>>" not in part and part[0].isalpha()
                    if prose and part.isascii() and len(rows & seen) <= KNOWN * len(rows):
                        seen |= rows
                        yield " ".join(words)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
