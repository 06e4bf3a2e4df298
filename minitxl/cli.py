"""The commands: `python -m minitxl train | eval | generate | doctor`.

Only options, messages and exit codes live here; the work is in the library. A command imports what
it needs when it runs: `--help` and mistyped options answer at once, and `doctor` can speak even
where NumPy is broken.

Exit codes: 0 done; 1 doctor found something broken, or minitxl has a bug; 2 a mistake of use, told
in one line on stderr; 130 interrupted by Ctrl-C. MINITXL_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import json
import math
import os
import sys
import textwrap
from typing import NoReturn

from minitxl.config import PRESETS, Config, TrainConfig
from minitxl.errors import MinitxlError

RUN_HELP = "folder that train wrote, or the name of a model that ships with minitxl"
# What `train` hands to run.train under the same name; --set and the rest need work first.
TRAIN_OPTIONS = (
    "preset data level out steps device dtype seed resume batch_size learning_rate threads "
    "eval_every save_every quiet"
).split()


class Parser(argparse.ArgumentParser):
    """argparse, with its errors told in one line like all others, and no abbreviated options."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        _say(f"minitxl: error: {message} (see {self.prog} --help)")
        sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; argv as sys.argv[1:], which None stands for.

    As argparse does, --help, --version and mistyped options leave with SystemExit.
    """
    _prepare_streams()
    try:
        parser = _parser()
        options = parser.parse_args(argv)
        if options.command is None:
            parser.print_help()
            return 2
        code = options.run(options)
        sys.stdout.flush()  # here, where a closed pipe is no surprise
        return code
    except KeyboardInterrupt:
        _say("\nminitxl: interrupted")
        return 130
    except Exception as error:
        if _is_closed_pipe(error):  # `| head` has seen enough: no mistake
            _silence_stdout()
            return 0
        if os.environ.get("MINITXL_DEBUG") == "1":
            raise
        message, code = _explain(error)
        _say(f"minitxl: error: {' '.join(message.split())}")
        return code


# ---- options


def _parser() -> Parser:
    from minitxl import __version__

    parser = Parser(
        prog="python -m minitxl",
        description="Transformer-XL in NumPy: train a model on a text, measure it, let it write.",
    )
    parser.add_argument("--version", action="version", version=f"minitxl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_train(commands)
    _add_eval(commands)
    _add_generate(commands)
    _add_command(commands, "doctor", _doctor, "look whether all is here that minitxl needs")
    return parser


def _add_command(commands, name: str, run, sentence: str, epilog: str = "") -> Parser:
    parser = commands.add_parser(
        name,
        help=sentence,
        description=sentence[0].upper() + sentence[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_train(commands) -> None:
    width = max(map(len, PRESETS))
    presets = "\n".join(f"  {name:<{width}}  {p.summary}" for name, p in PRESETS.items())
    fields = textwrap.indent(textwrap.fill(", ".join(_settable()), 76), "  ")
    parser = _add_command(
        commands,
        "train",
        _train,
        "train a model on a text (with no option: the preset tiny on War and Peace)",
        f"presets:\n{presets}\n\nfields for --set (minitxl/config.py explains them):\n{fields}",
    )
    # No defaults here: run.train has them, and must know what was asked for beside --resume.
    add = parser.add_argument
    add("--preset", metavar="NAME", help="sizes of model and training, see below (default: tiny)")
    add("--data", metavar="TEXT", help="war-and-peace (default), tiny-shakespeare, or a file")
    add("--level", choices=("char", "byte"), help="what a token is (default: char)")
    add("--out", metavar="FOLDER", help="where to write (default: runs/PRESET-DATA)")
    add("--steps", type=int, metavar="N", help="updates in all (default: the preset's)")
    add("--batch-size", type=int, metavar="N", help="rows of text read side by side")
    add("--lr", type=float, metavar="X", dest="learning_rate", help="peak learning rate")
    add("--eval-every", type=int, metavar="N", help="steps between evaluations; 0: never")
    add("--save-every", type=int, metavar="N", help="steps between checkpoints")
    add("--threads", type=int, metavar="N", help="parts of the batch run at once on the CPU")
    add("--seed", type=int, metavar="N", help="of weights and dropout (default: 0)")
    add("--resume", metavar="FOLDER", help="continue the run in this folder, to the same bits")
    add("--set", action="append", metavar="FIELD=VALUE", help="change a field, e.g. n_layer=6")
    add("--quiet", action="store_true", default=None, help="print nothing but errors")
    _add_device(parser)


def _add_eval(commands) -> None:
    sentence = "measure a model: nats per token, bits per character, perplexity"
    parser = _add_command(commands, "eval", _eval, sentence)
    add = parser.add_argument
    add("folder", metavar="RUN", help=RUN_HELP)
    add("--split", choices=("train", "valid", "test", "all"), default="test", help="default: test")
    add("--data", metavar="TEXT", help="another text (default: the one it was trained on)")
    add("--mem-len", type=int, metavar="N", help="tokens of memory (default: as in training)")
    add("--tgt-len", type=int, metavar="N", help="tokens of a segment (default: as in training)")
    add("--clamp-len", type=int, metavar="N", help="longest distance told apart; -1: no limit")
    add(
        "--same-length",
        action=argparse.BooleanOptionalAction,
        help="every query sees the same number of keys, or not (default: as in training)",
    )
    add("--batch-size", type=int, metavar="N", default=1, help="parts of the text side by side")
    add("--max-tokens", type=int, metavar="N", help="stop after so many tokens")
    add("--json", action="store_true", help="print one JSON object")
    _add_checkpoint(parser)
    _add_device(parser)


def _add_generate(commands) -> None:
    parser = _add_command(commands, "generate", _generate, "let a model write")
    add = parser.add_argument
    add("folder", metavar="RUN", help=RUN_HELP)
    add("--length", type=int, metavar="N", default=1000, help="tokens to write (default: 1000)")
    add("--prompt", metavar="TEXT", default="", help="what it continues (default: a new line)")
    add("--temperature", type=float, metavar="X", default=1.0, help="0: the likeliest token")
    add("--top-k", type=int, metavar="K", default=0, help="only the K likeliest tokens; 0: all")
    add("--top-p", type=float, metavar="P", default=1.0, help="only the likeliest, of mass P")
    add("--seed", type=int, metavar="N", default=0, help="same seed, same text (default: 0)")
    add("--mem-len", type=int, metavar="N", help="tokens of memory (default: as in training)")
    _add_checkpoint(parser)
    _add_device(parser)


def _add_checkpoint(parser: Parser) -> None:
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="best on the validation text (default), or last",
    )


def _add_device(parser: Parser) -> None:
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), help="auto (default): a GPU if one works")
    add("--dtype", choices=("float32", "float64"), help="default: float32")


def _settable() -> dict[str, str]:
    """Fields of Config and TrainConfig that --set may change, with their types."""
    fields = (*dataclasses.fields(Config), *dataclasses.fields(TrainConfig))
    return {f.name: str(f.type) for f in fields if f.name != "n_token"}  # the text's affair


def read_settings(settings: list[str]) -> dict:
    """Parse --set's ["n_layer=6", "same_length=true", ...] to {"n_layer": 6, ...}.

    Raises MinitxlError for an unknown field (naming the nearest) and a value of another type; the
    ranges are Config's own business.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    read = {"int": int, "float": float, "bool": lambda text: words[text.lower()], "str": str}
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
            raise MinitxlError(f"--set {setting}: {name} is of type {fields[name]}") from None
    return options


