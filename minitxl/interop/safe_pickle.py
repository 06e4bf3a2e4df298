"""Pickles read without trust: Python's own `pickle.Unpickler`, behind two gates.

A pickle is a program: opcodes that push values on a stack, collect them into containers, keep them
in a memo to use again - and import Python objects by name and call them, which is why `pickle.load`
must not read what a stranger wrote. Here `find_class` imports nothing: it looks a name up in a
table. And before anything runs, the opcodes are listed by `pickletools.genops`, which finds every
length that goes beyond the data, and what could do harm even so is refused:

    opcodes that no such file needs         INST, OBJ, NEWOBJ, EXT1, ...
    high numbers in the memo                it is an array in C: few bytes could ask for 32 GiB
    keys that are neither text nor int64    to hash nested tuples may take forever, or all of C's
                                            stack; and large integers can be made to collide
    items and attributes set anywhere       a tensor would take them too, and a class has methods;
        but in dicts and lists              a state dict's attributes are versions: BUILD is skipped
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.files import one_line

MAX_PICKLE = 64 * 2**20  # bytes; the vocabulary of WikiText-103, 267,735 words, takes 10 million
_MAX_STEPS = 8_000_000  # opcodes, and values of the result; that vocabulary takes 2 million
_MAX_DEPTH = 100  # of nested containers, well inside Python's own limit

# What the protocols 2 to 5 write for containers, text and numbers, and what PyTorch adds to it.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING EMPTY_LIST EMPTY_DICT "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT "
    "MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID".split()
)


def load(
    data: bytes,
    start: int,
    *,
    file_name: str,
    allowed: Mapping[str, object],
    load_persistent: Callable[[object], object],
) -> tuple[object, int]:
    """Read the pickle that begins at data[start]; return its object and where the pickle ends.

    file_name: for messages. allowed: dotted name -> what stands for the Python object of that name:
    a function, called with whatever the file gives, or an inert value (no dict, text or number);
    OrderedDict and Counter are always allowed. load_persistent: what turns a persistent id, which
    may be anything, into a value.
    The object is made of dict, OrderedDict, Counter, list, tuple, str, int, float, bool, None and
    arrays, at most 100 deep; containers may be shared, but never hold themselves.
    MinitxlError for a name that is not allowed, ValueError for anything malformed or too large.
    """
    names = {**allowed, "collections.OrderedDict": OrderedDict, "collections.Counter": Counter}

    def find(module: object, name: object) -> object:
        full = f"{module}.{name}"
        if full not in names:
            raise MinitxlError(
                f"{file_name} asks for the Python object {one_line(full)}, "
                "which a checkpoint does not need: refused"
            )
        return names[full]

    try:
        program, n_steps = _checked(data, start, file_name, find)
        result = _Unpickler(program, n_steps, find, load_persistent).load()
    except (MinitxlError, ValueError, MemoryError):
        raise
    except LookupError as error:  # an empty stack; a memo entry that was never made
        raise ValueError("its pickle takes a value that is not there") from error
    except Exception as error:  # pickle does not promise which
        raise ValueError(f"its pickle cannot be run ({one_line(error)})") from error
    _check_plain(result)
    return result, start + len(program)


def _checked(data: bytes, start: int, file_name: str, find: Callable) -> tuple[bytearray, int]:
    """Return the harmless pickle at data[start], and its number of opcodes.

    It is run on paper, where the stack holds of a value only what matters here: a text or integer
    is there itself, and so is what a name stands for; a dict has only its keys; of all else there
    is the type.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    stack: list = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, object] = {}
    builds: list[int] = []
    for n, (op, arg, place) in enumerate(pickletools.genops(stream), start=1):
        if n > _MAX_STEPS:
            raise ValueError(f"its pickle takes more than {_MAX_STEPS} steps")
        if op.name in ("GLOBAL", "INST"):  # INST is refused below, but its name tells more
            arg = find(*arg.split(" ", 1))
        if op.name not in _OPCODES:
            raise MinitxlError(
                f"{file_name} uses the pickle opcode {op.name}, "
                "which a checkpoint does not need: refused"
            )
        if op.name == "FRAME" and arg > len(data) - stream.tell():
            raise ValueError("its pickle is cut short")
        if type(arg) is str:
            arg.encode("utf-8")  # ValueError for half a surrogate pair, which nobody can print
        taken = _take(op, stack, marks)
        match op.name:
            case "BINPUT" | "LONG_BINPUT":
                if arg > n:
                    raise ValueError(f"its pickle puts value {arg} into a memo after {n} steps")
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = taken[0]
                stack += taken
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                stack.append(arg)
            case "STACK_GLOBAL":
                stack.append(find(*taken))
            case "EMPTY_DICT":
                stack.append({})
            case "REDUCE":
                is_dict = taken[0] is OrderedDict or taken[0] is Counter
                stack.append(taken[0]() if is_dict else object)
            case "SETITEM" | "SETITEMS":
                target, *pairs = taken
                if not isinstance(target, dict) or len(pairs) % 2:
                    raise ValueError("its pickle sets items of no dict, or a key without value")
                for key in pairs[::2]:
                    _set_item(target, key, None)
                stack.append(target)
            case "APPEND" | "APPENDS":
                if taken[0] is not list:
                    raise ValueError("its pickle appends to what is no list")
                stack.append(list)
            case "BUILD":
                if type(taken[0]) is not OrderedDict:
                    raise ValueError("its pickle sets attributes of what is no OrderedDict")
                builds.append(place)
                stack.append(taken[0])
            case _:
                is_itself = type(arg) in (str, int)
                stack += [arg if is_itself else kind.obtype for kind in op.stack_after]
    if stack or marks:
        raise ValueError("its pickle leaves values behind")
    program = bytearray(memoryview(data)[start : place + 1])
    for place in builds:
        program[place - start] = pickle.POP[0]
    return program, n


