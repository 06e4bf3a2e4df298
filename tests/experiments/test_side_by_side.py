"""Experiments whose trainings run side by side, and on a GPU: the same numbers as here."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers import host_cuda
from minitxl.backend import get_backend
from minitxl.experiments import ablation, context, memory_ladder, stop_gradient
from minitxl.experiments.parts import Parts
from minitxl.model import transformer_xl

FEW = {
    ablation: replace(
        ablation.Settings.quick(),
        seeds=1,
        lrs=(2e-3,),
        n_tokens=200,
        arms=("xl", "shaw-ab", "abs-naive"),
    ),
    context: replace(context.Settings.quick(), longer=64, n_target=1, arms=("xl-16", "vanilla-16")),
    memory_ladder: replace(memory_ladder.Settings.quick(), seeds=1, lengths=(8,), n_tokens=300),
    stop_gradient: replace(stop_gradient.Settings.quick(), seeds=1, steps=4, every=2, batch_size=2),
}


def numbers(x):
    """All numbers in nested lists and dicts, in order."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, list):
        return [n for y in x for n in numbers(y)]
    return [float(x)] if isinstance(x, (int, float)) else []


SLOW = (ablation, context, stop_gradient)


@pytest.mark.parametrize(
    "module",
    [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in FEW],
    ids=lambda m: m.__name__.rpartition(".")[2],
)
def test_on_a_gpu_the_numbers_are_the_same(module, monkeypatch):
    """Recorded and replayed; what differs is the last digits of float32."""
    settings = FEW[module]
    here = json.loads(json.dumps(module.run(settings)))
    gpu = host_cuda.Gpu()
    backend = host_cuda.backend(monkeypatch, gpu, "float32")

    def on_gpu(device, dtype="float32"):
        return backend if device == "cuda" else get_backend(device, dtype)

    unrecorded = []
    replayed = backend.replayed

    def watched(function):
        call = replayed(function)
        unrecorded.append(call)
        return call

    backend.replayed = watched

    def read(a):
        assert gpu.recorded is None, "a number is looked at while the stream is recorded"
        return float(a.view(np.ndarray))

    monkeypatch.setattr(transformer_xl, "get_backend", on_gpu)
    monkeypatch.setattr(host_cuda.HostArray, "__float__", read)
    there = json.loads(json.dumps(module.run(settings, Parts(asdict(settings), device="cuda"))))
    assert (here.pop("devices"), there.pop("devices")) == (["cpu"], ["cuda"])
    assert gpu.replays > 3 and not any(call.why_not for call in unrecorded)
    for found in (here, there):
        del found["seconds"], found["machine"]
    np.testing.assert_allclose(numbers(there), numbers(here), atol=2e-3, rtol=1e-3)


def test_processes_give_the_same_results_and_keep_each_part(tmp_path):
    """Two processes; what was kept before is not computed again."""
    settings = FEW[memory_ladder]
    settings = replace(settings, seeds=3)
    here = json.loads(json.dumps(memory_ladder.run(settings)))
    file = tmp_path / "a.json"
    began = Parts(asdict(settings), file)
    jobs = memory_ladder.jobs(settings)
    first = next(iter(jobs))
    began.fill({first: jobs[first]})
    parts = Parts(asdict(settings), file, resume=True, n_process=2)
    assert first in parts
    there = json.loads(json.dumps(memory_ladder.run(settings, parts)))
    assert there["models"] == here["models"]
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(kept["parts"]) == sorted(jobs)


def test_an_error_of_a_process_is_told_and_what_is_done_is_kept(tmp_path):
    parts = Parts({}, tmp_path / "a.json", n_process=2)
    with pytest.raises(ValueError, match="substring not found"):
        parts.fill({"good": (str.format, "in {}"), "bad": (str.index, "x")})
    again = Parts({}, tmp_path / "a.json", resume=True)
    assert again.fill({"good": (pytest.fail, "computed again")}) == {"good": "in cpu"}
