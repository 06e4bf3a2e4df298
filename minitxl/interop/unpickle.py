"""Pickles read without trust: a small stack machine that can call only what it is given.

A pickle is a program: opcodes that push values on a stack, collect them into containers, keep them
in a memo to use again - and name Python objects and call them, which is why Python's own `pickle`
must not read what a stranger wrote. Here a name is only text: nothing is ever imported. A call
looks the name up in a table, and whatever the table lacks is refused.

Memory and time are bounded by the limits below and by the length of the pickle, whatever sizes it
claims, and nothing recurses: not while reading, and not for who walks through the result.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.files import one_line

MAX_PICKLE = 64 * 2**20  # bytes; the vocabulary of WikiText-103, 267,735 words, takes 9 million
_MAX_STEPS = 8_000_000  # opcodes, and values of the result; that vocabulary takes 2 million
_MAX_DEPTH = 100  # of nested containers, well inside Python's own limit

_UINT8, _UINT16, _UINT32, _UINT64 = (struct.Struct(f"<{code}") for code in "BHIQ")
_INT32, _FLOAT64 = struct.Struct("<i"), struct.Struct(">d")  # the one number in big-endian

Calls = Mapping[str, Callable[[tuple], object] | None]


class Global(NamedTuple):
    """An inert stand-in for the Python object of that dotted name."""

    name: str


def unpickle(
    data: bytes,
    start: int,
    *,
    file_name: str,
    calls: Calls,
    load_persistent: Callable[[object], object],
) -> tuple[object, int]:
    """Read the pickle that begins at data[start]; return its object and where the pickle ends.

    file_name: for messages. calls: dotted name -> function of the tuple of arguments, or None for a
    name that may stand in the pickle but not be called; OrderedDict and Counter are always allowed.
    load_persistent: what turns a persistent id, which may be anything, into a value.
    The object is made of dict, OrderedDict, Counter, list, tuple, str, int, float, bool, None and
    arrays, at most 100 deep; containers may be shared, but never hold themselves.
    MinitxlError for a name that is not allowed, ValueError for anything malformed or too large.
    """
    machine = _Machine(data, start, file_name, calls, load_persistent)
    try:
        result = machine.run()
    except (IndexError, KeyError) as error:  # an empty stack; a memo entry that was never made
        raise ValueError("its pickle takes a value that is not there") from error
    _check_plain(result)
    return result, machine.pos


class _Machine:
    """The stack, the marks and the memo of one pickle; `run` executes it up to its STOP."""

    def __init__(self, data, pos, file_name, calls, load_persistent):
        self.data: bytes = data
        self.pos: int = pos
        self.file_name: str = file_name
        self.calls: Calls = calls
        self.load_persistent: Callable[[object], object] = load_persistent
        self.stack: list = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}
        self.steps = 0

    def run(self) -> object:
        while True:
            self.count(1)
            op = self.take(1)[0]
            if op == pickle.STOP[0]:
                break
            if op not in _HANDLERS:
                raise self.refusal(op)
            _HANDLERS[op](self)
        result = self.stack.pop()
        if self.stack or self.marks:
            raise ValueError("its pickle leaves values behind")
        return result

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise ValueError(f"its pickle takes more than {_MAX_STEPS} steps")

    def refusal(self, op: int) -> Exception:
        known = pickletools.code2op.get(chr(op))
        if known is None:
            return ValueError(f"byte {op} in its pickle is no opcode")
        return MinitxlError(
            f"{self.file_name} uses the pickle opcode {known.name}, "
            "which a checkpoint does not need: refused"
        )

    # ------------------------------------------------------------------------- reading the bytes

    def take(self, n: int) -> bytes:
        end = self.pos + n
        if not self.pos <= end <= len(self.data):
            raise ValueError("its pickle is cut short")
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def number(self, form: struct.Struct) -> int | float:
        return form.unpack(self.take(form.size))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.pos, self.pos + 1000)
        if end < 0:
            raise ValueError("its pickle has a name without an end")
        return self.take(end + 1 - self.pos)[:-1].decode("utf-8")

    def text(self, form_of_length: struct.Struct) -> str:
        return self.take(self.number(form_of_length)).decode("utf-8")

    def long(self) -> int:
        size = self.number(_UINT8)
        if size > 10:  # torch's magic number has 10; all else has at most 8
            raise ValueError(f"its pickle has an integer of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    # ------------------------------------------------------------------------- names and calls

    def find(self, module: object, name: object) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle asks for an object whose name is not text")
        full = f"{module}.{name}"
        if full not in self.calls and full not in _OWN_CALLS:
            raise MinitxlError(
                f"{self.file_name} asks for the Python object {one_line(full)}, "
                "which a checkpoint does not need: refused"
            )
        return Global(full)

    def find_and_push(self) -> None:
        self.stack.append(self.find(self.line(), self.line()))

    def find_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.find(module, name))

    def inst(self) -> None:  # an old way to call: find it, so that a forbidden name is told
        self.find(self.line(), self.line())
        raise self.refusal(pickle.INST[0])

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(function) is not Global:
            raise ValueError("its pickle calls what is no function")
        if function.name in _OWN_CALLS:
            self.stack.append(_OWN_CALLS[function.name](self, arguments))
            return
        call = self.calls[function.name]
        if call is None:
            raise ValueError(f"its pickle calls {function.name}, which is no function")
        self.stack.append(call(arguments))

    def ordered_dict(self, arguments: tuple) -> OrderedDict:
        """OrderedDict(), or OrderedDict([[key, value], ...]), as Python 2 wrote it."""
        result: OrderedDict = OrderedDict()
        if arguments:
            (pairs,) = arguments if len(arguments) == 1 else (None,)
            if type(pairs) is not list:
                raise ValueError("its pickle makes an OrderedDict of what is no list of pairs")
            self.count(len(pairs))  # a copy: few bytes could ask for many of a long list
            for pair in pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    raise ValueError("its pickle makes an OrderedDict of what is no list of pairs")
                self.set_item(result, *pair)
        return result

    def counter(self, arguments: tuple) -> Counter:
        if not arguments:
            return Counter()
        if len(arguments) != 1 or type(arguments[0]) is not dict:
            raise ValueError("its pickle makes a Counter of what is no dict")
        self.count(len(arguments[0]))
        return Counter(arguments[0])

    def build(self) -> None:
        """Ignore the attributes of an OrderedDict: a state dict has `_metadata`, versions only."""
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:
            raise ValueError("its pickle sets attributes, which only an OrderedDict may have")

    def persistent(self) -> None:
        self.stack.append(self.load_persistent(self.stack.pop()))

    # ------------------------------------------------------------------------- containers, memo

    def pop_mark(self) -> list:
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def pop_last(self, n: int) -> list:
        if len(self.stack) < n:
            raise IndexError
        values = self.stack[-n:]
        del self.stack[-n:]
        return values

    def extend(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("its pickle appends to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("its pickle sets items of what is no dict, or a key without value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.set_item(target, key, value)

    def set_item(self, target: dict, key: object, value: object) -> None:
        # A nested tuple could overflow the stack when it is hashed, and integers beyond 64 bits can
        # be chosen so that thousands of them collide.
        if not (type(key) is str or (type(key) is int and -(2**63) <= key < 2**63)):
            raise ValueError("its pickle has a dict with a key that is neither text nor an int64")
        if key in target:
            raise ValueError(f"its pickle sets the key {key!r} of a dict twice")
        target[key] = value

    def keep(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


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


_OWN_CALLS = {
    "collections.OrderedDict": _Machine.ordered_dict,
    "collections.Counter": _Machine.counter,
}


def _push(make: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make(m))


# What the protocols 2 to 5 write for containers, text and numbers, and what PyTorch adds to it.
_HANDLERS: dict[int, Callable[[_Machine], None]] = {
    op[0]: handler
    for op, handler in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),
        pickle.NONE: _push(lambda m: None),
        pickle.NEWTRUE: _push(lambda m: True),
        pickle.NEWFALSE: _push(lambda m: False),
        pickle.BININT: _push(lambda m: m.number(_INT32)),
        pickle.BININT1: _push(lambda m: m.number(_UINT8)),
        pickle.BININT2: _push(lambda m: m.number(_UINT16)),
        pickle.LONG1: _push(lambda m: m.long()),
        pickle.BINFLOAT: _push(lambda m: m.number(_FLOAT64)),
        pickle.SHORT_BINUNICODE: _push(lambda m: m.text(_UINT8)),
        pickle.BINUNICODE: _push(lambda m: m.text(_UINT32)),
        pickle.BINUNICODE8: _push(lambda m: m.text(_UINT64)),
        pickle.SHORT_BINSTRING: _push(lambda m: m.text(_UINT8)),  # Python 2
        pickle.BINSTRING: _push(lambda m: m.text(_INT32)),  # Python 2
        pickle.EMPTY_LIST: _push(lambda m: []),
        pickle.EMPTY_DICT: _push(lambda m: {}),
        pickle.EMPTY_TUPLE: _push(lambda m: ()),
        pickle.MARK: lambda m: m.marks.append(len(m.stack)),
        pickle.APPEND: lambda m: m.extend(m.pop_last(1)),
        pickle.APPENDS: lambda m: m.extend(m.pop_mark()),
        pickle.SETITEM: lambda m: m.set_items(m.pop_last(2)),
        pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
        pickle.TUPLE: _push(lambda m: tuple(m.pop_mark())),
        pickle.TUPLE1: _push(lambda m: tuple(m.pop_last(1))),
        pickle.TUPLE2: _push(lambda m: tuple(m.pop_last(2))),
        pickle.TUPLE3: _push(lambda m: tuple(m.pop_last(3))),
        pickle.BINPUT: lambda m: m.keep(m.number(_UINT8)),
        pickle.LONG_BINPUT: lambda m: m.keep(m.number(_UINT32)),
        pickle.MEMOIZE: lambda m: m.keep(len(m.memo)),
        pickle.BINGET: _push(lambda m: m.memo[m.number(_UINT8)]),
        pickle.LONG_BINGET: _push(lambda m: m.memo[m.number(_UINT32)]),
        pickle.GLOBAL: lambda m: m.find_and_push(),
        pickle.STACK_GLOBAL: lambda m: m.find_on_stack(),
        pickle.INST: lambda m: m.inst(),
        pickle.REDUCE: lambda m: m.reduce(),
        pickle.BUILD: lambda m: m.build(),
        pickle.BINPERSID: lambda m: m.persistent(),
    }.items()
}
