"""Does a longer memory write more coherently? Samples, counted, beside the book's own pages.

The paper shows long samples (app. D, E) as evidence of coherence. Here the shipped model goes on
from places of held-out text, with memories of none to many characters, and what it wrote is counted
together with what the book itself has at these places:
  quotations   of the paragraphs with quotation marks, the share in which each is closed
  names        of the names in the first half of a sample, the share that come back in the second;
               beside it the share that come back in the second half of *another* sample, which is
               what the commonness of names brings about alone
  repetition   the share of runs of 8 characters that stood in the sample before
Memory "none" reads and writes in segments of the trained length, each from nothing; all others read
character by character with exactly so many states before them. Intervals are over samples.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.intervals import spread
from minitxl.experiments.parts import Parts
from minitxl.inference.cached import CachedReader
from minitxl.pretrained import load_pretrained

BOOK = "the book"
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")  # a capital that no sentence's beginning explains
RUN = 8  # characters
SHOWN = 1500  # characters of a sample that are kept, to be read
COUNTS = ("quotations", "names", "names_of_another", "repetition")


@dataclass(frozen=True)
class Settings:
    """The model, its memories, and how much it writes."""

    model: str = "war-and-peace"
    mem_lens: tuple = (0, 32, 128, 512)
    samples: int = 20
    length: int = 4000
    prompt: int = 512  # characters of the book before each sample
    temperature: float = 0.8
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        return cls(model="tiny-xl", mem_lens=(0, 16), samples=2, length=60, prompt=40)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Write with every memory (a part each) and count; raises MinitxlError for too short a text."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    loaded = load_pretrained(s.model, device="cpu")
    corpus = load_corpus("war-and-peace")
    places = np.arange(s.samples) * (len(corpus.test) // s.samples)
    if places[-1] + s.prompt + s.length > len(corpus.test):
        raise MinitxlError(
            f"{s.samples} samples of {s.prompt} + {s.length} characters do not fit into the "
            f"{len(corpus.test)} of the test text; take fewer or shorter ones"
        )
    at = places[:, None] + np.arange(s.prompt + s.length)
    prompts, true = np.split(corpus.test[at].astype(np.int32), [s.prompt], axis=1)
    texts = {BOOK: [corpus.vocab.decode(row) for row in true]}
    with tqdm(s.mem_lens, unit="memory", disable=not progress) as bar:
        for mem_len in bar:

            def write(mem_len=mem_len):
                ids = written(loaded.model, prompts, mem_len, s)
                return [corpus.vocab.decode(row) for row in ids]

            texts[mem_len] = parts.get(f"memory {mem_len}", write)
    return parts.head("coherence") | {
        "units": {
            "counts": "shares, one for each sample; null: nothing to count in it",
            "texts": "the first sample of each, its beginning",
        },
        "writers": [
            {"writer": name if name == BOOK else f"memory {name}", "counts": counted(rows)}
            for name, rows in texts.items()
        ],
        "texts": {str(name): rows[0][:SHOWN] for name, rows in texts.items()},
        "prompt": corpus.vocab.decode(prompts[0]),
    }


def written(model, prompts, mem_len: int, s: Settings) -> np.ndarray:
    """Return s.length ids that go on from each of prompts (B, P), drawn side by side -> (B, L)."""
    t, rng = model.config.tgt_len, np.random.default_rng(s.seed)
    # Without memory a segment is read as it grows, and dropped when it is whole.
    reader = CachedReader(model, len(prompts), mem_len=mem_len or t)
    count = 0

    def read(ids):
        nonlocal count
        if not mem_len and count == t:
            reader.reset()
            count = 0
        count += ids.shape[1]
        return reader.read(ids, last=1)[:, 0, :]  # (B, V)

    size = t if mem_len else 1
    for start in range(0, prompts.shape[1], size):
        log_p = read(prompts[:, start : start + size])
    drawn = []
    for _ in range(s.length):
        noise = rng.gumbel(size=log_p.shape)
        drawn.append((log_p / s.temperature + noise).argmax(axis=1).astype(np.int32))
        log_p = read(drawn[-1][:, None])
    return np.stack(drawn, axis=1)


# --- what is counted ----------------------------------------------------------------------------


def counted(texts: list[str]) -> dict:
    """Return every count of every sample; the next sample is the "other" one."""
    counts = {
        "quotations": [closed_quotations(text) for text in texts],
        "names": [returning(text, text) for text in texts],
        "names_of_another": [
            returning(text, other) for text, other in zip(texts, texts[1:] + texts[:1], strict=True)
        ],
        "repetition": [repeated(text) for text in texts],
    }
    return {
        name: [None if x is None else round(x, 4) for x in values]
        for name, values in counts.items()
    }


def closed_quotations(text: str) -> float | None:
    """Share of the paragraphs with quotation marks that have an even number of them.

    The first and the last paragraph do not count: they are cut.
    """
    marks = [p.count('"') for p in text.split("\n\n")[1:-1]]
    marks = [n for n in marks if n]
    return sum(n % 2 == 0 for n in marks) / len(marks) if marks else None


def returning(text: str, other: str) -> float | None:
    """Share of the names in the first half of text that stand in the second half of the other."""
    names = set(NAME.findall(text[: len(text) // 2]))
    later = set(NAME.findall(other[len(other) // 2 :]))
    return len(names & later) / len(names) if names else None


def repeated(text: str) -> float:
    """Share of the runs of RUN characters that the text has had before."""
    runs = [text[i : i + RUN] for i in range(len(text) - RUN + 1)]
    return 1.0 - len(set(runs)) / len(runs)


def known(writer: dict, count: str) -> list[float]:
    """A count of those samples in which there was something to count."""
    return [x for x in writer["counts"][count] if x is not None]


def summary(results: dict) -> str:
    """Return a table: who wrote, and every count with its interval."""
    s = results["settings"]
    lines = [
        f"{s['samples']} samples of {s['length']:,} characters; shares with 95 % intervals",
        "",
        f"{'':14}" + "".join(f"{count:>24}" for count in COUNTS),
    ]
    for writer in results["writers"]:
        line = f"{writer['writer']:14}"
        for count in COUNTS:
            values = known(writer, count)
            found = spread(values) if values else {"mean": float("nan"), "interval": None}
            low_high = (
                "" if found["interval"] is None else " [{:.2f}, {:.2f}]".format(*found["interval"])
            )
            line += f"{found['mean']:.3f}{low_high}".rjust(24)
        lines.append(line)
    return "\n".join(lines)
