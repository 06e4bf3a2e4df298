"""Every notebook runs from a clean kernel, and the stored one reads well without a kernel."""

import ast
import base64
import importlib.util
import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

import minitxl  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in (FOLDER / "source").glob("*.py"))

spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

# All is imported from `minitxl` and `minitxl.experiments`, and besides from the module that the
# lesson is about: one, or two where two sections have a subject of their own.
LESSONS = {
    "00_start_here": ["model.through_memory"],
    "01_fragmentation": ["data", "inference.sliding"],  # 1.1 cuts a text, 1.5 slides a window
    "02_attention_by_hand": [],
    "03_relative_positions": [],
    "04_memory": ["model.through_memory"],
    "05_reach": ["experiments.reach", "model.reach"],  # 5.2: a formula, and a trial that it holds
    "06_training": ["training.optim"],
    "07_evaluation": ["data", "inference.cached"],  # 7.1 asks compressors, 7.4 times the reader
    "08_beyond": ["inference.cached", "training.cost"],  # 8.1 times the reader, 8.7 counts
    "README.md": ["backend"],  # a debugger's way through the model
}
PICTURE = re.compile(r"^(\w+\.)?(draw|draw_\w+|\w+_explorer|play_\w+|live)\(", re.MULTILINE)


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
    cells = [cell for cell in code_cells(stored(name)) if PICTURE.search(cell.source)]
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


def imported(code):
    """Modules that Python code imports from, and what it takes from `minitxl` itself."""
    modules, names = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
            if node.module == "minitxl":
                names |= {alias.name for alias in node.names}
    return {m for m in modules if m.split(".")[0] == "minitxl"}, names


@pytest.mark.parametrize("name", [*NAMES, "README.md"])
def test_what_is_imported_is_public_or_the_lesson(name):
    if name == "README.md":
        text = (FOLDER.parent / name).read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    else:
        cells = build.cells_of((FOLDER / "source" / f"{name}.py").read_text(encoding="utf-8"))
        code = "\n".join(text for kind, text in cells if kind == "code")
    modules, names = imported(code)
    assert names <= set(minitxl.__all__)
    inside = modules - {"minitxl", "minitxl.experiments"}
    assert inside == {f"minitxl.{lesson}" for lesson in LESSONS[name]}


def test_splitting_a_script():
    source = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n\n# a comment\ny = 2\n"
    assert build.cells_of(source) == [
        ("markdown", "# Title\n\ntext"),
        ("code", "x = 1\n\n# a comment\ny = 2"),
    ]
