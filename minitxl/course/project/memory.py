"""Project: a memory of one's own, behind the model's interface, and what it is worth.

The interface is that of the exercise `memory-update`: `update_memory(mem, h, mem_len)`, which
`course.install` puts in the place of the model's own (`minitxl/course/yours.py`).
"""

from __future__ import annotations

import hashlib
import json
import statistics

import numpy as np

from minitxl.course.grading import sandbox
from minitxl.course.project.milestones import Milestone, NotReachedError, Project, Work
from minitxl.course.project.milestones import written as _written
from minitxl.course.running import pack, unpack

FILE, NAME = "own_memory.py", "update_memory"
ARMS = ("none", "last", "own")  # no memory; the paper's, the last states; the student's
SEEDS = 3
ARGUMENTS = ("mem", "h", "mem_len")
B, T, D, M = 2, 4, 3, 6  # of the trial
SEGMENTS = 4
TEMPLATE = '''\
"""A memory of your own: what is kept of a text when a segment ends.

    python -m minitxl course project . --measure    # trains with it, writes memory/results.json
"""

import numpy as np


def update_memory(mem, h, mem_len):
    """Return what the next segment reads as its memory (B, at most mem_len, D).

    mem (B, M, D): what was returned last, M = 0 at a text's start; h (B, T, D): the inputs of a
    layer for the segment just read. Each layer has a memory of its own. The model takes the rows
    for neighbours: the last has distance 1 from the next token, the one before 2, and so on. Rows
    of the batch are texts of their own; change no argument; NumPy alone.

    The paper keeps the last mem_len of all states, as below. What would you rather keep: every
    other one of the older half, means of neighbours, the states that changed most?
    """
    both = np.concatenate([mem, h], axis=1)  # (B, M + T, D)
    return both[:, max(0, both.shape[1] - mem_len) :]
'''


def last_states(mem, h, mem_len):
    """The paper's memory (section 3.2)."""
    both = np.concatenate([mem, h], axis=1)
    return both[:, max(0, both.shape[1] - mem_len) :]


def digest(source: str) -> str:
    """Return what a memory's source is known again by."""
    return hashlib.sha256(source.encode("utf-8")).hexdigest()


def _asked(source: str, calls: list[tuple], kind: str) -> list[np.ndarray]:
    """Return what the function gives for each call; it runs in a process apart, without minitxl."""
    request = {
        "cells": [{"number": 1, "source": source}],
        "name": NAME,
        "until": 1,
        "arguments": ARGUMENTS,
        "outputs": ["memory"],
        "cases": [pack(args) for args in calls],
    }
    ended = sandbox.run(kind, request, memory=4.0, timeout=60)
    head, *replies = map(json.loads, ended.replies or ["{}"])
    if not head.get("there"):
        why = "; ".join(text for _, text in head.get("errors", [])) or "it is not there"
        raise NotReachedError(f"{FILE}: {NAME}: {why[:200]}")
    found = []
    for reply in replies:
        if "failed" in reply:
            raise NotReachedError(f"{FILE}: {reply['failed'][0]}"[:300])
        found += unpack(reply["outputs"])
    if len(found) != len(calls):
        raise NotReachedError(f"{FILE}: it gave {len(found)} answers of {len(calls)} in 60 s")
    return found


def _streams(source: str, texts: list[np.ndarray]) -> list[np.ndarray]:
    """Return the memories of several texts (B, SEGMENTS T, D) after their last segment."""
    mems, kind = [np.zeros((len(text), 0, D)) for text in texts], sandbox.choose("auto")[0]
    for n in range(SEGMENTS):
        parts = [text[:, n * T : (n + 1) * T] for text in texts]
        mems = _asked(source, [(m, h, M) for m, h in zip(mems, parts, strict=True)], kind)
        for mem, text in zip(mems, texts, strict=True):
            rows = mem.shape[1] if mem.ndim == 3 else -1
            if mem.ndim != 3 or mem.shape[::2] != text.shape[::2] or rows > M:
                raise NotReachedError(
                    f"{FILE}: it returns {mem.shape} after segment {n + 1}, must be "
                    f"({len(text)}, at most {M}, {D})"
                )
    return mems


def _works(work: Work) -> str:
    source = work.text(FILE)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(B, SEGMENTS * T, D))
    other = text.copy()
    other[1] = rng.normal(size=text[1].shape)
    early = text.copy()
    early[:, :T] += 1.0
    mem, crossed, changed = _streams(source, [text, other, early])
    if not np.isfinite(mem).all():
        raise NotReachedError(f"{FILE}: the memory holds what is no number")
    if not np.allclose(mem[0], crossed[0]):
        raise NotReachedError(f"{FILE}: text 0's memory changes where text 1 does")
    wanted = np.zeros((B, 0, D))
    for n in range(SEGMENTS):
        wanted = last_states(wanted, text[:, n * T : (n + 1) * T], M)
    if mem.shape == wanted.shape and np.allclose(mem, wanted):
        raise NotReachedError(f"{FILE} keeps the last states, as the paper does: yours is to come")
    far = "something" if not np.allclose(mem, changed) else "nothing"
    return (
        f"{mem.shape[1]} of {M} rows; {far} is left of the first segment after {SEGMENTS}, "
        f"which is {SEGMENTS * T} tokens"
    )


def _measured(work: Work) -> str:
    results = json.loads(work.text("results.json"))
    if results["source"] != digest(work.text(FILE)):
        raise NotReachedError(f"results.json was measured with another {FILE}: --measure again")
    bits = {arm: [float(x) for x in results["bits"][arm]] for arm in ARMS}
    n = {len(values) for values in bits.values()}
    if min(n) < SEEDS or len(n) > 1:
        raise NotReachedError(f"results.json must have {SEEDS} seeds or more of {', '.join(ARMS)}")
    pairs = zip(bits["last"], bits["own"], strict=True)
    gains = [last - own for last, own in pairs]
    work.measured["gain"] = statistics.fmean(gains)
    means = ", ".join(f"{arm} {statistics.fmean(values):.3f}" for arm, values in bits.items())
    return f"bits: {means}; yours gains {min(gains):+.3f} to {max(gains):+.3f} by seed"


def _report(work: Work) -> str:
    work.need("gain")
    return _written(work, MEMORY.sections)


MEMORY = Project(
    id="memory",
    title="A memory of your own",
    task="""
The paper keeps the last M states. Write `update_memory` in `memory/own_memory.py` so that it keeps
something else in as many rows; say beforehand on which text that should help, and why. Then

    python -m minitxl course project . --measure

trains a small model without a memory, with the paper's and with yours, three seeds each (some
minutes), and writes `memory/results.json`. It need not win: a sound reason why it does not is worth
as much. The gradient stops at the memory, so nothing teaches your function; it has no weights.
""",
    sections=(
        ("The idea", "What is kept, in a formula; for which text that should be better, and why."),
        ("What came", "Bits of the three, with the spread over seeds; what of it is more than "
         "that."),
        ("What it costs", "Bytes kept and operations for each token, beside the paper's."),
    ),
    lines=(),
    milestones=(
        Milestone("memory-works", "it keeps to the interface, and is not the paper's", 5, _works),
        Milestone("memory-measured", "it is measured beside the paper's and none", 3, _measured),
        Milestone("memory-report", "the report is written", 2, _report),
    ),
    rubric=(
        (3, "the idea is a testable guess: which text, which length, by how much"),
        (3, "the verdict follows from the spread over seeds, for or against"),
        (2, "the costs are right"),
    ),
)  # fmt: skip
