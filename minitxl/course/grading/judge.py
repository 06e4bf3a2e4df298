"""The judge: has answers run in the student's process, and compares what comes back.

For each exercise of a notebook cases are drawn, their arguments sent, arrays received. The right
ones are computed here, points and messages are made here, and nothing that comes from the student's
side is run, imported or unpickled: a notebook is a text that is handed on, a reply is JSON with
numbers. So the most that a submission can do is to return the right numbers.
"""

from __future__ import annotations

import ast
import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from nbformat import NotebookNode

from minitxl.course import EXERCISES, Exercise, Verdict, generator, line
from minitxl.course.exercise import Case
from minitxl.course.grading import sandbox
from minitxl.course.grading.student import python_of
from minitxl.course.grading.submissions import plain
from minitxl.course.notebooks import check_id
from minitxl.course.running import Failed, pack, unpack
from minitxl.course.variants import COMMON, vary
from minitxl.errors import MinitxlError

# What an answer has no use for: not forbidden, but to be looked at.
UNUSUAL = re.compile(
    r"\b(minitxl\.course\.\w+|minitxl\.model\.\w+|course_answers|_?ctypes|_?posixsubprocess"
    r"|subprocess|_imp|socket|importlib|runpy|readline|marshal|pickle|dill|pathlib|linecache|inspect"
    r"|sqlite3|mmap|base64|zlib|builtins|FunctionType|CodeType|from_?file|memmap|dir_fd"
    r"|loadtxt|genfromtxt|DataSource|read_(?:text|bytes|csv)|allow_pickle|BytesIO|StringIO|torch\.load"
    r"|__(?:import|code|globals|builtins|subclasses|loader|spec|dict|mro|bases)__"
    r"|gc\.get_\w+|_getframe|sys\.(?:modules|setprofile|settrace)|meta_path|addaudithook"
    r"|input_transformers?\w*"
    r"|os\.(?:system|fork|popen|exec\w+|spawn\w+|posix_spawn\w*|environ|kill\w*))\b"
    r"|\b(from\s+(?:sys|os|gc|io|types)\s+import)\b"
    r"|(?<![.\w])(exec|eval|open|globals|locals|vars|compile|getattr|setattr|breakpoint)\("
)


LONG_TEXT = 1500  # characters of one that is no docstring: code may be in it


