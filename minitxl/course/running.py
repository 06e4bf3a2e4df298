"""Run a learner's function once, safely: whatever it does ends as arrays, or as a `Failed`.

Honest mistakes are caught, and the tricks that are easily thought of: an answer that calls this
library, changes what it was given, or replaces parts of NumPy or of the library. Code that is
bent on cheating shares a process with its judge and cannot be held: look at what is handed in.
"""

from __future__ import annotations

import contextlib
import copy
import linecache
import os
import re
import sys
import threading
import traceback
import types
import warnings
from typing import NamedTuple

import numpy as np

import minitxl

PACKAGE = os.path.dirname(minitxl.__file__) + os.sep
NUMBERS = "biuf"  # dtype kinds: bool, integers, floats


class Failed(NamedTuple):
    """Why there are no outputs."""

    message: str
    solved: bool = True  # False: the learner has not begun
    fair: bool = False  # True: what an edge case may bring out of an otherwise sound answer


class Watch:
    """Within `with watch:`, note what code of minitxl is entered; see `sys.setprofile`."""

    def __init__(self):
        self.entered: list[str] = []
        self.removed = False

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        # Not this file itself, nor the package's own names that are imported when they are used,
        # nor the wrapper of `has_twin`: what it wraps comes next.
        passing = code.co_filename in (__file__, minitxl.__file__) or "<locals>" in code.co_qualname
        if not passing:
            self.entered.append(f"{frame.f_globals.get('__name__')}.{code.co_qualname}")

    def __enter__(self):
        self._before = sys.getprofile()
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *exc):
        self.removed = sys.getprofile() is not self
        sys.setprofile(self._before)
        threading.setprofile(None)


def call(
    answer, args: tuple, names: tuple, outputs: tuple, *, may_call_library: bool = False
) -> tuple[np.ndarray, ...] | Failed:
    """Return what answer(*args) gives, as float64 arrays that are ours alone, or why not.

    names: of the arguments; outputs: of what is to come back. KeyboardInterrupt alone goes through:
    it is how a learner or a time limit stops the run.
    """
    given = copy.deepcopy(args)
    watch = Watch()
    try:
        with quiet(), watch:
            got = _arrays(answer(*given), outputs)
    except NotImplementedError:
        return Failed("the function still raises NotImplementedError", solved=False)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Failed(_described(error, answer), fair=isinstance(error, Exception))
    if watch.removed:
        return Failed(
            "it changes the profiler with which it is watched: leave sys.setprofile alone"
        )
    if watch.entered and not may_call_library:
        name = watch.entered[0].removesuffix(".__init__").removesuffix(".__post_init__")
        return Failed(f"it calls {name}: write it yourself")
    for name, now, before in zip(names, given, args, strict=True):
        if not _same(now, before):
            return Failed(f"it changes its argument {name} in place: work on a copy")
    return got


@contextlib.contextmanager
def quiet():
    """No warnings, and nothing on stderr: nbgrader gives 0 points where a check wrote there."""
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        contextlib.redirect_stderr(sys.stdout),
    ):
        warnings.simplefilter("ignore")
        yield


def _arrays(result, outputs: tuple) -> tuple[np.ndarray, ...] | Failed:
    """Turn a result into plain float64 arrays, whatever its type claims to be."""
    if result is None:
        return Failed("the function returns None: is a `return` missing?", solved=False, fair=True)
    if len(outputs) == 1:
        if isinstance(result, tuple):
            return Failed(
                f"it returns a tuple of {len(result)}, must be {outputs[0]} alone", fair=True
            )
        result = (result,)
    elif not isinstance(result, tuple | list) or len(result) != len(outputs):
        many = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        return Failed(
            f"it returns a {type(result).__name__}{many}, must return the {len(outputs)} values "
            f"{', '.join(outputs)}",
            fair=True,
        )
    arrays = []
    for name, value in zip(outputs, result, strict=True):
        if value is None or value is ...:
            return Failed(f"{name} is {value}: is it still missing?", solved=False, fair=True)
        try:
            array = np.asarray(value)
        except ValueError:
            kind = type(value).__name__
            return Failed(f"{name} is a {kind} of unequal parts, must be an array", fair=True)
        if array.dtype.kind not in NUMBERS:
            kind = type(value).__name__
            what = f"an array of {array.dtype}" if array.ndim else f"of type {kind}"
            return Failed(f"{name} is {what}, must be real numbers", fair=True)
        arrays.append(np.array(array, dtype=np.float64))
    return tuple(arrays)


def _same(now, before) -> bool:
    if isinstance(before, list):
        return len(now) == len(before) and all(map(_same, now, before))
    if not isinstance(before, np.ndarray):
        return True  # a number: it cannot be changed
    return now.shape == before.shape and np.array_equal(
        now, before, equal_nan=before.dtype == float
    )


def _described(error: BaseException, answer) -> str:
    """Name an exception, its message, and the learner's own line."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:
        text = ""
    if isinstance(error, SystemExit):
        text = "leave exit() and sys.exit() out"
    elif type(error) is NameError:  # not its subclass, of a local variable without a value
        text += "; is it misspelt, or its cell not run?"
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(answer, "__code__", None) if isinstance(answer, types.FunctionType) else None
    own = [f for f in frames if code is not None and f.filename == code.co_filename]
    where = ""
    if own:
        line = linecache.getline(own[-1].filename, own[-1].lineno).strip()
        where = f" in line {own[-1].lineno}" + (f", `{line}`" if line else "")
        if isinstance(error, ValueError) and re.search(r"\.T\b", line):
            text += "; .T turns all axes round, np.swapaxes(x, -1, -2) the last two"
    return f"{type(error).__name__}{where}: {text}".removesuffix(": ")


# --- what must stay as it is ---------------------------------------------------------------------


def snapshot(owners) -> dict:
    """Return what modules and classes hold, to be compared with `replaced` later."""
    return {o: {k: v for k, v in vars(o).items() if not k.startswith("__")} for o in owners}


def replaced(before: dict) -> str | None:
    """Return the name of something that is not what it was in a `snapshot`, or None."""
    missing = object()
    for owner, names in before.items():
        now = vars(owner)
        for name, value in names.items():
            if now.get(name, missing) is not value:
                return f"{owner.__name__}.{name}"
    return None
