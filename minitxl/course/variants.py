"""Variants: what one student's hand-out asks for, and the next one's does not.

    python -m minitxl course release OUT --seed-by-student roster.csv

A variant is a word that is made of the student's id in the roster, so nobody has to keep it, and
nothing that is handed in has a say in it. By it are drawn the shapes of the checks, a parameter of
those exercises that are no part of the model (`VARIED`), and the numbers of some questions
(`NUMBERS`). The empty word is the common version, as the notebooks of this repository have it.

A parameter is not hidden: it stands in the exercise's docstring. An answer that was copied has
another student's; what it costs to change that is to understand where it goes.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import itertools
import re
import textwrap
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from minitxl.course.exercise import Exercise, Mistake
from minitxl.errors import MinitxlError

COMMON = ""
WORD = re.compile(r"variant\s*=\s*[\"']([0-9a-f]{8})[\"']")
CALLS = ("check", "reveal", "symptoms")  # of course and course.hunt: they take a variant
OTHERS = "this answers the hand-out that all have, or another's: yours has a parameter of its own"
_FEW = (2, 3, 4, 5, 6)


class Varied(NamedTuple):
    """How an exercise differs: its parameter, written VALUE in what is told and in the code."""

    choices: tuple
    says: str  # into the docstring
    body: str  # of the answer, which may call `common`, the answer to the common version
    imports: str = ""
    tells: Callable[[tuple, Any], bool] = lambda args, value: True  # what may be drawn for it


def _two_left(args: tuple, value: int) -> bool:
    """Two layers with a memory, or more: else nobody sees what becomes of the second."""
    return args[0] >= value + 2


_LOWEST = """
if n_layer <= VALUE:
    mem_len = 0
more = -mem_len % tgt_len  # the lowest memory holds states, which have seen whole segments
"""
VARIED = {
    "context-lengths": Varied(
        _FEW,
        "each segment is read with the VALUE characters before its start (as far as there are "
        "any), which it sees and does not predict; they count.",
        "return np.minimum(common(n_target, tgt_len) + VALUE, np.arange(n_target) + 1)",
        "import numpy as np",
    ),
    "reach": Varied(
        (1, 2),
        "the VALUE lowest of the N layers have no memory; the others have M states each.",
        _LOWEST + "return common(max(1, n_layer - VALUE), tgt_len, mem_len) + more",
        tells=_two_left,
    ),
    "influence": Varied(
        (1, 2),
        "the VALUE lowest of the N layers have no memory; the others have M states each.",
        _LOWEST + "return common(max(1, n_layer - VALUE), tgt_len, mem_len, offset) + more",
        tells=_two_left,
    ),
    "bug-hunt": Varied(
        tuple(itertools.permutations(range(5)))[1:],
        "the letters of your models are your own.",
        "found = common(bugs)\nreturn tuple(found[i] for i in VALUE)",
    ),
    "bits-per-character": Varied(
        (3, 4, 5, 8, 16, 100),
        "not in bits, but in digits to base VALUE (bits are digits to base 2).",
        "return common(nll) / math.log2(VALUE)",
        "import math",
    ),
    "recl-gain": Varied(
        (3, 4, 5, 8, 16, 100),
        "losses are in digits to base VALUE, so for exp f and exp f_i' take VALUE^f, VALUE^f_i'.",
        "nats = math.log(VALUE)\nreturn common(near * nats, far * nats, ratio)",
        "import math",
    ),
    "speed-up": Varied(
        _FEW,
        "the window is read anew for every VALUE tokens, which its last VALUE places predict.",
        "return common(attention_len, segment_len, d_model, d_inner) / VALUE",
    ),
    "affordable-memory": Varied(
        _FEW,
        "a row of the memory stands for VALUE tokens, compressed before (which costs nothing "
        "here); return not its rows, but the tokens that it stands for.",
        "return VALUE * common(n_layer, d_model, d_inner, segment_len, flops)",
    ),
}


class Numbers(NamedTuple):
    """Numbers of a question: where they stand in the notebook's text, and the right answer."""

    question: str
    choices: tuple[dict[str, Any], ...]
    texts: tuple[tuple[str, str], ...]  # as it stands there, and with {names} for numbers
    answer: str


NUMBERS = {
    "04_memory": (
        Numbers(
            "4.2",
            tuple(dict(t=t, n=n, m=n * t) for t in (16, 32, 48, 96, 128) for n in (3, 5, 6, 7, 9)),
            (("$T = 64$ and $M = 256$", "$T = {t}$ and $M = {m}$"),),
            "{n} updates",
        ),
    ),
    "05_reach": (
        Numbers(
            "5.1",
            tuple(
                dict(n=n, t=t, more=t + 1, one=f"{n * t:,}", other=f"{(2 * n - 1) * t + 1:,}")
                for n in (6, 8, 10, 14, 16, 18)
                for t in (96, 128, 192, 256, 384)
            ),
            (
                ("12 layers and $T = 512$", "{n} layers and $T = {t}$"),
                ("$M = 512$", "$M = {t}$"),
                ("$M = 513$", "$M = {more}$"),
            ),
            "{one} and {other}",
        ),
    ),
    "08_beyond": (
        Numbers(
            "8.2",
            tuple(
                dict(n=n, c=c, keys=f"{2 * n:,}", span=f"{n + c * n:,}")
                for n in (128, 192, 256, 384, 768)
                for c in (2, 3, 5, 6)
            ),
            (
                (
                    r"$n_\mathrm{fine} = n_\mathrm{coarse} = 512$ and $c = 4$",
                    r"$n_\mathrm{{fine}} = n_\mathrm{{coarse}} = {n}$ and $c = {c}$",
                ),
            ),
            "span {span}, {keys} keys; equal work M = {keys}, equal span M = {span}",
        ),
    ),
}


