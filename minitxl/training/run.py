"""`train`: from a text to a run folder, with progress, evaluation, checkpoints and a report."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import minitxl
from minitxl.config import Config, TrainConfig
from minitxl.data.datasets import DATASETS
from minitxl.data.stream import Stream
from minitxl.data.text import Corpus, load_corpus
from minitxl.errors import MinitxlError
from minitxl.inference.evaluate import Evaluation, evaluate
from minitxl.inference.units import UNITS
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage import checkpoint
from minitxl.storage.model_arrays import params_of
from minitxl.storage.run_folder import check_new, load_corpus_of, load_run, read_info, read_metrics
from minitxl.training.optim import learning_rate
from minitxl.training.parallel import Group, joined
from minitxl.training.presets import PRESETS, Preset, find_preset, merge_options, settings_of
from minitxl.training.report import comparison, sample
from minitxl.training.trainer import Trainer

__all__ = ["load_corpus_of", "load_run", "train"]


def train(
    preset: str | None = None,
    data: str | None = None,
    level: str | None = None,
    out: str | os.PathLike | None = None,
    steps: int | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    resume: str | os.PathLike | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    threads: int | None = None,
    eval_every: int | None = None,
    save_every: int | None = None,
    model_options: dict | None = None,
    train_options: dict | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model on a text and return its run folder (see `minitxl.storage.run_folder`).

    preset: a name in `PRESETS`, by default "tiny"; data: a shipped corpus, a data set or a path,
    by default the preset's; level: what a token is, see `load_corpus`; out: a new folder, by
    default runs/<preset>-<data>. Other options replace the preset's settings; model_options holds
    fields of `Config`, train_options of `TrainConfig`. resume: a run folder to continue to the
    same bits as if it had never stopped; then no other setting may differ from the run's. Ctrl-C
    finishes the step, saves, and raises KeyboardInterrupt. Started by mpiexec, the processes train
    one model together (see `minitxl.training.parallel`).
    """
    asked = dict(steps=steps, seed=seed, batch_size=batch_size, lr=learning_rate, threads=threads)
    asked = merge_options(asked | dict(eval_every=eval_every, save_every=save_every), train_options)
    names = dict(preset=preset, data=data, level=level, dtype=dtype)
    with joined() as group:
        if resume is not None:
            run = _reopen(resume, out, names, asked, model_options or {}, device, group)
        else:
            run = _start(out, names, asked, model_options or {}, device, group)
        run.quiet = quiet or group.rank > 0
        run.go()
        group.on_first(run.report)
    return run.folder


def _start(out, names, asked, model_options, device, group):
    name = "tiny" if names["preset"] is None else names["preset"]
    preset = find_preset(name)
    corpus = corpus_of(preset, names["data"], names["level"])
    config, settings = settings_of(preset, corpus.vocab.n_token, corpus.name, model_options, asked)
    model = TransformerXL(config, device, names["dtype"] or "float32", seed=settings.seed)
    if out is None:
        out = Path("runs") / f"{name}-{Path(corpus.name).stem}"
    folder = Path(out)
    group.on_first(check_new, folder)
    run = _Run(folder, model, corpus, settings, group)
    settings = run.settings  # with the number of threads decided
    info = {
        "minitxl": minitxl.__version__,
        "preset": name,
        "data": corpus.name,
        "level": corpus.level,
        "dtype": names["dtype"] or "float32",
        "config": config.to_dict(),
        "train": settings.to_dict(),
        "vocab": corpus.vocab.to_dict(),
        "source": corpus.source,
        "n_params": model.n_params,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "device": model.backend.name,
    }
    group.on_first(_found, folder, info)
    run.save()
    return run


