"""The course: exercises in the notebooks, checked in place.

    from minitxl import course

    course.check("softmax-backward")

prints one line: whether the exercise's function is right, and if not, which mistake it looks like.
It never raises there. Where nbgrader runs the notebook (it sets NBGRADER_EXECUTION) the same line
comes with points: a wrong answer raises AssertionError, a half right one returns its points, as
nbgrader wants it. Shapes and numbers then differ from those that the learner saw;
MINITXL_COURSE_SEED sets them.
"""

from __future__ import annotations

import os
import secrets
import sys
import zlib
from types import MappingProxyType, ModuleType

import numpy as np

from minitxl.course import exercise, hunt, running
from minitxl.course.exercise import Exercise, Verdict
from minitxl.course.exercises import (
    attention,
    beyond,
    bugs,
    measure,
    memory,
    ops,
    position,
    stream,
)
from minitxl.course.trial import capstone, parts, run_with
from minitxl.course.yours import PARTS, install
from minitxl.errors import MinitxlError

__all__ = [
    "EXERCISES",
    "PARTS",
    "Exercise",
    "Verdict",
    "capstone",
    "check",
    "hunt",
    "in_grading",
    "install",
    "parts",
    "run_with",
]

_LEFT_OUT = object()
SEED = 0  # of the shapes and numbers while learning: the same at every try
SEED_VARIABLE = "MINITXL_COURSE_SEED"

GROUPS = (
    stream,
    ops,
    attention,
    position,
    memory,
    bugs,
    measure,
    beyond,
)
EXERCISES = MappingProxyType(
    {e.id: e for e in sorted((e for g in GROUPS for e in g.EXERCISES), key=lambda e: e.notebook)}
)
_JUDGES = (np, exercise, running, Exercise, Verdict, *(m for g in GROUPS for m in (g, *g.LIBRARY)))
_BEFORE = running.snapshot(dict.fromkeys(_JUDGES))
# Read once: what a submission does to the environment later changes nothing.
_EXECUTION = os.environ.get("NBGRADER_EXECUTION", "")
_GRADING_SEED = os.environ.get(SEED_VARIABLE, "")


def in_grading() -> bool:
    """Whether nbgrader runs this, to give points or to validate."""
    return _EXECUTION in ("autograde", "validate")


def check(exercise_id: str, answer=_LEFT_OUT) -> float | None:
    """Judge an answer and print the verdict in one line.

    answer: a function; left out, it is the one with the exercise's name where check is called. If
    there is none, as its cell was not run, the exercise is not solved yet.
    While learning it returns None and never raises, but for an exercise_id that does not exist
    (MinitxlError). In grading it raises AssertionError with the same line for an answer worth
    nothing, returns the points of one that is partly right, and None for a right one.
    """
    if exercise_id not in EXERCISES:
        raise MinitxlError(
            f"there is no exercise {exercise_id!r}; there are {', '.join(EXERCISES)}"
        )
    asked, grading = EXERCISES[exercise_id], in_grading()
    if answer is _LEFT_OUT:
        answer = sys._getframe(1).f_globals.get(asked.name, _LEFT_OUT)
    seed = _grading_seed() if grading else SEED
    rng = np.random.default_rng([seed, zlib.crc32(exercise_id.encode())])
    try:
        if answer is _LEFT_OUT:
            verdict = asked.not_there()
        else:
            verdict = asked.judge(answer, rng, allow_solution=not grading)
    except Exception as error:  # only where an answer has broken what judges it; see below
        verdict = Verdict(False, 0.0, f"it cannot be judged: {type(error).__name__}: {error}")
    if changed := running.replaced(_BEFORE):
        message = f"{changed} has been replaced: restart the kernel and leave it as it is"
        verdict = Verdict(False, 0.0, message)
    line = _line(asked, verdict)
    if not grading:
        print(line)
        return None
    _clear_output()
    line += f" [seed {seed}]"
    if verdict.score == 0.0:
        raise AssertionError(line)
    print(line)
    return None if verdict.passed else round(verdict.score * asked.points, 2)


def _grading_seed() -> int:
    if not _GRADING_SEED:
        return secrets.randbits(32)
    if not _GRADING_SEED.isdecimal():
        raise MinitxlError(f"{SEED_VARIABLE}={_GRADING_SEED!r} must be a whole number, 0 or more")
    return int(_GRADING_SEED)


def _clear_output() -> None:
    """Take back what the answer showed: nbgrader takes the first number shown for the points."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        sys.stdout.flush()
        shell.display_pub.clear_output()


def _line(asked: Exercise, verdict: Verdict) -> str:
    """For instance "✗ wrong, 0 of 6 points | softmax_backward: the sum is missing"."""
    mark, word = "✗", "wrong"
    if verdict.passed:
        mark, word = "✓", "right"
    elif not verdict.solved:
        mark, word = "…", "not solved yet"
    elif verdict.score:
        mark, word = "◐", "partly right"
    points = f"{round(verdict.score * asked.points, 2):g} of {asked.points} points"
    message = "" if verdict.message == word else f": {verdict.message}"
    return f"{mark} {word}, {points} | {asked.name}{message}"


class _Locked(ModuleType):
    """This module, with public names that `course.check = ...` cannot replace."""

    def __setattr__(self, name: str, value) -> None:
        if name in __all__:
            raise MinitxlError(f"course.{name} cannot be replaced: take another name for yours")
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Locked
