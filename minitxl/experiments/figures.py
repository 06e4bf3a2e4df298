"""The pictures of README and results page: `python -m minitxl figures` writes them.

From the shipped model, and from results of experiments that are stored in results/. The files come
out the same on every run of one machine; another BLAS may shift a last digit.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minitxl
from minitxl.data import load_corpus
from minitxl.data.baselines import PPMD, compression_bpc
from minitxl.experiments import DRAWN, draw
from minitxl.experiments.gpu_figure import draw_evaluation_on_gpu
from minitxl.experiments.lead_figure import draw_links
from minitxl.files import write_atomically
from minitxl.pretrained import models_folder
from minitxl.storage.checkpoint import read_json
from minitxl.storage.run_folder import read_metrics
from minitxl.viz.loss_curve import loss_curve
from minitxl.viz.reading import Reading
from minitxl.viz.theme import Picture

T, SEGMENTS = 48, 4  # characters of a segment; segments in the picture
STRIDE = 1000  # the book's unseen part is searched for a passage every so many characters


def strongest_reader(probs: list[np.ndarray], tokens: np.ndarray, space: int):
    """The character that reads the same symbol in every cached segment: score, layer, head, query.

    `probs`: per layer (H, T, K) with whole segments in memory; `tokens` (K,). The score is the
    geometric mean, over the cached segments, of the largest weight in each; it counts where these
    weights lie on one symbol that is no space (quotation marks, line ends, a letter), so that one
    can see what the head is after. The first third of the queries is left out: the picture should
    have some text of its own segment too.
    """
    best = (-1.0, 0, 0, 0)
    for layer, p in enumerate(probs):
        n_head, t, _ = p.shape
        late = p[:, t // 3 :, :-t].astype(np.float64)
        links = late.reshape(n_head, t - t // 3, -1, t)  # (H, Q, cached segments, T)
        symbols = tokens[:-t].reshape(-1, t)[np.arange(links.shape[2]), links.argmax(axis=3)]
        same = (symbols == symbols[..., :1]).all(axis=2) & (symbols[..., 0] != space)
        score = np.exp(np.log(links.max(axis=3) + 1e-9).mean(axis=2)) * same  # (H, Q)
        head, query = np.unravel_index(score.argmax(), score.shape)
        best = max(best, (float(score.max()), layer, int(head), int(query) + t // 3))
    return best


def attention_over_memory() -> Picture:
    """The character of War and Peace that most clearly reads from three cached segments at once."""
    pretrained = minitxl.load_pretrained("war-and-peace", device="cpu")
    tokens, vocab = load_corpus("war-and-peace").test, pretrained.vocab
    space, line_end = vocab.encode(" \n")
    line_ends = np.flatnonzero(tokens == line_end)
    best = None
    for near in range(0, len(tokens) - (SEGMENTS + 2) * T, STRIDE):
        start = line_ends[np.searchsorted(line_ends, near)] + 1  # begin with a line
        reading = Reading(pretrained.model, tokens[start : start + SEGMENTS * T + 1], tgt_len=T)
        probs = reading.attention(reading.longest_memory)
        found = strongest_reader(probs, reading.tokens, space)
        if best is None or found > best[0]:
            best = (found, reading)
    (_, layer, head, query), reading = best
    weights = reading.attention(reading.longest_memory)[layer][head, query]
    symbols = [vocab.decode([token]) for token in reading.tokens]
    return draw_links(
        symbols,
        weights.round(3),  # what differs in the last digit between two runs is not to be seen
        tgt_len=T,
        query=query,
        where=f"layer {layer + 1}, head {head + 1}",
        target=symbols[int(weights[:-T].argmax())],
    )


def training_curve() -> Figure:
    """The curve of the shipped model beside what bzip2 and PPMd pay for the same held-out text."""
    corpus = load_corpus("war-and-peace")
    texts = corpus.vocab.to_bytes(corpus.train), corpus.vocab.to_bytes(corpus.valid)
    reference = {
        "bzip2": compression_bpc(*texts)["bzip2"],
        "PPMd": PPMD["war-and-peace", "valid"],
    }
    return loss_curve(read_metrics(models_folder() / "war-and-peace"), reference)


def _stored(name: str) -> Callable[[Path], Picture]:
    """Return the drawing of an experiment from NAME.json of a folder of results."""
    return lambda data: draw(name, read_json(data / f"{name}.json"))


FIGURES: dict[str, Callable[[Path], Picture | Figure]] = {
    **{name: _stored(name) for name in DRAWN},
    "evaluation_on_gpu": lambda data: draw_evaluation_on_gpu(
        *(read_json(data / "gpu" / f"{part}.json") for part in ("evaluation", "machine"))
    ),
    "attention_over_memory": lambda data: attention_over_memory(),
    "training_small": lambda data: training_curve(),
    "training_wikitext2": lambda data: loss_curve(read_metrics(data / "training_wikitext2")),
}
"""Name -> picture from the folder of stored results."""


def write(name: str, data: Path, out: Path) -> list[Path]:
    """Draw one picture into the folder `out`; return the files."""
    picture = FIGURES[name](data)
    if isinstance(picture, Picture):
        return [picture.save(out / f"{name}{suffix}") for suffix in (".png", ".svg")]
    path = out / f"{name}.png"
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return [path]
