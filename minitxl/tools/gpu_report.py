"""What a GPU makes of minitxl, in one command of about six minutes.

    python -m minitxl.tools.gpu_report --out DIR
    python -m minitxl.tools.gpu_report --out DIR --parts machine parity

Every part runs in a process of its own, under its own time limit, so that one failure costs that
part alone. DIR gets report.txt (all that was printed) and a JSON file for each part. Nothing is
downloaded; PyTorch is compared with where it is installed and sees the GPU.

A training step is forward, backward, clipping and Adam with the memory full. Steps are timed in
rows without a wait between them, as a training runs; a row ends when the GPU has done it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from minitxl.backend import Backend, get_backend
from minitxl.backend.numpy_backend import NumpyRandom
from minitxl.config import ATTN_TYPES, SINUSOID, Config, TrainConfig
from minitxl.data.stream import Stream
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.inference.cached import CachedReader, PlainReader
from minitxl.inference.generate import generate
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import load_pretrained
from minitxl.training.trainer import Trainer

LEARNING_RATE, CLIP = 2.5e-4, 0.25
SHAPES = {  # n_layer, d_model, n_head, d_head, d_inner, tgt_len = mem_len, batch, n_token
    "tiny": (4, 128, 4, 32, 512, 64, 16, 78),
    "small": (6, 256, 8, 32, 1024, 128, 16, 78),
    "enwik8-base": (12, 512, 8, 64, 2048, 512, 22, 204),
}
SECONDS = 1.0  # that the timed steps of one contender take together, about
TRAINED = 50  # steps
LEARNER = dict(n_layer=2, tgt_len=32, mem_len=32, dropout=0.0)  # what is trained
PROMPT, WRITTEN = "Natasha looked at ", 600  # what the shipped model goes on from; tokens
ROWS = 7  # of steps, each timed as a whole
ATTENTION_LENS = (800, 1800, 2800, 3800)  # of the paper's table 9
EVALUATED = {  # models whose evaluation is timed
    "4 layers": dict(n_token=78, n_layer=4, d_model=128, n_head=4, d_head=32, d_inner=512),
    "enwik8-base": dict(n_token=204, n_layer=12, d_model=512, n_head=8, d_head=64, d_inner=2048),
}
SEGMENT_LENS = (1, 64, 128)
PARITY = dict(n_token=50, n_layer=2, d_model=48, n_head=3, d_head=16, d_inner=96, tgt_len=33)
FIRST_BATCH, LAST_BATCH = 64, 2000  # of the search for the largest
LIMITS = {"float64": 1e-10, "float32": 1e-3}  # of a difference, relative to the largest number
GPU = "cuda"
TORCH = "cuda"  # PyTorch's device; the tests put "cpu" here, to rehearse its part


# --- what the parts share -------------------------------------------------------------------------


def config_of(name: str, dropout: float = 0.0) -> tuple[Config, int]:
    """Return the configuration of a shape, and its batch size."""
    n_layer, d_model, n_head, d_head, d_inner, length, batch, n_token = SHAPES[name]
    config = Config(
        n_token=n_token, n_layer=n_layer, d_model=d_model, n_head=n_head, d_head=d_head,
        d_inner=d_inner, tgt_len=length, mem_len=length, dropout=dropout, dropatt=0.0,
    )  # fmt: skip
    return config, batch


def batches(config: Config, batch: int) -> Iterator[tuple]:
    """Random tokens and their successors, (B, T) int32, without end."""
    rng = np.random.default_rng(0)
    while True:
        text = rng.integers(0, config.n_token, (batch, config.tgt_len + 1), dtype=np.int32)
        yield text[:, :-1].copy(), text[:, 1:].copy()


def trainer_of(config: Config, batch: int, backend: Backend) -> Trainer:
    """A trainer from seed 0, which is the same on every backend."""
    settings = TrainConfig(
        lr=LEARNING_RATE, clip=CLIP, schedule="constant", warmup=0, batch_size=batch, threads=1
    )
    return Trainer(TransformerXL(config, device=backend, seed=0), settings)


def has_torch() -> bool:
    """Whether PyTorch is installed and sees the device."""
    try:
        import torch
    except (ImportError, OSError):
        return False
    return TORCH == "cpu" or torch.cuda.is_available()


def torch_trainer(config: Config, batch: int, fused_attention: bool = False):
    """The same model in PyTorch, from the same weights."""
    import torch

    from minitxl.backend.cupy_launch import wants_tf32
    from minitxl.tools.bench_torch import TorchTrainer, TorchTransformerXL

    torch.backends.cuda.matmul.allow_tf32 = wants_tf32()
    host = TransformerXL(config, device="cpu", dtype="float32", seed=0)
    model = TorchTransformerXL(config, fused_attention)
    model.load({name: np.asarray(a) for name, a in host.params.items()})
    return TorchTrainer(model, config, batch, device=TORCH)


def wait_for_torch() -> None:
    """Wait until the GPU has done what PyTorch told it."""
    import torch

    if TORCH != "cpu":
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give the GPU's memory back, CuPy's and PyTorch's."""
    gc.collect()
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and TORCH != "cpu":
        sys.modules["torch"].cuda.empty_cache()
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def free_bytes() -> int:
    """Bytes of the GPU's memory that nobody holds, as the driver counts them."""
    import cupy

    return cupy.cuda.runtime.memGetInfo()[0]


