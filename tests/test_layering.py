"""The architecture: imports point down, and below `storage/` only `backend/` knows NumPy."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import minitxl

PACKAGE = Path(minitxl.__file__).parent
# The table of the package's docstring, the only place where the order stands.
TABLE = re.findall(r"^    ((?:[a-z]+ )+) {2,}\S", minitxl.__doc__, re.MULTILINE)
LEVELS = [names.split() for names in TABLE]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
# Host work: arrays of token ids and files, never the model's arithmetic.
MAY_USE_NUMPY = {"backend", "data"}
MODULES = {}  # "minitxl.model.ops" -> its file
for _path in FILES:
    _parts = _path.relative_to(PACKAGE.parent).with_suffix("").parts
    MODULES[".".join(_parts).removesuffix(".__init__")] = _path


def part(path: Path) -> str:
    """The module or folder of minitxl that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, inside: bool = True):
    """Modules that a file imports, in full; inside: also where functions import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside else at_once(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if node.module == "minitxl" and alias.name in minitxl._HOME:
                    name = f"minitxl.{minitxl._HOME[alias.name]}"
                yield name if name in MODULES else node.module


def at_once(tree):
    """Nodes that run when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield node
        yield from at_once(node)


def test_the_table_holds_every_room():
    rooms = {part(p) for p in FILES} - {"__init__", "__main__"}
    assert rooms == set(LEVEL), "give a new folder its line in minitxl/__init__.py"
    assert len(LEVELS) == 12 and LEVELS[0] == ["errors", "config", "files", "lock"]


def test_few_modules_stand_outside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    here = part(path)
    if here in ("__init__", "__main__"):
        return
    for name in imports(path):
        root, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if root == "minitxl" and other and other != here:
            # Only the modules that are no folders stand on one line and know one another.
            below = LEVEL[other] < LEVEL[here] or LEVEL[other] == LEVEL[here] == 0
            assert below, f"{here} imports {other}, which is not below it"
        if LEVEL[here] < LEVEL["storage"] and here not in MAY_USE_NUMPY:
            assert root not in ("numpy", "cupy", "cupyx", "array_api_compat"), (
                f"{here} imports {root}; below storage/ only backend/ may"
            )


def test_no_file_imports_itself_by_way_of_others():
    graph = {
        module: {name for name in imports(path, inside=False) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    del graph["minitxl"]  # its names are imported when they are used
    order = list(TopologicalSorter({m: on - {"minitxl"} for m, on in graph.items()}).static_order())
    assert len(order) == len(graph)


def test_only_the_backend_knows_cupy():
    for path in FILES:
        if part(path) not in ("backend", "tools"):  # a tool looks at what is installed
            assert not {"cupy", "cupyx"} & {name.split(".")[0] for name in imports(path)}, path


def test_files_are_short():
    """A file is read in one sitting; the paper's model and all below it in an afternoon."""
    lines = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    long = {p.name: n for p, n in lines.items() if n > 400}
    assert not long
    others = {"files", "through_memory", "reach", "gradcheck"}  # read when wanted, as the family is
    # The plain version is the text.
    fast = {"numpy_twins", "cupy_twins", "cupy_launch", "cupy_graph", "cublas", "host_memory"}
    model = [
        n
        for p, n in lines.items()
        if part(p) in ("errors", "config", "backend", "model") or p.stem == "optim"
        if p.stem not in others | fast and "family" not in p.parts
    ]
    assert sum(model) <= 2520