def _texts(source: str) -> list[str | bytes]:
    """Return the texts in a cell's code, but for docstrings and other texts that stand alone."""
    try:
        nodes = list(ast.walk(ast.parse(python_of(source))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in alone]
    return [n.value for n in constants if isinstance(n.value, str | bytes)]


def unusual(book: NotebookNode, released: NotebookNode) -> list[str]:
    """Return words in a student's own cells that no exercise asks for."""
    handed_out = {cell.source.strip() for cell in released.cells}
    found = []
    for cell in book.cells:
        if cell.cell_type == "code" and cell.source.strip() not in handed_out:
            found += [" ".join(filter(None, m.groups())) for m in UNUSUAL.finditer(cell.source)]
            if any(len(text) > LONG_TEXT for text in _texts(cell.source)):
                found.append("a long text")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    timeout: int = 60  # seconds for an exercise
    total: int = 900  # seconds for a notebook
    memory: float = 4.0  # GiB for its process

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise MinitxlError(f"the limit {name} = {value} must be more than 0")


@dataclass(frozen=True)
class Judged:
    """What came of an exercise: the verdict, what its cells printed, errors in cells it needs."""

    exercise: Exercise
    verdict: Verdict
    printed: str = ""
    errors: tuple[tuple[int, str], ...] = ()  # (number of the cell, text)

    @property
    def points(self) -> float:
        """Points, never more than the exercise has."""
        return min(max(0.0, self.exercise.points_of(self.verdict)), self.exercise.points)

    @property
    def line(self) -> str:
        """The line that the student reads."""
        return line(self.exercise, self.verdict)

    @property
    def remark(self) -> str:
        """Why points are lost; empty where none are."""
        return "" if self.verdict.passed else self.verdict.message


def judge(
    book: NotebookNode,
    *,
    kind: str,
    seed: int,
    limits: Limits = Limits(),
    closed=(),
    variant: str = COMMON,
    clock: Callable[[], float] | None = None,
) -> list[Judged]:
    """Judge the exercises of a notebook that `submissions.received` has put in order.

    kind: of sandbox, as `sandbox.choose` returns it; seed: of shapes and numbers; closed: paths
    that a submission has no business in; variant: the student's, as the roster has it; clock:
    tells the seconds, for `limits.total`.
    """
    clock = clock or time.monotonic
    deadline = clock() + limits.total
    code = [
        {"number": number, "source": cell.source}
        for number, cell in enumerate(book.cells, 1)
        if cell.cell_type == "code"
    ]
    found = []
    own = {c.metadata.get("nbgrader", {}).get("grade_id"): n for n, c in enumerate(book.cells, 1)}
    for number, cell in enumerate(book.cells, 1):
        marks = cell.metadata.get("nbgrader", {})
        exercise = _checked(marks.get("grade_id")) if marks.get("grade") else None
        if exercise is None:
            continue
        exercise = vary(exercise, variant)
        left = deadline - clock()
        if left <= 0:
            text = f"not run: the exercises before took over {limits.total} s in all"
            found.append(Judged(exercise, Verdict(False, 0.0, text)))
            continue
        cells = code, number, own.get(exercise.id)
        found.append(_judge_one(exercise, *cells, kind, seed, limits, closed, left))
    return found


def _checked(grade_id: str | None) -> Exercise | None:
    """Return the exercise that a cell checks."""
    return next((e for e in EXERCISES.values() if check_id(e.id) == grade_id), None)


def _judge_one(exercise, code, until, own, kind, seed, limits, closed, left) -> Judged:
    cases = exercise.cases(generator(exercise.id, seed))
    request = {
        "cells": [cell for cell in code if "course.check(" not in cell["source"]],
        "name": exercise.name,
        "until": until,
        "arguments": exercise.arguments,
        "outputs": exercise.outputs,
        "cases": [pack(case.args) for case in cases],
    }
    timeout = min(limits.timeout, left)
    ended = sandbox.run(kind, request, memory=limits.memory, timeout=timeout, closed=closed)
    head, got, printed = _read(ended, cases, len(exercise.outputs))
    errors = tuple((n, text) for n, text in head.get("errors", []))
    if not head.get("there", False) and ended.code == 0:
        verdict = exercise.not_there()
    else:
        got += [_lost(ended, timeout)] * (len(cases) - len(got))
        verdict = exercise.verdict(cases, got)
    if not verdict.passed and errors and (verdict.score == 0.0 or not verdict.solved):
        number, text = next((e for e in errors if e[0] == own), errors[-1])
        verdict = Verdict(
            False, verdict.score, f"cell {number}: {text}; then {verdict.message}", verdict.solved
        )
    return Judged(exercise, verdict, printed, errors)


def _lost(ended: sandbox.Ended, timeout: float) -> Failed:
    """Return what it means that there is no reply to a case."""
    if ended.code is None:
        return Failed(f"it took over {timeout:.0f} s, and was ended")
    if ended.code == 0:
        return Failed("its process gave no answer")
    return Failed(f"it ended the Python process: {_how(ended.code)}")


def _how(code: int) -> str:
    signals = {-code, code - 128}  # bubblewrap and docker tell a signal as a shell does
    name = next((s.name for s in signal.Signals if s.value in signals), None)
    if name is None:
        return f"exit code {code}"
    return name + (", which is often a lack of memory" if name == "SIGKILL" else "")


def _read(ended: sandbox.Ended, cases: list[Case], n_output: int) -> tuple[dict, list, str]:
    """Return what the process says of itself, the outputs of the cases, and what it printed.

    All of it is what the student's side likes to say: the shape of each is looked at.
    """
    head: dict = {}
    got: list[tuple | Failed] = []
    printed = []
    for number, text in enumerate(ended.replies):
        try:
            reply = json.loads(text)
            printed.append(_text(reply.get("printed", "")))
            if number == 0:
                errors = [(int(n), _text(t, 300)) for n, t in reply.get("errors", [])]
                head = {"there": reply.get("there") is True, "errors": errors[:20]}
            elif "failed" in reply:
                message, solved, fair = reply["failed"]
                got.append(Failed(_text(message, 400), solved is True, fair is True))
            else:
                got.append(_outputs(unpack(reply["outputs"]), n_output))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            got.append(Failed("its process gave an answer that cannot be read"))
        if len(got) == len(cases):
            break
    return head, got, "".join(printed)[: 2 * 10**4]


def _outputs(values, n: int) -> tuple[np.ndarray, ...]:
    """Return n arrays of numbers; ValueError for anything else, which `call` never gives."""
    if not isinstance(values, tuple) or len(values) != n:
        raise ValueError(f"not {n} outputs")
    if not all(isinstance(x, np.ndarray) for x in values):
        raise ValueError("an output that is no array")
    return values


def _text(value, most: int = 10**5) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    text = value if most > 1000 else " ".join(value.split())
    return plain(text)[:most]
