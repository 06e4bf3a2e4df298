"""On a GPU: does CuPy compute what NumPy computes, and how long is a step against PyTorch?

python tests/bench/bench_gpu.py                # parity, then all shapes; a table and bench_gpu.json
CUPY_TF32=1 python tests/bench/bench_gpu.py    # the same with TF32 products, in PyTorch too
python tests/bench/bench_gpu.py --shapes small --steps 50

A step is forward, backward, clipping and Adam, with the memory full, and ends when the GPU has done
it. Each contender has the GPU for itself: plain is minitxl without its twins, fused with them,
PyTorch the model of `minitxl/tools/bench_torch.py` in eager mode.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from minitxl import Config, MinitxlError, TrainConfig, TransformerXL
from minitxl.backend import get_backend
from minitxl.backend.cupy_launch import wants_tf32
from minitxl.training.trainer import Trainer

LEARNING_RATE, CLIP = 2.5e-4, 0.25
SHAPES = {  # n_layer, d_model, n_head, d_head, d_inner, tgt_len = mem_len, batch, n_token
    "tiny": (4, 128, 4, 32, 512, 64, 16, 78),
    "small": (6, 256, 8, 32, 1024, 128, 16, 78),
    "enwik8-base": (12, 512, 8, 64, 2048, 512, 22, 204),
}
PARITY_SHAPE = (2, 48, 3, 16, 96, 33, 4, 50)  # an odd length; rows of more than one warp


def config_of(shape, dropout=0.0) -> tuple[Config, int]:
    """Return the configuration of a shape, and its batch size."""
    n_layer, d_model, n_head, d_head, d_inner, length, batch, n_token = shape
    config = Config(
        n_token=n_token, n_layer=n_layer, d_model=d_model, n_head=n_head, d_head=d_head,
        d_inner=d_inner, tgt_len=length, mem_len=length, dropout=dropout, dropatt=0.0,
    )  # fmt: skip
    return config, batch


def batches(config, batch, count):
    """Random tokens and their successors, `count` times."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        text = rng.integers(0, config.n_token, (batch, config.tgt_len + 1), dtype=np.int32)
        yield text[:, :-1].copy(), text[:, 1:].copy()


def trainer_of(config, batch, backend) -> Trainer:
    """A trainer from seed 0, which is the same on every backend."""
    settings = TrainConfig(
        lr=LEARNING_RATE, clip=CLIP, schedule="constant", warmup=0, batch_size=batch, threads=1
    )
    return Trainer(TransformerXL(config, device=backend, seed=0), settings)


# --- parity -------------------------------------------------------------------------------------


def results_of(backend, config, batch) -> dict:
    """Loss, gradient norm and parameters of three steps, and a gradient, as host arrays."""
    trainer = trainer_of(config, batch, backend)
    found = {}
    for n, (tokens, targets) in enumerate(batches(config, batch, 3)):
        loss = trainer.step(tokens, targets)
        found |= {f"loss {n}": loss, f"norm {n}": trainer.grad_norm}
    nll, _, cache = trainer.model.forward(tokens, targets, trainer.mems[0])
    found |= {"nll": nll, "gradient": trainer.model.backward(cache).flat}
    found["parameters"] = trainer.model.params.flat
    return {name: backend.to_numpy(a) for name, a in found.items()}


def parity(dtype: str) -> dict:
    """Return what differs by how much, relative to the largest number, GPU against NumPy."""
    config, batch = config_of(PARITY_SHAPE)
    reference = results_of(get_backend("cpu", dtype, fused=False), config, batch)
    worst = {}
    for fused in (False, True):
        found = results_of(get_backend("cuda", dtype, fused=fused), config, batch)
        for name, expected in reference.items():
            scale = np.abs(expected).max()
            worst[f"{'fused' if fused else 'plain'} {name}"] = float(
                np.abs(found[name] - expected).max() / scale
            )
    return worst


def check_parity() -> dict:
    """Print and return the largest differences; end the program if one is too large."""
    limits = {"float64": 1e-10, "float32": 3e-2 if wants_tf32() else 1e-3}
    found = {}
    for dtype, limit in limits.items():
        worst = parity(dtype)
        name = max(worst, key=worst.get)
        print(f"parity {dtype}: at most {worst[name]:.1e} ({name}), allowed {limit:.0e}")
        if not worst[name] <= limit:
            wrong = ", ".join(f"{n} {e:.1e}" for n, e in worst.items() if not e <= limit)
            raise SystemExit(f"the GPU disagrees with NumPy in {dtype}, nothing was timed: {wrong}")
        found[dtype] = worst
    return found


