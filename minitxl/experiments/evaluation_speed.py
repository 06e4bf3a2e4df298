"""How much faster recurrence evaluates: time per predicted token against attention length.

The paper (sec. 4.5, table 9) times its model against a Transformer without memory that recomputes
a whole window for every token: up to 1,874 times faster at an attention length of 3,800. Here all
the ways to predict a text are timed side by side, with one set of weights:
  window        stride 1: every token from a full window, which is read anew for it
  half-window   stride of half a window: a token has half a window or more
  chunks        stride of a window: fixed segments, each begun from nothing
  xl            memory and segment, all of the memory projected again (as the released code does)
  xl-cached     keys and values kept (`minitxl.inference.cached`)
Attention length A counts what a prediction may look at: the window's tokens, or memory plus
segment (M + S = A). Where two ways must predict the same, that is checked before they are timed.

Every way is run as well as this library can, whichever is the fastest per token: several windows
side by side on threads or one with all of BLAS's, by the model or, where the encoding allows, by a
reader, which works in blocks; of a window that predicts one token only the last position meets the
softmax. (Nothing skips what the last layer computes for the other positions: without that a
window would cost about a quarter less.) The window is read both with the same relative encoding
and with absolute positions, as the paper's baseline has them; speed-ups are over the faster.
`reading_cost.py` measures what each way predicts.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minitxl.backend.threads import Workers, one_blas_thread, threads_for
from minitxl.config import RELATIVE, SINUSOID, Config
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.parts import Parts
from minitxl.inference.cached import CachedReader, can_cache
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.cost import forward_flops
from minitxl.training.machine import machine_facts

PAPER = {800: 363, 1800: 773, 2800: 1409, 3800: 1874}  # attention length -> speed-up (table 9)
WINDOWS = ("window", "window-absolute")
SCORES_AT_ONCE = 1.2e8  # attention scores of windows that are read side by side; more fills memory
WINDOW_TOKENS = 24  # at least, that a repeat times of a window moved by one: two would be chance
TOLERANCE = 1e-5  # of float32 log-probabilities, between two ways to the same prediction


@dataclass(frozen=True)
class Settings:
    """What is timed; the model is the one of the preset sizes in `Config`, float32, not trained."""

    attention_lens: tuple = (100, 200, 400, 800, 1800, 2800, 3800)
    segment_lens: tuple = (1, 16, 64, 128)
    repeats: int = 5  # of which the median is given
    seconds: float = 0.25  # that one repeat is to last at least, if need be for one call
    corpus: str = "war-and-peace"
    n_layer: int = 4
    d_model: int = 128
    n_head: int = 4
    d_head: int = 32
    d_inner: int = 512
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        return cls(attention_lens=(50, 200), segment_lens=(1, 16), repeats=3, seconds=0.003)


class Job(NamedTuple):
    """One call that can be timed."""

    how: str
    n_token: int  # predictions of a call
    call: Callable[[], object]


class Point(NamedTuple):
    """A way to predict at one length, and the jobs that can do it; the fastest is taken."""

    method: str
    attention_len: int
    segment_len: int | None
    jobs: list[Job]


def _config(s: Settings, **fields) -> Config:
    shape = ("n_layer", "d_model", "n_head", "d_head", "d_inner")
    return Config(**{"n_token": 2} | {name: getattr(s, name) for name in shape} | fields)


# --- the ways -----------------------------------------------------------------------------------


def _models(s: Settings, n_token: int) -> tuple[TransformerXL, TransformerXL]:
    """Return the model, and one with absolute positions that shares all weights that it needs."""
    shape = {
        name: getattr(s, name) for name in ("n_layer", "d_model", "n_head", "d_head", "d_inner")
    }
    config = Config(n_token=n_token, **shape)
    model = TransformerXL(config, device="cpu", seed=s.seed)
    absolute = TransformerXL(config.replace(attn_type=SINUSOID), device="cpu")
    for name in absolute.params:
        absolute.params[name] = model.params[name]
    return model, absolute


def _window_jobs(model, text, attention_len: int, stride: int) -> list[Job]:
    """Windows that move on by stride: one with all of BLAS's threads, or several on threads."""
    a, c = attention_len, model.config
    model = model.with_options(mem_len=0, tgt_len=a)
    n_thread = threads_for(60)

    def job(rows: int, threads: int, kind: str) -> Job:
        starts = np.arange(rows * threads).reshape(threads, rows, 1) * stride
        read = starts + np.arange(a)  # (threads, B, A) places in the text
        batches = zip(text[read], text[read[..., a - stride :] + 1], strict=True)
        if kind == "reader":  # without a memory it keeps nothing, but works in blocks
            todo = [(CachedReader(model, rows), *batch) for batch in batches]
        else:
            todo = [(model, *batch) for batch in batches]

        def score(one):
            who, x, y = one
            return who.score(x, y)

        if kind == "all BLAS threads":
            return Job(f"{rows} at a time, {kind}", rows * stride, lambda: score(todo[0]))
        workers = Workers(threads)
        how = f"{rows} at a time on each of {threads} threads, {kind}.score"
        return Job(how, threads * rows * stride, lambda: workers.map(score, todo))

    most = max(1, int(SCORES_AT_ONCE / (n_thread * c.n_head * a * a)))
    kinds = ("model", "reader") if can_cache(c) else ("model",)
    rows = sorted({min(n, most) for n in (1, 4, 16)})
    jobs = [job(n, n_thread, kind) for kind in kinds for n in rows]
    return [job(1, 1, "all BLAS threads"), *jobs]


