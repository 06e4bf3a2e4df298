"""doctor: what it says of a healthy machine, and of each thing that can be missing."""

import collections
import subprocess
import sys
from types import SimpleNamespace

import pytest

from minitxl.backend import cupy_backend
from minitxl.tools import doctor
from minitxl.tools.doctor import Check

Version = collections.namedtuple("Version", "major minor micro releaselevel serial")


def test_a_working_installation_is_healthy():
    found = doctor.checks()
    by_name = {check.name: check for check in found}
    assert len(found) == len(by_name) == 8
    assert all(by_name[name].ok for name in ("NumPy", "packages", "corpora"))
    assert doctor.healthy(found), doctor.report(found)
    assert "NumPy 2" in by_name["NumPy"].text and "thread" in by_name["NumPy"].text
    assert "war-and-peace (3,202,593 characters)" in by_name["corpora"].text
    assert " ms" in by_name["training"].text
    for check in found:
        assert check.text.endswith(".") and "\n" not in check.text
        assert not check.fix or (check.fix.endswith(".") and "\n" not in check.fix)
        assert bool(check.fix) == (not check.ok)


def test_the_report_shows_the_fix_below_the_finding():
    found = [Check("a", True, "Fine."), Check("bc", False, "Gone.", "Get it.", required=False)]
    report = doctor.report(found)
    assert "ok    a   Fine.\nnote  bc  Gone.\n          -> Get it.\n" in report
    assert doctor.healthy(found) and "Everything that is required works" in report
    found.append(Check("d", False, "Broken.", "Mend it."))
    assert not doctor.healthy(found)
    assert "FAIL  d " in doctor.report(found) and "To be mended first: d." in doctor.report(found)


def test_a_check_that_raises_does_not_end_the_others(monkeypatch):
    def broken():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "check_corpora", broken)
    monkeypatch.setattr(doctor, "check_training_step", broken)
    found = doctor.checks()
    assert len(found) == 8 and not doctor.healthy(found)
    assert "RuntimeError: two lines" in found[5].text and found[5].fix


@pytest.mark.parametrize(
    ("version", "ok", "required"),
    [((3, 10), False, True), ((3, 11), True, True), ((3, 13), True, True), ((3, 14), False, False)],
)
def test_python(monkeypatch, version, ok, required):
    monkeypatch.setattr(sys, "version_info", Version(*version, 1, "final", 0))
    check = doctor.check_python()
    assert (check.ok, check.required) == (ok, required)
    assert ok or "3.11 to 3.13" in check.text


def test_old_numpy(monkeypatch):
    import numpy

    monkeypatch.setattr(numpy, "__version__", "1.26.4")
    check = doctor.check_numpy()
    assert not check.ok and "1.26.4" in check.text and "numpy>=2.1" in check.fix


def test_numpy_without_threadpoolctl_still_names_its_blas(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    check = doctor.check_numpy()
    assert check.ok and "products by" in check.text


def test_slow_blas_threads_are_only_a_remark(monkeypatch):
    from minitxl.training.trainer import Trainer

    times = iter([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])
    clock = [0.0]

    def step(self, tokens, targets):
        clock[0] += next(times)
        return 4.0

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: clock[0])
    check = doctor.check_training_step()
    assert not check.ok and not check.required
    assert "took 1000.0 ms, but 100.0 ms with one BLAS thread" in check.text
    assert "OPENBLAS_NUM_THREADS=1" in check.fix


def test_a_step_that_gives_nan_is_broken(monkeypatch):
    from minitxl.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "step", lambda self, tokens, targets: float("nan"))
    check = doctor.check_training_step()
    assert not check.ok and check.required and "nan" in check.text


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(doctor, "NOTEBOOK_PACKAGES", ("json", "no_such_package"))
    check = doctor.check_notebooks()
    assert not check.ok and not check.required
    assert "no_such_package" in check.text and "json" not in check.text and "pip" in check.fix


def test_little_room(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    check = doctor.check_disk()
    assert not check.ok and not check.required and "0.1 GB" in check.text


def fake_gpu(monkeypatch, why_not, smi="", cupy_installed=False):
    """Pretend that CuPy says why_not and that nvidia-smi prints smi ("": there is none)."""
    monkeypatch.setattr(cupy_backend, "why_not", lambda: why_not)
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name: ("spec" if cupy_installed else None) if name == "cupy" else real(name),
    )
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if smi else None)

    def run(*args, **kwargs):
        if smi == "hangs":
            raise subprocess.TimeoutExpired("nvidia-smi", 20)
        return SimpleNamespace(stdout=smi)

    monkeypatch.setattr(doctor.subprocess, "run", run)
    check = doctor.check_gpu()
    assert not check.required
    return check


def test_no_gpu_and_no_cupy_is_only_a_remark(monkeypatch):
    check = fake_gpu(monkeypatch, "CuPy is not installed: pip install ...")
    assert "CuPy is not installed" in check.text and "the CPU does the work" in check.text
    assert check.fix.startswith("None needed.")


@pytest.mark.parametrize(
    ("driver", "extra"), [("580.65.06", "cuda13"), ("600.1", "cuda13"), ("535.1", "cuda12")]
)
def test_the_driver_decides_the_wheel(monkeypatch, driver, extra):
    check = fake_gpu(monkeypatch, "CuPy is not installed", f"NVIDIA A, B, {driver}\nNVIDIA C, 1\n")
    assert "NVIDIA A, B is not used" in check.text
    assert f"[{extra}]" in check.fix and "uninstall" not in check.fix


def test_an_old_driver(monkeypatch):
    check = fake_gpu(monkeypatch, "CuPy is not installed", "Quadro, 470.82.01\n")
    assert "too old" in check.text and "525" in check.fix


@pytest.mark.parametrize("smi", ["", "hangs", "No devices were found\n", "\n"])
def test_cupy_without_a_driver(monkeypatch, smi):
    check = fake_gpu(monkeypatch, "CuPy finds no NVIDIA GPU", smi, cupy_installed=True)
    assert "CuPy finds no NVIDIA GPU" in check.text and "no NVIDIA driver answers" in check.text


def test_cupy_of_another_cuda_fails_at_the_product(monkeypatch):
    why = "the GPU does not work (ImportError: libcublas.so.12)"
    check = fake_gpu(monkeypatch, why, "NVIDIA H200, 580.1\n", cupy_installed=True)
    assert "libcublas" in check.text and "uninstall" in check.fix and "[cuda13]" in check.fix


def test_a_working_gpu_is_named(monkeypatch):
    runtime = SimpleNamespace(
        getDeviceProperties=lambda i: {"name": b"NVIDIA H200"},
        memGetInfo=lambda: (3 * 2**30, 140 * 2**30),
    )
    cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(__version__="14.0.1", cuda=cuda))
    monkeypatch.setattr(cupy_backend, "why_not", lambda: "")
    check = doctor.check_gpu()
    assert check.ok
    assert check.text == "CuPy 14.0.1 computes on NVIDIA H200, 3.0 of 140.0 GiB free."


def test_the_install_command():
    assert doctor.install_command("cuda12").startswith('pip install -e ".[cuda12]"')
    assert doctor.install_command().startswith('pip install -e "."')
