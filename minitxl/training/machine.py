"""The machine that a measurement was made on: a time means nothing without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

import minitxl
from minitxl.backend.threads import MAX_THREADS, threads_for


def machine_facts() -> dict:
    """Return processor, cores, system and versions, as JSON can hold them."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        blas = []
    else:
        blas = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads_for(MAX_THREADS),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": [
            " ".join(str(lib.get(key) or "") for key in ("internal_api", "version", "architecture"))
            for lib in blas
        ],
        "minitxl": minitxl.__version__,
    }


def _cpu_model() -> str:
    """The processor's name where the system tells it in a plain file, else its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):  # not Linux
        pass
    return platform.processor() or platform.machine()
