"""The course: exercises in the notebooks, checked in place.

    from minitxl import course

    course.check("softmax-backward")

prints one line: whether the exercise's function is right, and if not, which mistake it looks like.
It never raises there, and gives no points: these come from `python -m minitxl course grade`, whose
judge is another process than that of what was handed in (`grading/judge.py`), and draws other
shapes and numbers. nbgrader's `validate` is answered by AssertionError for what is not right.
"""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
import zlib
from types import MappingProxyType

import numpy as np

from minitxl.course import hunt
from minitxl.course.exercise import Exercise, Verdict
from minitxl.course.exercises import (
    attention,
    beyond,
    bugs,
    compression,
    layer,
    learning,
    loss,
    measure,
    memory,
    ops,
    position,
    reach,
    shift,
    stream,
    writing,
)
from minitxl.course.running import library_use
from minitxl.course.stale import stale_memories
from minitxl.course.trial import capstone, parts, run_with
from minitxl.course.variants import COMMON, seed_of, vary
from minitxl.course.yours import PARTS, install
from minitxl.errors import MinitxlError

__all__ = [
    "EXERCISES",
    "PARTS",
    "Exercise",
    "Verdict",
    "capstone",
    "check",
    "generator",
    "hunt",
    "install",
    "line",
    "parts",
    "reveal",
    "run_with",
    "stale_memories",
]

_LEFT_OUT = object()
TRIES = 3  # honest ones, after which the answer is shown
_TRIES: dict[str, set] = {}  # exercise -> wrong answers that were checked in this kernel

GROUPS = (
    stream,
    ops,
    attention,
    shift,
    position,
    memory,
    layer,
    reach,
    loss,
    learning,
    bugs,
    measure,
    beyond,
    compression,
    writing,
)
EXERCISES = MappingProxyType(
    {e.id: e for e in sorted((e for g in GROUPS for e in g.EXERCISES), key=lambda e: e.notebook)}
)


def generator(exercise_id: str, seed: int) -> np.random.Generator:
    """Return what draws the shapes and numbers of an exercise."""
    return np.random.default_rng([seed, zlib.crc32(exercise_id.encode())])


def check(exercise_id: str, answer=_LEFT_OUT, *, variant: str = COMMON) -> None:
    """Judge an answer and print the verdict in one line: at every try for the same numbers.

    answer: a function; left out, it is the one with the exercise's name where check is called. If
    there is none, as its cell was not run, the exercise is not solved yet. variant: the word of the
    student's own hand-out. Raises MinitxlError for an exercise that does not exist; AssertionError
    only where nbgrader runs it.
    """
    if exercise_id not in EXERCISES:
        raise MinitxlError(
            f"there is no exercise {exercise_id!r}; there are {', '.join(EXERCISES)}"
        )
    execution = os.environ.get("NBGRADER_EXECUTION", "")
    if execution == "autograde":  # by whoever has not our configuration: no points by mistake
        raise AssertionError("points are given by `python -m minitxl course grade` alone")
    asked = vary(EXERCISES[exercise_id], variant)
    if answer is _LEFT_OUT:
        answer = sys._getframe(1).f_globals.get(asked.name, _LEFT_OUT)
    if answer is _LEFT_OUT:
        verdict = asked.not_there()
    else:
        verdict = asked.judge(answer, generator(exercise_id, seed_of(variant)))
    if verdict.passed and asked.is_model_solution(answer):
        text = "this is the library's own: to be read, not to be handed in"
        verdict = Verdict(True, 1.0, text)
    elif verdict.solved and answer is not _LEFT_OUT and (name := library_use(answer)):
        verdict = Verdict(False, 0.0, f"it calls {name}: write it yourself")
    if verdict.solved and not verdict.passed:
        _count_try(exercise_id, answer)
    text = line(asked, verdict)
    print(text)
    if execution == "validate" and not verdict.passed:
        raise AssertionError(text)


def reveal(exercise_id: str, *, variant: str = COMMON) -> None:
    """Print the answer to an exercise in steps: one more for each honest try, all after three.

    A try is a wrong answer that `check` was given in this kernel, each counted once. Once the
    answer is right where reveal is called, the library's own is printed, too. What has no steps
    shows its docstring's equation already; there the library's own comes after three tries.
    """
    if exercise_id not in EXERCISES:
        raise MinitxlError(
            f"there is no exercise {exercise_id!r}; there are {', '.join(EXERCISES)}"
        )
    asked, tries = vary(EXERCISES[exercise_id], variant), len(_TRIES.get(exercise_id, ()))
    answer = sys._getframe(1).f_globals.get(asked.name)
    passed = asked.judge(answer, generator(exercise_id, seed_of(variant))).passed
    over = passed or tries >= TRIES
    for step in asked.steps if over else asked.steps[:-1][:tries]:
        print(f"- {step}")
    if passed or (over and not asked.steps):
        for shown in asked.shown:
            print(textwrap.dedent(inspect.getsource(shown)))
    elif not over:
        print(
            f"… {tries} of {TRIES} tries: try {asked.name}, check it, and more is shown here; all "
            "once it is right"
        )


def _count_try(exercise_id: str, answer) -> None:
    """Remember a wrong answer, as long as the kernel lives; the same once more is no other try."""
    code = getattr(answer, "__code__", None)
    if code is not None:
        same = (code.co_code, repr(code.co_consts), code.co_names)
        _TRIES.setdefault(exercise_id, set()).add(same)


def line(asked: Exercise, verdict: Verdict) -> str:
    """For instance "✗ wrong, 0 of 6 points | softmax_backward: the sum is missing"."""
    mark, word = "✗", "wrong"
    if verdict.passed:
        mark, word = "✓", "right"
    elif not verdict.solved:
        mark, word = "…", "not solved yet"
    elif verdict.score:
        mark, word = "◐", "partly right"
    points = f"{asked.points_of(verdict):g} of {asked.points} points"
    message = "" if verdict.message == word else f": {verdict.message}"
    return f"{mark} {word}, {points} | {asked.name}{message}"
