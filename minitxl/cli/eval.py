"""`eval`: what a model's predictions of a text cost."""

from __future__ import annotations

import argparse
import json
import sys

from minitxl.cli.common import RUN_HELP, add_checkpoint, add_command, add_device, load
from minitxl.cli.eval_lines import check_finite, score


def add(commands) -> None:
    """Add the command and its options."""
    sentence = "measure a model: nats per token, bits per character, perplexity"
    parser = add_command(commands, "eval", run, sentence)
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
    add(
        "--cached",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the memory's keys and values, or project them anew (same loss, slower)",
    )
    add("--window", type=int, metavar="N", help="no memory: a window of N tokens, slid and reread")
    add("--stride", type=int, metavar="N", help="how far a window slides (default: 1)")
    add("--lines", action="store_true", help="score each line of --data by itself")
    add("--json", action="store_true", help="print one JSON object")
    add_checkpoint(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the model and print what was found."""
    loaded = load(options)
    if options.lines:
        return score(loaded, options)
    tokens, what = _tokens_to_evaluate(loaded, options.data, options.split)
    measured, how = _measured(loaded.model, tokens, options)
    check_finite(measured.nats)
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
        print(json.dumps(result))
        return 0
    print(f"{what}: {measured.n_tokens:,} tokens")
    print("  " + ", ".join(f"{name} {value}" for name, value in how.items()))
    bits = {"word": "bits per word", "token": "bits per token"}.get(loaded.info["level"], "bpc")
    print(
        f"  {measured.nats:.4f} nats per token | {measured.bpc:.4f} {bits} | "
        f"perplexity {measured.perplexity:.3f}"
    )
    print(f"  {measured.seconds:.1f} s, {speed:,.0f} tokens/s")
    return 0


def _measured(model, tokens, options: argparse.Namespace):
    """Return the Evaluation and the settings that it was made with."""
    from minitxl.errors import MinitxlError
    from minitxl.inference.evaluate import evaluate
    from minitxl.inference.sliding import evaluate_sliding

    common = dict(batch_size=options.batch_size, max_tokens=options.max_tokens)
    common["progress"] = sys.stderr.isatty() and not options.json
    how = {name: getattr(options, name) for name in ("tgt_len", "mem_len", "clamp_len")}
    how["same_length"] = options.same_length
    if options.window is None:
        if options.stride is not None:
            raise MinitxlError(f"--stride {options.stride} is that of a window; give --window too")
        measured = evaluate(model, tokens, cached=options.cached, **common, **how)
        return measured, {k: getattr(model.config, k) if v is None else v for k, v in how.items()}
    memory = [k for k in ("tgt_len", "mem_len", "same_length") if how[k] is not None]
    if memory:
        option = "--" + memory[0].replace("_", "-")
        raise MinitxlError(
            f"{option} is of no use with --window, which has no memory; leave it out"
        )
    how = {"window": options.window, "stride": options.stride or 1}
    if options.clamp_len is not None:
        model = model.with_options(clamp_len=options.clamp_len)
    measured = evaluate_sliding(model, tokens, **common, **how)
    return measured, how | {"clamp_len": model.config.clamp_len}


def _tokens_to_evaluate(loaded, data: str | None, split: str):
    """Return the tokens of a split, in the model's own vocabulary, and a name for them."""
    import numpy as np

    from minitxl.data.datasets import DATASETS
    from minitxl.data.text import load_corpus
    from minitxl.storage.run_text import load_corpus_of

    if data is not None and data not in DATASETS:
        return _tokens_of_file(loaded, data, split)
    if data is None:
        corpus = load_corpus_of(loaded.info)
    else:
        corpus = load_corpus(data, level=loaded.info["level"], check=True)
    parts = ("train", "valid", "test") if split == "all" else (split,)
    # One part alone is not copied: that of a data set is a file, mapped into memory.
    tokens = [getattr(corpus, part) for part in parts]
    tokens = tokens[0] if len(tokens) == 1 else np.concatenate(tokens)
    if corpus.vocab != loaded.vocab:
        tokens = loaded.vocab.encode(corpus.vocab.decode(tokens))
    return tokens, _named(corpus.name, split)


def _tokens_of_file(loaded, data: str, split: str):
    """The same for a text of the user's own (or a shipped one), which may be as short as a line."""
    from minitxl.data.datasets import split_ends
    from minitxl.data.encoded import encoded_file
    from minitxl.data.text import MIN_SYMBOLS
    from minitxl.errors import MinitxlError

    tokens, level = encoded_file(loaded.vocab, data), loaded.info["level"]
    least = 2 if split == "all" else MIN_SYMBOLS
    if len(tokens) < least:
        why = "one to read and one to predict" if split == "all" else "to split it 90/5/5"
        way_out = "" if split == "all" else ", or take it as a whole: --split all"
        raise MinitxlError(
            f"{data!r} has {len(tokens)} {level}s, at least {least} are needed, {why}: "
            f"use a longer text{way_out}"
        )
    train_end, valid_end = split_ends(len(tokens))
    ends = {"all": (0, None), "train": (0, train_end), "valid": (train_end, valid_end)}
    start, stop = ends.get(split, (valid_end, None))
    return tokens[start:stop], _named(data, split)


def _named(name: str, split: str) -> str:
    return f"{name}, {'whole text' if split == 'all' else split + ' split'}"
