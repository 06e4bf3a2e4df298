"""What models write while they learn: an album of a few steps to leaf through, for notebook 6."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.inference.evaluate import evaluate
from minitxl.inference.generate import sample_token
from minitxl.viz.theme import printable
from minitxl.viz.widgets.album import Album, Choice
from minitxl.viz.widgets.scene import ADVANCE, Scene, segment_pair

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
WIDTH, SIZE, LINE = 1040, 15.5, 25  # of the picture, of a letter, from line to line
PER_LINE, LINES = 3, 5  # segments in a line; lines, of which the first is the prompt
TEMPERATURE = 0.7


class Written(NamedTuple):
    """One model at one step."""

    bits: float  # per character of held-out text
    known: float  # share of the words that it writes which stand in the training text
    text: str  # a prompt, and what it makes of it


class Samples:
    """Samples and losses of models, taken at some steps of their training.

    models: name -> model, all with the same tgt_len, each learning in place; corpus: its test part
    gives the prompts and the loss. at: the steps at which `look` does something.

    >>> samples = Samples({"with memory": model}, corpus, at=(0, 100, 400))
    >>> samples.look(0)  # ... and again after every step
    """

    def __init__(self, models: dict, corpus, *, at, rows: int = 8) -> None:
        self.models, self.corpus, self.at = models, corpus, tuple(at)
        lengths = {model.config.tgt_len for model in models.values()}
        if len(lengths) != 1:
            raise MinitxlError(
                f"the models read segments of {sorted(lengths)}: samples are shown side by side, "
                "so give models of one tgt_len"
            )
        self.tgt_len, self.found = lengths.pop(), {}
        n_prompt, n_test = PER_LINE * self.tgt_len, len(corpus.test)
        if n_test < 2 * n_prompt:
            raise MinitxlError(
                f"{n_test} characters are held out, prompts of {n_prompt} need {2 * n_prompt}: "
                "give a longer text"
            )
        places = np.linspace(0, n_test - n_prompt, rows).astype(int)
        self._prompts = np.asarray(corpus.test)[places[:, None] + np.arange(n_prompt)]
        self._words = set(WORD.findall(corpus.vocab.decode(corpus.train)))

    def look(self, step: int) -> None:
        """Measure and sample every model, if `step` is one of `at` and was not looked at yet."""
        if step not in self.at or step in self.found:
            return
        with one_blas_thread():
            self.found[step] = {name: self._written(m) for name, m in self.models.items()}

    def _written(self, model) -> Written:
        prompt = self._prompts.shape[1]
        ids = write_on(model, self._prompts, (LINES - 1) * prompt)
        texts = [self.corpus.vocab.decode(row) for row in ids]
        words = [word for text in texts for word in whole_words(text)]
        held_out = dict(batch_size=16, max_tokens=20_000, threads=1)
        bits = evaluate(model, self.corpus.test, **held_out).bpc
        known = float(np.mean([w in self._words for w in words])) if words else 0.0
        return Written(bits, known, self.corpus.vocab.decode(self._prompts[0]) + texts[0])

    def album(self) -> Album:
        """The steps that were looked at, as pages of one picture."""
        if not self.found:
            raise MinitxlError(f"no step was looked at yet: call look({self.at[0]}) first")
        stops = {f"{step:,}": step for step in sorted(self.found)}

        def page(step: int) -> Scene:
            return samples_scene(step, self.found[step], self._words, tgt_len=self.tgt_len)

        choice = Choice("after so many steps", stops)
        last, stills = {"step": list(stops)[-1]}, [{"step": label} for label in stops]
        return Album({"step": choice}, page, start=last, stills=stills)


def write_on(model, prompts, length: int, *, seed: int = 0) -> np.ndarray:
    """Return (B, length) tokens that go on from prompts (B, n), n a multiple of tgt_len.

    In segments, as the model has learned to read: what the memory does not hold at a segment's
    start is not known there. (`generate` instead moves the memory on with every token.)
    """
    text, t = np.asarray(prompts, dtype=np.int32), model.config.tgt_len
    n_prompt, begin, mems = text.shape[1], 0, None
    rngs = [np.random.default_rng(seed + row) for row in range(len(text))]
    while begin + t < n_prompt:
        _, mems = model.predict(text[:, begin : begin + t], mems, last=1)
        begin += t
    for _ in range(length):
        log_p, later = model.predict(text[:, begin:], mems, last=1)  # (B, 1, V)
        rows = zip(np.asarray(log_p)[:, 0], rngs, strict=True)
        drawn = [sample_token(p, rng, TEMPERATURE) for p, rng in rows]
        if text.shape[1] - begin == t:  # the segment is full
            mems, begin = later, begin + t
        text = np.column_stack([text, np.asarray(drawn, dtype=np.int32)])
    return text[:, n_prompt:]


def whole_words(text: str) -> list[str]:
    """The words of a text but the one at its end, which may be cut."""
    return [m[0] for m in WORD.finditer(text) if m.end() < len(text)]


def samples_scene(step: int, found: dict[str, Written], words: set, *, tgt_len: int) -> Scene:
    """Draw what each model wrote at a step: two columns at most, a bar where a segment begins."""
    scene = Scene(WIDTH, 135 + LINE * LINES)  # two lines of note below
    wide = tgt_len * PER_LINE
    size = min(SIZE, (WIDTH - 80) / 2 / wide / ADVANCE)
    for n, (name, one) in enumerate(found.items()):
        left = 16 + n * (WIDTH / 2)
        colour = segment_pair(1 - n)  # as wherever a memory is compared with none
        scene.text(left, 54, name, bold=True, colour=colour)
        said = f"{one.known:.0%} of the words that it writes are in the text"
        scene.text(left + wide * ADVANCE * size, 54, said, size=13, anchor="end")
        _lines(scene, one.text, words, left, wide, tgt_len, size)
    when = f"After {step:,} steps" if step else "Before the first step"
    costs = ", ".join(f"{one.bits:.2f} bits {name}" for name, one in found.items())
    return scene.headed(
        f"{when}: a character costs {costs}",
        f"Grey: a line of the text. Then each model goes on, in segments of {tgt_len} (bars), as "
        "it reads. Underlined: no word of the text\n(single letters are often one). Costs: on "
        "20,000 characters of held-out text.",
    )


def _lines(scene, text, words, left, wide, tgt_len, size) -> None:
    """Write a text in lines of `wide` characters, on a grid; underline what is not a known word."""
    step, strange = ADVANCE * size, np.zeros(len(text), bool)
    for m in WORD.finditer(text):
        strange[m.start() : m.end()] = m.end() < len(text) and m[0] not in words
    strange[:wide] = False
    top, bars = 82, range(0, wide + 1, tgt_len)
    high = (top - LINE / 2, top + LINE * (LINES - 0.5))
    scene.lines([[(left + step * x, y) for y in high] for x in bars], stroke="faint")
    for row in range(-(-len(text) // wide)):
        part, y = text[row * wide : (row + 1) * wide], top + LINE * row
        shown = "".join(" " if c == " " else printable(c) for c in part)
        look = dict(size=size, mono=True, colour="ink" if row else "muted")
        scene.text(left, y, shown, **look)
        edges = np.flatnonzero(
            np.diff(np.pad(strange[row * wide : (row + 1) * wide], 1).view("i1"))
        )
        runs = [[(left + step * a, y + 9), (left + step * b, y + 9)]
                for a, b in edges.reshape(-1, 2)]  # fmt: skip
        scene.lines(runs, stroke=segment_pair(0), width=1.6)
