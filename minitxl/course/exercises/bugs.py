"""Exercise: which of five broken models has which bug."""

from __future__ import annotations

from minitxl.course import hunt
from minitxl.course.exercise import Case, Exercise, Mistake

# What to look at again, by the bug that the model has.
_LOOK = {
    "zeros": "its gradient is sound, only the first segment is not: what is there at a start?",
    "positions": "its queries look at two places, a segment apart: what can they not tell apart?",
    "keys": "all that it says is sound, so look at what it would learn: dW_k",
    "stream": "its first characters are the worst, the rest recovers: whose past does it have?",
    "mask": "look where its queries may look, and where none of them does",
}


def _cases(rng):
    bugs = list(hunt.BUGS)

    def shuffled(words):
        return ([str(x) for x in rng.permutation(words)],)

    return [
        *(Case(shuffled(bugs), "the five bugs in another order") for _ in range(4)),
        Case(shuffled([*bugs, "scale", "future"]), "a list with bugs that no model has", edge=True),
    ]


def _mistaken(at: int, taken: str):
    """The right answer, but for one model that is taken for another's bug."""

    def wrong(bugs):
        found = list(hunt.culprits(bugs))
        found[at] = bugs.index(taken)
        return tuple(found)

    return wrong


def _mistakes():
    right = [list(hunt.BUGS)[i] for i in hunt.culprits(list(hunt.BUGS))]
    for at, bug in enumerate(right):
        for taken in hunt.BUGS:
            if taken != bug:
                yield Mistake(f"not {taken!r}: {_LOOK[bug]}", _mistaken(at, taken))


HUNT = Exercise(
    id="bug-hunt",
    title="Five broken models",
    lines=1,
    ideas=5,
    notebook="06_training",
    head='''
def culprits(bugs):
    """Return, for each of the models A, B, C, D, E, the place of its bug in a list: five integers.

    bugs: the five words of the table, in any order, such as ["mask", "keys", "zeros", ...]; it may
    hold others, too. `bugs.index("mask")` is the place of "mask".
    """
''',
    imports="from minitxl.course import hunt\n",
    body="return hunt.culprits(bugs)",
    shown=(hunt.culprits,),
    outputs=hunt.MODELS,
    cases=_cases,
    mistakes=tuple(_mistakes()),
)

EXERCISES = (HUNT,)
