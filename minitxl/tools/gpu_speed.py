"""How fast is a GPU, and what fits on it, beside PyTorch? Parts of `gpu_report.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from minitxl.backend.cupy_launch import wants_tf32
from minitxl.config import SINUSOID, Config
from minitxl.inference.cached import CachedReader
from minitxl.inference.plain import PlainReader
from minitxl.model.transformer_xl import TransformerXL
from minitxl.tools import gpu_shared as shared

ATTENTION_LENS = (800, 1800, 2800, 3800)  # of the paper's table 9
EVALUATED = {  # models whose evaluation is timed
    "4 layers": dict(n_token=78, n_layer=4, d_model=128, n_head=4, d_head=32, d_inner=512),
    "enwik8-base": dict(n_token=204, n_layer=12, d_model=512, n_head=8, d_head=64, d_inner=2048),
}
SEGMENT_LENS = (1, 64, 128)
FIRST_BATCH, LAST_BATCH = 64, 2000  # of the search for the largest


def steps() -> dict:
    """Seconds of a training step, and memory, at three shapes beside PyTorch in eager mode."""
    print(f"  products in {'TF32' if wants_tf32() else 'float32'}")
    found = {}
    for dropout in (0.0, 0.1):
        for name in shared.SHAPES:
            config, batch = shared.config_of(name, dropout)
            tokens = batch * config.tgt_len
            found[f"{name}, dropout {dropout}"] = times = {}
            for contender, make in shared.contenders(config, batch).items():
                times[contender] = measured = _measured(make)
                if "error" in measured:
                    print(f"  {name:12} {contender:14} {measured['error'][:200]}")
                    continue
                theirs = [t["median"] for c, t in times.items() if "Torch" in c and "median" in t]
                ratio = f"{measured['median'] / min(theirs):6.2f} x PyTorch" if theirs else ""
                print(
                    f"  {name:12} dropout {dropout} {contender:14} "
                    f"{measured['median'] * 1e3:9.3f} ms, {tokens / measured['median']:11,.0f} "
                    f"tokens/s, {measured['bytes'] / 2**30:6.2f} GiB {ratio}"
                )
    return found


def _measured(make: Callable) -> dict:
    """Time one contender, alone on the GPU."""
    shared.free_memory()
    before = shared.free_bytes()
    try:
        step, wait = make()
        seconds = shared.seconds_of(step, wait)
    except Exception as error:  # out of memory has another type in each library
        return {"error": f"{type(error).__name__}: {error}"}
    taken = before - shared.free_bytes()  # what the libraries hold, in use or not
    return {"seconds": seconds, "median": statistics.median(seconds), "bytes": taken}


def compiled() -> dict:
    """A step of PyTorch compiled: as it comes, and with CUDA graphs."""
    if not shared.has_torch():
        return {"skipped": "no PyTorch that sees the GPU"}
    import torch

    found = {}
    for name in shared.SHAPES:
        config, batch = shared.config_of(name)
        for mode in ("default", "reduce-overhead"):
            shared.free_memory()
            torch._dynamo.reset()
            trainer, source = shared.torch_trainer(config, batch), shared.batches(config, batch)
            shape = (batch, config.mem_len, config.d_model)
            trainer.mems = [torch.zeros(shape, device=shared.TORCH) for _ in range(config.n_layer)]
            model, run = trainer.model, torch.compile(trainer.model, mode=mode, dynamic=False)

            def forward(*args, run=run):
                torch.compiler.cudagraph_mark_step_begin()
                loss, mems = run(*args)
                return loss, [mem.clone() for mem in mems]  # a graph's outputs are overwritten

            forward.parameters = model.parameters
            trainer.model = forward
            measured = _measured(
                lambda t=trainer, s=source: (lambda: t.step(*next(s)), shared.wait_for_torch)
            )
            found[f"{name}, {mode}"] = measured
            took = f"{measured['median'] * 1e3:.3f} ms" if "median" in measured else measured
            print(f"  {name:12} {mode:16} {took}")
    return found


def profile() -> dict:
    """Kernels of a step: how many are launched, and the ten that take longest."""
    if not shared.has_torch():
        return {"skipped": "PyTorch's profiler is not installed"}
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_cpu, found = shared.TORCH == "cpu", {}
    kinds = [ProfilerActivity.CPU] + ([] if on_cpu else [ProfilerActivity.CUDA])
    for name in shared.SHAPES:
        config, batch = shared.config_of(name)
        for contender, make in shared.contenders(config, batch).items():
            if contender == "plain":
                continue
            shared.free_memory()
            step, wait = make()
            for _ in range(6):
                step()
            wait()
            with profiler(activities=kinds) as seen:
                for _ in range(3):
                    step()
                wait()
            device = "CPU" if on_cpu else "CUDA"
            taken = "self_cpu_time_total" if on_cpu else "self_device_time_total"
            rows = [
                [e.key, e.count / 3, getattr(e, taken) / 3e3]
                for e in seen.key_averages()
                if str(e.device_type).endswith(device)
            ]
            rows.sort(key=lambda row: -row[2])
            launches, ms = sum(row[1] for row in rows), sum(row[2] for row in rows)
            found[f"{name}, {contender}"] = {"launches": launches, "ms": ms, "rows": rows[:30]}
            print(f"  {name} {contender}: {launches:.0f} launches, {ms:.3f} ms of the GPU a step")
            for key, count, ms in rows[:10]:
                print(f"      {ms:8.3f} ms {count:5.0f} x {key[:70]}")
    return found


def evaluation() -> dict:
    """Milliseconds for each predicted token: the memory kept, and a window read anew."""
    found = []
    for name, sizes in EVALUATED.items():
        found += _evaluation_of(name, Config(**sizes))
    return {"points": found}


def _evaluation_of(name: str, config: Config) -> list[dict]:
    """The points of one model; readers and windows are replayed where they can be."""
    backend = shared.get_backend(shared.GPU, "float32")
    text = np.random.default_rng(0).integers(0, 78, 3 * max(ATTENTION_LENS), dtype=np.int32)
    model = TransformerXL(config, device=backend, seed=0)
    absolute = TransformerXL(config.replace(attn_type=SINUSOID), device=backend, seed=0)
    found = []

    def timed(method: str, a: int, segment: int, call: Callable, n_token: int) -> None:
        seconds = [x / n_token for x in shared.seconds_of(call, backend.synchronize, warm=2)]
        point = {"model": name, "method": method, "attention_len": a, "segment_len": segment}
        found.append(point | {"ms": 1e3 * statistics.median(seconds), "tokens_a_call": n_token})

    for a in ATTENTION_LENS:
        for method, one in (("window", model), ("window-absolute", absolute)):
            window = one.with_options(mem_len=0, tgt_len=a)
            for rows in (1, 8):
                read = np.arange(rows)[:, None] + np.arange(a)
                x, y = text[read], text[read[:, -1:] + 1]
                score = backend.replayed(lambda xy, _, m=window: (m.score(*xy)[0], []))
                timed(method, a, rows, lambda f=score, x=x, y=y: f((x, y), []), rows)
        for s in SEGMENT_LENS:
            x, y = (text[None, i : i + s] for i in (0, 1))
            lengths = dict(mem_len=a - s, tgt_len=s)
            readers = {"xl-cached": CachedReader(model, **lengths)}
            readers["xl"] = PlainReader(model.with_options(**lengths))
            for method, reader in readers.items():
                for first in range(0, a, 400):
                    reader.read(text[None, first : first + 400], last=1)
                timed(method, a, s, lambda r=reader, x=x, y=y: r.score(x, y), s)
        here = [p for p in found if p["attention_len"] == a]
        window = min(p["ms"] for p in here if p["method"].startswith("window"))
        best = min(here, key=lambda p: p["ms"])
        print(
            f"  {name}, {a:,}: window {window:.4f} ms, {best['method']} {best['ms']:.5f} ms a "
            f"token, {window / best['ms']:,.0f} x"
        )
    return found


def largest_batch() -> dict:
    """The largest batch of enwik8-base that fits into the GPU's memory, to a twentieth.

    Sizes are doubled until one fails, and the last gap is halved. Every size is tried in a process
    of its own: what did not fit leaves no trace in the next.
    """
    found = {}
    for contender in ["replayed"] + (["PyTorch"] if shared.has_torch() else []):
        fits, fails, batch = 0, LAST_BATCH, FIRST_BATCH
        while fails - fits > max(1, fits // 20):
            error = error_of(contender, batch)
            if error:
                print(f"  {contender}: {batch} rows: {error}")
            fits, fails = (fits, batch) if error else (batch, fails)
            batch = min(2 * fits, (fits + fails) // 2) if fits else fails // 2
        found[contender] = fits
        print(f"  {contender}: {fits} rows of 512 fit")
    return found


def error_of(contender: str, batch: int) -> str:
    """Try a batch in a process of its own; return the end of what it complained of, or ""."""
    command = [sys.executable, "-m", "minitxl.tools.gpu_report", "--fits", contender, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip()[-120:] or "failed" if done.returncode else ""


def try_batch(contender: str, batch: int) -> None:
    """Make four steps of enwik8-base; raises where the memory does not suffice."""
    config, _ = shared.config_of("enwik8-base")
    step, wait = shared.contenders(config, batch)[contender]()
    for _ in range(4):
        step()
    wait()