def word_of(student: str) -> str:
    """Return a student's variant, eight letters or digits; student: the id in the roster."""
    return hashlib.sha256(f"minitxl {student.casefold()}".encode()).hexdigest()[:8]


def drawn(variant: str, what: str, choices: Sequence):
    """Return one of several, the same on every machine for a variant and what it is for."""
    number = hashlib.sha256(f"{variant} {what}".encode()).digest()[:8]
    return choices[int.from_bytes(number, "big") % len(choices)]


def seed_of(variant: str) -> int:
    """Return what shapes and numbers of a variant are drawn by; 0 for the common version."""
    return zlib.crc32(variant.encode())


def value_of(exercise_id: str, variant: str):
    """Return an exercise's parameter, or None where it has none."""
    if not variant or exercise_id not in VARIED:
        return None
    return drawn(variant, exercise_id, VARIED[exercise_id].choices)


def vary(exercise: Exercise, variant: str) -> Exercise:
    """Return an exercise as a variant has it: docstring, model solution, mistakes."""
    value = value_of(exercise.id, variant)
    if value is None:
        return exercise
    spec = VARIED[exercise.id]
    arguments = ", ".join(exercise.arguments)
    inside = textwrap.indent(f"{exercise.imports.strip()}\n\n{exercise.body.strip()}", "    ")
    body = spec.body.strip().replace("VALUE", repr(value))

    def varied(common: Callable) -> Callable:
        names: dict = {"common": common}
        exec(f"{spec.imports}\ndef f({arguments}):\n{textwrap.indent(body, '    ')}", names)
        return names["f"]

    def cases(rng) -> list:
        while True:
            found = exercise.cases(rng)
            if all(case.edge or spec.tells(case.args, value) for case in found):
                return found

    return dataclasses.replace(
        exercise,
        cases=cases,
        head=_told(exercise.head, spec.says.replace("VALUE", str(value))),
        imports=spec.imports + "\n",
        body=f"def common({arguments}):\n{inside}\n\n\n{body}",
        mistakes=(
            Mistake(OTHERS, exercise.model_solution),
            *(m._replace(wrong=varied(m.wrong)) for m in exercise.mistakes),
        ),
    )


def _told(head: str, text: str) -> str:
    """Put a sentence at a docstring's end."""
    start, _, _ = head.rstrip().rpartition('"""')
    lines = textwrap.fill(f"Yours: {text}", 100, initial_indent="    ", subsequent_indent="    ")
    return f'{start.rstrip()}\n\n{lines}\n    """\n'


# --- notebooks -----------------------------------------------------------------------------------


def code_of(source: str, variant: str) -> str:
    """Return a code cell in which the calls that take a variant are given it."""
    if not variant or "course." not in source:
        return source
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise MinitxlError(
            f"a cell that uses course cannot be given a variant, {error}: {source[:60]!r}"
        ) from error
    lines = source.split("\n")
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda c: -(c.end_lineno or 0)):
        name = ast.unparse(call.func)
        if name.startswith("course.") and name.rpartition(".")[2] in CALLS:
            at, row = (call.end_col_offset or 0) - 1, (call.end_lineno or 0) - 1
            comma = ", " if call.args or call.keywords else ""
            begin, end = (part.decode() for part in _cut(lines[row], at))
            lines[row] = f'{begin}{comma}variant="{variant}"{end}'
    return "\n".join(lines)


def _cut(line: str, at: int) -> tuple[bytes, bytes]:
    data = line.encode()  # columns are bytes
    return data[:at], data[at:]


def text_of(notebook: str, texts: list[str], variant: str) -> list[str]:
    """Return a notebook's text cells with a variant's numbers in its questions."""
    for one in NUMBERS.get(notebook, ()) if variant else ():
        values = drawn(variant, one.question, one.choices)
        for old, new in one.texts:
            if not any(old in text for text in texts):
                raise MinitxlError(
                    f"notebook {notebook}: question {one.question} does not say {old!r}; "
                    "minitxl/course/variants.py has to follow the notebook"
                )
            texts = [text.replace(old, new.format(**values)) for text in texts]
    return texts


def common_of(source: str) -> str:
    """Return a code cell without the variant that its calls are given."""
    return re.sub(r', variant="\w+"', "", source)


def words_in(sources: Iterable[str]) -> set[str]:
    """Return the variants that code cells name."""
    return {word for source in sources for word in WORD.findall(source)}


def key_of(variant: str, exercises: Iterable[str], notebooks: Iterable[str]) -> dict[str, str]:
    """Return what a variant has, by exercise and question: parameters, and questions' answers."""
    found = {name: str(value_of(name, variant)) for name in exercises if name in VARIED}
    for notebook in notebooks:
        for one in NUMBERS.get(notebook, ()):
            values = drawn(variant, one.question, one.choices)
            asked = "; ".join(new.format(**values) for _, new in one.texts)
            found[one.question] = f"{asked}: {one.answer.format(**values)}"
    return found
