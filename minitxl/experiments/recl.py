"""How far back does each model really look? Relative Effective Context Length (paper, App. C).

A longer context helps even a model that cannot use it well: the first characters of a text are hard
for every model. So the paper compares within a group, and asks of each model: does it, given more
context, beat the best that anyone in the group makes of less?

  l_i(c, t)  loss of model i for token t, given exactly the c tokens before it
  b(c, t)    = min_i l_i(c, t)                     the best of the group
  T          the share r of the positions t that are hardest by b(c, t)
  f_i(c, c') = mean over T of min(b(c, t), l_i(c', t))
  g_i(c, c') = (exp f_i(c, c) - exp f_i(c, c')) / exp f_i(c, c)    the gain from c to c' = c + delta

From the first c on, in steps of delta, as long as the gain is at least 1%: where it is less, c is
model i's RECL. That formula is the paper's. Ours are delta and the first c, which it does not state
(100 tokens fit its table; here the first c is delta, and two of them are tried: a step that adds
less also gains less, and so ends sooner), and how c tokens are read, see below.

No gain is ever negative: the minimum keeps whatever *happens* to be better at c', at positions that
were chosen because they happened to be bad at c (the winner's curse). So noise can only lengthen
RECL. Hence a control: the delta far characters of the c' are replaced by those far from another
position. They cannot help by what they say. Two numbers come of it:
  null_recl      the RECL by such contexts: how far noise alone carries
  content_recl   the first c from which the true far characters are less than 1% better than the
                 foreign ones, 1 - exp(mean over T of l_i(c', t) - null_i(c', t)). This may be
                 negative, so noise cuts both ways; that foreign text can mislead speaks for it.

How a model reads its c tokens: with recurrence in segments of the trained length, the last one
whole, with the memory of the trained length; without, but with relative positions, all of them at
once; the vanilla Transformer the last tgt_len of them, for it knows no further positions.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from minitxl.backend.threads import Workers, threads_for
from minitxl.config import RELATIVE
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.group import MEMBERS, Shape, trained
from minitxl.experiments.parts import Parts
from minitxl.inference.cached import reader_of
from minitxl.inference.units import bits

PAPER = {  # table 8: r -> RECL in tokens, of WikiText-103; two groups, compared within themselves
    "Transformer-XL 151M": (900, 800, 700),
    "QRNN": (500, 400, 300),
    "LSTM": (400, 300, 200),
    "Transformer-XL 128M": (700, 600, 500),
    "Shaw's encoding": (400, 400, 300),
    "no recurrence": (300, 300, 300),
    "vanilla Transformer": (128, 128, 128),
}
LABELS = {
    "xl": "Transformer-XL",
    "shaw": "Shaw's encoding",
    "xl-alone": "no recurrence",
    "abs-alone": "vanilla Transformer",
}
VANILLA = "abs-alone"
TOKENS_AT_ONCE = 1 << 14  # of contexts that are read side by side, on each thread


@dataclass(frozen=True)
class Settings:
    """What is compared, and how finely."""

    shape: Shape = field(default_factory=Shape)
    members: tuple = tuple(LABELS)
    seeds: int = 3  # groups: the models of one seed are compared with each other
    deltas: tuple = (16, 8)  # characters
    longest: int = 96  # context, in characters; a multiple of every delta
    ratios: tuple = (0.1, 0.5, 1.0)  # r
    threshold: float = 0.01
    positions: int = 1200  # of the held-out text, the same for all models
    resamples: int = 200  # of the positions, for the intervals

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        few = dict(positions=200, resamples=20, longest=32, deltas=(16, 8))
        return cls(shape=Shape.quick(), seeds=1, **few)


# --- from losses to lengths: the algorithm ------------------------------------------------------


def hardest(near, ratio: float) -> np.ndarray:
    """Return T: the share `ratio` of the N positions at which even the best of the group is worst.

    near (I, N): l_i(c, t).
    """
    n_hard = max(1, round(ratio * near.shape[1]))
    return np.argsort(-near.min(axis=0), kind="stable")[:n_hard]


def gains(near, far, ratio: float) -> np.ndarray:
    """Return g_i(c, c') of every model i (app. C) -> (I,).

    near (I, N), far (I, N): losses l_i(c, t) and l_i(c', t) in nats at N positions; ratio: r, the
    share of the positions that counts, the hardest ones.
    """
    best, hard = near.min(axis=0), hardest(near, ratio)  # b(c, t) (N,), T
    before = best[hard].mean()  # f_i(c, c), the same for all i
    after = np.minimum(best[hard], far[:, hard]).mean(axis=1)  # f_i(c, c') -> (I,)
    return 1.0 - np.exp(after - before)


def gain_curves(losses, far, ratio: float) -> np.ndarray:
    """Return the gain of every step and model -> (I, C-1).

    losses (I, C, N): l_i(c, t) for C contexts, delta apart; far (I, C-1, N): l_i(c + delta, t) from
    each of them but the last: losses[:, 1:], or a control.
    """
    steps = [gains(losses[:, n], far[:, n], ratio) for n in range(losses.shape[1] - 1)]
    return np.stack(steps, axis=1)


def content_curves(losses, null, ratio: float) -> np.ndarray:
    """Return by what share the true far tokens are better than foreign ones -> (I, C-1).

    losses (I, C, N) as above; null (I, C-1, N): as `far`, with foreign tokens as the farthest.
    """
    steps = []
    for n in range(losses.shape[1] - 1):
        hard = hardest(losses[:, n], ratio)
        apart = losses[:, n + 1, hard] - null[:, n, hard]  # (I, |T|), position by position
        steps.append(1.0 - np.exp(apart.mean(axis=1)))
    return np.stack(steps, axis=1)


def effective_lengths(lengths, curves, threshold: float = 0.01) -> list[int]:
    """Return each model's RECL: the first of C lengths from which the gain is under the threshold.

    curves (I, C-1): of `gain_curves` (sec. 4.3). The last length stands for itself or more.
    """
    small = np.column_stack([curves < threshold, np.ones(len(curves), dtype=bool)])  # -> (I, C)
    return [int(lengths[n]) for n in small.argmax(axis=1)]


# --- losses of the models -----------------------------------------------------------------------


def last_losses(model, contexts, targets, segment_len: int) -> np.ndarray:
    """Return the loss in nats of one token after each context -> (N,).

    contexts (N, C), targets (N,): ids. Each is read from an empty memory in segments of
    segment_len; what is left over comes first, so that the last segment is a whole one.
    """
    n, c = contexts.shape
    cuts = [*range(c, 0, -segment_len), 0][::-1]
    rows = max(1, TOKENS_AT_ONCE // c)

    def read(at: int) -> np.ndarray:
        x, y = contexts[at : at + rows], targets[at : at + rows, None]
        reader = reader_of(model, len(x))
        for start, stop in pairwise(cuts[:-1]):
            reader.read(x[:, start:stop], last=1)
        nll = reader.score(x[:, cuts[-2] :], y)  # (B, 1)
        return model.backend.to_numpy(nll)[:, 0]

    threads = threads_for(8) if model.backend.name == "cpu" else 1
    return np.concatenate(Workers(threads).map(read, range(0, n, rows)))


def context_losses(model, name: str, text, at, length: int, borrowed: int = 0) -> np.ndarray:
    """Return l_i(c, t) in nats for the tokens at the places `at` of the text -> (N,).

    length: c; name: the model's in `MEMBERS`, which says how it reads. borrowed: that many of the
    c tokens, the farthest, are those of another position: of the one half of `at` further on.
    """
    member, t = MEMBERS[name], model.config.tgt_len
    contexts = text[at[:, None] + np.arange(-length, 0)]  # (N, C)
    contexts[:, :borrowed] = np.roll(contexts[:, :borrowed], len(at) // 2, axis=0)
    segment_len = t
    if not member.recurrence and member.attn_type == RELATIVE:
        segment_len = length
    elif not member.recurrence:
        contexts = contexts[:, -t:]
    return last_losses(model, contexts, text[at], segment_len)


def _measure(name: str, seed: int, s: Settings, text, at, models) -> dict:
    """All losses of one model: true contexts by length, controls by step and length, (N,) each."""
    model = trained(name, seed, s.shape, models).model

    def losses(length, borrowed=0):
        return context_losses(model, name, text, at, length, borrowed).round(5).tolist()

    lengths = sorted({c for delta in s.deltas for c in _lengths(delta, s)})
    return {
        "true": {str(c): losses(c) for c in lengths},
        "null": {
            str(delta): {str(c): losses(c, delta) for c in _lengths(delta, s)[1:]}
            for delta in s.deltas
        },
    }


def _bpc(by_length: dict) -> dict:
    """Mean over the positions: length -> bits per character."""
    return {c: round(bits(float(np.mean(losses))), 5) for c, losses in by_length.items()}


def _lengths(delta: int, s: Settings) -> list[int]:
    return list(range(delta, s.longest + 1, delta))


# --- the experiment -----------------------------------------------------------------------------


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Measure every group; return gains and lengths of each, their mean and spread.

    Raises MinitxlError for settings that leave no step, or a text that is too short.
    """
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    corpus = load_corpus(s.shape.corpus)
    text = np.asarray(corpus.test)
    _check(s, len(text))
    rng = np.random.default_rng(0)
    at = np.sort(rng.choice(np.arange(s.longest, len(text)), s.positions, replace=False))
    found, losses, null = [], *({name: [] for name in s.members} for _ in range(2))
    with tqdm(total=s.seeds * len(s.members), unit="model", disable=not progress) as bar:
        for seed in range(s.seeds):
            group = []
            for name in s.members:
                bar.set_description(f"{name}, seed {seed}")
                compute = lambda n=name, i=seed: _measure(n, i, s, text, at, parts.models)  # noqa: E731
                group.append(parts.get(f"{name}, seed {seed}", compute))
                losses[name].append(_bpc(group[-1]["true"]))
                null[name].append({d: _bpc(x) for d, x in group[-1]["null"].items()})
                bar.update()
            found += [
                row | {"seed": seed}
                for delta in s.deltas
                for ratio in s.ratios
                for row in _lengths_of(group, delta, ratio, s)
            ]
    lengths = sorted({c for delta in s.deltas for c in _lengths(delta, s)})
    return parts.head("recl") | {
        "units": {
            "recl": "characters (the paper's: words)",
            "gain": "share of exp(nats per character), for each step of delta",
            "bpc, null_bpc": "bits per character, mean over all positions, by length",
        },
        "groups": found,
        "lengths": lengths,
        "bpc": losses,
        "null_bpc": null,
        "mean": _means(found, s),
        "paper": {
            n: dict(zip(("0.1", "0.5", "1.0"), row, strict=True)) for n, row in PAPER.items()
        },
    }


def _check(s: Settings, n_text: int) -> None:
    if VANILLA not in s.members or not set(s.members) <= set(LABELS):
        raise MinitxlError(
            f"members={s.members} must be of {tuple(LABELS)}, {VANILLA} among them: the others "
            "are compared with it"
        )
    for delta in s.deltas:
        if s.longest % delta or s.longest < 2 * delta:
            raise MinitxlError(
                f"longest={s.longest} must be a multiple of delta={delta}, twice that or more: "
                "there must be a step to take"
            )
    if n_text < s.longest + s.positions:
        raise MinitxlError(
            f"{s.positions} positions with {s.longest} characters before them need a text of "
            f"{s.longest + s.positions}; the test split of {s.shape.corpus} has {n_text}"
        )


def _lengths_of(group: list[dict], delta: int, ratio: float, s: Settings) -> list[dict]:
    """Gains and RECL of each model of a group, by one delta and r; intervals over positions."""
    lengths = _lengths(delta, s)
    true = np.array([[m["true"][str(c)] for c in lengths] for m in group])  # (I, C, N)
    null = np.array([[m["null"][str(delta)][str(c)] for c in lengths[1:]] for m in group])

    def found(true, null) -> tuple[dict, dict]:
        """The curves of the positions given, and the lengths that follow from them."""
        curves = {
            "gains": gain_curves(true, true[:, 1:], ratio),
            "null_gains": gain_curves(true, null, ratio),
            "content_gains": content_curves(true, null, ratio),
        }
        names = ("recl", "null_recl", "content_recl")
        ends = (effective_lengths(lengths, c, s.threshold) for c in curves.values())
        return curves, dict(zip(names, ends, strict=True))

    curves, recl = found(true, null)
    rng, n = np.random.default_rng(1), true.shape[2]
    drawn = []
    for _ in range(s.resamples):
        some = rng.integers(0, n, n)
        drawn.append(list(found(true[:, :, some], null[:, :, some])[1].values()))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)  # (S, 3, I) -> (3, I)
    return [
        {
            "member": name,
            "delta": delta,
            "ratio": ratio,
            **{key: lengths[i] for key, lengths in recl.items()},
            "intervals": {  # of 95 %, over the positions
                key: [float(low[k, i]), float(high[k, i])] for k, key in enumerate(recl)
            },
            **{key: curve[i].round(5).tolist() for key, curve in curves.items()},
        }
        for i, name in enumerate(s.members)
    ]


def _means(found: list[dict], s: Settings) -> list[dict]:
    """Mean and spread over the seeds; `longer`: than the vanilla Transformer of the same seed."""
    means = []
    for delta in s.deltas:
        for ratio in s.ratios:
            rows = [g for g in found if (g["delta"], g["ratio"]) == (delta, ratio)]
            for name in s.members:
                mean = {"member": name, "delta": delta, "ratio": ratio}
                for key in ("recl", "null_recl", "content_recl"):
                    own, vanilla = (
                        [g[key] for g in rows if g["member"] == n] for n in (name, VANILLA)
                    )
                    mean[key] = {
                        "mean": statistics.mean(own),
                        "min": min(own),
                        "max": max(own),
                        "longer": statistics.mean(
                            a / b - 1.0 for a, b in zip(own, vanilla, strict=True)
                        ),
                    }
                means.append(mean)
    return means


def paper_longer(label: str, other: str) -> float:
    """By what share one RECL of the paper exceeds another, at r = 0.1: its "450%" and "80%"."""
    return PAPER[label][0] / PAPER[other][0] - 1.0


def mean_of(results: dict, member: str, delta: int, ratio: float) -> dict:
    """The entry of `mean` for a member, a delta and an r."""
    key = (member, delta, ratio)
    (found,) = (m for m in results["mean"] if (m["member"], m["delta"], m["ratio"]) == key)
    return found


def summary(results: dict) -> str:
    """Return RECL of every model as a table, by delta and r, the paper's beside it."""
    s = results["settings"]
    ratios, lines = (
        s["ratios"],
        [f"means of {s['seeds']} seeds: RECL (least-most) | null | content"],
    )
    head = "".join(f"{f'r = {r}':>24}" for r in ratios)
    for delta in s["deltas"]:
        lines.append(f"{f'steps of {delta} characters':22}{head}")
        for name in s["members"]:
            line = f"{LABELS[name]:22}"
            for r in ratios:
                m = mean_of(results, name, delta, r)
                own = m["recl"]
                more = "+" if own["max"] == s["longest"] else ""
                rest = "".join(f" | {m[k]['mean']:.0f}" for k in ("null_recl", "content_recl"))
                cell = f"{own['mean']:.0f} ({own['min']}-{own['max']}{more}){rest}"
                line += f"{cell:>24}"
            lines.append(line)
        lines.append("")
    lines.append(f"{'the paper, words':22}{head}")
    for label, row in results["paper"].items():
        lines.append(f"{label:22}" + "".join(f"{row.get(str(r), '-'):>24}" for r in ratios))
    vanilla = paper_longer("Transformer-XL 128M", "vanilla Transformer")
    rnn = paper_longer("Transformer-XL 151M", "QRNN")
    lines += [
        "",
        f"XL longer than the vanilla Transformer, r = {ratios[0]}: the paper {vanilla:+.0%}",
    ]
    for delta in s["deltas"]:
        m = mean_of(results, "xl", delta, ratios[0])
        by = [f"{m[k]['longer']:+.0%}" for k in ("recl", "null_recl", "content_recl")]
        lines.append(f"  here, steps of {delta}: {by[0]}; null {by[1]}; content {by[2]}")
    lines.append(f"longer than an RNN: the paper {rnn:+.0%}; there is none here")
    return "\n".join(lines)