def seconds_of(step: Callable, wait: Callable, warm: int = 6) -> list[float]:
    """Return the seconds of a step, measured over rows of steps without a wait in between."""
    for _ in range(warm):
        step()
    wait()
    began = time.perf_counter()
    for _ in range(3):
        step()
    wait()
    once = (time.perf_counter() - began) / 3
    row = max(2, min(50, round(SECONDS / ROWS / once)))
    seconds = []
    for _ in range(ROWS):
        began = time.perf_counter()
        for _ in range(row):
            step()
        wait()
        seconds.append((time.perf_counter() - began) / row)
    return seconds


def contenders(config: Config, batch: int) -> dict[str, Callable[[], tuple[Callable, Callable]]]:
    """Return name -> a function that makes (step, wait); a step takes the next batch itself."""

    def ours(fused: bool, replayed: bool = True):
        backend = get_backend(GPU, "float32", fused)
        if not replayed:
            backend.replayed = lambda function: function
        trainer, source = trainer_of(config, batch, backend), batches(config, batch)

        def step():
            trainer.step(*next(source))
            why_not = getattr(trainer._update, "why_not", "")
            if why_not:
                raise MinitxlError(f"the step was not recorded: {why_not}")

        return step, backend.synchronize

    def theirs(fused_attention: bool):
        trainer, source = torch_trainer(config, batch, fused_attention), batches(config, batch)
        return (lambda: trainer.step(*next(source))), wait_for_torch

    found = {
        "replayed": lambda: ours(True),
        "fused": lambda: ours(True, replayed=False),
        "plain": lambda: ours(False),
    }
    if has_torch():
        found = {
            "PyTorch": lambda: theirs(False),
            "PyTorch, SDPA": lambda: theirs(True),
            **found,
        }
    return found


# --- parts ----------------------------------------------------------------------------------------


