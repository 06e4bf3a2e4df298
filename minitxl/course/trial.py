"""What the learner's functions do in a model: its bits, a page of it, and how it learns.

    course.run_with("rel-shift")  # below an exercise
    mine = course.parts()                  # all that are right: here, and in the saved notebooks
    course.capstone(mine)                  # a small model learns by nothing but them

All of it is printed or drawn; nothing is kept but what is returned. What a learner's function does
wrong ends as a line, so that a notebook runs on.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from minitxl.backend import get_backend
from minitxl.backend.threads import one_blas_thread
from minitxl.config import Config, TrainConfig
from minitxl.course.exercise import Exercise, Verdict
from minitxl.course.running import quiet
from minitxl.course.yours import BACKWARD, FORWARD, PARTS, install
from minitxl.data.stream import Stream, segments
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.inference.generate import sample_token
from minitxl.inference.units import bits
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import load_pretrained
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

READ = 2048  # characters of the test text that are read for the bits
WRITTEN = 240  # characters of a page
PATIENCE = 10.0  # seconds for reading, and for writing; a loop over every number takes longer
PROMPT = '"Well, Prince,'  # how the book begins; then "so Genoa and Lucca ..."

# Small enough for some hundred steps in seconds; LayerNorm after its blocks, as in the paper: with
# it in front the gradient would be stopped at another place than in the exercise.
SMALL = dict(n_layer=2, d_model=48, n_head=2, d_head=24, d_inner=128, tgt_len=16, mem_len=16)
SMALL |= dict(pre_lnorm=False, dropout=0.0, init_std=0.1)
BATCH = 8
TRIED = 100  # steps, below an exercise


def run_with(*exercises: str, **functions: Callable) -> None:
    """Put functions into a copy of a model and print what it then does, beside the library's.

    exercises: ids, of which the functions are found where it is called, as by `check`; functions:
    others, by name, as for `install`. What else is right there goes in as well. One that works
    forward reads a piece of the test text and writes a page in the shipped model; one that works
    backward teaches a small model some steps. One that is not solved yet stays out, a wrong one
    goes in. Raises MinitxlError only for what is no part of the model.
    """
    if os.environ.get("NBGRADER_EXECUTION"):
        return  # no points are given for it
    here = _candidates(sys._getframe(1).f_globals)
    parts_by_id = {e.id: name for name, e in PARTS.items()}
    for asked in exercises:
        if asked not in parts_by_id:
            raise MinitxlError(
                f"{asked!r} is no part of the model; these are: {', '.join(parts_by_id)}"
            )
        name = parts_by_id[asked]
        if name in here:
            functions.setdefault(name, here[name])
        else:
            print(f"… {name}: it is not there, run its cell; the library's own stays in its place")
    install(**functions)  # for its errors of use
    own: dict[str, Callable] = {}
    for name, function in functions.items():
        verdict = _judged(PARTS[name], function)
        if not verdict.solved:
            print(f"… {name}: not solved yet, the library's own stays in its place")
            continue
        own[name] = function
        word = "right" if verdict.passed else f"wrong ({verdict.message})"
        print(f"{'✓' if verdict.passed else '✗'} your {name} is {word}; now the model runs on it")
    if not own:
        return
    new = list(own)
    for name, function in here.items():
        if name not in functions and _judged(PARTS[name], function).passed:
            own[name] = function
    print(
        f"yours are {len(own)} of its {len(PARTS)} parts: {', '.join(n for n in PARTS if n in own)}"
    )
    try:
        with (
            quiet(),
            one_blas_thread(),
        ):  # products so small: several threads wait for each other longest
            if any(e.name in new for e in FORWARD):
                _read_and_write(own)
            if any(e.name in new for e in BACKWARD):
                losses = [[x.mean() for x in nll] for nll in _learn(own, TRIED)]
                _tell_learning(np.array(losses))
    except MinitxlError as error:
        print(f"✗ {error}")


def parts(folder: str | os.PathLike = ".") -> dict[str, Callable]:
    """Print which parts of the model the learner has written, and return those that are right.

    It looks where it is called, then in the exercises' cells of the notebooks saved in `folder`,
    which it runs by themselves (with NumPy as np, and math). It writes nothing anywhere.
    """
    here, saved = _candidates(sys._getframe(1).f_globals), _saved(Path(folder))
    mine: dict[str, Callable] = {}
    lines = []
    for way, exercises in (("forward", FORWARD), ("backward", BACKWARD)):
        for e in exercises:
            tried = [found[e.name] for found in (here, saved) if e.name in found]
            verdicts = [_judged(e, f) for f in tried]
            right = [f for f, v in zip(tried, verdicts, strict=True) if v.passed]
            if right:
                mine[e.name] = right[0]
            wrong = any(v.solved for v in verdicts)
            mark, word = ("✓", "yours") if right else ("✗", "wrong") if wrong else ("…", "to do")
            lines.append(f"{mark} {e.name:22} {way:8} {word:5}  notebook {int(e.notebook[:2])}")
    print(f"{len(mine)} of {len(PARTS)} parts of the model are yours")
    print("\n".join(lines))
    return mine


def capstone(functions: Mapping[str, Callable], steps: int = 400) -> None:
    """Train a small model by the learner's functions, beside the library's, and draw the curves.

    functions: name -> function, as `parts` returns them; what is missing is the library's. Both
    models begin with the same weights and read the same batches; the picture has both
    losses in bits, and the largest difference is printed. It may be interrupted.
    """
    from minitxl.viz import LiveCurves

    if not functions:
        print(f"none of the {len(PARTS)} parts is yours yet: solve an exercise, save, come back")
        return
    names = ("the library", "yours")
    live = LiveCurves(names, steps=steps, mean_of=min(50, steps))
    losses = []
    print(f"{len(functions)} of {len(PARTS)} parts are yours; {steps} steps of both models")
    try:
        with live:
            for nll in _learn(functions, steps):
                losses.append([x.mean() for x in nll])
                for name, loss in zip(names, nll, strict=True):
                    live.add(name, loss / math.log(2))
    except MinitxlError as error:
        print(f"✗ {error}")
    if losses:
        _tell_learning(np.array(losses))


# --- reading and writing -------------------------------------------------------------------------


def _read_and_write(functions: Mapping[str, Callable]) -> None:
    run = load_pretrained("war-and-peace", device="cpu")
    mine = install(run.model, **functions)
    theirs, yours, n = compare(run.model, mine, load_corpus("war-and-peace").test[: READ + 1])
    print(
        f"{n:,} characters of the test text: the library {theirs:.3f}, yours {yours:.3f} bits each"
    )
    print("It writes:")
    print(PROMPT + "".join(write(mine, run.vocab, PROMPT, WRITTEN)))


def compare(model: TransformerXL, mine: TransformerXL, text) -> tuple[float, float, int]:
    """Return the bits per character of two models on the same text, and its length.

    The text is cut where reading takes longer than `PATIENCE` seconds.
    """
    began, sums, n = time.monotonic(), np.zeros(2), 0
    mems: list = [None, None]
    for tokens, targets in segments(text, batch_size=1, tgt_len=model.config.tgt_len):
        for which, one in enumerate((model, mine)):
            nll, mems[which] = one.score(tokens, targets, mems[which])
            sums[which] += float(nll.sum(dtype=np.float64))
        n += targets.size
        if time.monotonic() - began > PATIENCE:
            break
    theirs, yours = (bits(total / n) for total in sums)
    return theirs, yours, n


def write(model: TransformerXL, vocab, prompt: str, length: int) -> Iterator[str]:
    """Yield the characters that continue a prompt, read as in training: segment by segment.

    Every character reads its whole segment again, by the model's own functions. (`generate` keeps
    keys and values, is faster, and would leave half of them out.) It ends after `PATIENCE` seconds
    at the latest, and where the probabilities are no numbers.
    """
    short = model.with_options(tgt_len=32)
    tgt_len, rng, began = 32, np.random.default_rng(0), time.monotonic()
    ids, mems = list(vocab.encode(prompt)), None
    for _ in range(length):
        while len(ids) > tgt_len:
            _, mems = short.predict(np.array([ids[:tgt_len]]), mems, last=1)
            ids = ids[tgt_len:]
        log_probs, _ = short.predict(np.array([ids]), mems, last=1)
        if not np.isfinite(log_probs).any():
            yield " ... (from here on all probabilities are NaN)"
            return
        ids.append(sample_token(log_probs[0, -1], rng, temperature=0.7))
        yield vocab.decode(ids[-1:])
        if time.monotonic() - began > PATIENCE:
            yield " ..."
            return


# --- learning ------------------------------------------------------------------------------------


class _Learner:
    """A model, and what training carries from step to step."""

    def __init__(self, model: TransformerXL, settings: TrainConfig):
        self.model, self.settings = model, settings
        self.adam, self.mems, self.n = Adam(model.params.flat, xp=np), None, 0

    def step(self, tokens, targets, fresh):
        nll, mems, cache = self.model.forward(tokens, targets, None if fresh else self.mems)
        grads = self.model.backward(cache)
        clip_by_norm(grads.flat, self.settings.clip, xp=np)
        self.adam.step(self.model.params.flat, grads.flat, learning_rate(self.n, self.settings))
        self.mems, self.n = mems, self.n + 1
        return nll


def _learn(functions: Mapping[str, Callable], steps: int) -> Iterator[list]:
    """Yield, step by step, what a batch costs the library's model and the learner's, in nats."""
    corpus = load_corpus("war-and-peace")
    config = Config(n_token=corpus.vocab.n_token, **SMALL)
    settings = TrainConfig(steps=steps, batch_size=BATCH, lr=4e-3, warmup=min(50, steps))
    # In float64: over some hundred steps rounding in float32 grows to what can be seen.
    model = TransformerXL(config, device=get_backend("cpu", "float64", fused=False))
    learners = [_Learner(one, settings) for one in (model, install(model, **functions))]
    stream = Stream(corpus.train, batch_size=BATCH, tgt_len=config.tgt_len)
    for _ in range(steps):
        batch = stream.next()
        with quiet():
            yield [learner.step(*batch) for learner in learners]


def _tell_learning(losses: np.ndarray) -> None:
    """losses (steps, 2): the library's and the learner's, in nats."""
    steps = len(losses)
    theirs, yours = losses[-10:].mean(axis=0) / math.log(2)
    apart = np.abs(losses[:, 0] - losses[:, 1]).max() / math.log(2)
    print(
        f"after {steps} steps of a small model: the library {theirs:.3f}, yours {yours:.3f} bits; "
        f"at no step farther apart than {apart:.1e}"
    )


# --- finding -------------------------------------------------------------------------------------


def _judged(exercise: Exercise, function: Callable) -> Verdict:
    with quiet():
        return exercise.judge(function, np.random.default_rng(0))


def _candidates(names: Mapping) -> dict[str, Callable]:
    """Functions with the names of parts, but for the library's own that are imported."""
    found = {name: names[name] for name in PARTS if callable(names.get(name))}
    return {n: f for n, f in found.items() if (f.__module__ or "").split(".")[0] != "minitxl"}


def _saved(folder: Path) -> dict[str, Callable]:
    """Functions of the exercises' cells in a folder's notebooks, by name; broken ones left out."""
    import nbformat

    found: dict[str, Callable] = {}
    ids = {e.id: e for e in PARTS.values()}
    for path in sorted(folder.glob("*.ipynb")):
        try:
            cells = nbformat.read(path, as_version=4).cells
        except Exception:  # half saved, or no notebook at all
            continue
        for cell in cells:
            mark = cell.get("metadata", {}).get("nbgrader", {})
            e = ids.get(mark.get("grade_id", "")) if mark.get("solution") else None
            names: dict = {"np": np, "math": math}
            if e is None:
                continue
            try:
                exec(compile(cell.source, f"<{path.name}, {e.id}>", "exec"), names)
            except Exception:  # a syntax error, or a name of another cell: it is not there then
                continue
            found |= {n: f for n, f in _candidates(names).items() if n == e.name}
    return found
