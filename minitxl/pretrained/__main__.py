"""Pack a run as a model that ships: `python -m minitxl.pretrained RUN NAME`.

Keeps run.json, metrics.jsonl and the best parameters, these as float16: half the size, and a
change of the loss far below what one can measure on a book (the model's card says how much).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from minitxl.storage import checkpoint


def pack(run: Path, out: Path) -> Path:
    """Write the run's best model to the folder `out`, ready for `minitxl.load_pretrained`."""
    arrays, state = checkpoint.load(run / "best.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    half = {name: a.astype(np.float16) for name, a in arrays.items() if name.startswith("params.")}
    checkpoint.save(out / "best.safetensors", half, state)
    for name in ("run.json", "metrics.jsonl"):
        shutil.copyfile(run / name, out / name)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minitxl.pretrained", description=pack.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that train wrote")
    parser.add_argument("name", metavar="NAME", help="folder beside this file to write to")
    options = parser.parse_args()
    out = pack(options.run, Path(__file__).parent / options.name)
    size = (out / "best.safetensors").stat().st_size
    print(f"{out}: {size / 1e6:.2f} MB of parameters")


if __name__ == "__main__":
    main()
