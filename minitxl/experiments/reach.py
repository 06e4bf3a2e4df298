"""How far back a model can look: accuracy against distance, and the formula that it must obey.

The latch task (`latch.py`) with a loss at every distance, for models with and without memory. What
theory says, exactly: a segment sees R = (N-1) T ceil(M/T) + M tokens before its start. The query
at offset o of its T sees the marker at distance d if d <= R + o; over uniform offsets that is the
share s(d) = 1 - (d - R)/T, within 0 ... 1, so that the best accuracy is s + (1 - s)/8: 1 up to
distance R, a straight ramp, and chance from R + T on. N M is R only where T divides M.

Two measurements: what trained models answer (nobody tells them how far to look), and how far before
its segment one changed token changes any output, bit by bit, of an untrained float64 model.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minitxl.config import TrainConfig
from minitxl.experiments.latch import (
    N_TOKEN,
    Latch,
    cut,
    expected_accuracy,
    loss_floor,
    measure,
    new_model,
    train,
)
from minitxl.experiments.parts import Parts
from minitxl.model.reach import exact_reach

EDGE = 0.9  # an accuracy below it is beyond the edge: on the ramp the first below 1 is .89, or less


@dataclass(frozen=True)
class Settings:
    """Models to train, as (n_layer, tgt_len, mem_len); mem_len 0 is the vanilla Transformer."""

    models: tuple = (
        (1, 8, 0),
        (3, 8, 0),
        (1, 8, 8),
        (2, 8, 8),
        (3, 8, 8),
        (3, 8, 4),
        (2, 8, 12),
        (2, 4, 8),
    )
    seeds: int = 3
    steps: int = 300
    batch_size: int = 64
    lr: float = 3e-3

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        return cls(models=((1, 4, 0), (2, 4, 4), (2, 4, 2)), seeds=2, steps=70)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Train and measure every model with every seed; a model of one seed is a part."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    models = []
    with tqdm(total=len(s.models) * s.seeds, unit="model", disable=not progress) as bar:
        for shape in s.models:
            runs = []
            for seed in range(s.seeds):
                n_layer, tgt_len, mem_len = shape
                bar.set_description(f"N={n_layer} T={tgt_len} M={mem_len}, seed {seed}")
                name = f"{n_layer}-{tgt_len}-{mem_len}, seed {seed}"
                runs.append(parts.get(name, lambda x=shape, i=seed: _trained(x, i, s)))
                bar.update()
            models.append(_described(shape, runs))
    return parts.head("reach") | {
        "units": {
            "accuracy": "share of right answers at distances 1, 2, ... tokens, of all sequences",
            "loss": "nats per answer, mean of the last tenth of the updates",
            "edge": f"first distance whose accuracy is below {EDGE}, in tokens",
            "reach": "tokens before the segment's start",
        },
        "models": models,
    }


def _task(shape) -> Latch:
    n_layer, tgt_len, mem_len = shape
    return Latch(tgt_len, exact_reach(n_layer, tgt_len, mem_len) + tgt_len + tgt_len // 2)


def _trained(shape, seed: int, s: Settings) -> dict:
    task = _task(shape)
    model = new_model(*shape, seed=seed)
    how = dict(steps=s.steps, batch_size=s.batch_size, lr=s.lr, warmup=s.steps // 10, seed=seed)
    losses = train(model, task, TrainConfig(**how))
    found = measure(model, task)
    late = losses[-max(1, s.steps // 10) :]
    return found | {"loss": statistics.fmean(late), "edge": edge(found["accuracy"])}


def _described(shape, runs: list[dict]) -> dict:
    n_layer, tgt_len, mem_len = shape
    task, reach = _task(shape), exact_reach(*shape)
    theory = [expected_accuracy(d, reach, tgt_len) for d in range(1, task.max_distance + 1)]
    accuracy = np.array([run["accuracy"] for run in runs])
    return {
        "n_layer": n_layer,
        "tgt_len": tgt_len,
        "mem_len": mem_len,
        "reach": {
            "formula": reach,
            "n_layer * mem_len": n_layer * mem_len,
            "by perturbation": perturbed_reach(shape),
        },
        "theory": theory,
        "accuracy": accuracy.mean(axis=0).round(4).tolist(),
        "largest_difference": float(np.abs(accuracy - theory).max().round(4)),
        "edge": {
            "theory": edge(theory),
            "mean": statistics.fmean(run["edge"] for run in runs),
            "min": min(run["edge"] for run in runs),
            "max": max(run["edge"] for run in runs),
        },
        "loss": {
            "floor": loss_floor(reach, task),
            "mean": statistics.fmean(run["loss"] for run in runs),
            "sd": statistics.stdev(run["loss"] for run in runs) if len(runs) > 1 else None,
        },
        "runs": runs,
    }


def edge(accuracy) -> int:
    """Return the first distance whose accuracy is below EDGE; accuracy: at distances 1, 2, ..."""
    return next((d for d, x in enumerate(accuracy, 1) if x < EDGE), len(accuracy) + 1)


def perturbed_reach(shape) -> int:
    """Return how far before a segment a token lies whose change changes an output in it."""
    changes = changes_by_token(shape)
    start = changes.shape[1] - shape[1]  # of the segment
    return start - int(np.flatnonzero(changes.any(axis=0))[0])


def changes_by_token(shape, **options) -> np.ndarray:
    """Return how much the outputs of a segment change with each token -> (T, L).

    The largest change of a log-probability, of the output in the row for the token in the column:
    L of them, to the segment's last, from T or more beyond the formula on. The weights are initial
    values in float64, the tokens random; not a bit of what is out of reach changes. options:
    ext_len and same_length of the model.
    """
    tgt_len = shape[1]
    model = new_model(*shape, seed=0, dtype="float64").with_options(**options)
    ext_len = model.config.ext_len
    n_segment = -(-(exact_reach(*shape) + ext_len) // tgt_len) + 2
    length = n_segment * tgt_len
    tokens = np.random.default_rng(0).integers(0, N_TOKEN, length)
    same = np.tile(tokens, (length, 1))  # (B = L, L): as many copies as tokens
    changed = (same + np.eye(length, dtype=int)) % N_TOKEN  # in copy i the token i is another

    def last_segment(tokens):
        mems = None
        for stop in range(tgt_len, length + 1, tgt_len):
            part = tokens[:, max(0, stop - tgt_len - ext_len) : stop]
            log_p, mems = model.predict(part, mems, last=tgt_len)
        return log_p  # (B, T, V)

    return np.abs(last_segment(changed) - last_segment(same)).max(axis=2).T  # (L, T) -> (T, L)


def influence_by_distance(model, text, distances, *, places: int = 4, asked: int = 16) -> list:
    """Return how much a changed character at each distance before a segment moves its predictions.

    The mean total variation of the first `asked` predictions of a segment, 0 ... 1, at `places` of
    the text; the character becomes another, drawn at random.
    """
    c, rng = model.config, np.random.default_rng(0)
    n_before = -(-max(distances) // c.tgt_len)  # segments before the last
    start = n_before * c.tgt_len
    begins = np.arange(places) * (len(text) - start - asked) // places
    tokens = text[begins[:, None] + np.arange(start + asked)].astype(np.int32)  # (places, L)

    def read_on(tokens, first: int, mems) -> tuple[list, np.ndarray]:
        """Read from segment `first` on; return the memory before each, and the predictions."""
        met = [mems]
        for part in cut(tokens[:, first * c.tgt_len : start], c.tgt_len):
            met.append(model.predict(part, met[-1], last=1)[1])
        return met, np.exp(model.predict(tokens[:, start:], met[-1])[0])

    met, base = read_on(tokens, 0, None)
    moved = []
    for distance in distances:
        changed, at = tokens.copy(), start - distance
        changed[:, at] = (changed[:, at] + rng.integers(1, c.n_token, places)) % c.n_token
        first = at // c.tgt_len  # what was read before is as it was
        p = read_on(changed, first, met[first])[1]
        moved.append(float(np.abs(p - base).sum(axis=2).mean() / 2))
    return moved


def summary(results: dict) -> str:
    """Return the results as a table: reach by formula and as found, edges, losses."""
    seeds = results["settings"]["seeds"]
    lines = [
        f"edge: first distance with accuracy below {EDGE}, {seeds} seed(s); loss in nats an answer",
        "",
        f"{'N':>2}{'T':>4}{'M':>4}{'N M':>6}{'reach':>7}{'perturbed':>11}"
        f"{'edge, theory':>14}{'found':>10}{'off theory by':>15}{'loss':>8}{'floor':>8}",
    ]
    for m in results["models"]:
        found, loss = m["edge"], m["loss"]
        low, high = found["min"], found["max"]
        lines.append(
            f"{m['n_layer']:2}{m['tgt_len']:4}{m['mem_len']:4}{m['reach']['n_layer * mem_len']:6}"
            f"{m['reach']['formula']:7}{m['reach']['by perturbation']:11}{found['theory']:14}"
            f"{str(low) if low == high else f'{low} to {high}':>10}"
            f"{m['largest_difference']:15.3f}{loss['mean']:8.3f}{loss['floor']:8.3f}"
        )
    return "\n".join(lines)
