"""What an exercise is, and how an answer is judged: by the library, and by known mistakes.

An answer is called with random arguments, its outputs are compared with those of the model
solution, which is the library's own function. Where an output is wrong, the mistakes that people
make are tried: each is a wrong version of the function, and the one that returns what the learner
returned names what went wrong.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from minitxl.course.hints import RTOL, close, hint
from minitxl.course.running import Failed, call, quiet

LINES_A_POINT = 4  # to write down what one knows is quick, to find it out is the work


@dataclass(frozen=True)
class Verdict:
    """How an answer was found; the message is one line, without the exercise's name and points."""

    passed: bool
    score: float  # 0 ... 1
    message: str
    solved: bool = True  # False: the learner has not begun


class Case(NamedTuple):
    """Arguments to try, in order; an edge case is one that a sound answer may still miss."""

    args: tuple
    what: str  # "T = 1", for messages
    edge: bool = False
    rtol: float = RTOL  # of an output's largest number


class Mistake(NamedTuple):
    """A known mistake: what to tell, and the wrong function, with the answer's arguments."""

    message: str
    wrong: Callable


@dataclass(frozen=True)
class Exercise:
    """One function for the learner to write."""

    id: str
    title: str
    lines: int  # statements of a plain right answer, counted by the tests
    ideas: int  # what has to be found out, as neither its docstring nor the text above states it
    notebook: str  # "02_attention_by_hand"
    head: str  # the def line, and the docstring with shapes and equation
    imports: str  # of the model solution
    body: str  # of the model solution: a call of the library
    shown: tuple  # library objects whose source answers the exercise
    outputs: tuple[str, ...]  # names of what the function returns
    cases: Callable  # rng -> list of Case, at least one of them no edge case
    mistakes: tuple[Mistake, ...]
    unseen: Callable | None = None  # args -> bool array, True where outputs are not compared
    steps: tuple[str, ...] = ()  # to the answer, the last one is its formula; see `course.reveal`
    given: Callable | None = None  # stands above the function in its cell: what it may call

    @property
    def name(self) -> str:
        """Name of the function that the learner defines."""
        return self.head.split("(")[0].strip().removeprefix("def ")

    @property
    def points(self) -> int:
        """What the exercise is worth: an idea a point, four lines a point, rounded up."""
        return math.ceil(self.ideas + self.lines / LINES_A_POINT)

    @property
    def stub(self) -> str:
        """Source with which the learner begins."""
        return f"{self._above}{_clean(self.head)}    raise NotImplementedError\n"

    @property
    def _above(self) -> str:
        if self.given is None:
            return ""
        return f"import numpy as np\n\n\n{inspect.getsource(self.given)}\n\n"

    @property
    def solution(self) -> str:
        """Source of the model solution, with its imports in the function."""
        inside = f"{_clean(self.imports)}\n{_clean(self.body)}"
        return self._above + _clean(self.head) + textwrap.indent(inside, "    ")

    @cached_property
    def model_solution(self) -> Callable:
        """The model solution as a function."""
        names: dict = {}
        exec(compile(self.solution, f"<solution of {self.id}>", "exec"), names)
        return names[self.name]

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the function's arguments."""
        return tuple(inspect.signature(self.model_solution).parameters)

    def is_model_solution(self, answer) -> bool:
        """Whether an answer is the model solution, as the lecturer's notebook has it."""
        if not inspect.isfunction(answer):
            return False
        one, other = answer.__code__, self.model_solution.__code__
        # Not co_code: notebooks compile the same loops to other jumps.
        parts = ("co_name", "co_names", "co_varnames", "co_argcount")
        return all(getattr(one, part) == getattr(other, part) for part in parts)

    def points_of(self, verdict: Verdict) -> float:
        """Return what an answer is worth, in points."""
        return round(verdict.score * self.points, 2)

    def not_there(self) -> Verdict:
        """Return how good it is to have no function of this name."""
        first = _clean(self.head).splitlines()[0]
        return Verdict(False, 0.0, f"it is not there: run its cell, `{first}`", solved=False)

    def judge(self, answer, rng: np.random.Generator) -> Verdict:
        """Return how good an answer is, called here and now: for those who learn.

        rng draws shapes and numbers.
        """
        if answer is None or answer is ...:
            return Verdict(False, 0.0, f"{self.name} is {answer}", solved=False)
        if not callable(answer):
            kind = type(answer).__name__
            return Verdict(False, 0.0, f"{self.name} is of type {kind}, must be a function")
        cases = self.cases(rng)
        return self.verdict(
            cases, [call(answer, case.args, self.arguments, self.outputs) for case in cases]
        )

    def verdict(self, cases: list[Case], got: list[tuple[np.ndarray, ...] | Failed]) -> Verdict:
        """Return how good what an answer gave in all cases is; nothing of the answer is run.

        A score is the mean over the outputs: 1 for one that is right in all cases, 1/2 if only in
        the ordinary ones.
        """
        for case, result in zip(cases, got, strict=True):
            if isinstance(result, Failed) and not (case.edge and result.fair):
                where = f"for {case.what}: " if result.fair and result.solved else ""
                return Verdict(False, 0.0, where + result.message, result.solved)
        return self._compared(cases, got)

    def _compared(self, cases: list[Case], got: list) -> Verdict:
        """Judge every output by its values in all cases."""
        wanted = [self._results(self.model_solution, case) for case in cases]
        found = [
            None if isinstance(g, Failed) else self._seen(_floats(g), case)
            for g, case in zip(got, cases, strict=True)
        ]
        wrong = cache(lambda m, n: self._results(self.mistakes[m].wrong, cases[n]))
        scores, right = [], []
        messages: dict[str, list[str]] = {}  # what is wrong -> with which outputs
        for o, name in enumerate(self.outputs):
            bad = [
                n
                for n, f in enumerate(found)
                if f is None or not close(f[o], wanted[n][o], cases[n].rtol)
            ]
            edge_only = all(cases[n].edge for n in bad)
            scores.append(1.0 if not bad else 0.5 if edge_only else 0.0)
            if not bad:
                right.append(name)
                continue
            n = bad[0]
            text = None
            if any(found[m] is not None for m in bad):  # else no wrong number is to be explained
                text = self._mistake(o, cases, found, wrong)
            if text is None and found[n] is None:
                text = got[n].message
            elif text is None:
                text = f"it {self._hint(o, found[n][o], wanted[n], cases[n])}"
            if edge_only:
                text = f"right, but not for {cases[n].what}: {text}"
            messages.setdefault(text, []).append(name)
        if not messages:
            return Verdict(True, 1.0, "right")
        if len(self.outputs) == 1:
            return Verdict(False, scores[0], next(iter(messages)))
        parts = [f"{', '.join(names)}: {text}" for text, names in messages.items()]
        parts += [f"right: {', '.join(right)}"] if right else []
        return Verdict(False, float(np.mean(scores)), "; ".join(parts))

    def _mistake(self, o: int, cases: list[Case], found: list, wrong: Callable) -> str | None:
        """Return the message of the known mistake that gives output o in every case.

        wrong(m, n) are the outputs of mistake m in case n.

        If there is none, of one that gives it in the ordinary cases: two people who make the same
        mistake may still differ in an edge case.
        """
        # An edge case may break the answer and not the wrong version: it has no say then.
        pairs = [n for n, f in enumerate(found) if f is not None]
        ordinary = [n for n in pairs if not cases[n].edge]
        for some in (pairs, ordinary):
            for m, mistake in enumerate(self.mistakes):
                if all(close(found[n][o], wrong(m, n)[o], cases[n].rtol) for n in some):
                    return mistake.message
        return None

    def _hint(self, o: int, value: np.ndarray, wanted: tuple, case: Case) -> str:
        """Say what is wrong with output o, which no known mistake explains."""
        for name, other in zip(self.outputs, wanted, strict=True):
            if name != self.outputs[o] and close(value, other):
                return f"is what {name} should be: return {', '.join(self.outputs)}, in this order"
        return hint(value, wanted[o], dict(zip(self.arguments, case.args, strict=True)))

    def _results(self, function, case: Case) -> tuple:
        """Outputs of one of our own functions."""
        with quiet():
            result = function(*case.args)
        result = (result,) if len(self.outputs) == 1 else result
        return self._seen(_floats(result), case)

    def _seen(self, outputs: tuple, case: Case) -> tuple:
        """Put 0 where outputs are not compared."""
        if self.unseen is None:
            return outputs
        hidden = self.unseen(*case.args)
        fits = [x.shape[-hidden.ndim :] == hidden.shape for x in outputs]
        return tuple(
            np.where(hidden, 0.0, x) if f else x for x, f in zip(outputs, fits, strict=True)
        )


def sizes(
    rng: np.random.Generator, n: int, low: int = 2, high: int = 9, keys: tuple[int, int] = (0, 0)
) -> list[int]:
    """Draw n sizes, low <= size <= high, all different: two that are swapped are then seen.

    keys: the indices of T and M, if M + T is an axis too: it then differs from the others.
    """
    while True:
        found = rng.permutation(np.arange(low, high + 1))[:n].tolist()
        if keys == (0, 0) or found[keys[0]] + found[keys[1]] not in found:
            return found


def _clean(source: str) -> str:
    return textwrap.dedent(source).strip("\n") + "\n"


def _floats(outputs) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x, dtype=np.float64) for x in outputs)