# ---- commands


def _train(options: argparse.Namespace) -> int:
    from minitxl import run

    asked = {name: getattr(options, name) for name in TRAIN_OPTIONS}
    settings = read_settings(options.set or [])
    model_fields = {f.name for f in dataclasses.fields(Config)}
    asked["model_options"] = {k: v for k, v in settings.items() if k in model_fields} or None
    asked["train_options"] = {k: v for k, v in settings.items() if k not in model_fields} or None
    run.train(**{name: value for name, value in asked.items() if value is not None})
    return 0


def _eval(options: argparse.Namespace) -> int:
    from minitxl.evaluate import evaluate

    loaded = _load(options)
    tokens, what = _tokens_to_evaluate(loaded, options.data, options.split)
    how = {name: getattr(options, name) for name in ("tgt_len", "mem_len", "clamp_len")}
    how["same_length"] = options.same_length
    measured = evaluate(
        loaded.model,
        tokens,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        progress=sys.stderr.isatty() and not options.json,
        **how,
    )
    config = loaded.model.config
    how = {k: getattr(config, k) if v is None else v for k, v in how.items()}
    speed = measured.n_tokens / max(measured.seconds, 1e-9)
    if options.json:
        result = {
            "run": options.folder,
            "checkpoint": options.checkpoint,
            "step": loaded.step,
            "text": what,
            **how,
            "batch_size": options.batch_size,
            "nats": measured.nats,
            "bpc": measured.bpc,
            "perplexity": measured.perplexity,
            "n_tokens": measured.n_tokens,
            "seconds": measured.seconds,
        }
        # JSON has no NaN and no infinity: a diverged model's figures become null.
        bad = {k for k, v in result.items() if isinstance(v, float) and not math.isfinite(v)}
        print(json.dumps({k: None if k in bad else v for k, v in result.items()}))
        return 0
    print(f"{what}: {measured.n_tokens:,} tokens")
    print("  " + ", ".join(f"{name} {value}" for name, value in how.items()))
    print(
        f"  {measured.nats:.4f} nats per token | {measured.bpc:.4f} bpc | "
        f"perplexity {measured.perplexity:.3f}"
    )
    print(f"  {measured.seconds:.1f} s, {speed:,.0f} tokens/s")
    return 0