def _take(op: pickletools.OpcodeInfo, stack: list, marks: list[int]) -> list:
    """Take off the stack what an opcode does: some values, or all above the last mark, or both."""
    n, items = len(op.stack_before), []
    if pickletools.markobject in op.stack_before:
        n, height = n - 2, marks.pop()
        items = stack[height:]
        del stack[height:]
    floor = len(stack) - n
    if floor < (marks[-1] if marks else 0):
        raise IndexError
    taken = stack[floor:] + items
    del stack[floor:]
    return taken


def _set_item(target: dict, key: object, value: object) -> None:
    if not (type(key) is str or (type(key) is int and -(2**63) <= key < 2**63)):
        raise ValueError("its pickle has a dict with a key that is neither text nor an int64")
    if key in target:
        raise ValueError(f"its pickle sets the key {key!r} of a dict twice")
    target[key] = value


class _Unpickler(pickle.Unpickler):
    """Runs a program that was checked, with the names and persistent ids that `load` was given."""

    def __init__(self, program, n_steps, find, load_persistent) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8")  # of Python 2's strings
        self._find, self._load_persistent = find, load_persistent
        self._may_copy = n_steps  # values: a few opcodes could ask for many copies of a long list

    def find_class(self, module: str, name: str) -> object:
        found = self._find(module, name)
        return {OrderedDict: self._ordered_dict, Counter: self._counter}.get(found, found)

    def persistent_load(self, pid: object) -> object:
        return self._load_persistent(pid)

    def _ordered_dict(self, pairs: object = None) -> OrderedDict:
        """Return OrderedDict() or, as Python 2 wrote it, OrderedDict([[key, value], ...])."""
        result: OrderedDict = OrderedDict()
        for pair in self._copied(pairs, list):
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise ValueError("its pickle makes an OrderedDict of what is no list of pairs")
            _set_item(result, *pair)
        return result

    def _counter(self, counts: object = None) -> Counter:
        return Counter(self._copied(counts, dict))

    def _copied(self, source: object, kind: type[list] | type[dict]) -> list | dict:
        source = kind() if source is None else source
        if type(source) is not kind:
            raise ValueError(
                "its pickle makes an OrderedDict of what is no list of pairs, or a Counter of what "
                "is no dict"
            )
        self._may_copy -= len(source)
        if self._may_copy < 0:
            raise ValueError("its pickle copies more values than it has")
        return source


def _check_plain(result: object) -> None:
    """Refuse stand-ins left in the result, and a result that explodes or never ends when walked.

    A list of ten references to a list of ten references to ... is tiny in memory, but endless for
    whoever walks through it; so each reference counts as often as it is met.
    """
    levels = [iter((result,))]
    met = 0
    while levels:
        for value in levels[-1]:
            met += 1
            if isinstance(value, dict):
                levels.append(iter(value.values()))
            elif type(value) in (list, tuple):
                levels.append(iter(value))
            elif type(value) not in (str, int, float, bool, type(None), np.ndarray):
                raise ValueError("its pickle holds a name or a storage in the place of a value")
            else:
                continue
            break
        else:
            levels.pop()
        if len(levels) > _MAX_DEPTH or met > _MAX_STEPS:
            raise ValueError(
                f"its pickle nests over {_MAX_DEPTH} deep, or refers to itself, or spreads out to "
                f"more than {_MAX_STEPS} values"
            )