def machine() -> dict:
    """The GPU and the versions."""
    import cupy

    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    found = {
        "gpu": gpu["name"].decode(),
        "memory": int(gpu["totalGlobalMem"]),
        "cupy": cupy.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
    if has_torch():
        found["torch"] = sys.modules["torch"].__version__
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def tests() -> dict:
    """The tests that are marked `gpu`, where the checkout's tests are."""
    folder = Path(__file__).parents[2] / "tests"
    if not folder.is_dir():
        return {"skipped": "no tests beside the package"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--tb=short", "--continue-on-collection-errors", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)
    print(done.stdout[-6000:], done.stderr[-2000:])
    return {"exit": done.returncode, "last": done.stdout.strip().splitlines()[-1:]}


class HostNumbers:
    """The CPU's random numbers on another device: so dropout can be compared."""

    def __init__(self, backend: Backend, *key: int):
        self._backend, self._host = backend, NumpyRandom(key)

    def uniform(self, shape):
        """Return float32 numbers in [0, 1)."""
        return self._backend.asarray(self._host.uniform(shape))


def parity_cases() -> dict[str, Config]:
    """Return name -> configuration: every encoding, LayerNorm before and after, words, dropout."""
    base = Config(**PARITY, mem_len=35, dropout=0.0)
    cases = {f"encoding {kind}": base.replace(attn_type=kind) for kind in ATTN_TYPES}
    cases["pre-LayerNorm"] = base.replace(pre_lnorm=True, untie_r=True)
    cases["clamped, same length"] = base.replace(clamp_len=20, same_length=True)
    cases["adaptive"] = base.replace(cutoffs=(10, 30), div_val=2)
    cases["many tokens"] = base.replace(n_token=5000)  # past the one-hot product
    drops = dict(dropout=0.2, dropatt=0.1)
    return cases | {f"{name}, dropout": c.replace(**drops) for name, c in cases.items()}


def results_of(config: Config, backend: Backend) -> dict:
    """Losses, memories and gradient of two segments, as arrays of the host."""
    model = TransformerXL(config, device=backend, seed=0)
    source, mems, found = batches(config, 4), None, {}
    for n in range(2):
        tokens, targets = next(source)
        rng = HostNumbers(backend, 0, n) if config.dropout else None
        nll, mems, cache = model.forward(tokens, targets, mems, rng=rng)
        found |= {f"nll {n}": nll, f"gradient {n}": model.backward(cache).flat}
    found |= {f"memory {n}": mem for n, mem in enumerate(mems)}
    return {name: backend.to_numpy(a) for name, a in found.items()}


def parity() -> dict:
    """The GPU against NumPy's plain float64: how far numbers differ, over the largest of them."""
    found = {}
    for name, config in parity_cases().items():
        expected = results_of(config, get_backend("cpu", "float64", fused=False))
        for dtype, limit in LIMITS.items():
            for fused in (False, True):
                kind = f"{name}, {dtype}, {'fused' if fused else 'plain'}"
                try:
                    got = results_of(config, get_backend(GPU, dtype, fused))
                except Exception as error:  # one case must not hide the others
                    found[kind] = {"error": f"{type(error).__name__}: {error}"}
                    print(f"  {kind}: FAILED {found[kind]['error'][:300]}")
                    continue
                worst = {
                    what: float(np.abs(got[what] - a).max() / np.abs(a).max())
                    for what, a in expected.items()
                }
                what = max(worst, key=worst.get)
                found[kind] = {"worst": worst[what], "in": what, "limit": limit}
                word = "" if worst[what] <= limit else "  TOO FAR"
                print(f"  {kind}: {worst[what]:.1e} ({what}){word}")
    return found


def training() -> dict:
    """Fifty steps on War and Peace, and the shipped model writing: the GPU beside the CPU."""
    corpus = load_corpus("war-and-peace")
    config = Config(n_token=corpus.vocab.n_token, **LEARNER)
    losses = {}
    for device, dtype in (("cpu", "float64"), (GPU, "float64"), (GPU, "float32")):
        backend = get_backend(device, dtype)
        trainer, stream = (
            trainer_of(config, 8, backend),
            Stream(corpus.train, batch_size=8, tgt_len=config.tgt_len),
        )
        found = [trainer.step(*stream.next()) for _ in range(TRAINED)]
        losses[f"{device} {dtype}"] = [float(backend.to_numpy(x)) for x in found]
    first = losses["cpu float64"]
    apart = {
        name: max(abs(a - b) for a, b in zip(found, first, strict=True))
        for name, found in losses.items()
    }
    for name, found in losses.items():
        print(f"  {name}: {found[0]:.6f} ... {found[-1]:.6f}, at most {apart[name]:.1e} apart")
    texts, rates = {}, {}
    for device in ("cpu", GPU):
        run = load_pretrained("war-and-peace", device=get_backend(device))
        ids = generate(run.model, run.vocab, PROMPT, length=WRITTEN, temperature=0.8)
        began = time.perf_counter()
        texts[device] = run.vocab.decode(list(ids))
        rates[device] = WRITTEN / (time.perf_counter() - began)
    print(f"  the GPU writes what the CPU writes: {texts[GPU] == texts['cpu']}; {rates} tokens/s")
    return {"losses": losses, "apart": apart, "texts": texts, "tokens_per_second": rates}


def steps() -> dict:
    """Seconds of a training step, and memory, at three shapes beside PyTorch in eager mode."""
    from minitxl.backend.cupy_launch import wants_tf32

    print(f"  products in {'TF32' if wants_tf32() else 'float32'}")
    found = {}
    for dropout in (0.0, 0.1):
        for name in SHAPES:
            config, batch = config_of(name, dropout)
            tokens = batch * config.tgt_len
            found[f"{name}, dropout {dropout}"] = times = {}
            for contender, make in contenders(config, batch).items():
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
    free_memory()
    before = free_bytes()
    try:
        step, wait = make()
        seconds = seconds_of(step, wait)
    except Exception as error:  # out of memory has another type in each library
        return {"error": f"{type(error).__name__}: {error}"}
    taken = before - free_bytes()  # what the libraries hold, in use or not
    return {"seconds": seconds, "median": statistics.median(seconds), "bytes": taken}


def compiled() -> dict:
    """A step of PyTorch compiled: as it comes, and with CUDA graphs."""
    if not has_torch():
        return {"skipped": "no PyTorch that sees the GPU"}
    import torch

    found = {}
    for name in SHAPES:
        config, batch = config_of(name)
        for mode in ("default", "reduce-overhead"):
            free_memory()
            torch._dynamo.reset()
            trainer, source = torch_trainer(config, batch), batches(config, batch)
            shape = (batch, config.mem_len, config.d_model)
            trainer.mems = [torch.zeros(shape, device=TORCH) for _ in range(config.n_layer)]
            model, run = trainer.model, torch.compile(trainer.model, mode=mode, dynamic=False)

            def forward(*args, run=run):
                torch.compiler.cudagraph_mark_step_begin()
                loss, mems = run(*args)
                return loss, [mem.clone() for mem in mems]  # a graph's outputs are overwritten

            forward.parameters = model.parameters
            trainer.model = forward
            measured = _measured(
                lambda t=trainer, s=source: (lambda: t.step(*next(s)), wait_for_torch)
            )
            found[f"{name}, {mode}"] = measured
            took = f"{measured['median'] * 1e3:.3f} ms" if "median" in measured else measured
            print(f"  {name:12} {mode:16} {took}")
    return found


def profile() -> dict:
    """Kernels of a step: how many are launched, and the ten that take longest."""
    if not has_torch():
        return {"skipped": "PyTorch's profiler is not installed"}
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_cpu, found = TORCH == "cpu", {}
    kinds = [ProfilerActivity.CPU] + ([] if on_cpu else [ProfilerActivity.CUDA])
    for name in SHAPES:
        config, batch = config_of(name)
        for contender, make in contenders(config, batch).items():
            if contender == "plain":
                continue
            free_memory()
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
    backend = get_backend(GPU, "float32")
    text = np.random.default_rng(0).integers(0, 78, 3 * max(ATTENTION_LENS), dtype=np.int32)
    model = TransformerXL(config, device=backend, seed=0)
    absolute = TransformerXL(config.replace(attn_type=SINUSOID), device=backend, seed=0)
    found = []

    def timed(method: str, a: int, segment: int, call: Callable, n_token: int) -> None:
        seconds = [x / n_token for x in seconds_of(call, backend.synchronize, warm=2)]
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
    """The largest batch of enwik8-base that fits into the GPU's memory, in steps of a quarter.

    Every size is tried in a process of its own: what did not fit leaves no trace in the next.
    """
    found = {}
    for contender in ["replayed"] + (["PyTorch"] if has_torch() else []):
        fits, batch = 0, FIRST_BATCH
        while batch <= LAST_BATCH:
            error = error_of(contender, batch)
            if error:
                print(f"  {contender}: {batch} rows: {error}")
                break
            fits = batch
            batch += -(-batch // 4)
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
    config, _ = config_of("enwik8-base")
    step, wait = contenders(config, batch)[contender]()
    for _ in range(4):
        step()
    wait()


PARTS: dict[str, tuple[Callable[[], dict], int, dict]] = {  # seconds that it may take; environment
    "machine": (machine, 30, {}),
    "tests": (tests, 90, {}),
    "parity": (parity, 90, {}),
    "training": (training, 60, {}),
    "steps": (steps, 120, {"CUPY_TF32": "0"}),
    "steps-tf32": (steps, 120, {"CUPY_TF32": "1"}),
    "profile": (profile, 45, {"CUPY_TF32": "0"}),
    "evaluation": (evaluation, 60, {}),
    "largest-batch": (largest_batch, 90, {"CUPY_TF32": "1"}),
    "compiled": (compiled, 100, {"CUPY_TF32": "0"}),
}


def run_part(name: str, out: Path) -> None:
    """Run one part in this process and write its JSON."""
    began = time.perf_counter()
    found = PARTS[name][0]()
    found = {"part": name, "seconds": round(time.perf_counter() - began, 1), "found": found}
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_report"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    parser.add_argument("--fits", nargs=2, metavar=("CONTENDER", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.fits:
        try_batch(args.fits[0], int(args.fits[1]))
        return 0
    try:
        get_backend(GPU)
    except MinitxlError as error:
        sys.exit(f"nothing to measure: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    with open(args.out / "report.txt", "a", encoding="utf-8") as report:
        for name in args.parts:
            if args.here:
                run_part(name, args.out)
                continue
            _, limit, environment = PARTS[name]
            command = [sys.executable, "-m", "minitxl.tools.gpu_report", "--here", "--parts", name]
            began = time.perf_counter()
            try:
                done = subprocess.run(
                    [*command, "--out", str(args.out)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
                    timeout=limit,
                )
                code, text = done.returncode, done.stdout
            except subprocess.TimeoutExpired as late:
                code, text = "too late", late.stdout or b""
            took = time.perf_counter() - began
            lines = text.decode(errors="replace")[-20_000:]
            word = "" if code == 0 else f": FAILED ({code})"
            failed += [name] if code != 0 else []
            text = f"== {name}, {took:.0f} s{word}\n{lines}"
            print(text, flush=True)
            report.write(text + "\n")
            report.flush()
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
