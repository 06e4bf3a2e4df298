"""What `train` tells at its end: the model beside what compressors reach, and a sample."""

from __future__ import annotations

import math

import numpy as np

from minitxl.data.baselines import PPMD, compression_bpc, unigram_nats
from minitxl.data.text import Corpus
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.inference.generate import generate, printable
from minitxl.inference.units import UNITS, bits
from minitxl.storage.run_folder import LoadedRun

COMPRESS_MAX = 30_000_000  # symbols of training text; xz takes about a second per million
LONGEST = 72  # marks of a bar


def comparison(corpus: Corpus, nats: float) -> str:
    """Return a table: the loss of the validation split for the model and for simpler ways.

    Characters and bytes: bits per symbol beside compressors. A compressor's price is what the
    split adds to the compressed training text, so all of them have seen the same text before. Left
    out for texts so long that compressing takes minutes. Words and other tokens: beside what their
    frequencies in the training text would pay.
    """
    unit = UNITS[corpus.level]
    prices = {"minitxl": nats}
    if corpus.level in ("word", "token"):
        prices["unigrams"] = unigram_nats(corpus.train, corpus.valid, corpus.vocab.n_token)
    elif isinstance(corpus.vocab, CharVocab | ByteVocab) and len(corpus.train) <= COMPRESS_MAX:
        texts = corpus.vocab.to_bytes(corpus.train), corpus.vocab.to_bytes(corpus.valid)
        prices |= _in_nats(compression_bpc(*texts, n_symbols=len(corpus.valid)))
    if corpus.level == "char" and (corpus.name, "valid") in PPMD:
        prices |= _in_nats({"PPMd": PPMD[corpus.name, "valid"]})
    lines = [f"{unit.name} on the validation text, which none of them has seen:"]
    marks_per_bit = 4 if corpus.level == "word" else 12
    for name, price in sorted(prices.items(), key=lambda item: -item[1]):
        value, bar = f"{unit.of(price):.{unit.digits}f}", _bar(bits(price) * marks_per_bit)
        mark = "  <- this model" if name == "minitxl" else ""
        lines.append(f"  {name:<8} {value} {bar}{mark}")
    return "\n".join(lines)


def _bar(n: float) -> str:
    """Return n marks, or as many as a line holds and a sign that there would be more."""
    return "#" * round(n) if n <= LONGEST else "#" * LONGEST + " ..."


def _in_nats(prices: dict[str, float]) -> dict[str, float]:
    return {name: bpc * math.log(2) for name, bpc in prices.items()}


def sample(run: LoadedRun, corpus: Corpus, length: int = 400, n_prompt: int = 256) -> str:
    """Return what the model writes when it goes on from the beginning of the validation split.

    From nothing it would write a bad first line: in training its memory was hardly ever empty.
    """
    n_prompt = min(n_prompt, len(corpus.valid))
    prompt = np.asarray(corpus.valid[:n_prompt])  # ids: not all vocabularies read what they write
    ids = generate(run.model, run.vocab, prompt, length=length, temperature=0.8, seed=0)
    text = printable(run.vocab.decode(list(ids))).strip()
    title = f"a sample, going on from the first {n_prompt} {corpus.level}s of the validation text:"
    return f"\n{title}\n\n  " + text.replace("\n", "\n  ") + "\n"
