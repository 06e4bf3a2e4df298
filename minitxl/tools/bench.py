"""What this machine makes of minitxl: a training step, evaluation and generation, timed.

Machines are noisy, so the variants of one thing run in turns (A B C A B C ...), whatever else the
machine does meets all of them, and a bare matrix product takes its turn as well: the rate of a step
over the product's is the figure that another machine can be held to.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minitxl.backend import get_backend
from minitxl.backend.cupy_backend import why_not
from minitxl.config import Config, TrainConfig
from minitxl.errors import MinitxlError
from minitxl.inference.evaluate import evaluate
from minitxl.inference.generate import generate
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.cost import forward_flops
from minitxl.training.machine import machine_facts
from minitxl.training.presets import PRESETS
from minitxl.training.trainer import Trainer

GEMM_SIZES = (1024, 1536, 2048)  # n x n by n x n; the fastest stands for the machine
PAUSE = 0.1  # seconds before a call: the threads of the call before spin for a while


class Shape(NamedTuple):
    """A model and its batch: what a training step is measured with."""

    config: Config
    batch_size: int
    repeats: int
    note: str


def _shape(n_layer, d_model, n_head, tgt_len, batch_size, repeats, note) -> Shape:
    config = Config(
        n_token=78,
        n_layer=n_layer,
        d_model=d_model,
        n_head=n_head,
        d_head=d_model // n_head,
        d_inner=4 * d_model,
        tgt_len=tgt_len,
        mem_len=tgt_len,
        dropout=0.0,
    )
    return Shape(config, batch_size, repeats, note)


_BASE = PRESETS["enwik8-base"].model | {"n_token": 204, "dropout": 0.0}
SHAPES = {
    "d128": _shape(4, 128, 4, 64, 16, 9, "4 layers, D 128, T = M = 64, batch 16"),
    "d256": _shape(6, 256, 8, 128, 16, 7, "6 layers, D 256, T = M = 128, batch 16"),
    "enwik8-base": Shape(
        Config(**_BASE), 4, 3, "the paper's: 12 layers, D 512, T = M = 512, batch 4"
    ),
}
STEP_SETTINGS = TrainConfig(warmup=0, schedule="constant", lr=2.5e-4)  # as in bench_torch.py
QUICK = ("d128",)  # with three repeats: seconds


@dataclass(frozen=True)
class Row:
    """Times of one variant of one thing."""

    backend: str  # cpu | cuda
    what: str  # gemm | step | evaluation | generation
    shape: str  # a name in SHAPES; of gemm, a bare product, its n
    variant: str  # fused | plain | PyTorch; numpy or cupy for gemm
    seconds: list[float]  # of each repeat
    tokens: int = 0  # read or written in one repeat
    flop: float = 0.0  # of the matrix products that one repeat needs; 0: not counted
    peak_bytes: int = 0  # allocated by NumPy at most, parameters and Adam included; 0: not known
    gemm_rate: float = 0.0  # FLOP/s of the bare product, the fastest of the same minutes

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells rows apart."""
        return self.backend, self.what, self.shape, self.variant

    @property
    def median(self) -> float:
        """Seconds of a repeat."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return (low, high): the middle half of the repeats lies between."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass
class Results:
    """A run of the benchmark, as its JSON holds it."""

    machine: dict
    command: str
    rows: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Return plain values, with medians and minima beside the repeats, for other readers."""
        rows = [asdict(r) | {"median": r.median, "min": min(r.seconds)} for r in self.rows]
        return {"machine": self.machine, "command": self.command, "rows": rows}

    @classmethod
    def from_dict(cls, values: dict, name: str = "results") -> Results:
        """Read what `to_dict` wrote; MinitxlError if it is anything else."""
        known = {f.name for f in fields(Row)}
        try:
            rows = [Row(**{k: v for k, v in r.items() if k in known}) for r in values["rows"]]
            times = [t for row in rows for t in row.seconds]
            fine = all(row.seconds for row in rows) and all(0 < t < math.inf for t in times)
            fine = fine and all(type(part) is str for row in rows for part in row.key)
            results = cls(dict(values["machine"]), str(values["command"]), rows)
        except (KeyError, TypeError, ValueError, AttributeError):
            fine = False
        if not fine:
            raise MinitxlError(f"{name} holds no benchmark; give a file that bench --json wrote")
        return results


