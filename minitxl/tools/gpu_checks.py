"""Does the GPU compute what NumPy computes? Parts of `gpu_report.py`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minitxl.backend import Backend
from minitxl.backend.numpy_backend import NumpyRandom
from minitxl.config import ATTN_TYPES, Config, Memory
from minitxl.data.stream import Stream
from minitxl.data.text import load_corpus
from minitxl.inference.generate import generate
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import load_pretrained
from minitxl.storage.model_arrays import memory_arrays
from minitxl.tools import gpu_shared as shared

LEARNER = dict(n_layer=2, tgt_len=32, mem_len=32, dropout=0.0)  # what is trained
TRAINED = 50  # steps
PROMPT, WRITTEN = "Natasha looked at ", 600  # what the shipped model goes on from; tokens
PARITY = dict(n_token=50, n_layer=2, d_model=48, n_head=3, d_head=16, d_inner=96, tgt_len=33)
LIMITS = {"float64": 1e-10, "float32": 1e-3}  # of a difference, relative to the largest number


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
    if shared.has_torch():
        found["torch"] = sys.modules["torch"].__version__
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def tests() -> dict:
    """The tests that are marked `gpu`, where the checkout's tests are."""
    folder = Path(__file__).parents[2] / "tests"
    if not folder.is_dir():
        return {"skipped": "no tests beside the package"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=", "--tb=short", "--continue-on-collection-errors", str(folder)]
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
    conv = dict(n_coarse=8, rate=4, compress="conv", loss="attention")
    memories = [Memory(kind="compressive", **conv), Memory(kind="matrix")]
    cases |= {f"{m.kind} memory": base.replace(memory=m) for m in memories}
    slots = Memory(kind="tokens", n_slot=6)
    cases["memory tokens"] = base.replace(memory=slots, mem_len=0)
    drops = dict(dropout=0.2, dropatt=0.1)
    return cases | {f"{name}, dropout": c.replace(**drops) for name, c in cases.items()}


def results_of(config: Config, backend: Backend) -> dict:
    """Losses, memories and gradient of two segments, as arrays of the host."""
    model = TransformerXL(config, device=backend, seed=0)
    source, mems, found = shared.batches(config, 4), None, {}
    for n in range(2):
        tokens, targets = next(source)
        rng = HostNumbers(backend, 0, n) if config.dropout else None
        nll, mems, cache = model.forward(tokens, targets, mems, rng=rng)
        found |= {f"nll {n}": nll, f"gradient {n}": model.backward(cache).flat}
    mems = memory_arrays(mems, "memory").items()
    found |= {name: a for name, a in mems if 0 not in a.shape and not name.endswith("born")}
    return {name: backend.to_numpy(a) for name, a in found.items()}


def parity() -> dict:
    """The GPU against NumPy's plain float64: how far numbers differ, over the largest of them."""
    found = {}
    for name, config in parity_cases().items():
        expected = results_of(config, shared.get_backend("cpu", "float64", fused=False))
        for dtype, limit in LIMITS.items():
            for fused in (False, True):
                kind = f"{name}, {dtype}, {'fused' if fused else 'plain'}"
                try:
                    got = results_of(config, shared.get_backend(shared.GPU, dtype, fused))
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
    for device, dtype in (("cpu", "float64"), (shared.GPU, "float64"), (shared.GPU, "float32")):
        backend = shared.get_backend(device, dtype)
        trainer, stream = (
            shared.trainer_of(config, 8, backend),
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
    for device in ("cpu", shared.GPU):
        run = load_pretrained("war-and-peace", device=shared.get_backend(device))
        ids = generate(run.model, run.vocab, PROMPT, length=WRITTEN, temperature=0.8)
        began = time.perf_counter()
        texts[device] = run.vocab.decode(list(ids))
        rates[device] = WRITTEN / (time.perf_counter() - began)
    same = texts[shared.GPU] == texts["cpu"]
    print(f"  the GPU writes what the CPU writes: {same}; {rates} tokens/s")
    return {"losses": losses, "apart": apart, "texts": texts, "tokens_per_second": rates}
