"""Cuts that one drags through a text: what each character then costs, and what was guessed for it.

All is computed here, once: what every character costs when it is predicted from 1, 2 ... characters
before it. The page picks from that, as the cuts move.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.viz.in_browser.pack import THEMES
from minitxl.viz.theme import percent, printable, spoken
from minitxl.viz.widgets.in_page import InPage
from minitxl.viz.widgets.scene import LEVELS, Scene, segment_pair, shades

COLUMNS, ROWS = 64, 5  # characters that are shown
LENGTHS = (8, 16, 32, 64)  # of a segment; each divides a row, so that cuts stand below one another
GUESSES = 3
FULL = 8.0  # bits from which a cell is fully coloured
MEMORY = 128
ORANGE, BLUE = segment_pair(0), segment_pair(1)
WIDTH, HEIGHT = 1040, 402
LEFT, TOP, WIDE, LINE, CELL = 24, 74, 15.5, 33, 26  # of the text; a line, and a cell in it
BARS, BAR = (60, 570), 250  # of the guesses: left ends, the width of a probability of 1


class Guesses(NamedTuple):
    """What is foretold of a character: its bits, and the likeliest ones."""

    bits: np.ndarray  # (...)
    tokens: np.ndarray  # (..., GUESSES)
    shares: np.ndarray  # (..., GUESSES), probabilities


class Numbers(NamedTuple):
    """What the page picks from; N characters."""

    symbols: list[str]  # of the vocabulary
    tokens: np.ndarray  # (64 + N,): N characters, and the 64 before them
    alone: Guesses  # (N, 64): column n - 1 from the n characters before
    remembered: Guesses  # (N,): with the memory


def play_cut(model, vocab, tokens) -> InPage:
    """Widget: 320 characters cut into segments, by cuts that can be dragged; and with a memory.

    tokens: 513 or more; the last 320 are shown, those before are what they are predicted from.
    Raises MinitxlError for fewer.
    """
    numbers = cut_numbers(model, vocab, tokens)
    start = {"T": 32, "phase": 0, "memory": False}
    start["chosen"] = _telling(numbers, start["T"])
    data = {
        "symbols": [printable(s) for s in numbers.symbols],
        "spoken": [spoken(s) for s in numbers.symbols],
        "tokens": numbers.tokens.tolist(),
        "lengths": LENGTHS,
        "start": start,
        "shades": {"orange": shades(ORANGE), "blue": shades(BLUE)},
        "colours": {"orange": ORANGE, "blue": BLUE, "ink": _both("ink"), "muted": _both("muted"),
                    "paper": _both("paper"), "hatch": _both("hidden"), "faint": _both("hidden")},
        "memory": MEMORY, "full": FULL, "columns": COLUMNS, "rows": ROWS, "guesses": GUESSES,
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "top": TOP, "wide": WIDE, "line": LINE,
        "cell": CELL, "bars": BARS, "bar": BAR,
    }  # fmt: skip
    scenes = [cut_scene(numbers, **{**start, "memory": memory}) for memory in (False, True)]
    return InPage("cut.js", data, scenes, _packed(numbers))


def _both(name: str) -> tuple[str, str]:
    light, dark = THEMES
    return light[name], dark[name]


def cut_numbers(model, vocab, tokens) -> Numbers:
    """Read the text from every place on, up to 64 characters; and once with a memory of 128."""
    tokens = np.asarray(tokens, dtype=np.int32)
    n, longest = COLUMNS * ROWS, max(LENGTHS)
    before = MEMORY + longest
    if tokens.ndim != 1 or len(tokens) < n + before + 1:
        raise MinitxlError(
            f"the text has shape {tokens.shape}: {n} characters are shown and {before + 1} stand "
            f"before them, so give one row of {n + before + 1} or more"
        )
    shown = tokens[-n - longest :]  # a character is predicted from up to `longest` of those before
    to_numpy = model.backend.to_numpy
    with one_blas_thread():  # two wait for each other where other work runs beside
        starts = np.arange(n + longest - 1)[:, None]
        rows = np.minimum(starts + np.arange(longest), len(shown) - 1)  # (starts, 64)
        alone = model.with_options(tgt_len=longest, mem_len=0)
        log_p = to_numpy(alone.predict(shown[rows], None)[0])  # (starts, 64, V)
        # character j (of N) from its n characters before: read from longest + j - n on
        ends = np.arange(longest)  # n - 1
        log_p = log_p[longest + np.arange(n)[:, None] - 1 - ends, ends]  # (N, 64, V)
        reader, mems, found = model.with_options(tgt_len=32, mem_len=MEMORY), None, []
        text = tokens[-n - before - 1 : -1]
        for begin in range(0, len(text), 32):
            given, mems = reader.predict(text[None, begin : begin + 32], mems)
            found.append(to_numpy(given)[0])
    kept = np.concatenate(found)[-n:]  # (N, V)
    came = shown[longest:]
    symbols = [vocab.decode([token]) for token in range(model.config.n_token)]
    return Numbers(symbols, shown, _best(log_p, came[:, None]), _best(kept, came))


def _best(log_p: np.ndarray, came: np.ndarray) -> Guesses:
    """log_p (..., V), came (...) or as many with size 1."""
    came = np.broadcast_to(came, log_p.shape[:-1])
    bits = -np.take_along_axis(log_p, came[..., None], axis=-1)[..., 0] / math.log(2)
    order = np.argsort(-log_p, axis=-1, kind="stable")[..., :GUESSES]
    return Guesses(bits, order, np.exp(np.take_along_axis(log_p, order, axis=-1)))


def _packed(numbers: Numbers) -> bytes:
    """Bits in thousandths as uint16, tokens and shares (in 255ths) as bytes: first alone."""
    parts = []
    for found in (numbers.alone, numbers.remembered):
        parts.append(np.minimum(np.rint(1000 * found.bits), 65535).astype("<u2").tobytes())
        parts.append(found.tokens.astype(np.uint8).tobytes())
        parts.append(np.rint(255 * found.shares).astype(np.uint8).tobytes())
    return b"".join(parts)


def known(n: int, tgt_len: int, phase: int) -> np.ndarray:
    """How many characters each of n is predicted from, cut at phase, phase + T, ...: (n,)."""
    return (np.arange(n) - phase) % tgt_len + 1


def _telling(numbers: Numbers, tgt_len: int) -> int:
    """A character, first of its segment, that the memory knows far better."""
    first = np.flatnonzero(known(len(numbers.remembered.bits), tgt_len, 0) == 1)
    first = first[first % COLUMNS > 0]  # what came before stands beside it
    return int(first[np.argmax((numbers.alone.bits[:, 0] - numbers.remembered.bits)[first])])


# --- the picture ----------------------------------------------------------------------------------


def cut_scene(numbers: Numbers, *, T: int, phase: int, memory: bool, chosen: int) -> Scene:
    """The state that cut.js draws alike; chosen: a character, whose guesses are told."""
    n = len(numbers.remembered.bits)
    counts = known(n, T, phase)
    alone = numbers.alone.bits[np.arange(n), counts - 1]  # (N,)
    bits = numbers.remembered.bits if memory else alone
    came = numbers.tokens[-n:]
    scene = Scene(WIDTH, HEIGHT)

    def place(j):
        return LEFT + j % COLUMNS * WIDE, TOP + j // COLUMNS * LINE

    looks = shades(BLUE if memory else ORANGE)
    level = np.rint(np.clip(bits / FULL, 0, 1) * (LEVELS - 1)).astype(int)
    for depth in np.unique(level):
        at = np.flatnonzero(level == depth)
        scene.boxes([(*place(j), WIDE, CELL) for j in at], fill=looks[depth][0])
    for j in range(n):
        x, y = place(j)
        style = dict(size=14, anchor="middle", mono=True, colour=looks[level[j]][1])
        scene.text(x + WIDE / 2, y + CELL / 2, printable(numbers.symbols[came[j]]), **style)
    bars = [place(j) for j in range(n) if (j - phase) % T == 0]
    look = dict(stroke="muted", width=1.5, dash=(3, 3)) if memory else dict(stroke="ink", width=3)
    scene.lines([[(x, y - 3), (x, y + CELL + 3)] for x, y in bars], **look)
    if not memory:
        grips = [(x, y) for x, y in bars if y == TOP]
        scene.lines(
            [[(x - 6, y - 14), (x + 6, y - 14), (x, y - 4), (x - 6, y - 14)] for x, y in grips],
            fill="ink",
        )
    _chosen(scene, numbers, chosen, int(counts[chosen]), memory, place)
    title = (
        f"Cut into segments of {T}: {alone.mean():.2f} bits per character. "
        f"With a memory: {numbers.remembered.bits.mean():.2f}"
    )
    shown = "with the memory" if memory else "without memory"
    scene.headed(title)
    words = f"Coloured by what each character costs {shown}; full colour: {FULL:.0f} bits"
    scene.text(16, 46, words, colour="muted")
    scene.caption = f"{title}. {words}."
    return scene


def _chosen(scene: Scene, numbers: Numbers, j: int, count: int, memory: bool, place) -> None:
    """One character: what it was guessed from, and the guesses of both readers."""
    n = len(numbers.remembered.bits)
    x, y = place(j)
    scene.boxes([(x + 1, y + 1, WIDE - 2, CELL - 2)], stroke="ink", width=2)
    used = range(max(0, j - (MEMORY + 1 if memory else count)), j)  # with memory: or more
    under = [place(i) for i in used]
    scene.lines(
        [[(a, b + CELL + 2), (a + WIDE, b + CELL + 2)] for a, b in under],
        stroke=BLUE if memory else ORANGE, width=2.5,
    )  # fmt: skip
    token = numbers.tokens[-n + j]
    names = [printable(s) for s in numbers.symbols]
    tail = "".join(names[t] for t in numbers.tokens[len(numbers.tokens) - n + j - 12 :][:12])
    foot = TOP + ROWS * LINE + 30
    scene.text(16, foot, f"After “{tail}” came {spoken(numbers.symbols[token])}.", bold=True)
    characters = f"{count} character{'s' * (count > 1)}"
    parts = (
        (f"Guessed from {characters}{'' if memory else ' (underlined)'}",
         ORANGE, Guesses(*(a[j, count - 1] for a in numbers.alone))),
        (f"Guessed with a memory, from {MEMORY + 1} or more",
         BLUE, Guesses(*(a[j] for a in numbers.remembered))),
    )  # fmt: skip
    for left, (name, colour, found) in zip(BARS, parts, strict=True):
        cost = f"{name}: {float(found.bits):.1f} bits"
        scene.text(left - 44, foot + 28, cost, bold=True, colour=colour)
        for k, (guess, share) in enumerate(zip(found.tokens, found.shares, strict=True)):
            y = foot + 56 + 25 * k
            scene.text(left - 22, y, names[guess], size=15, mono=True, anchor="middle")
            wide = max(1.0, BAR * float(share))
            right = guess == token
            scene.boxes([(left, y - 8, wide, 16)], fill=colour, alpha=1.0 if right else 0.45)
            mark = " ✓" if right else ""
            scene.text(left + wide + 8, y, f"{percent(float(share))}{mark}", size=13)