class Case(NamedTuple):
    """Something to time: `run` does it once and returns when it is done."""

    variant: str
    run: Callable[[], object]
    peak_bytes: int = 0


# --- the parts ----------------------------------------------------------------------------------


def needed_flops(config: Config, batch_size: int) -> float:
    """Return the FLOPs of the matrix products that one training step needs, with full memory.

    Three times the forward pass, but for what no gradient flows into: R, and the memory's rows. Of
    relative attention with LayerNorm after the blocks (all of SHAPES).
    """
    parts, c = forward_flops(config, batch_size), config
    into_memory = c.n_layer * 2 * 2 * batch_size * c.mem_len * c.d_model * c.n_head * c.d_head
    return 3 * sum(parts.values()) - parts["positions"] - into_memory


def fastest_gemm(backend) -> tuple[Case, Row]:
    """Return the bare product whose rate is the highest of GEMM_SIZES, and its row.

    All of the library's threads take part, unlike in a step, whose products have one each.
    """
    library = {"cpu": "numpy", "cuda": "cupy"}[backend.name]
    found = []
    for n in GEMM_SIZES:
        x = backend.asarray(np.ones((n, n)), dtype=backend.dtype)
        case = Case(library, lambda x=x: (x @ x, backend.synchronize()))
        seconds = [_time(case) for _ in range(6)][1:]
        found.append((case, Row(backend.name, "gemm", str(n), library, seconds, flop=2.0 * n**3)))
    return max(found, key=lambda pair: pair[1].flop / pair[1].median)


