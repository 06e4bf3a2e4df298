"""`python -m minitxl doctor`: is everything here that minitxl needs, and how does one get the rest?

Each check is one sentence, with the way out where something is missing. No check may end the
others: what a broken installation raises is any exception at all, and it becomes the sentence.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

SUPPORTED_PYTHON = ((3, 11), (3, 13))  # the versions on which the tests run
# As in pyproject.toml; NumPy has a check of its own.
OLDEST_NUMPY = (2, 1)
LIBRARY_PACKAGES = ("matplotlib", "safetensors", "threadpoolctl", "tqdm")
NOTEBOOK_PACKAGES = ("jupyterlab", "ipywidgets")
DISK_WANTED = 0.5e9  # bytes; a run keeps two checkpoints with optimizer state and writes a third
# The oldest NVIDIA driver of each CUDA generation, newest first (CUDA release notes, table 3).
DRIVER_OF_EXTRA = ((580, "cuda13"), (525, "cuda12"))


@dataclass(frozen=True)
class Check:
    """One finding: a sentence, whether all is well, the fix if not, and whether it must be mended.

    ok=False with required=False is a remark: minitxl works, something optional does not.
    """

    name: str
    ok: bool
    text: str
    fix: str = ""
    required: bool = True


def checks() -> list[Check]:
    """Look at this machine and return what was found, in the order in which it is best read."""
    todo: list[tuple[str, Callable[[], Check], bool]] = [
        ("Python", check_python, True),
        ("NumPy", check_numpy, True),
        ("packages", check_packages, True),
        ("GPU", check_gpu, False),
        ("notebooks", check_notebooks, False),
        ("corpora", check_corpora, True),
        ("disk", check_disk, False),
        ("training", check_training_step, True),
    ]
    return [_guarded(name, check, required) for name, check, required in todo]


def healthy(found: list[Check]) -> bool:
    """Return whether nothing that is required is broken."""
    return all(check.ok or not check.required for check in found)


def report(found: list[Check]) -> str:
    """Return the checks as text, a line each, the fix on a line of its own below."""
    width = max((len(check.name) for check in found), default=0)
    lines = []
    for check in found:
        mark = "ok  " if check.ok else "FAIL" if check.required else "note"
        lines.append(f"{mark}  {check.name:<{width}}  {check.text}")
        if check.fix:
            lines.append(f"{'':{6 + width}}  -> {check.fix}")
    broken = [check.name for check in found if check.required and not check.ok]
    if broken:
        lines.append(f"To be mended first: {', '.join(broken)}.")
    else:
        lines.append("Everything that is required works. Next: python -m minitxl train")
    return "\n".join(lines)


def _guarded(name: str, check: Callable[[], Check], required: bool) -> Check:
    try:
        return check()
    except Exception as error:  # see the top of this file
        text = f"This check ended with {_one_line(error)}."
        return Check(name, False, text, f"Reinstall: {install_command()}.", required)


def check_python() -> Check:
    """Python's version; outside the tested range it is only a remark."""
    oldest, newest = SUPPORTED_PYTHON
    this = sys.version_info[:2]
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if oldest <= this <= newest:
        return Check("Python", True, f"{text}.")
    tested = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
    fix = f"Should anything fail, use Python {newest[0]}.{newest[1]}."
    return Check("Python", False, f"{text}; minitxl is tested on {tested}.", fix, this < oldest)


def check_numpy() -> Check:
    """NumPy's version, the BLAS behind its products, and that library's number of threads."""
    wanted = ".".join(map(str, OLDEST_NUMPY))
    try:
        import numpy as np
    except Exception as error:
        text = f"NumPy does not import ({_one_line(error)})."
        return Check("NumPy", False, text, f'pip install --force-reinstall "numpy>={wanted}".')
    if tuple(map(int, np.__version__.split(".")[:2])) < OLDEST_NUMPY:
        text = f"NumPy {np.__version__} is too old: minitxl needs the array API of {wanted}."
        return Check("NumPy", False, text, f'pip install --upgrade "numpy>={wanted}".')
    from minitxl.backend.threads import core_count  # needs NumPy, which is there by now

    cores = core_count()
    text = f"NumPy {np.__version__}, products by {_blas(np)}; {_count(cores, 'core')} usable."
    return Check("NumPy", True, text)


def check_packages() -> Check:
    """The other packages that the library cannot do without."""
    return _installed("packages", "library", LIBRARY_PACKAGES, install_command(), required=True)


def check_gpu() -> Check:
    """CuPy and the GPU; the library works without, so the worst is a remark."""
    from minitxl.backend import cupy_backend

    why_not = cupy_backend.why_not()
    if not why_not:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
        name = name.decode() if isinstance(name, bytes) else name
        free, total = cupy.cuda.runtime.memGetInfo()
        text = f"CuPy {cupy.__version__} computes on {name}, {free / 2**30:.1f} of "
        return Check("GPU", True, f"{text}{total / 2**30:.1f} GiB free.", required=False)

    gpu, driver = _nvidia_gpu()
    extra = next((extra for oldest, extra in DRIVER_OF_EXTRA if driver >= oldest), None)
    if importlib.util.find_spec("cupy") is None:
        why_not = "CuPy is not installed"
    if gpu is None:
        text = f"No GPU is used: {why_not}, and no NVIDIA driver answers; the CPU does the work."
        fix = "None needed. With an NVIDIA GPU: install its driver, then run doctor again."
    elif extra is None:
        text = f"{gpu} is not used: {why_not}, and its driver {driver} is too old."
        fix = f"Update the NVIDIA driver to {DRIVER_OF_EXTRA[-1][0]} or newer, run doctor again."
    else:
        text = f"{gpu} is not used: {why_not}."
        fix = f"{install_command(extra)}."
        if importlib.util.find_spec("cupy") is not None:
            fix = f"pip uninstall every cupy package (pip list shows them), then {fix}"
    return Check("GPU", False, text, fix, required=False)


