"""`train --dry-run`: what a run would cost, without building, fetching or writing anything."""

from __future__ import annotations

import itertools
import os
import textwrap
import time

from minitxl.errors import MinitxlError
from minitxl.training.presets import Preset, find_preset, merge_options, settings_of

# An update's time over that of its products alone, at the rate of `_rate`: from 1.4 (D 1024) to
# 2.4 (D 128, words) where it was measured, in float32 on two cores.
SLOWER = (1.4, 2.6)
RARE = 1_000_000  # words of a text that are looked at to see how many are rare


def dry_run(asked: dict) -> int:
    """Print the cost of the run that `minitxl.training.run.train(**asked)` would start."""
    from minitxl.backend import get_backend
    from minitxl.backend.threads import threads_for
    from minitxl.training.origin import beginning, told

    if "resume" in asked:
        raise MinitxlError("--dry-run is about a new run; leave --resume away")
    fields = ("steps", "seed", "batch_size", "threads", "eval_every", "save_every", "patience")
    named = {field: asked.get(field) for field in fields} | {"lr": asked.get("learning_rate")}
    settings = merge_options(named, asked.get("train_options"))
    model_options, dtype = asked.get("model_options", {}), asked.get("dtype", "float32")
    if "init_from" in asked:
        names = {key: asked.get(key) for key in ("preset", "data", "level", "vocab", "dtype")}
        start = beginning(asked["init_from"], names, settings, model_options)
        config, settings, corpus, dtype = start.config, start.settings, start.corpus, start.dtype
        preset = Preset("", {}, settings, data="")
        text, n_train = os.path.basename(corpus.name), len(corpus.train)
        print(told(start))
        head = f"train on {text}"
    else:
        name = asked.get("preset", "tiny")
        preset = find_preset(name)
        text, n_token, corpus, n_train = _text(preset, *map(asked.get, ("data", "level", "vocab")))
        config, settings = settings_of(preset, n_token, text, model_options, settings)
        head = f"preset {name} on {text}"
    backend = get_backend(asked.get("device", "auto"), dtype)
    threads = settings.threads
    if threads == 0:
        on_cpu = backend.name == "cpu"
        threads = threads_for(settings.batch_size // settings.accumulate) if on_cpu else 1

    print(f"{head}, {config.n_token:,} symbols; nothing is trained or written")
    if corpus is None:
        print(f"  (it is not on this disk; get it with: python -m minitxl data get {text})")
    _parameters(preset, config, text)
    shares = _shares(corpus, config)
    _memory(preset, config, settings, threads, backend, shares)
    _work(config, settings, threads, backend, shares, n_train)
    if preset.evaluation:
        print(f"\nthe paper's way to measure:\n  python -m minitxl eval RUN {preset.eval_options}")
    return 0


def _text(preset: Preset, data: str | None, level: str | None, vocab) -> tuple:
    """Return the text's name, its vocabulary's size, the corpus if it is here, and its length.

    A data set that is not prepared has the size that others have counted, or, where that is not
    known for sure, that of the released code's vocabulary.
    """
    from minitxl.data.datasets import DATASETS
    from minitxl.data.prepared import is_prepared
    from minitxl.training.presets import PRESETS
    from minitxl.training.start import corpus_of

    name = preset.data if data is None else data
    if name in DATASETS and not is_prepared(DATASETS[name]):
        counted = DATASETS[name]
        released = (p.released.n_token for p in PRESETS.values() if p.data == name and p.released)
        return name, counted.n_token or next(released), None, counted.n_tokens.get("train")
    corpus = corpus_of(preset, data, level, vocab)
    return os.path.basename(corpus.name), corpus.vocab.n_token, corpus, len(corpus.train)


def _shares(corpus, config) -> tuple | None:
    """Return the share of each cluster's words in the text, None without a text."""
    if corpus is None or not config.cutoffs:
        return None
    ids = corpus.train[:RARE]
    edges = itertools.pairwise((0, *config.cutoffs, config.n_token))
    return tuple(float(((ids >= first) & (ids < stop)).mean()) for first, stop in edges)


# --- the table ----------------------------------------------------------------------------------


def _row(what: str, amount: str, note: str = "") -> None:
    print(f"{what:<26}{amount:>15}  {note}".rstrip())


def _amount(n: float, unit: str) -> str:
    """1234567890, "B" -> "1.23 GB"."""
    power = 0
    while n >= 999.5 and power < 6:
        n, power = n / 1000, power + 1
    return f"{n:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"


def _parameters(preset: Preset, config, text: str) -> None:
    from minitxl.training.cost import count_parameters

    parts, released = count_parameters(config), preset.released
    print()
    _row("parameters", f"{sum(parts.values()):,}")
    for what, n in parts.items():
        _row(f"  {what}", f"{n:,}")
    if released and text == preset.data:
        same = sum(count_parameters(config.replace(n_token=released.n_token)).values())
        note = f"the released script's model: {released.n_params:,}"
        _row(f"  with {released.n_token:,} symbols", f"{same:,}", note)
        if released.remark:
            indent = dict(initial_indent="  ", subsequent_indent="  ")
            print(textwrap.fill(f"({released.remark})", 90, **indent))


def _memory(preset: Preset, config, settings, threads, backend, shares) -> None:
    from minitxl.training.cost import evaluation_memory, training_memory

    itemsize = 8 if backend.dtype_name == "float64" else 4
    parts = training_memory(config, settings, threads, itemsize, shares)
    rows = settings.batch_size // (settings.accumulate * threads)
    cut = f"{settings.batch_size} rows in pieces of {rows}, {threads} at a time"
    print()
    _row("memory of an update", _amount(sum(parts.values()), "B"), cut)
    for what, n in parts.items():
        _row(f"  {what}", _amount(n, "B"))
    how = dict(preset.evaluation)
    rows = how.pop("batch_size", settings.eval_batch_size)
    measured = config.replace(**how) if how else config
    n_thread = max(n for n in range(1, threads + 1) if rows % n == 0)
    n = evaluation_memory(measured, rows, n_thread, itemsize, shares)
    lengths = f"{rows} rows, segments of {measured.tgt_len}, memory {measured.mem_len:,}"
    _row("memory of evaluation", _amount(n, "B"), lengths)
    print("  (an update in N pieces, one after the other, needs less: --set accumulate=N)")


def _work(config, settings, threads, backend, shares, n_train) -> None:
    from minitxl.training.cost import step_flops

    parts = step_flops(config, settings, threads, shares)
    n, steps = sum(parts.values()), settings.steps
    tokens = settings.batch_size * config.tgt_len
    read = f"the training text {steps * tokens / n_train:,.1f} times" if n_train else ""
    print()
    _row("products of an update", _amount(n, "FLOP"), f"{_amount(n / tokens, 'FLOP')} per token")
    for what, part in parts.items():
        _row(f"  {what}", _amount(part, "FLOP"), f"{part / n:.0%}")
    if config.cutoffs:
        seen = "rare words as often as in the text" if shares else "rare words by Zipf's law"
        print(f"  (adaptive softmax: {seen})")
    _row("the whole run", _amount(n * steps, "FLOP"), f"{steps:,} updates")
    _row("  tokens", f"{steps * tokens:,}", read)
    if backend.name == "cpu":
        rate = _rate(config, settings, threads, backend)
        low, high = (_duration(n / rate * factor) for factor in SLOWER)
        low_all, high_all = (_duration(n / rate * factor * steps) for factor in SLOWER)
        print(f"\nestimate for this machine, from {_amount(rate, 'FLOP/s')} measured just now:")
        print(f"  an update {low} to {high}, the whole run {low_all} to {high_all}")


def _rate(config, settings, threads: int, backend, seconds: float = 0.7) -> float:
    """Measure FLOPs per second of the feed-forward's product, in as many threads as a run has."""
    from minitxl.backend.threads import Workers

    xp = backend.xp
    rows = settings.batch_size * config.tgt_len // (settings.accumulate * threads)
    rows = min(rows, 4096)  # enough for full speed, and little memory
    x = xp.ones((rows, config.d_model), dtype=backend.dtype)
    w = xp.ones((config.d_model, config.d_inner), dtype=backend.dtype)

    def work(stop: float) -> int:
        n = 0
        while time.perf_counter() < stop:
            x @ w
            n += 1
        return n

    workers = Workers(threads)
    workers.map(work, [time.perf_counter() + 0.1] * threads)  # the first products are slower
    began = time.perf_counter()
    n = sum(workers.map(work, [began + seconds] * threads))
    return 2.0 * x.size * config.d_inner * n / (time.perf_counter() - began)


def _duration(seconds: float) -> str:
    """100.0 -> "100 s", 30000.0 -> "8.3 hours"."""
    units = {"years": 31_557_600, "days": 86_400, "hours": 3600, "minutes": 60, "s": 1}
    unit = next((unit for unit, size in units.items() if seconds >= 2 * size), "s")
    n = seconds / units[unit]
    return f"{n:,.0f} {unit}" if n >= 10 else f"{n:.2g} {unit}"
