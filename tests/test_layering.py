"""The architecture: imports point down, and only `backend/` knows numpy and cupy below level 4."""

import ast
from pathlib import Path

import pytest

import minitxl

PACKAGE = Path(minitxl.__file__).parent
LEVELS = [
    {"errors", "config", "backend"},
    {"ops", "params", "workers"},
    {"attention", "shaw", "absolute", "adaptive", "layers", "optim", "gradcheck", "data"},
    {"encodings", "vocabulary", "weights", "model", "through_memory"},
    {
        "train",
        "parallel",
        "files",
        "units",
        "sliding",
        "checkpoint",
        "cached",
        "evaluate",
        "generate",
        "runs",
        "models",
        "curve",
        "report",
        "interop",
        "presets",
        "cost",
    },
    {
        "viz",
        "course",
        "run",
        "experiments",
        "doctor",
        "bench",
        "bench_report",
        "bench_torch",
        "cli",
        "__main__",
    },
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# Host work: arrays of token ids and files, never the model's arithmetic.
MAY_USE_NUMPY = {"data"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def part(path: Path) -> str:
    """The module or sub-package of minitxl that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """All imported module names of a file, wherever they stand in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            if node.module == "minitxl":
                home = minitxl._HOME  # `from minitxl import Config` imports minitxl.config
                yield from (f"minitxl.{home.get(a.name, a.name)}" for a in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    here = part(path)
    assert here in LEVEL, f"{here} is new: give it a level in this test"
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "minitxl":
            other = rest.split(".")[0]
            if other in LEVEL and other != here:
                assert LEVEL[other] <= LEVEL[here], f"{here} imports {other}, which is above it"
        low = LEVEL[here] <= 3 and here != "backend" and here not in MAY_USE_NUMPY
        if low:
            assert root not in ("numpy", "cupy", "cupyx", "array_api_compat"), (
                f"{here} imports {root}; below level 4 only backend/ may"
            )


def test_only_the_backend_knows_cupy():
    for path in FILES:
        if part(path) not in ("backend", "doctor"):
            assert not {"cupy", "cupyx"} & {name.split(".")[0] for name in imports(path)}, path


def test_files_are_short():
    """A file is read in one sitting; the paper's model and all below it in an afternoon."""
    lines = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    long = {p.name: n for p, n in lines.items() if n > 400}
    assert not long
    others = {"data", "shaw", "absolute", "adaptive", "through_memory"}  # read when wanted
    # The plain version is the text.
    fast = {"numpy_twins.py", "cupy_twins.py", "cupy_launch.py", "host_memory.py"}
    model = [
        n
        for p, n in lines.items()
        if LEVEL[part(p)] <= 3 and part(p) not in others and p.name not in fast
    ]
    assert sum(model) <= 2500
