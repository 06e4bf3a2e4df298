"""Times one training step of minitxl against our PyTorch version, in one process.

python tests/bench/bench_torch_step.py --runs 7
python tests/bench/bench_torch_step.py --runs 7 --dropout 0.1

A step is forward, backward, clipping the gradient to 0.25 and Adam, with the memory full. Both
start from the same weights and must report the same losses before anything is timed. Then single
steps alternate, so that whatever else the machine does meets both; medians and ratio are printed.
"""

import argparse
import math
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from minitxl.tools.bench import needed_flops
from minitxl.tools.bench_torch import CLIP, LEARNING_RATE, TorchTrainer, TorchTransformerXL


def random_batches(config, batch_size, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        text = rng.integers(0, config.n_token, (batch_size, config.tgt_len + 1), dtype=np.int32)
        yield text[:, :-1].copy(), text[:, 1:].copy()


def build(args, dropout):
    """The config, and trainers of minitxl and PyTorch that start from the same weights."""
    from minitxl import Config, TransformerXL
    from minitxl.config import TrainConfig
    from minitxl.training.trainer import Trainer

    config = Config(
        n_token=args.n_token,
        n_layer=args.layers,
        d_model=args.d_model,
        n_head=args.n_head,
        d_head=args.d_head,
        d_inner=args.d_inner,
        tgt_len=args.tgt_len,
        mem_len=args.mem_len,
        dropout=dropout,
    )
    ours = TransformerXL(config, device="cpu", dtype="float32", seed=0)
    theirs = TorchTransformerXL(config, args.fused_attention)
    theirs.load(ours.params)
    settings = TrainConfig(
        lr=LEARNING_RATE,
        clip=CLIP,
        schedule="constant",
        warmup=0,
        batch_size=args.batch,
        threads=args.threads,
    )
    return config, Trainer(ours, settings), TorchTrainer(theirs, config, args.batch)


def check_same_losses(args, steps=4, tolerance=1e-4):
    """Train both for a few steps without dropout and demand the same loss at each."""
    config, ours, theirs = build(args, dropout=0.0)
    for n, (tokens, targets) in enumerate(random_batches(config, args.batch, steps)):
        a, b = float(ours.step(tokens, targets)), float(theirs.step(tokens, targets))
        print(f"  loss at step {n}: minitxl {a:.6f}, PyTorch {b:.6f} nats")
        if not abs(a - b) <= tolerance:
            raise SystemExit(f"the two models disagree by {abs(a - b):.2e}: nothing was timed")


def processor():
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report_machine(args):
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    print(f"{processor()}, {os.cpu_count()} CPUs, {platform.system()}")
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__} with {blas['name']} "
        f"{blas['version']}, PyTorch {torch.__version__} on {torch.get_num_threads()} threads, "
        f"minitxl on {args.threads} threads"
    )
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            print(f"  {name}={os.environ[name]} is set: unset it to let both use every core")


def time_steps(args):
    """Alternate single steps of the two; print their medians, spreads and rates, and the ratio."""
    config, ours, theirs = build(args, args.dropout)
    contenders = {"minitxl": ours, "PyTorch": theirs}
    seconds = {name: [] for name in contenders}
    # Until the memory is full and the buffers are warm.
    warmup = 2 + math.ceil(config.mem_len / config.tgt_len)
    for n, batch in enumerate(random_batches(config, args.batch, warmup + args.runs)):
        for name, trainer in contenders.items():
            time.sleep(args.pause)  # idle BLAS threads spin for a while; let them come to rest
            start = time.perf_counter()
            trainer.step(*batch)
            if n >= warmup:
                seconds[name].append(time.perf_counter() - start)

    gflop = needed_flops(config, args.batch) / 1e9
    print(f"one step, dropout {args.dropout}, {args.runs} runs each; {gflop:.1f} GFLOP of products")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"  {name:8} median {median:.3f} s (min {min(times):.3f}, max {max(times):.3f}), "
            f"{gflop / median:.0f} GFLOP/s, {args.batch * config.tgt_len / median:.0f} tokens/s"
        )
    for what, summary in (("medians", statistics.median), ("fastest steps", min)):
        ratio = summary(seconds["minitxl"]) / summary(seconds["PyTorch"])
        print(f"  minitxl / PyTorch, {what}: {ratio:.2f}")
    print("  (Where the two ratios differ much the machine was busy: run again on a quiet one.)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="timed steps of each")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-head", type=int, default=8)
    parser.add_argument("--d-head", type=int, default=32)
    parser.add_argument("--d-inner", type=int, default=1024)
    parser.add_argument("--tgt-len", type=int, default=128)
    parser.add_argument("--mem-len", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--n-token", type=int, default=78)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of minitxl")
    parser.add_argument("--fused-attention", action="store_true", help="of PyTorch")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of rest before a step")
    args = parser.parse_args()
    report_machine(args)
    check_same_losses(args)
    time_steps(args)


if __name__ == "__main__":
    main()
