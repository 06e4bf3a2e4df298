"""When two arrays are the same, and what a wrong one looks like, whatever the exercise.

A second line behind the mistakes that an exercise knows by name: an axis, a sign, a factor, a
transpose, a row, a part that was left out.
"""

from __future__ import annotations

import numpy as np

RTOL = 3e-5  # of an output's largest number: float32 is right, too (7e-6 at most was seen)
EXACT = 1e-9  # of whole numbers, which are right or wrong


def close(value: np.ndarray, wanted: np.ndarray, rtol: float = RTOL) -> bool:
    """Whether two arrays are the same in shape and, but for rounding, in numbers; NaN is itself.

    rtol: of the largest number; where all are whole numbers, they must be these.
    """
    if value.shape != wanted.shape:
        return False
    finite = wanted[np.isfinite(wanted)]
    if (finite == np.round(finite)).all():
        rtol = EXACT
    atol = rtol * (np.abs(finite).max(initial=0.0) or 1.0)
    return bool(np.isclose(value, wanted, rtol=0.0, atol=atol, equal_nan=True).all())


def hint(value: np.ndarray, wanted: np.ndarray, arguments: dict) -> str:
    """Say what is wrong with an output that no known mistake explains: "it has ...".

    arguments: what the answer was given, by name.
    """
    if value.shape != wanted.shape:
        return _shape(value, wanted)
    if not np.isfinite(value[np.isfinite(wanted)]).all():
        bad = "NaN" if np.isnan(value).any() else "inf"
        return f"holds {bad}: was something divided by 0, or exp given a large number?"
    if not value.any():
        return "is all zeros"
    for name, arg in arguments.items():
        if isinstance(arg, np.ndarray) and arg.dtype == value.dtype and close(value, arg):
            return f"is {name}, unchanged"
    if close(value, -wanted):
        return "has the wrong sign"
    found = None
    if np.isfinite(wanted).all() and wanted.any():
        found = _factor(value, wanted) or _offset(value, wanted) or _moved(value, wanted)
    sizes = {n for arg in arguments.values() if isinstance(arg, np.ndarray) for n in arg.shape}
    return found or f"{_part(value, wanted, sizes)}{_largest(value, wanted)}"


def _shape(value, wanted) -> str:
    text = f"has shape {value.shape}, must have {wanted.shape}"
    if value.ndim == wanted.ndim and sorted(value.shape) == sorted(wanted.shape):
        return text + ": are two axes swapped, a transpose missing or one too many?"
    if value.ndim == wanted.ndim:
        n = [axis for axis in range(wanted.ndim) if value.shape[axis] != wanted.shape[axis]]
        if len(n) == 1:
            axis, more = n[0], value.shape[n[0]] - wanted.shape[n[0]]
            cut = [slice(None)] * wanted.ndim
            cut[axis] = slice(None, more) if more > 0 else slice(None, wanted.shape[axis])
            if more > 0 and close(value[tuple(cut)], wanted):
                return text + f": its first {wanted.shape[axis]} along axis {axis} are right"
            cut[axis] = slice(more, None)
            if more > 0 and close(value[tuple(cut)], wanted):
                return text + f": its last {wanted.shape[axis]} along axis {axis} are right"
    elif value.ndim + 1 == wanted.ndim:
        for axis in range(wanted.ndim):
            for reduced, what in ((wanted.sum(axis), "summed"), (wanted.mean(axis), "averaged")):
                if close(value, reduced):
                    return text + f": it was {what} over axis {axis}"
    return text


