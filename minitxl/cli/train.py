"""`train`: a model from a text, into a run folder."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import textwrap

from minitxl.cli.common import RUN_HELP, add_command, add_device
from minitxl.config import Config, Memory, TrainConfig
from minitxl.errors import MinitxlError
from minitxl.training.presets import PRESETS

# What goes to minitxl.training.run.train under the same name; --set and the rest need work first.
TRAIN_OPTIONS = (
    "preset data level vocab init_from out steps device dtype seed resume batch_size learning_rate "
    "threads eval_every save_every patience quiet"
).split()


def add(commands) -> None:
    """Add the command and its options."""
    width = max(map(len, PRESETS))
    presets = "\n".join(f"  {name:<{width}}  {p.summary}" for name, p in PRESETS.items())
    fields = textwrap.indent(textwrap.fill(", ".join(_settable()), 76), "  ")
    parser = add_command(
        commands,
        "train",
        run,
        "train a model on a text (with no option: the preset tiny on War and Peace)",
        f"presets:\n{presets}\n\nfields for --set (minitxl/config.py explains them):\n{fields}",
    )
    # No defaults here: run.train has them, and must know what was asked for beside --resume.
    add = parser.add_argument
    add("--preset", metavar="NAME", help="sizes of model and training, see below (default: tiny)")
    add(
        "--data",
        metavar="TEXT",
        help="a shipped text, a data set or a file (default: preset's); of token ids: NAME.npy",
    )
    add(
        "--level",
        choices=("char", "byte", "word"),
        help="what a token is (default: char, or what the data set has)",
    )
    add(
        "--vocab",
        metavar="FILE",
        help="symbols of the ids, one a line, or a JSON list (default: numbers)",
    )
    add("--out", metavar="FOLDER", help="where to write (default: runs/PRESET-DATA)")
    add(
        "--steps",
        type=int,
        metavar="N",
        help="updates in all (default: the preset's); also a new end with --resume",
    )
    add("--batch-size", type=int, metavar="N", help="rows of text read side by side")
    add("--lr", type=float, metavar="X", dest="learning_rate", help="peak learning rate")
    add("--eval-every", type=int, metavar="N", help="steps between evaluations; 0: never")
    add("--patience", type=int, metavar="N", help="evaluations without a better one to stop after")
    add("--save-every", type=int, metavar="N", help="steps between checkpoints")
    add("--threads", type=int, metavar="N", help="parts of the batch run at once on the CPU")
    add("--seed", type=int, metavar="N", help="of weights and dropout (default: 0)")
    add("--init-from", metavar="RUN", help=f"begin from its weights, on --data: {RUN_HELP}")
    add("--resume", metavar="FOLDER", help="continue the run in this folder, to the same bits")
    add("--set", action="append", metavar="FIELD=VALUE", help="change a field, e.g. n_layer=6")
    add("--dry-run", action="store_true", help="print size, memory and work of the run, no more")
    add("--quiet", action="store_true", default=None, help="print nothing but errors")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Train, with the options that were given."""
    asked = {name: getattr(options, name) for name in TRAIN_OPTIONS}
    settings = read_settings(options.set or [])
    model_fields = {f.name for f in dataclasses.fields(Config)}
    asked["model_options"] = {k: v for k, v in settings.items() if k in model_fields} or None
    asked["train_options"] = {k: v for k, v in settings.items() if k not in model_fields} or None
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.dry_run:
        from minitxl.cli.dry_run import dry_run

        return dry_run(asked)
    from minitxl.training.run import train

    train(**asked)
    return 0


def _settable() -> dict[str, str]:
    """Fields of Config, Memory ("memory.kind") and TrainConfig that --set may change; types."""
    apart = ("n_token", "memory", "released")  # the text's affair; one by one; of imported models
    fields = {f.name: str(f.type) for f in dataclasses.fields(Config) if f.name not in apart}
    fields |= {f"memory.{f.name}": str(f.type) for f in dataclasses.fields(Memory)}
    return fields | {f.name: str(f.type) for f in dataclasses.fields(TrainConfig)}


def read_settings(settings: list[str]) -> dict:
    """Parse --set's ["n_layer=6", "same_length=true", ...] to {"n_layer": 6, ...}.

    Those of the memory ("memory.kind=matrix") come together, as {"memory": {...}}.
    Raises MinitxlError for an unknown field (naming the nearest) and a value of another type; the
    ranges are Config's own business.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    read = {"int": int, "float": float, "bool": lambda text: words[text.lower()], "str": str}
    read["tuple"] = lambda text: tuple(_number(part, words) for part in text.split(",") if part)
    fields = _settable()
    options = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise MinitxlError(f"--set {setting}: write FIELD=VALUE, such as n_layer=6")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(fields)}"
            raise MinitxlError(f"--set {setting}: there is no field {name!r}; {hint}")
        try:
            options[name] = read[fields[name]](text)
        except (ValueError, KeyError):
            kind = fields[name].replace("tuple", "list, such as 2000,10000 or false,true")
            raise MinitxlError(f"--set {setting}: {name} is of type {kind}") from None
    memory = {n.partition(".")[2]: options.pop(n) for n in list(options) if n.startswith("memory.")}
    return options | ({"memory": Memory.from_dict(memory).to_dict()} if memory else {})


def _number(text: str, words: dict) -> int | bool:
    """An entry of a list: cutoffs are numbers, tie_projs true and false."""
    return int(text) if text.isdigit() else words[text.lower()]
