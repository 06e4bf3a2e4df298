"""Build the notebooks: `python notebooks/build.py [NAME ...]`.

Each notebook is written as a plain script, `source/NAME.py`; `minitxl.course.notebooks` says how.
Building turns it into `NAME.ipynb`, the student's version, runs it from a clean kernel, and stores
its outputs as static pictures and text, so that it reads well without a kernel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minitxl.course.notebooks import (  # some are for the tests
    WIDGET,
    cells_of,
    clean,
    execute,
    known,
    notebook_from,
    write,
)
from minitxl.errors import MinitxlError

HERE = Path(__file__).resolve().parent


def build(name: str) -> Path:
    """Build one notebook and return its path."""
    book = notebook_from(name)
    execute(book)
    clean(book)
    path = HERE / f"{name}.ipynb"
    write(book, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Build notebooks from notebooks/source.")
    parser.add_argument("name", nargs="*", help="as in source/NAME.py (default: all)")
    names = parser.parse_args().name
    try:
        for name in names or known():
            path = build(name)
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    except MinitxlError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