def _found(folder: Path, info: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(folder / "run.json", info)


def corpus_of(preset: Preset, data: str | None, level: str | None) -> Corpus:
    """Load a text, by default the preset's; a preset for words takes the words of a file."""
    data = preset.data if data is None else data
    return load_corpus(data, level=level or (None if data in DATASETS else preset.level))


def _reopen(resume, out, names, asked, model_options, device, group):
    folder = Path(resume)
    if not group.on_first((folder / "run.json").is_file):
        raise MinitxlError(f"--resume {folder}: no run.json there; give a folder that train wrote")
    if out is not None and Path(out) != folder:
        raise MinitxlError(f"--out {out} contradicts --resume {folder}; leave --out away")
    info = group.on_first(read_info, folder)
    for key, value in {**names, **asked, **model_options}.items():
        was = {**info, **info["train"], **info["config"]}.get(key)
        same = value is None or value == was or (key == "data" and _same_file(value, was))
        same = same or (key == "threads" and value == 0)  # 0 left it to the run to decide
        if not same:
            raise MinitxlError(
                f"{key}={value} contradicts the run in {folder}, which has {key}={was}; leave the "
                "option away, or start a new run with --out"
            )
    corpus = load_corpus_of(info)
    config = Config.from_dict(info["config"])
    settings = TrainConfig.from_dict(info["train"])
    model = TransformerXL(config, device, info.get("dtype", "float32"), seed=settings.seed)
    if model.backend.name != info.get("device"):
        raise MinitxlError(
            f"the run was trained on {info.get('device')}, this is {model.backend.name}: other "
            f"hardware gives other bits; use --device {info.get('device')}"
        )
    run = _Run(folder, model, corpus, settings, group)
    if group.on_first((folder / "last.safetensors").exists):
        run.load()
    else:  # killed before its first checkpoint: the beginning is a function of the seed
        run.save()
    return run


def _same_file(a: str, b: str | None) -> bool:
    try:
        return b is not None and os.path.samefile(a, b)
    except OSError:
        return False


class _Run:
    """A run in progress: trainer, stream of text, files (which rank 0 of a group alone sees)."""

    def __init__(
        self,
        folder: Path,
        model: TransformerXL,
        corpus: Corpus,
        settings: TrainConfig,
        group: Group,
    ):
        self.folder, self.model, self.corpus, self.group = folder, model, corpus, group
        self.unit = UNITS[corpus.level]
        self.trainer = Trainer(model, settings, group)
        self.settings = settings = self.trainer.settings
        self.stream = Stream(
            corpus.train,
            batch_size=settings.batch_size,
            tgt_len=model.config.tgt_len,
            ext_len=model.config.ext_len,
        )
        back = model.backend
        group.check_same("device", (back.name, back.dtype_name))
        group.check_same("settings", (model.config, settings))
        group.check_same("versions", (minitxl.__version__, np.__version__))
        group.check_same("text", self.stream.state())
        self.best: float | None = None  # nats on the validation split
        self.since_log: list = []  # losses since the last line of metrics.jsonl, 0-d arrays
        self.quiet = False
        self.seconds = 0.0  # of training so far, evaluation included

    # --- files ---

    def save(self) -> None:
        """Write last.safetensors: all that the next step depends on."""
        arrays, state = self.trainer.state()
        self.group.on_first(self._write, arrays, state)

    def _write(self, arrays: dict, state: dict) -> None:
        finite = all(np.isfinite(a).all() for a in arrays.values())
        self._check(finite, "a parameter is not a finite number")
        self.since_log = [float(loss) for loss in self.since_log]
        state |= {
            "stream": self.stream.state(),
            "best": self.best,
            "since_log": self.since_log,
            "seconds": self.seconds,
        }
        checkpoint.save(self.folder / "last.safetensors", arrays, state)

    def save_best(self) -> None:
        """Write best.safetensors: the parameters alone."""
        state = {"n_step": self.trainer.n_step, "valid_nats": self.best}
        checkpoint.save(self.folder / "best.safetensors", params_of(self.model), state)

    def load(self) -> None:
        """Continue from last.safetensors; lines of metrics that lie after it are dropped."""
        arrays, state = self.group.on_first(checkpoint.load, self.folder / "last.safetensors")
        try:
            self.trainer.load_state(arrays, state)
            self.stream.set_state(state["stream"])
            self.best, self.seconds = state["best"], float(state["seconds"])
            self.since_log = list(state["since_log"])
        except (KeyError, TypeError) as error:
            raise MinitxlError(
                f"{self.folder / 'last.safetensors'} lacks {error}; it was not written by train"
            ) from error
        self.group.on_first(self._cut_log)

    def _cut_log(self) -> None:
        lines = [line for line in read_metrics(self.folder) if line["step"] <= self.trainer.n_step]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        checkpoint.write_text(self.folder / "metrics.jsonl", text)

    def log(self, line: dict) -> None:
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")

    # --- the loop ---

    def go(self) -> None:
        """Train up to the last step."""
        from tqdm import tqdm

        s, trainer, config = self.settings, self.trainer, self.model.config
        if not self.quiet:
            print(self._headline(), flush=True)
        tokens_per_step = s.batch_size * config.tgt_len
        bar = tqdm(
            total=s.steps * tokens_per_step,
            initial=trainer.n_step * tokens_per_step,
            unit="tok",
            unit_scale=True,
            disable=self.quiet or None,  # None: only where there is a terminal
            file=sys.stderr,
            dynamic_ncols=True,
        )
        began = time.perf_counter() - self.seconds
        with bar, _ctrl_c(self.group) as stop:
            while trainer.n_step < s.steps:
                loss = trainer.step(*self.stream.next())
                step = trainer.n_step
                self.since_log.append(loss)  # not looked at yet: a GPU would be waited for
                bar.update(tokens_per_step)
                if step % s.log_every == 0 or step == s.steps:
                    self._log_train(step, tokens_per_step, time.perf_counter() - began, bar)
                if s.eval_every and (step % s.eval_every == 0 or step == s.steps):
                    self.group.on_first(self._evaluate, step, bar)
                self.seconds = time.perf_counter() - began
                stopped = self.group.any(stop.is_set())  # or some would go on, and wait forever
                if step % s.save_every == 0 or step == s.steps or stopped:
                    self.save()
                if stopped and step < s.steps:
                    bar.close()
                    if self.group.rank == 0:
                        print(
                            f"stopped after step {step} of {s.steps}; continue with\n"
                            f"  python -m minitxl train --resume {self.folder}",
                            file=sys.stderr,
                        )
                    raise KeyboardInterrupt

    def _headline(self) -> str:
        c, s, n = self.model.config, self.settings, self.group.size
        return (
            f"{self.corpus.name}: {len(self.corpus.train):,} {self.corpus.level}s to learn from, "
            f"{c.n_token} symbols\n"
            f"{self.model.n_params:,} parameters: {c.n_layer} layers, D {c.d_model}, {c.n_head} "
            f"heads of {c.d_head}, F {c.d_inner}; segments of {c.tgt_len}, memory {c.mem_len}\n"
            f"{s.steps:,} steps of {s.batch_size} x {c.tgt_len} on {self.model.backend.name}"
            f", {s.threads} thread{'s' * (s.threads > 1)}{f' in {n} processes' * (n > 1)}; "
            f"writing to {self.folder}"
        )

    def _log_train(self, step, tokens_per_step, seconds, bar) -> None:
        loss = sum(float(loss) for loss in self.since_log) / len(self.since_log)
        self._check(math.isfinite(loss), f"the loss is {loss}")
        line = {
            "step": step,
            "tokens": step * tokens_per_step,
            "loss": loss,
            self.unit.key: self.unit.of(loss),
            "lr": learning_rate(step - 1, self.settings),
            "grad_norm": float(self.trainer.grad_norm),
            "seconds": round(seconds, 3),
        }
        self.group.on_first(self.log, line)
        self.since_log = []
        bar.set_postfix_str(f"loss {loss:.3f}, {self.unit.tell(loss)}")

    def _evaluate(self, step, bar) -> None:
        result = self._measure(self.settings.eval_tokens or None)
        self._check(math.isfinite(result.nats), f"the validation loss is {result.nats}")
        tokens = step * self.settings.batch_size * self.model.config.tgt_len
        line = {"step": step, "tokens": tokens}
        told = {f"valid_{self.unit.key}": self.unit.of(result.nats)}
        self.log(line | {"valid_loss": result.nats} | told)
        if self.best is None or result.nats < self.best:
            self.best = result.nats
            self.save_best()
        if not self.quiet:
            bar.write(f"step {step:>6}: validation {self.unit.tell(result.nats)}", file=sys.stderr)
        self._draw()

    def _measure(self, max_tokens=None, model=None) -> Evaluation:
        """Evaluate on the validation split, in as many rows as it is long enough for."""
        tokens = self.corpus.valid[: max_tokens + 1 if max_tokens else None]
        rows = min(self.settings.eval_batch_size, max(1, (len(tokens) - 1) // 2))
        # The run's own number of threads, not this machine's: a resumed run sees the same digits.
        threads = max(n for n in range(1, self.settings.threads + 1) if rows % n == 0)
        return evaluate(model or self.model, tokens, batch_size=rows, threads=threads)

    def _check(self, fine: bool, what: str) -> None:
        """Stop where training has diverged, before anything ruined is written."""
        if not fine:
            raise MinitxlError(
                f"{what} at step {self.trainer.n_step}: training diverged; start again with a "
                f"lower --lr than {self.settings.lr:g}"
            )

    def _draw(self) -> None:
        """Draw loss_curve.png; a picture that cannot be written is no reason to stop."""
        try:
            from minitxl.viz.loss_curve import save_loss_curve

            save_loss_curve(read_metrics(self.folder), self.folder / "loss_curve.png")
        except (OSError, ImportError) as error:  # matplotlib may be missing
            print(f"loss_curve.png was not written: {error}", file=sys.stderr)

    # --- the end ---

    def report(self) -> None:
        """Print what was reached beside what compressors reach, a sample, and the files."""
        self._draw()
        if self.quiet:
            return
        best = load_run(self.folder, device=self.model.backend)
        nats = self._measure(model=best.model).nats
        read = self.trainer.n_step * self.settings.batch_size * self.model.config.tgt_len
        speed = read / max(self.seconds, 1e-9)
        print(f"\ntrained in {self.seconds:.0f} s, {speed:,.0f} tokens/s with evaluation")
        print(comparison(self.corpus, nats))
        print(sample(best, self.corpus))
        print(f"written to {self.folder}: run.json, best.safetensors, last.safetensors,")
        print("  metrics.jsonl, loss_curve.png. Next:")
        preset = PRESETS.get(read_info(self.folder).get("preset", ""))
        options = preset.eval_options if preset else ""
        print(f"  python -m minitxl eval {self.folder} {options}".rstrip())
        print(f"  python -m minitxl generate {self.folder} --length 2000 --temperature 0.8")


@contextmanager
def _ctrl_c(group: Group):
    """Yield an event that the first Ctrl-C sets, telling so; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals can only be handled in the main thread
        return

    def handle(signum, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # print could find the progress bar in the middle of a line of its own
        if group.rank == 0:
            os.write(2, b"\nfinishing this step and saving; Ctrl-C again to stop at once\n")

    # At Ctrl-C, MPICH's launcher passes SIGINT on, Open MPI's sends SIGTERM to the processes.
    signals = (signal.SIGINT, signal.SIGTERM)[: 1 if group.size == 1 else 2]
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
