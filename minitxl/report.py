"""What `train` tells at its end: the model beside what compressors reach, and a sample."""

from __future__ import annotations

from minitxl.data.baselines import PPMD, compression_bpc
from minitxl.data.text import Corpus
from minitxl.generate import generate, printable
from minitxl.runs import LoadedRun

COMPRESS_MAX = 30_000_000  # symbols of training text; xz takes about a second per million


def comparison(corpus: Corpus, bpc: float) -> str:
    """Return a table: bits per symbol of the validation split, for compressors and the model.

    A compressor's price is what the split adds to the compressed training text, so all of them
    have seen the same text before. Left out for texts so long that compressing takes minutes.
    """
    prices = {"minitxl": bpc}
    if len(corpus.train) <= COMPRESS_MAX:
        texts = corpus.vocab.to_bytes(corpus.train), corpus.vocab.to_bytes(corpus.valid)
        prices |= compression_bpc(*texts, n_symbols=len(corpus.valid))
    if corpus.level == "char" and (corpus.name, "valid") in PPMD:
        prices["PPMd"] = PPMD[corpus.name, "valid"]
    symbol = "character" if corpus.level == "char" else "byte"
    lines = [f"bits per {symbol} on the validation text, which none of them has seen:"]
    for name, value in sorted(prices.items(), key=lambda item: -item[1]):
        mark = "  <- this model" if name == "minitxl" else ""
        lines.append(f"  {name:<8} {value:.3f} {'#' * round(value * 12)}{mark}")
    return "\n".join(lines)


def sample(run: LoadedRun, corpus: Corpus, length: int = 400, n_prompt: int = 256) -> str:
    """Return what the model writes when it goes on from the beginning of the validation split.

    From nothing it would write a bad first line: in training its memory was hardly ever empty.
    """
    n_prompt = min(n_prompt, len(corpus.valid))
    prompt = corpus.vocab.decode(corpus.valid[:n_prompt])
    ids = generate(run.model, run.vocab, prompt, length=length, temperature=0.8, seed=0)
    text = printable(run.vocab.decode(list(ids))).strip()
    title = f"a sample, going on from the first {n_prompt} {corpus.level}s of the validation text:"
    return f"\n{title}\n\n  " + text.replace("\n", "\n  ") + "\n"