def _xl_jobs(
    model, text, attention_len: int, segment_len: int
) -> tuple[list[Job], list[Job], float]:
    """Return the jobs with and without keys kept, and how far their predictions differ."""
    s = segment_len
    model = model.with_options(mem_len=attention_len - s, tgt_len=s)
    start = CachedReader(model)
    for first in range(0, attention_len, 128):  # fill the memory
        start.read(text[None, first : first + 128], last=1)
    mems = start.mems
    x, y = (text[None, attention_len + i : attention_len + i + s] for i in (0, 1))
    readers = {n: CachedReader.from_mems(model, mems, threads=n) for n in {1, threads_for(60)}}
    want, _ = model.predict(x, mems)
    apart = max(float(np.abs(r.read(x) - want).max()) for r in readers.values())

    def in_one_thread():
        with one_blas_thread():
            model.score(x, y, mems)

    plain = [
        Job("all BLAS threads", s, lambda: model.score(x, y, mems)),
        Job("1 thread", s, in_one_thread),
    ]
    kept = [Job(f"{n} thread(s)", s, lambda r=r: r.score(x, y)) for n, r in readers.items()]
    return plain, kept, apart


def _same_as_window(s: Settings, n_token: int, text) -> float:
    """One layer that sees A keys, with a memory and with a window: how far predictions differ.

    (With more layers they differ for good: states in memory have themselves seen what lies before
    the window.)
    """
    a = s.attention_lens[0]
    model, _ = _models(dataclasses.replace(s, n_layer=1), n_token)
    reader = CachedReader(model, mem_len=a, same_length=True)
    reader.read(text[None, :a])
    window, apart = model.with_options(mem_len=0, tgt_len=a), 0.0
    for n in range(1, 6):
        kept = reader.read(text[None, a + n - 1 : a + n])
        reread, _ = window.predict(text[None, n : a + n], last=1)
        apart = max(apart, float(np.abs(kept - reread).max()))
    return apart


# --- timing -------------------------------------------------------------------------------------


