"""What a GPU makes of minitxl, in one command of about ten minutes.

    python -m minitxl.tools.gpu_report --out DIR
    python -m minitxl.tools.gpu_report --out DIR --parts machine parity

Every part runs in a process of its own, under its own time limit, so that one failure costs that
part alone. DIR gets report.txt (all that was printed) and a JSON file for each part. Nothing is
downloaded; PyTorch is compared with where it is installed and sees the GPU.

A training step is forward, backward, clipping and Adam with the memory full. Steps are timed in
rows without a wait between them, as a training runs; a row ends when the GPU has done it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minitxl.errors import MinitxlError
from minitxl.tools import gpu_checks, gpu_speed
from minitxl.tools import gpu_shared as shared

PARTS: dict[str, tuple[Callable[[], dict], int, dict]] = {  # seconds that it may take; environment
    "machine": (gpu_checks.machine, 30, {}),
    "tests": (gpu_checks.tests, 90, {}),
    "parity": (gpu_checks.parity, 90, {}),
    "training": (gpu_checks.training, 60, {}),
    "steps": (gpu_speed.steps, 120, {"CUPY_TF32": "0"}),
    "steps-tf32": (gpu_speed.steps, 120, {"CUPY_TF32": "1"}),
    "profile": (gpu_speed.profile, 45, {"CUPY_TF32": "0"}),
    "evaluation": (gpu_speed.evaluation, 150, {}),
    "largest-batch": (gpu_speed.largest_batch, 120, {"CUPY_TF32": "1"}),
    "compiled": (gpu_speed.compiled, 110, {"CUPY_TF32": "0"}),
}


def run_part(name: str, out: Path) -> None:
    """Run one part in this process and write its JSON."""
    began = time.perf_counter()
    found = PARTS[name][0]()
    found = {"part": name, "seconds": round(time.perf_counter() - began, 1), "found": found}
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_report"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    parser.add_argument("--fits", nargs=2, metavar=("CONTENDER", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.fits:
        gpu_speed.try_batch(args.fits[0], int(args.fits[1]))
        return 0
    try:
        shared.get_backend(shared.GPU)
    except MinitxlError as error:
        sys.exit(f"nothing to measure: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    with open(args.out / "report.txt", "a", encoding="utf-8") as report:
        for name in args.parts:
            if args.here:
                run_part(name, args.out)
                continue
            _, limit, environment = PARTS[name]
            command = [sys.executable, "-m", "minitxl.tools.gpu_report", "--here", "--parts", name]
            began = time.perf_counter()
            try:
                done = subprocess.run(
                    [*command, "--out", str(args.out)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
                    timeout=limit,
                )
                code, text = done.returncode, done.stdout
            except subprocess.TimeoutExpired as late:
                code, text = "too late", late.stdout or b""
            took = time.perf_counter() - began
            lines = text.decode(errors="replace")[-20_000:]
            word = "" if code == 0 else f": FAILED ({code})"
            failed += [name] if code != 0 else []
            text = f"== {name}, {took:.0f} s{word}\n{lines}"
            print(text, flush=True)
            report.write(text + "\n")
            report.flush()
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