def batches(shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield random (tokens, targets), (B, T) each, without end."""
    rng = np.random.default_rng(0)
    size = (shape.batch_size, shape.config.tgt_len + 1)
    while True:
        text = rng.integers(0, shape.config.n_token, size, dtype=np.int32)
        yield text[:, :-1].copy(), text[:, 1:].copy()


def models(shape: Shape, device: str) -> dict[str, TransformerXL]:
    """Return two models of the same weights: with the backend's fused operations and without."""
    backends = {"fused": True, "plain": False}
    return {
        variant: TransformerXL(shape.config, get_backend(device, "float32", fused=fused))
        for variant, fused in backends.items()
    }


def step_cases(shape: Shape, device: str) -> list[Case]:
    """Training steps, with the memory full; PyTorch's too where it is installed."""
    settings = STEP_SETTINGS.replace(batch_size=shape.batch_size)
    cases, source = [], batches(shape)

    def case(variant: str, make_step: Callable[[], Callable]) -> Case:
        tracemalloc.start()  # before the parameters; the steps until the memory is full are slower
        step = make_step()
        for _ in range(2):
            step(*next(source))
        peak = tracemalloc.get_traced_memory()[1] if device == "cpu" else 0
        tracemalloc.stop()
        return Case(variant, lambda: step(*next(source)), peak if variant != "PyTorch" else 0)

    for variant, model in models(shape, device).items():

        def make_step(model=model):
            trainer, back = Trainer(model, settings), model.backend
            return lambda x, y: (trainer.step(x, y), back.synchronize())

        cases.append(case(variant, make_step))
    if _torch_works(device):
        from minitxl.tools.bench_torch import TorchTrainer, TorchTransformerXL

        theirs = TorchTransformerXL(shape.config)
        theirs.load(TransformerXL(shape.config, "cpu").params)  # of the same seed
        trainer = TorchTrainer(theirs, shape.config, shape.batch_size, device)
        cases.append(case("PyTorch", lambda: trainer.step))
    return cases


def _torch_works(device: str) -> bool:
    try:
        import torch
    except (ImportError, OSError):  # not there, or not whole
        return False
    return device == "cpu" or torch.cuda.is_available()


def evaluation_cases(shape: Shape, device: str, n_segment: int) -> list[Case]:
    """`evaluate` on the batch's rows, n_segment segments of each."""
    n = shape.batch_size * shape.config.tgt_len * n_segment
    tokens = np.random.default_rng(0).integers(0, shape.config.n_token, n + 1, dtype=np.int32)

    def case(variant, model) -> Case:
        return Case(variant, lambda: evaluate(model, tokens, batch_size=shape.batch_size))

    return [case(*item) for item in models(shape, device).items()]


class _Ids:
    """Stands for a vocabulary: whatever the prompt says, it is enough to fill the memory."""

    def __init__(self, config: Config):
        self.n_token = config.n_token
        rng = np.random.default_rng(0)
        self._ids = rng.integers(0, config.n_token, config.mem_len, dtype=np.int32)

    def encode(self, text: str) -> np.ndarray:
        return self._ids


def generation_cases(shape: Shape, device: str, n_token: int) -> list[Case]:
    """`generate` goes on: n_token tokens, one by one, with the memory full from the prompt on."""

    def case(variant, model) -> Case:
        tokens = generate(model, _Ids(shape.config), prompt="text", length=1 << 30)
        next(tokens)  # reads the prompt
        return Case(variant, lambda: [next(tokens) for _ in range(n_token)])

    return [case(*item) for item in models(shape, device).items()]


# --- the measurement ----------------------------------------------------------------------------


def machine() -> dict:
    """Return what a time means nothing without: hardware, versions and the date."""
    facts = machine_facts() | {"date": time.strftime("%Y-%m-%d %H:%M")}
    if _torch_works("cpu"):
        import torch

        facts["torch"] = torch.__version__
    return facts


def devices(device: str) -> list[str]:
    """Return the backends to measure: for "auto" the CPU, and the GPU where one works."""
    if device != "auto":
        return [get_backend(device).name]
    return ["cpu", *(["cuda"] if not why_not() else [])]


def measure(
    results: Results,
    device: str = "auto",
    shapes: tuple[str, ...] = (),
    quick: bool = False,
    progress: bool = False,
) -> None:
    """Measure and append to results.rows, group by group, so that Ctrl-C leaves what is done.

    shapes: names in SHAPES, by default all, or with quick the smallest; quick: three repeats.
    """
    names = shapes or (QUICK if quick else tuple(SHAPES))
    chosen = devices(device)
    with tqdm(total=3 * len(names) * len(chosen), disable=not progress, leave=False) as bar:
        for where in chosen:
            bar.set_description(f"{where}: bare product")
            gemm, bare = fastest_gemm(get_backend(where, "float32"))
            results.rows.append(bare)
            for name in names:
                shape = SHAPES[name]
                for what, make_cases, tokens, flop in _groups(shape, where, quick):
                    bar.set_description(f"{where}: {what} {name}")
                    cases = make_cases()
                    repeats = 3 if quick else shape.repeats
                    *times, gemm_times = in_turns([*cases, gemm], repeats)
                    bare.seconds.extend(gemm_times)
                    # The fastest: what else runs can only make the machine look slower.
                    rate = bare.flop / min(gemm_times)
                    for case, seconds in zip(cases, times, strict=True):
                        key = (where, what, name, case.variant)
                        row = Row(*key, seconds, tokens, flop, case.peak_bytes, rate)
                        results.rows.append(row)
                    bar.update()


def _groups(shape: Shape, device: str, quick: bool) -> list[tuple]:
    """Return what is timed in turns: (what, function that makes its cases, tokens, FLOPs)."""
    n_segment, n_written = (2, 20) if quick else (4, 100)
    read = shape.batch_size * shape.config.tgt_len
    flop = needed_flops(shape.config, shape.batch_size)
    return [
        ("step", lambda: step_cases(shape, device), read, flop),
        ("evaluation", lambda: evaluation_cases(shape, device, n_segment), read * n_segment, 0.0),
        ("generation", lambda: generation_cases(shape, device, n_written), n_written, 0.0),
    ]


def in_turns(cases: list[Case], repeats: int) -> list[list[float]]:
    """Run the cases A B C, A B C, ...; return the seconds of each repeat, by case.

    A first round is not counted: caches fill, memory is taken from the system.
    """
    times: list[list[float]] = [[] for _ in cases]
    for n in range(repeats + 1):
        for case, seconds in zip(cases, times, strict=True):
            time.sleep(PAUSE)
            took = _time(case)
            if n > 0:
                seconds.append(took)
    return times


def _time(case: Case) -> float:
    began = time.perf_counter()
    case.run()
    return time.perf_counter() - began