def check_notebooks() -> Check:
    """The packages that the notebooks need on top."""
    command = install_command("notebooks")
    return _installed("notebooks", "notebooks", NOTEBOOK_PACKAGES, command, required=False)


def check_corpora() -> Check:
    """The texts that come with the package can be read."""
    from minitxl.data.text import CORPORA, load_corpus

    sizes = []
    for name in CORPORA:
        corpus = load_corpus(name)
        size = len(corpus.train) + len(corpus.valid) + len(corpus.test)
        sizes.append(f"{name} ({size:,} characters)")
    return Check("corpora", True, f"The shipped texts can be read: {', '.join(sizes)}.")


def check_disk() -> Check:
    """The current folder, where `train` writes by default, can be written and has room."""
    folder = os.getcwd()
    if not os.access(folder, os.W_OK):
        text = f"The current folder {folder} cannot be written to."
        return Check("disk", False, text, "Change to another folder, or train with --out.", False)
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.1f} GB are free in the current folder."
    if free < DISK_WANTED:
        fix = f"Make room, or train with --out elsewhere: {DISK_WANTED / 1e9:.1f} GB are plenty."
        return Check("disk", False, text, fix, required=False)
    return Check("disk", True, text, required=False)


def check_training_step() -> Check:
    """A small model learns for a few steps; on the CPU also with a single BLAS thread.

    Small products gain nothing from more threads. Where threads wake up slowly, as in some
    containers, they cost fifty times as much as they do alone.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    from minitxl.config import Config, TrainConfig
    from minitxl.model.transformer_xl import TransformerXL
    from minitxl.training.trainer import Trainer

    shape = dict(n_token=78, n_layer=2, d_model=64, n_head=2, d_head=32, d_inner=128)
    model = TransformerXL(Config(**shape, tgt_len=32, mem_len=32), device="auto", seed=0)
    trainer = Trainer(model, TrainConfig(steps=100, batch_size=4, warmup=0))
    tokens = np.random.default_rng(0).integers(0, 78, (4, 33)).astype(np.int32)
    losses = []

    def fastest_step() -> float:
        seconds = []
        for _ in range(5):  # the first ones warm up
            start = time.perf_counter()
            losses.append(float(trainer.step(tokens[:, :-1], tokens[:, 1:])))  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    took = fastest_step()
    where = "the GPU" if model.backend.name == "cuda" else "the CPU"
    if not math.isfinite(losses[-1]):
        text = f"A small training step on {where} gave the loss {losses[-1]}."
        return Check("training", False, text, f"Reinstall: {install_command()}.")
    text = f"A small training step on {where} took {1000 * took:.1f} ms"
    if where == "the CPU":
        with threadpool_limits(1, user_api="blas"):
            alone = fastest_step()
        if took > 4 * alone:
            text = f"{text}, but {1000 * alone:.1f} ms with one BLAS thread."
            fix = "Set the environment variable OPENBLAS_NUM_THREADS=1 (or OMP_NUM_THREADS=1)."
            return Check("training", False, text, fix, required=False)
    return Check("training", True, f"{text}.")


def install_command(extra: str = "") -> str:
    """Return the command that installs minitxl's packages; minitxl is in no package index."""
    extras = f"[{extra}]" if extra else ""
    return f'pip install -e ".{extras}" in the folder of pyproject.toml'


def _installed(name: str, purpose: str, packages, command: str, required: bool) -> Check:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        text = f"Not installed, but needed by the {purpose}: {', '.join(missing)}."
        return Check(name, False, text, f"{command}.", required)
    versions = ", ".join(f"{p} {_version(p)}".strip() for p in packages)
    return Check(name, True, f"Installed for the {purpose}: {versions}.", required=required)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # some distributors leave the metadata out
        return ""


def _blas(np) -> str:
    """Name NumPy's BLAS and its threads, as far as can be known."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        libraries = []
    else:
        libraries = [lib for lib in threadpool_info() if lib.get("user_api") == "blas"]
    # Other packages bring a BLAS of their own; NumPy's wheel keeps its in a folder numpy.libs.
    libraries.sort(key=lambda lib: "numpy" not in str(lib.get("filepath", "")))
    if libraries:
        lib = libraries[0]
        name = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}.get(
            lib.get("internal_api"), str(lib.get("internal_api"))
        )
        version = f" {lib['version']}" if lib.get("version") else ""
        return f"{name}{version} with {_count(lib.get('num_threads', 1), 'thread')}"
    try:  # Accelerate on macOS is not seen by threadpoolctl
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} (its number of threads is not known)"
    except Exception:
        return "an unknown BLAS"


def _nvidia_gpu() -> tuple[str | None, int]:
    """Return the first GPU's name and its driver's main version, (None, 0) without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, 0
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        name, version = done.stdout.strip().splitlines()[0].rsplit(",", 1)
        return name.strip(), int(version.strip().split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None, 0


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__
