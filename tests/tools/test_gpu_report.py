"""Every part of the GPU report, without a GPU: CuPy on a GPU made of NumPy, PyTorch on the CPU."""

import json

import numpy as np
import pytest

from helpers import host_cuda
from minitxl import cli
from minitxl.backend import cupy_backend, get_backend
from minitxl.storage.run_folder import load_run
from minitxl.tools import gpu_checks, gpu_report, gpu_shared, gpu_speed

SMALL = (1, 8, 2, 4, 8, 4, 2, 5)  # as SHAPES has them


@pytest.fixture
def rehearsed(monkeypatch, tmp_path):
    """Run a part at small sizes; return what it found."""

    def backend(device, dtype="float32", fused=True):
        if device == "cpu":
            return get_backend(device, dtype, fused)
        made = host_cuda.backend(monkeypatch, host_cuda.Gpu(), dtype, fused)
        made.synchronize = lambda: None
        return made

    monkeypatch.setattr(gpu_shared, "get_backend", backend)
    monkeypatch.setattr(gpu_shared, "TORCH", "cpu")
    monkeypatch.setattr(gpu_shared, "SECONDS", 0.0)
    monkeypatch.setattr(gpu_shared, "ROWS", 2)
    monkeypatch.setattr(gpu_shared, "SHAPES", {"enwik8-base": SMALL})
    monkeypatch.setattr(gpu_speed, "ATTENTION_LENS", (9,))
    monkeypatch.setattr(gpu_speed, "SEGMENT_LENS", (1, 4))
    sizes = dict(n_token=78, n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8)
    monkeypatch.setattr(gpu_speed, "EVALUATED", {"small": sizes})
    monkeypatch.setattr(gpu_shared, "free_bytes", lambda: 0)
    sizes = dict(n_token=50, n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=5)
    monkeypatch.setattr(gpu_checks, "PARITY", sizes)

    def run(name):
        assert gpu_report.main(["--here", "--parts", name, "--out", str(tmp_path)]) == 0
        text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
        return json.loads(text)["found"]

    return run


def test_parity(rehearsed):
    found = rehearsed("parity")
    assert len(found) == 4 * len(gpu_checks.parity_cases())
    assert all(case["worst"] <= case["limit"] for case in found.values()), found


def test_training_and_writing(rehearsed, monkeypatch, tmp_path):
    text, run = tmp_path / "text.txt", tmp_path / "run"  # in place of the shipped model
    text.write_text("So it goes, and so it went.\n" * 100, encoding="utf-8")
    sizes = "n_layer=2 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=8 mem_len=8".split()
    options = ["--steps=2", "--batch-size=2", "--device=cpu", "--quiet"]
    options += [f"--set={size}" for size in sizes]
    assert cli.main(["train", "--data", str(text), "--out", str(run), *options]) == 0
    monkeypatch.setattr(gpu_checks, "load_pretrained", lambda name, device: load_run(run, device))
    sizes = dict(n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8, mem_len=8)
    monkeypatch.setattr(gpu_checks, "LEARNER", sizes | dict(dropout=0.0))
    monkeypatch.setattr(gpu_checks, "TRAINED", 4)
    monkeypatch.setattr(gpu_checks, "WRITTEN", 4)
    monkeypatch.setattr(gpu_checks, "PROMPT", "So")
    found = rehearsed("training")
    assert found["apart"]["cuda float64"] < 1e-9 and len(found["losses"]["cuda float32"]) == 4
    assert found["texts"]["cuda"] == found["texts"]["cpu"]


@pytest.mark.parametrize("part", ["steps", "steps-tf32"])
def test_steps(rehearsed, part):
    found = rehearsed(part)
    for times in found.values():
        assert {"replayed", "fused", "plain"} <= set(times)
        assert all(t["median"] > 0 for t in times.values()), times


def test_evaluation(rehearsed):
    points = rehearsed("evaluation")["points"]
    assert {p["method"] for p in points} == {"window", "window-absolute", "xl-cached", "xl"}
    assert all(p["ms"] > 0 for p in points)


def test_largest_batch(rehearsed, monkeypatch):
    tried = []

    def error_of(contender, batch):
        tried.append(batch)
        return "out of memory" if batch > 80 else ""

    monkeypatch.setattr(gpu_speed, "error_of", error_of)
    found = rehearsed("largest-batch")
    assert found["replayed"] == 80 and tried[:4] == [64, 128, 96, 80]
    monkeypatch.setattr(gpu_shared, "SHAPES", {"enwik8-base": SMALL})
    assert gpu_report.main(["--fits", "replayed", "2"]) == 0


def test_parts_with_pytorch(rehearsed, monkeypatch):
    torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[torch]"')
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # minutes, and not ours
    for case in rehearsed("compiled").values():
        assert case["median"] > 0
    assert rehearsed("profile")["enwik8-base, PyTorch"]["launches"] > 10


def test_the_report_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(cupy_backend, "why_not", lambda: "there is none")
    with pytest.raises(SystemExit, match="there is none"):
        gpu_report.main([])


def test_a_part_that_fails_costs_only_itself(monkeypatch, tmp_path, capsys):
    """Parts run in processes of their own; here every one of them finds no GPU and says so."""
    monkeypatch.setattr(gpu_shared, "get_backend", lambda device: None)
    out = tmp_path / "out"
    assert gpu_report.main(["--parts", "machine", "parity", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED (1)") == 2 and printed.count("nothing to measure") == 2
    assert (out / "report.txt").read_text(encoding="utf-8").count("FAILED") == 2


def test_numbers_of_the_host(monkeypatch):
    backend = get_backend("cpu", "float64")
    a, b = (gpu_checks.HostNumbers(backend, 1, 2).uniform((3, 2)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
