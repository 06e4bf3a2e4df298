"""`train`: from a text to a run folder, with progress, evaluation, checkpoints and a report."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import minitxl
from minitxl.config import Memory, TrainConfig
from minitxl.data.stream import Stream
from minitxl.data.text import Corpus
from minitxl.data.tokens import Vocabulary
from minitxl.errors import MinitxlError
from minitxl.files import append, quoted
from minitxl.inference.evaluate import Evaluation, evaluate
from minitxl.inference.units import UNITS
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage import checkpoint
from minitxl.storage.generations import has_newest, load_newest, save_newest
from minitxl.storage.model_arrays import params_of
from minitxl.storage.run_folder import load_run, read_info, read_metrics, writing
from minitxl.storage.run_text import load_corpus_of
from minitxl.training.best import Best, curve, early_end
from minitxl.training.divergence import Guard
from minitxl.training.optim import learning_rate
from minitxl.training.parallel import Group, joined
from minitxl.training.presets import PRESETS, merge_options
from minitxl.training.report import comparison, sample
from minitxl.training.start import extensions, new_pieces, old_pieces
from minitxl.training.stopping import stopping
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
    patience: int | None = None,
    vocab: Vocabulary | str | os.PathLike | None = None,
    init_from: str | os.PathLike | None = None,
    model_options: dict | None = None,
    train_options: dict | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model on a text and return its run folder (see `minitxl.storage.run_folder`).

    preset: a name in `PRESETS`, by default "tiny"; data: a shipped corpus, a data set or a path,
    by default the preset's; level: what a token is, see `load_corpus`; out: a new folder, by
    default runs/<preset>-<data>; vocab: of tokens, or the file of one (`data/tokens.py`). Other
    options replace the preset's settings; model_options holds
    fields of `Config`, train_options of `TrainConfig`. resume: a run folder to continue to the
    same bits as if it had never stopped; then no other setting may differ from the run's, but
    `data` may name another place of the same text, and `steps` and `patience` another end.
    init_from: a run folder or a shipped model to begin from (see `minitxl.training.origin`). Ctrl-C
    or SIGTERM finishes the step, saves, and raises KeyboardInterrupt. Started by mpiexec, the
    processes train one model together (see `minitxl.training.parallel`).
    """
    model_options = dict(model_options or {})
    if isinstance(model_options.get("memory"), Memory):  # run.json has it as a dict
        model_options["memory"] = model_options["memory"].to_dict()
    asked = dict(steps=steps, seed=seed, batch_size=batch_size, lr=learning_rate, threads=threads)
    asked |= dict(eval_every=eval_every, save_every=save_every, patience=patience)
    asked = merge_options(asked, train_options)
    names = dict(preset=preset, data=data, level=level, dtype=dtype, vocab=vocab)
    with joined() as group, ExitStack() as held:
        if resume is None:
            p = new_pieces(out, init_from, names, asked, model_options, device)
        elif init_from is not None:
            raise MinitxlError(
                f"--init-from {init_from} begins a new run, --resume {resume} goes on with one: "
                "leave one of them away"
            )
        else:
            p = old_pieces(resume, out, names, asked, model_options, device, group)
        run = _Run(p.folder, p.model, p.corpus, p.settings, group)
        # Rank 0 alone writes; until it is done, nobody else does.
        group.on_first(held.enter_context, writing(p.folder, new=resume is None))
        run.quiet = quiet or group.rank > 0
        if p.told and not run.quiet:
            print(p.told)
        if resume is None:
            run.found(p.info)
        else:
            run.go_on(p.info, p.was)
        run.go()
        group.on_first(run.report)
    return run.folder


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
        self.best = Best()
        self.extended = 0  # the step after which the run was last given another end
        self.since_log: list = []  # losses since the last line of metrics.jsonl, 0-d arrays
        self.newest_is_whole = True  # last.safetensors may become the older generation
        self.guard = Guard(model.config.n_token, settings, self.unit)
        self.quiet = False
        self.seconds = 0.0  # of training so far, evaluation included

    # --- files ---

    def found(self, info: dict) -> None:
        """Write run.json, with the number of threads decided, and the first checkpoint."""
        info = info | {"train": self.settings.to_dict()}
        self.group.on_first(checkpoint.write_json, self.folder / "run.json", info)
        self.save()

    def go_on(self, info: dict, was: TrainConfig) -> None:
        """Continue from the newest checkpoint; run.json learns where the text lies now.

        was: the settings until now, of which steps and patience may have changed.
        """
        if self.group.on_first(has_newest, self.folder):
            self.load()
        else:  # killed before its first checkpoint: the beginning is a function of the seed
            self.save()
        extended = extensions(self.folder, info)
        new: dict = {"data": self.corpus.name}
        if self.settings != was:
            new["train"] = self.settings.to_dict()
        if self.settings.steps != was.steps:
            new["extended"] = extended = [*extended, self._extend(was)]
        self.extended = max((e["at"] for e in extended), default=0)
        if any(info.get(key) != value for key, value in new.items()):
            self.group.on_first(checkpoint.write_json, self.folder / "run.json", info | new)

    def _extend(self, was: TrainConfig) -> dict:
        """Give the run another end; return what run.json is to hold of it."""
        n, s = self.trainer.n_step, self.settings
        if s.steps <= n:
            raise MinitxlError(
                f"steps={s.steps:,} is not beyond the {n:,} steps that the run in {self.folder} "
                f"has done; give more, or leave it away to end after {was.steps:,}"
            )
        # Both generations lie after the change: what comes between would need the old schedule.
        self.save()
        if not self.quiet:
            before, after = (learning_rate(n, settings) for settings in (was, s))
            print(
                f"the end is step {s.steps:,} now, was {was.steps:,}: after step {n:,} the "
                f"{s.schedule} schedule has a learning rate of {after:.3g}, was {before:.3g}"
            )
        return {"at": n, "steps": was.steps}

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
            "best": self.best.nats,
            "best_step": self.best.step,
            "since_log": self.since_log,
            "seconds": self.seconds,
        }
        save_newest(self.folder, arrays, state, keep=self.newest_is_whole)
        self.newest_is_whole = True

    def save_best(self) -> None:
        """Write best.safetensors: the parameters alone."""
        state = {"n_step": self.trainer.n_step, "valid_nats": self.best.nats}
        checkpoint.save(self.folder / "best.safetensors", params_of(self.model), state)

    def load(self) -> None:
        """Continue from the newest checkpoint; lines of metrics that lie after it are dropped."""
        loaded = self.group.on_first(load_newest, self.folder)
        arrays, state, self.newest_is_whole = loaded
        try:
            self.trainer.load_state(arrays, state)
            self.stream.set_state(state["stream"])
            # Version 0.1.0 did not write the step of the best.
            self.best = Best(state["best"], int(state.get("best_step", self.trainer.n_step)))
            self.seconds = float(state["seconds"])
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
        """Add a line to metrics.jsonl."""
        append(self.folder / "metrics.jsonl", json.dumps(line) + "\n")

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
        with bar, stopping(tell=self.group.rank == 0) as stop:
            while not self.is_done():
                loss = trainer.step(*self.stream.next())
                step = trainer.n_step
                self.since_log.append(loss)  # not looked at yet: a GPU would be waited for
                bar.update(tokens_per_step)
                if step % s.log_every == 0 or step == s.steps:
                    self._log_train(step, tokens_per_step, time.perf_counter() - began, bar)
                if s.eval_every and (step % s.eval_every == 0 or step == s.steps):
                    self.best = self.group.on_first(self._evaluate, step, bar)
                done = self.is_done()
                if done and self.since_log:  # an early end
                    self._log_train(step, tokens_per_step, time.perf_counter() - began, bar)
                self.seconds = time.perf_counter() - began
                stopped = self.group.any(stop.is_set())  # or some would go on, and wait forever
                if step % s.save_every == 0 or done or stopped:
                    self.save()
                if stopped and not done:
                    bar.close()
                    if self.group.rank == 0:
                        print(
                            f"stopped after step {step} of {s.steps}; continue with\n"
                            f"  python -m minitxl train --resume {quoted(self.folder)}",
                            file=sys.stderr,
                        )
                    raise KeyboardInterrupt

        if trainer.n_step < s.steps and not self.quiet:
            print(early_end(self.best, trainer.n_step, s, self.unit), file=sys.stderr)

    def is_done(self) -> bool:
        """Say whether the run has reached its end, the last step or that of its patience."""
        n, s = self.trainer.n_step, self.settings
        return n >= s.steps or self.best.is_over(n, s, self.extended)

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
        remark = self.guard.remark(step, loss)
        if remark and not self.quiet:
            bar.write(remark, file=sys.stderr)
        bar.set_postfix_str(f"loss {loss:.3f}, {self.unit.tell(loss)}")

    def _evaluate(self, step, bar) -> Best:
        result = self._measure(self.settings.eval_tokens or None)
        self._check(math.isfinite(result.nats), f"the validation loss is {result.nats}")
        tokens = step * self.settings.batch_size * self.model.config.tgt_len
        line = {"step": step, "tokens": tokens}
        told = {f"valid_{self.unit.key}": self.unit.of(result.nats)}
        self.log(line | {"valid_loss": result.nats} | told)
        if self.best.nats is None or result.nats < self.best.nats:
            self.best = Best(result.nats, step)
            self.save_best()
        if not self.quiet:
            bar.write(f"step {step:>6}: validation {self.unit.tell(result.nats)}", file=sys.stderr)
        self._draw()
        return self.best

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
            best = (
                "; best.safetensors holds the best until then" if self.best.nats is not None else ""
            )
            raise MinitxlError(
                f"{what} at step {self.trainer.n_step}: training diverged; start again with a "
                f"lower --lr than {self.settings.lr:g}{best}"
            )

    def _draw(self) -> None:
        """Draw loss_curve.png; a picture that cannot be written is no reason to stop."""
        try:
            from minitxl.viz.loss_curve import save_loss_curve

            save_loss_curve(read_metrics(self.folder), self.folder / "loss_curve.png")
        except (OSError, ImportError, MinitxlError) as error:  # matplotlib may be missing
            print(f"loss_curve.png was not written: {error}", file=sys.stderr)

    # --- the end ---

    def report(self) -> None:
        """Print what was reached beside what compressors reach, a sample, and the files.

        MinitxlError where the model is worse than guessing at the end.
        """
        self._draw()
        if not self.quiet:
            self._tell()
        self.guard.check_end(read_metrics(self.folder), self.best.nats)

    def _tell(self) -> None:
        best = load_run(self.folder, device=self.model.backend)
        nats = self._measure(model=best.model).nats
        read = self.trainer.n_step * self.settings.batch_size * self.model.config.tgt_len
        speed = read / max(self.seconds, 1e-9)
        print(f"\ntrained in {self.seconds:.0f} s, {speed:,.0f} tokens/s with evaluation")
        if told := curve(read_metrics(self.folder), self.best, self.unit):
            print(told)
        print(comparison(self.corpus, nats))
        print(sample(best, self.corpus))
        print(f"written to {self.folder}: run.json, best.safetensors, last.safetensors,")
        print("  metrics.jsonl, loss_curve.png. Next:")
        preset = PRESETS.get(read_info(self.folder).get("preset", ""))
        options = preset.eval_options if preset else ""
        folder = quoted(self.folder)
        print(f"  python -m minitxl eval {folder} {options}".rstrip())
        print(f"  python -m minitxl generate {folder} --length 2000 --temperature 0.8")
