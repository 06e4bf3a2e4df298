"""What the parts of `gpu_report.py` share: shapes, batches, contenders, the clock."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from minitxl.backend import Backend, get_backend
from minitxl.backend.cupy_launch import wants_tf32
from minitxl.config import Config, TrainConfig
from minitxl.errors import MinitxlError
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.trainer import Trainer

LEARNING_RATE, CLIP = 2.5e-4, 0.25
SHAPES = {  # n_layer, d_model, n_head, d_head, d_inner, tgt_len = mem_len, batch, n_token
    "tiny": (4, 128, 4, 32, 512, 64, 16, 78),
    "small": (6, 256, 8, 32, 1024, 128, 16, 78),
    "enwik8-base": (12, 512, 8, 64, 2048, 512, 22, 204),
}
SECONDS = 1.0  # that the timed steps of one contender take together, about
ROWS = 7  # of steps, each timed as a whole
GPU = "cuda"
TORCH = "cuda"  # PyTorch's device; the tests put "cpu" here, to rehearse its part


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