# --- time ---------------------------------------------------------------------------------------


def seconds_of(step, wait, config, batch, steps: int) -> list[float]:
    """Seconds of single steps, once the memory is full and the kernels are compiled."""
    warm = 3 + math.ceil(config.mem_len / config.tgt_len)
    seconds = []
    for n, (tokens, targets) in enumerate(batches(config, batch, warm + steps)):
        wait()
        start = time.perf_counter()
        step(tokens, targets)
        wait()
        if n >= warm:
            seconds.append(time.perf_counter() - start)
    return seconds


def time_ours(config, batch, steps, fused) -> tuple[list[float], float]:
    """Return the seconds of minitxl's steps, and the GPU's memory that CuPy took (bytes)."""
    import cupy

    backend = get_backend("cuda", "float32", fused=fused)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    trainer = trainer_of(config, batch, backend)
    seconds = seconds_of(trainer.step, backend.synchronize, config, batch, steps)
    taken = pool.total_bytes()
    del trainer
    pool.free_all_blocks()
    return seconds, taken


def time_torch(config, batch, steps) -> tuple[list[float], float]:
    """The same for PyTorch, from the same weights."""
    import torch

    from minitxl.tools.bench_torch import TorchTrainer, TorchTransformerXL

    torch.backends.cuda.matmul.allow_tf32 = wants_tf32()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    host = TransformerXL(config, device="cpu", dtype="float32", seed=0)
    model = TorchTransformerXL(config)
    model.load({name: np.asarray(a) for name, a in host.params.items()})
    trainer = TorchTrainer(model, config, batch, device="cuda")
    seconds = seconds_of(trainer.step, torch.cuda.synchronize, config, batch, steps)
    taken = torch.cuda.max_memory_reserved()
    del trainer, model
    torch.cuda.empty_cache()
    return seconds, taken


def time_shape(name, steps, dropout, contenders) -> dict:
    """Time all contenders on one shape and print a line for each."""
    config, batch = config_of(SHAPES[name], dropout)
    found = {}
    for contender, timed in contenders.items():
        try:
            seconds, taken = timed(config, batch, steps)
        except Exception as error:  # out of memory has another type in each library
            print(f"  {name:12} {contender:8} failed: {type(error).__name__}: {str(error)[:80]}")
            found[contender] = {"error": f"{type(error).__name__}: {error}"}
            continue
        median = statistics.median(seconds)
        found[contender] = {"seconds": seconds, "median": median, "bytes": taken}
        against = found.get("PyTorch", {}).get("median")
        ratio = f"{median / against:6.2f} x PyTorch" if against else ""
        rate = batch * config.tgt_len / median
        print(
            f"  {name:12} {contender:8} {median * 1e3:9.2f} ms (min {min(seconds) * 1e3:.2f}), "
            f"{rate:10,.0f} tokens/s, {taken / 2**30:5.1f} GiB {ratio}"
        )
    return found


def machine() -> dict:
    """The GPU and the versions."""
    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    versions = {"gpu": found, "cupy": cupy.__version__, "numpy": np.__version__}
    versions["cuda"] = cupy.cuda.runtime.runtimeGetVersion()
    versions["driver"] = cupy.cuda.runtime.driverGetVersion()
    try:
        import torch

        works = torch.cuda.is_available()
        versions["torch"] = torch.__version__ if works else f"{torch.__version__}, without a GPU"
    except ImportError:
        versions["torch"] = None
    return versions | {"tf32": wants_tf32()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--json", type=Path, default=Path("bench_gpu.json"))
    args = parser.parse_args(arguments)
    try:
        get_backend("cuda")
    except MinitxlError as error:
        sys.exit(f"nothing to measure: {error}")
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    found = {"machine": about, "parity": check_parity(), "dropout": args.dropout, "shapes": {}}
    contenders = {
        "fused": lambda *a: time_ours(*a, fused=True),
        "plain": lambda *a: time_ours(*a, fused=False),
    }
    if about["torch"] and not about["torch"].endswith("without a GPU"):
        contenders = {"PyTorch": time_torch} | contenders
    else:
        print("PyTorch with CUDA is not installed: minitxl alone is timed")
    for name in args.shapes:
        found["shapes"][name] = time_shape(name, args.steps, args.dropout, contenders)
    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
