"""Every notebook runs from a clean kernel, and the stored one reads well without a kernel."""

import base64
import importlib.util
import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in (FOLDER / "source").glob("*.py"))

spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def stored(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def test_there_is_a_first_notebook():
    assert "00_start_here" in NAMES


def test_stored_notebook_equals_its_source(name):
    want = [(cell.cell_type, cell.source) for cell in build.notebook_from(name).cells]
    got = [(cell.cell_type, cell.source) for cell in stored(name).cells]
    assert got == want, "run: python notebooks/build.py"


def test_stored_notebook_is_clean(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 1_500_000
    book = stored(name)
    nbformat.validate(book)
    assert "widgets" not in book.metadata
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert set(cell.metadata) <= {"nbgrader", "deletable", "editable"}
        for output in cell.outputs:
            assert output.output_type != "error"
            assert getattr(output, "name", "stdout") == "stdout", "a warning was stored"
            assert build.WIDGET not in output.get("data", {})


def test_every_picture_is_stored(name):
    cells = [
        cell
        for cell in code_cells(stored(name))
        if re.search(r"^(\w+\.)?(draw_\w+|\w+_explorer)\(", cell.source, re.MULTILINE)
    ]
    assert cells
    for cell in cells:
        data = cell.outputs[-1].data
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
        assert (
            len(data["text/plain"]) > 40
        )  # the caption stands for the picture where none is shown


@pytest.mark.slow
def test_notebook_runs_in_a_clean_kernel(name):
    book = build.notebook_from(name)
    start = time.perf_counter()
    build.execute(book)
    seconds = time.perf_counter() - start
    print(f"{name}: {seconds:.0f} s")
    assert seconds < 120
    live = [
        o for cell in code_cells(book) for o in cell.outputs if build.WIDGET in o.get("data", {})
    ]
    assert all("image/png" in output.data for output in live)
    build.clean(book)
    assert not any(build.WIDGET in o.get("data", {}) for c in code_cells(book) for o in c.outputs)


def test_splitting_a_script():
    source = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n\n# a comment\ny = 2\n"
    assert build.cells_of(source) == [
        ("markdown", "# Title\n\ntext"),
        ("code", "x = 1\n\n# a comment\ny = 2"),
    ]
