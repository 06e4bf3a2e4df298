"""Exercises: rel-shift and its adjoint."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model import ops


def _shift_cases(rng):
    h, t, m = sizes(rng, 3, low=3, keys=(1, 2))

    def scores(t, k):
        return (rng.normal(size=(h, t, k)),)

    return [
        Case(scores(t, t + m), f"T = {t}, M = {m}"),
        Case(scores(t, 2 * t + 1), f"T = {t}, M = {t + 1}"),
        Case(scores(t, t), f"T = {t}, M = 0", edge=True),
        Case(scores(1, m), "T = 1", edge=True),
    ]


def shifted(x, *, drop=None, left=True):
    """rel-shift by way of a line of numbers, with one column of zeros; drop: how many to skip."""
    *lead, t, k = x.shape
    column = np.zeros((*lead, t, 1))
    line = np.concatenate([column, x] if left else [x, column], axis=-1).reshape(*lead, -1)
    drop = t if drop is None else drop(t)
    return line[..., drop : drop + t * k].reshape(x.shape)


def _corner(x):
    """(T, K) True in the upper right corner, where a key lies in the query's future."""
    t, k = x.shape[-2:]
    return np.arange(k) > np.arange(t)[:, None] + k - t


def _rolled(x, by):
    """Roll row i left by by(i, T): what leaves on one side comes in on the other."""
    t = x.shape[-2]
    rows = [np.roll(x[..., i, :], -by(i, t), axis=-1) for i in range(t)]
    return np.stack(rows, axis=-2)


def _rows_shifted(x, by):
    """Shift row i left by by(i, T), with zeros behind it: what a loop over the rows does."""
    out = np.zeros_like(x)
    t, k = x.shape[-2:]
    for i in range(t):
        n = min(by(i, t), k)
        out[..., i, : k - n] = x[..., i, n:]
    return out


def unshifted(dy, first=1):
    """The adjoint of rel-shift; first: column at which the K columns that are kept begin."""
    *lead, t, k = dy.shape
    line = np.concatenate([np.zeros((*lead, t)), dy.reshape(*lead, t * k)], axis=-1)
    return line.reshape(*lead, t, k + 1)[..., first : first + k]


REL_SHIFT = Exercise(
    id="rel-shift",
    title="rel-shift, by hand",
    lines=3,
    ideas=1,
    notebook="03_relative_positions",
    head='''
def rel_shift(x):
    """Return x (..., T, K) with row i shifted left by T-1-i.

    x[..., i, c] is query i's score for the distance K-1-c; in the result column j is key j, at
    distance i + M - j (M = K - T). Paper, app. B, without a loop: pad one column of zeros on the
    left, view the rows as K+1 rows of T numbers, drop the first of them, view as T rows of K.
    Whatever comes into the upper right corner by that is part of the answer.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="return ops.rel_shift_forward(x, xp=np)[0]",
    shown=(ops.rel_shift_forward,),
    outputs=("shifted",),
    cases=_shift_cases,
    mistakes=(
        Mistake(
            "the corner is zeros; rel-shift leaves one 0 and then the next row's scores there, and "
            "the mask has to hide them",
            lambda x: np.where(_corner(x), 0.0, shifted(x)),
        ),
        Mistake(
            "the corner holds the row's own numbers, come round as np.roll does; rel-shift leaves "
            "one 0 and then the next row's scores",
            lambda x: _rolled(x, lambda i, t: t - 1 - i),
        ),
        Mistake("nothing is shifted", lambda x: x),
        Mistake(
            "row i is shifted by i, must be by T-1-i: the last query's row is in place already",
            lambda x: _rolled(x, lambda i, t: i),
        ),
        Mistake(
            "row i is shifted by i, must be by T-1-i; and the corner is not zeros in rel-shift",
            lambda x: _rows_shifted(x, lambda i, t: i),
        ),
        Mistake(
            "row i is shifted by T-i, must be by T-1-i; and the corner is not zeros in rel-shift",
            lambda x: _rows_shifted(x, lambda i, t: t - i),
        ),
        Mistake(
            "the rows are shifted to the right, must be to the left",
            lambda x: _rolled(x, lambda i, t: i + 1 - t),
        ),
        Mistake(
            "the rows are one too far to the left: the column of zeros goes to the left of x, not "
            "to the right",
            lambda x: shifted(x, left=False),
        ),
        Mistake(
            "the last of the K+1 rows is dropped, must be the first",
            lambda x: shifted(x, drop=lambda t: 0),
        ),
        Mistake(
            "it is rel-shift's adjoint, which shifts back",
            unshifted,
        ),
    ),
)

REL_SHIFT_BACKWARD = Exercise(
    id="rel-shift-backward",
    title="The adjoint of rel-shift",
    lines=3,
    ideas=2,
    notebook="03_relative_positions",
    head='''
def rel_shift_backward(dy):
    """Return dx (..., T, K) = dLoss/dx for y = rel_shift(x), dy = dLoss/dy (..., T, K).

    rel_shift only moves numbers, so its adjoint moves each gradient back to the place from which
    its number came; a number that went nowhere gets 0. <rel_shift(x), dy> = <x, dx> for all x, dy.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="return ops.rel_shift_backward(dy, xp=np)",
    shown=(ops.rel_shift_backward,),
    steps=(
        "undo the steps of rel_shift in the opposite order; each is a view, or its adjoint a pad",
        "what was dropped comes back as zeros, the column that was padded is dropped",
        "view dy as one line, put T zeros before it, view it as T rows of K + 1, drop column 0",
    ),
    outputs=("dx",),
    cases=_shift_cases,
    mistakes=(
        Mistake(
            "it is rel_shift once more, which shifts further; the adjoint shifts back",
            shifted,
        ),
        Mistake("nothing is shifted back", lambda dy: dy),
        Mistake(
            "the corner's gradients are lost: its numbers came from the next row's scores, and go "
            "back there (that they are 0 in a model is the mask's doing)",
            lambda dy: unshifted(np.where(_corner(dy), 0.0, dy)),
        ),
        Mistake(
            "what leaves a row at one end comes in at its other, as np.roll does; it belongs to "
            "the row after, and the first T-1 numbers of x went nowhere",
            lambda dy: _rolled(dy, lambda i, t: i + 1 - t),
        ),
        Mistake(
            "the wrong column is dropped: the zeros were on the left",
            lambda dy: unshifted(dy, first=0),
        ),
    ),
)

EXERCISES = (REL_SHIFT, REL_SHIFT_BACKWARD)
