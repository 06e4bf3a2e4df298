"""Call a learner's function: whatever it does ends as arrays, or as a `Failed`.

Used twice: in the learner's own notebook, by `course.check`; and, in grading, in a process apart
from its judge (`grading/student.py`), which is handed this file. So nothing of minitxl is imported
here. Arrays go between the two processes as JSON: type, shape and bytes, nothing that could run.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import dis
import inspect
import linecache
import re
import sys
import traceback
import types
import warnings
from typing import NamedTuple

import numpy as np

NUMBERS = "biuf"  # dtype kinds: bool, integers, floats
LARGEST = 10**6  # numbers in an array that is compared; the right ones have some thousands
LIBRARY = "minitxl"
_SCALARS = (int, float, np.number, np.bool_)


class Failed(NamedTuple):
    """Why there are no outputs."""

    message: str
    solved: bool = True  # False: the learner has not begun
    fair: bool = False  # True: what an edge case may bring out of an otherwise sound answer


class LibraryCalledError(Exception):
    """An answer called the library; raised where the library is not there, when it counts."""


def call(answer, args: tuple, names: tuple, outputs: tuple) -> tuple[np.ndarray, ...] | Failed:
    """Return what answer(*args) gives, as plain arrays that are ours alone, or why not.

    names: of the arguments; outputs: of what is to come back. KeyboardInterrupt alone goes through:
    it is how a learner stops the run.
    """
    given = copy.deepcopy(args)
    try:
        with quiet():
            got = _arrays(answer(*given), outputs)
    except NotImplementedError:
        return Failed("the function still raises NotImplementedError", solved=False)
    except LibraryCalledError as error:
        return Failed(f"it calls {error}: write it yourself")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Failed(described(error, answer), fair=isinstance(error, Exception))
    for name, now, before in zip(names, given, args, strict=True):
        if not _same(now, before):
            return Failed(f"it changes its argument {name} in place: work on a copy")
    return got


@contextlib.contextmanager
def quiet():
    """No warnings, and what is written to stderr goes where prints go."""
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        contextlib.redirect_stderr(sys.stdout),
    ):
        warnings.simplefilter("ignore")
        yield


def _arrays(result, outputs: tuple) -> tuple[np.ndarray, ...] | Failed:
    """Turn a result into plain arrays of numbers, whatever its type claims to be."""
    if result is None:
        return Failed("the function returns None: is a `return` missing?", solved=False, fair=True)
    if len(outputs) == 1:
        numbers = isinstance(result, tuple) and all(isinstance(x, _SCALARS) for x in result)
        if isinstance(result, tuple) and not numbers and len(result) == 1:
            result = result[0]  # `return ds,`: a comma is no mistake in the mathematics
        if isinstance(result, tuple) and not numbers:
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
            array = np.asarray(_detached(value))
        except ValueError:
            kind = type(value).__name__
            return Failed(f"{name} is a {kind} of unequal parts, must be an array", fair=True)
        if array.dtype.kind == "O" and all(isinstance(x, int) for x in array.flat):
            array = array.astype(np.float64)  # a whole number beyond 64 bits
        if array.dtype.kind not in NUMBERS:
            kind = type(value).__name__
            what = f"an array of {array.dtype}" if array.ndim else f"of type {kind}"
            return Failed(f"{name} is {what}, must be real numbers", fair=True)
        if array.size > LARGEST:
            return Failed(f"{name} has shape {array.shape}, which is far too large", fair=True)
        arrays.append(np.array(array))
    return tuple(arrays)


def _detached(value):
    """A tensor of PyTorch without its gradient, with which it becomes no array."""
    if isinstance(value, list | tuple):
        return [_detached(x) for x in value]
    return value.detach() if hasattr(value, "detach") else value


def _same(now, before) -> bool:
    if isinstance(before, list | tuple):
        return len(now) == len(before) and all(map(_same, now, before))
    if not isinstance(before, np.ndarray):
        return True  # a number: it cannot be changed
    return now.shape == before.shape and np.array_equal(
        now, before, equal_nan=before.dtype == float
    )


def described(error: BaseException, answer=None) -> str:
    """Name an exception, its message, and the learner's own line."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:
        text = ""
    if isinstance(error, LibraryCalledError):
        return f"it calls {error}, which is not to be had in grading"
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


# --- whether an answer is the library's ----------------------------------------------------------


def library_use(answer) -> str | None:
    """Return the name of what an answer takes from minitxl, as far as its code shows, or None.

    It tells an honest learner, before handing in, that this counts nothing: there the library is
    not to be had. It looks into the helpers that the learner has written, too.
    """
    seen: set[int] = set()
    todo = [answer]
    while todo:
        one = inspect.unwrap(todo.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not isinstance(one, types.FunctionType):
            if name := _of_library(one) or _of_library(type(one)):
                return name
            continue
        if name := _of_library(one):
            return name
        for code in _codes(one.__code__):
            attributes = {i.argval for i in dis.get_instructions(code) if "ATTR" in i.opname}
            attributes |= {i.argval for i in dis.get_instructions(code) if "METHOD" in i.opname}
            for step in dis.get_instructions(code):
                if step.opname == "IMPORT_NAME" and f"{step.argval}.".startswith(f"{LIBRARY}."):
                    return step.argval
                if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                    continue
                value = one.__globals__.get(step.argval)
                if isinstance(value, types.ModuleType):
                    used = [a for a in sorted(map(str, attributes)) if hasattr(value, a)]
                    if (name := _of_library(value)) and used:
                        return f"{name}.{used[0]}"
                elif isinstance(value, types.FunctionType):
                    todo.append(value)
                elif name := _of_library(value):
                    return name
    return None


def _of_library(value) -> str | None:
    if isinstance(value, types.ModuleType):
        name = value.__name__
        return name if f"{name}.".startswith(f"{LIBRARY}.") else None
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and f"{module}.".startswith(f"{LIBRARY}."):
        return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return None


def _codes(code: types.CodeType):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


# --- between two processes -----------------------------------------------------------------------


def pack(value):
    """Turn numbers, arrays, lists and tuples of them, None and texts into what JSON can hold."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}
    if isinstance(value, np.generic):
        return pack(value[()].item())
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [pack(x) for x in value]}
    return value


def unpack(value):
    """Undo `pack`; ValueError for anything that it does not make."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict):
        raise ValueError("neither a number nor an array")
    for kind in (list, tuple):
        if isinstance(value.get(kind.__name__), list):
            return kind(unpack(x) for x in value[kind.__name__])
    dtype, shape, data = value.get("dtype"), value.get("shape"), value.get("data")
    sound = isinstance(dtype, str) and re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", dtype)
    if not sound or not isinstance(data, str) or not isinstance(shape, list):
        raise ValueError("no array of numbers")
    if not all(type(n) is int and 0 <= n <= LARGEST for n in shape) or len(shape) > 32:
        raise ValueError("no shape")
    flat = np.frombuffer(base64.b64decode(data, validate=True), dtype=np.dtype(dtype))
    if flat.size > LARGEST:
        raise ValueError("too many numbers")
    return flat.reshape(shape).copy()