def _tokens_to_evaluate(loaded, data: str | None, split: str):
    """Return the tokens of a split, in the model's own vocabulary, and a name for them."""
    import numpy as np

    from minitxl.data.text import load_corpus
    from minitxl.runs import load_corpus_of

    if data is None:
        corpus = load_corpus_of(loaded.info)
    else:
        corpus = load_corpus(data, level=loaded.info["level"])
    parts = ("train", "valid", "test") if split == "all" else (split,)
    tokens = np.concatenate([getattr(corpus, part) for part in parts])
    if corpus.vocab != loaded.vocab:
        tokens = loaded.vocab.encode(corpus.vocab.decode(tokens))
    return tokens, f"{corpus.name}, {'whole text' if split == 'all' else split + ' split'}"


def _generate(options: argparse.Namespace) -> int:
    from minitxl.generate import generate, printable

    loaded = _load(options)
    names = ("prompt", "length", "temperature", "top_k", "top_p", "seed", "mem_len")
    tokens = generate(loaded.model, loaded.vocab, **{n: getattr(options, n) for n in names})
    decoder = loaded.vocab.decoder()

    def write(text: str) -> None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    write(options.prompt)
    for token in tokens:
        write(decoder.feed(token))
    write(decoder.flush() + "\n")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from minitxl import doctor

    found = doctor.checks()
    print(doctor.report(found))
    return 0 if doctor.healthy(found) else 1


def _load(options: argparse.Namespace):
    from minitxl.runs import load_run

    return load_run(
        options.folder,
        device=options.device or "auto",
        dtype=options.dtype,
        which=options.checkpoint,
    )


# ---- messages


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line for an exception, and the exit code."""
    if isinstance(error, MinitxlError):
        return str(error), 2
    if isinstance(error, MemoryError):
        less = "--batch-size, tgt_len, mem_len, d_model or n_layer"
        return f"out of memory; a smaller {less} needs less", 2
    if isinstance(error, ModuleNotFoundError):
        from minitxl.doctor import install_command

        return f"the package {error.name} is not installed: {install_command()}", 2
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return (f"{error.filename}: {reason}" if error.filename else reason), 2
    bug = "this is a bug of minitxl; MINITXL_DEBUG=1 shows where"
    return f"{type(error).__name__}: {error} ({bug})", 1


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started without one, by pythonw or `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        stream = getattr(sys, name)
        # A console of Windows may not know every symbol of a text: a "?" is better than a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _say(line: str) -> None:
    """Print to stderr, after all that stdout holds."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
    print(line, file=sys.stderr, flush=True)


def _is_closed_pipe(error: Exception) -> bool:
    # Windows says EINVAL; with a file name it is something else.
    known = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
    return isinstance(error, OSError) and error.errno in known and error.filename is None


def _silence_stdout() -> None:
    """Send what stdout still holds nowhere, or Python complains about the pipe when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file, as in a test
        pass
