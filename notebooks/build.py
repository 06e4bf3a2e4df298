"""Build the notebooks: `python notebooks/build.py [NAME ...]`.

Each notebook is written as a plain script, `source/NAME.py`, in which `# %%` opens a code cell and
`# %% [markdown]` a text cell. Building turns it into `NAME.ipynb`, runs it from a clean kernel, and
stores its outputs as static pictures and text, so that it reads well without a kernel.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"
TIMEOUT = 300  # seconds for one cell


def cells_of(source: str) -> list[tuple[str, str]]:
    """Split a script into (kind, text), kind "markdown" or "code"."""
    cells: list[tuple[str, list[str]]] = []
    for line in source.splitlines():
        if line.startswith("# %%"):
            kind = "markdown" if "[markdown]" in line else "code"
            cells.append((kind, []))
        elif cells:
            cells[-1][1].append(line)
    out = []
    for kind, lines in cells:
        if kind == "markdown":
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        out.append((kind, "\n".join(lines).strip("\n")))
    return out


def notebook_from(name: str) -> nbformat.NotebookNode:
    """The notebook of `source/NAME.py`, without outputs; the same cell ids on every build."""
    book = nbformat.v4.new_notebook()
    source = (HERE / "source" / f"{name}.py").read_text(encoding="utf-8")
    for number, (kind, text) in enumerate(cells_of(source)):
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        book.cells.append(new(text, id=f"cell-{number:02}"))
    book.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    book.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    return book


def execute(book: nbformat.NotebookNode) -> None:
    """Run all cells in a clean kernel, in the notebooks' folder; a failing cell raises."""
    root = str(HERE.parent)
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if not old else root + os.pathsep + old
    try:
        client = NotebookClient(
            book,
            timeout=TIMEOUT,
            resources={"metadata": {"path": str(HERE)}},
            store_widget_state=False,
        )
        client.execute()
    finally:
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old


def clean(book: nbformat.NotebookNode) -> None:
    """Keep what a reader sees: no live views (they need a kernel), no times, no versions."""
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    for cell in book.cells:
        cell.metadata = {}
        streams: dict[str, nbformat.NotebookNode] = {}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.output_type == "stream":  # printed bit by bit: one text is easier to keep
                first = streams.setdefault(output.name, output)
                if first is not output:
                    first.text += output.text
                    output.text = ""
        if streams:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text]


def build(name: str) -> Path:
    """Build one notebook and return its path."""
    book = notebook_from(name)
    execute(book)
    clean(book)
    path = HERE / f"{name}.ipynb"
    path.write_bytes((nbformat.writes(book) + "\n").encode("utf-8"))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Build notebooks from notebooks/source.")
    parser.add_argument("name", nargs="*", help="as in source/NAME.py (default: all)")
    names = parser.parse_args().name
    known = sorted(path.stem for path in (HERE / "source").glob("*.py"))
    for name in names or known:
        if name not in known:
            sys.exit(f"no notebook {name}; there are: {', '.join(known)}")
        path = build(name)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