def _factor(value, wanted) -> str | None:
    """A factor for all, or one for each place along an axis."""
    if wanted.size == 1:
        return None
    factor = np.vdot(value, wanted) / np.vdot(wanted, wanted)
    if close(value, factor * wanted):
        sizes = {n: axis for axis, n in reversed(list(enumerate(wanted.shape))) if n > 1}
        for n, axis in sizes.items():
            for known, text in (
                (1 / n, f"a mean over axis {axis}, of {n}, for a sum"),
                (n, f"a sum over axis {axis}, of {n}, for a mean"),
                (n**-0.5, f"divided by the root of {n}, the size of axis {axis}"),
                (n**0.5, f"multiplied by the root of {n}, the size of axis {axis}"),
            ):
                if abs(factor / known - 1) < 1e-6:
                    return f"is {factor:.4g} times what it should be, perhaps {text}"
        return f"is {factor:.4g} times what it should be: a factor is missing or too much"
    if wanted.ndim > 1:
        axes = range(wanted.ndim)
        alone = [(tuple(a for a in axes if a != axis), axis) for axis in axes]
        for over, axis in [*alone, *(((axis,), axis) for axis in axes)]:
            own = (value * wanted).sum(over, keepdims=True)
            own = own / np.maximum((wanted * wanted).sum(over, keepdims=True), 1e-300)
            if own.size < wanted.size and close(value, own * wanted):
                if over != (axis,):
                    return f"has a wrong factor, another one for each place along axis {axis}"
                return f"has a wrong factor for each row along axis {axis}: is a sum over it wrong?"
    return None


def _offset(value, wanted) -> str | None:
    """The same number too much everywhere, or for each place along an axis."""
    if wanted.size == 1:
        return None
    off = value - wanted
    if close(off, np.full(off.shape, off.flat[0])):
        return f"is {off.flat[0]:+.4g} off everywhere"
    for axis in range(wanted.ndim):
        same = off.mean(axis, keepdims=True)
        if wanted.ndim > 1 and wanted.shape[axis] > 1 and close(wanted + same, value):
            return f"has something constant along axis {axis} too much, or too little"
    return None


def _moved(value, wanted) -> str | None:
    """Swapped axes, a wrong order, rows that are off by one."""
    for one in range(wanted.ndim):
        for other in range(one):
            if value.shape[one] == value.shape[other] and close(value.swapaxes(one, other), wanted):
                return f"has axes {other} and {one} swapped: a transpose is missing or too much"
    for axis, n in enumerate(wanted.shape):
        if n < 2:
            continue
        if close(np.flip(value, axis), wanted):
            return f"runs the wrong way along axis {axis}"
        if n < 3:
            continue
        if any(close(np.roll(value, by, axis), wanted) for by in (1, -1)):
            return f"is rolled by one along axis {axis}"
        for by in (1, -1):
            later, sooner = np.arange(1, n), np.arange(n - 1)
            ours, theirs = (later, sooner) if by == 1 else (sooner, later)
            if close(value.take(ours, axis), wanted.take(theirs, axis)):
                return f"is off by one along axis {axis}"
    return None


def _part(value, wanted, sizes: set[int]) -> str:
    """Where it is right, and where not; sizes: of the arguments' axes."""
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0) or 1.0
    wrong = ~np.isclose(value, wanted, rtol=0.0, atol=RTOL * scale, equal_nan=True)
    for axis, n in enumerate(wanted.shape):
        rest = tuple(a for a in range(wanted.ndim) if a != axis)
        bad = np.flatnonzero(wrong.any(axis=rest))
        if n > 1 and 0 < len(bad) < n and len(bad) == bad[-1] - bad[0] + 1:
            which = f"{bad[0]}" if len(bad) == 1 else f"{bad[0]} to {bad[-1]}"
            first_m = bad[0] == 0 and {n, n - len(bad)} <= sizes  # K and T, so these are M
            memory = " (the memory's rows: are they left out?)" if first_m else ""
            return f"is right but for {which} of the {n} along axis {axis}{memory}: "
    return "is "


def _largest(value, wanted) -> str:
    """The place that is farthest off."""
    at = np.unravel_index(np.argmax(np.abs(np.nan_to_num(value - wanted))), wanted.shape)
    place = f" at {[int(i) for i in at]}" if at else ""
    return f"{value[at]:.6g}{place}, must be {wanted[at]:.6g}"
