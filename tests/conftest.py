"""Fixtures: the CPU, and a strict stand-in for every other device."""

import os
import sys

import pytest

# Tests run side by side, and so do their subprocesses: BLAS's threads would fight over the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from helpers.strict_backend import StrictBackend
from minitxl.backend import get_backend
from minitxl.backend.cupy_backend import why_not

# A grammar of IRIs that nbformat's checks could use, if notebooks had any: seconds to import.
sys.modules.setdefault("rfc3987_syntax", None)


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if "gpu" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


@pytest.fixture(params=["numpy", "strict"])
def backend(request):
    """Each test that asks for it runs on NumPy and on array_api_strict's second device."""
    return get_backend("cpu", "float64") if request.param == "numpy" else StrictBackend()
