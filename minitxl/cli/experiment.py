"""`experiment`: measure one of the paper's questions anew, and keep the results as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

from minitxl.cli.common import add_command, say

EXPERIMENTS = {
    "ablation": "ablation",
    "attention": "attention_spans",
    "coherence": "coherence",
    "context": "context",
    "evaluation-speed": "evaluation_speed",
    "longer-memory": "longer_memory",
    "memory-budget": "memory_budget",
    "memory-ladder": "memory_ladder",
    "memory-text": "memory_text",
    "reach": "reach",
    "reading-cost": "reading_cost",
    "recl": "recl",
    "stop-gradient": "stop_gradient",
}
"""Name -> module of `minitxl.experiments`, with Settings, run and summary."""


def add(commands) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "experiment", run, "run an experiment and write its results")
    add = parser.add_argument
    add("name", metavar="NAME", choices=tuple(EXPERIMENTS), help=", ".join(EXPERIMENTS))
    add("--quick", action="store_true", help="a small version, of seconds: to see that it works")
    add("--seeds", type=int, metavar="N", help="how often, each from another seed")
    add("--resume", action="store_true", help="go on with what an interrupted run has done")
    add("--models", type=Path, metavar="DIR", help="trained models (default: runs/experiments)")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="cpu",
        help="where ablation, context, memory-budget, memory-ladder, memory-text and stop-gradient "
        "train (default: cpu)",
    )
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="how many of their models at once, each in a process of its own (default: 1)",
    )
    add("--out", type=Path, metavar="FILE", help="JSON to write (default: NAME.json)")


def run(options: argparse.Namespace) -> int:
    """Run it, write the JSON, print the summary."""
    from minitxl.errors import MinitxlError
    from minitxl.experiments.parts import Parts
    from minitxl.files import write_atomically

    out = options.out or Path(f"{options.name}.json")
    if not out.parent.is_dir() or out.is_dir():  # better now than after minutes of measuring
        raise MinitxlError(f"--out {out}: give a file in a folder that exists")
    experiment = import_module(f"minitxl.experiments.{EXPERIMENTS[options.name]}")
    settings = experiment.Settings.quick() if options.quick else experiment.Settings()
    if options.jobs < 1:
        raise MinitxlError(f"--jobs {options.jobs} must be at least 1")
    if options.seeds is not None:
        settings = _with_seeds(settings, options)
    unfinished = out.with_name(f"{out.stem}.unfinished.json")
    models = options.models or Path("runs", "quick" if options.quick else "experiments")
    parts = Parts(
        asdict(settings), unfinished, options.resume, models, options.device, options.jobs
    )
    try:
        results = experiment.run(settings, parts, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        if unfinished.exists():
            say(f"\ninterrupted; what is done is in {unfinished}: repeat the command with --resume")
        raise
    write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
    unfinished.unlink(missing_ok=True)
    print(experiment.summary(results))
    say(f"results: {out}")
    return 0


def _with_seeds(settings, options):
    from minitxl.errors import MinitxlError

    if not hasattr(settings, "seeds"):
        raise MinitxlError(f"{options.name} has no seeds: leave --seeds away")
    if options.seeds < 1:
        raise MinitxlError(f"--seeds {options.seeds} must be at least 1")
    return replace(settings, seeds=options.seeds)