def _seconds(call: Callable[[], object], n: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(n):
        call()
    return time.perf_counter() - began


def _fastest(point: Point, s: Settings) -> tuple[Job, int]:
    """Try every job; return the one that is fastest per token, and the calls of a repeat."""
    tried = []
    for job in point.jobs:
        once = _seconds(job.call)
        if once < 1.0:  # the first call makes buffers; of a slow one that is a small part
            once = _seconds(job.call)
        least = math.ceil(WINDOW_TOKENS / job.n_token) if point.method in WINDOWS else 1
        n = max(least, min(1000, round(s.seconds / once)))
        if once < 1.0:
            once = min(_seconds(job.call, n) / n for _ in range(2))
        tried.append((once / job.n_token, n, job))
    _, n, job = min(tried, key=lambda x: x[0])
    return job, n


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Time all ways at all lengths; return settings, machine, points, checks and the FLOP model.

    At each attention length the ways take turns, repeat by repeat, so that whatever else the
    machine does meets all alike; a length is a part.
    """
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    corpus = load_corpus(s.corpus)
    text = np.asarray(corpus.test)
    if len(text) < 3 * max(s.attention_lens):
        raise MinitxlError(
            f"attention length {max(s.attention_lens)} needs a text of three times that; the test "
            f"split of {s.corpus} has {len(text)} tokens"
        )
    model, absolute = _models(s, corpus.vocab.n_token)
    apart = {"one layer, cached = sliding window": _same_as_window(s, corpus.vocab.n_token, text)}
    points, kept_apart = [], 0.0
    with tqdm(total=len(s.attention_lens), unit="length", disable=not progress) as bar:
        for a in s.attention_lens:
            bar.set_description(f"attention length {a:,}")
            measured = parts.get(str(a), lambda a=a: _measure(model, absolute, text, a, s))
            points += measured["points"]
            kept_apart = max(kept_apart, measured["apart"])
            bar.update()
    apart["cached = projected again"] = kept_apart
    for what, differ in apart.items():
        if not differ <= TOLERANCE:
            raise MinitxlError(
                f"{what}: log-probabilities differ by {differ:.1e}, more than {TOLERANCE:.0e}; "
                "times of different predictions cannot be compared"
            )
    results = {
        "experiment": "evaluation-speed",
        "settings": dataclasses.asdict(s),
        "weights": f"initial values of seed {s.seed} (not trained: they change no time)",
        "machine": machine_facts(),
        "units": {"attention_len": "tokens, memory + segment", "ms": "ms per predicted token"},
        "points": points,
        "largest_difference_of_log_probs": apart,
        "paper": [{"attention_len": a, "speedup": x} for a, x in PAPER.items()],
    }
    return results | {"speedups": _speedups(results), "flop_model": flop_model(s)}


def _measure(model, absolute, text, a: int, s: Settings) -> dict:
    """Time all ways at attention length a."""
    todo = [
        Point("window", a, None, _window_jobs(model, text, a, 1)),
        Point("window-absolute", a, None, _window_jobs(absolute, text, a, 1)),
        Point("half-window", a, None, _window_jobs(model, text, a, a // 2)),
        Point("chunks", a, None, _window_jobs(model, text, a, a)),
    ]
    apart = 0.0
    for segment_len in s.segment_lens:
        if segment_len <= a:
            plain, kept, differ = _xl_jobs(model, text, a, segment_len)
            apart = max(apart, differ)
            todo.append(Point("xl", a, segment_len, plain))
            todo.append(Point("xl-cached", a, segment_len, kept))
    return {"points": _timed(todo, s), "apart": apart}


def _timed(todo: list[Point], s: Settings) -> list[dict]:
    """Time the points in turns; the fastest job of each."""
    chosen = [_fastest(point, s) for point in todo]
    times = [[] for _ in todo]
    for _ in range(s.repeats):
        for (job, n), measured in zip(chosen, times, strict=True):
            job.call()  # to be where one is in the midst of a text: what another left is no matter
            measured.append(1e3 * _seconds(job.call, n) / (n * job.n_token))
    return [
        {
            "method": point.method,
            "attention_len": point.attention_len,
            "segment_len": point.segment_len,
            "ms": statistics.median(measured),
            "ms_min": min(measured),
            "ms_max": max(measured),
            "repeats": len(measured),
            "tokens_per_repeat": n * job.n_token,  # slow points: few
            "how": job.how,
        }
        for point, (job, n), measured in zip(todo, chosen, times, strict=True)
    ]


# --- what follows from the times ----------------------------------------------------------------


def _speedups(results: dict) -> list[dict]:
    """Speed-up of every point of the model over the faster of the two windows of its length."""
    window = {(p["method"], p["attention_len"]): p["ms"] for p in results["points"]}
    found = []
    for p in results["points"]:
        if p["method"].startswith("xl"):
            ms = [window[kind, p["attention_len"]] for kind in WINDOWS]
            point = {name: p[name] for name in ("method", "attention_len", "segment_len")}
            found.append(point | {"speedup": min(ms) / p["ms"]})
    return found


def flops(method: str, attention_len: int, segment_len: int | None, s: Settings) -> float:
    """FLOPs of the layers' products per predicted token, all A keys of every query counted.

    With D = H Dh, S = segment_len, for each layer:
      window-absolute  A (8 D^2 + 4 A D + 4 D F)
      xl               4 D^2 + 4 A D^2 / S + 2 A D^2 / S + 6 A D + 4 D F
      xl-cached        8 D^2 + 6 A D + 4 D F
    """
    t = segment_len or attention_len
    encoding = SINUSOID if method == "window-absolute" else RELATIVE
    config = _config(s, tgt_len=t, mem_len=attention_len - t, attn_type=encoding)
    parts = forward_flops(config, rows=1)
    if method == "xl-cached":
        new = forward_flops(config.replace(mem_len=0), rows=1)
        parts |= {"projections": new["projections"], "positions": 0}
    total = sum(parts.values()) - parts["embedding and softmax"]
    return total / (segment_len or 1)


def flop_model(s: Settings) -> list[dict]:
    """The speed-up that FLOPs alone would give; with keys kept it is the same for every segment."""
    return [
        {
            "attention_len": a,
            "speedup": flops("window-absolute", a, None, s) / flops("xl-cached", a, 1, s),
        }
        for a in s.attention_lens
    ]


def needless_share(s: dict, a: int) -> float:
    """Share of the products of a window of length a that its last layer does for no prediction."""
    d, f = s["d_model"], s["d_inner"]
    layer = 8 * d * d + 4 * a * d + 4 * d * f  # for each place
    keys_and_values = 4 * d * d  # which all places need
    return (layer - keys_and_values) / (s["n_layer"] * layer)


def best_at_longest(results: dict) -> dict:
    """The largest speed-up at the longest attention length."""
    longest = max(results["settings"]["attention_lens"])
    points = [p for p in results["speedups"] if p["attention_len"] == longest]
    return max(points, key=lambda p: p["speedup"])


def summary(results: dict) -> str:
    """Return the results as a table: ms per token, and the speed-up over the window."""
    s = results["settings"]
    times = {
        (p["method"], p["attention_len"], p["segment_len"]): p["ms"] for p in results["points"]
    }
    ratio = {
        (p["method"], p["attention_len"], p["segment_len"]): p["speedup"]
        for p in results["speedups"]
    }
    rows = [("window, absolute", "window-absolute", None), ("window", "window", None)]
    rows += [("half-window", "half-window", None), ("chunks", "chunks", None)]
    for n in s["segment_lens"]:
        rows += [(f"XL, {n}", "xl", n), (f"XL cached, {n}", "xl-cached", n)]
    lines = ["ms per token; in brackets: times faster than the window", ""]
    lines.append(f"{'attention length':18}" + "".join(f"{a:>18,}" for a in s["attention_lens"]))
    for label, method, n in rows:
        line = f"{label:18}"
        for a in s["attention_lens"]:
            ms, faster = times.get((method, a, n)), ratio.get((method, a, n))
            cell = "-" if ms is None else f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"
            line += f"{cell + (f' ({faster:,.0f}x)' if faster else ''):>18}"
        lines.append(line)
    best = best_at_longest(results)
    longest = best["attention_len"]
    paper = f"; the paper: {PAPER[longest]:,}" if longest in PAPER else ""
    lines += [
        "",
        f"At {longest:,}: {best['speedup']:,.0f} times faster than the window (segments of "
        f"{best['segment_len']}{paper})",
    ]
    lines += [
        f"{what}: within {x:.0e}" for what, x in results["largest_difference_of_log_probs"].items()
    ]
    return "\n".join(lines)
