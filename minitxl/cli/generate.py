"""`generate`: a model writes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, tee
from operator import itemgetter

from minitxl.cli.common import RUN_HELP, add_checkpoint, add_command, add_device, load, say

NAMED = 5  # unknown words at most
MOST = 4096  # samples: they are drawn side by side, each with a memory of its own


def add(commands) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "generate", run, "let a model write")
    add = parser.add_argument
    add("folder", metavar="RUN", help=RUN_HELP)
    add("--length", type=int, metavar="N", default=1000, help="tokens to write (default: 1000)")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="what it continues (default: a new line)")
    prompt.add_argument("--prompt-file", metavar="FILE", help="the same from a file; -: from stdin")
    add("--stop", metavar="TEXT", help="write until this comes, which is left out")
    add("--samples", type=int, metavar="N", default=1, help="texts, of seeds SEED, SEED + 1, ...")
    add("--temperature", type=float, metavar="X", default=1.0, help="0: the likeliest token")
    add("--top-k", type=int, metavar="K", default=0, help="only the K likeliest tokens; 0: all")
    add("--top-p", type=float, metavar="P", default=1.0, help="only the likeliest, of mass P")
    add(
        "--repetition-penalty",
        type=float,
        metavar="X",
        default=1.0,
        help="above 1: what has occurred becomes less likely (Keskar et al. 2019); for words",
    )
    add("--seed", type=int, metavar="N", default=0, help="same seed, same text (default: 0)")
    add("--mem-len", type=int, metavar="N", help="tokens of memory (default: as in training)")
    add_checkpoint(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print the prompt, then what the model writes, token by token; one sample after another."""
    from minitxl.data.encoded import encoded_text, prompt_of_file, unknown_words
    from minitxl.errors import MinitxlError
    from minitxl.inference.generate import generate_batch, printable

    if not 1 <= options.samples <= MOST:
        raise MinitxlError(f"--samples {options.samples} must be from 1 to {MOST}")
    if options.stop == "":
        raise MinitxlError("--stop is empty: give the text before which the writing is to end")
    loaded, text = load(options), options.prompt or ""
    if options.prompt_file is not None:
        text = prompt_of_file(loaded.vocab, options.prompt_file)
    prompt = encoded_text(loaded.vocab, text)
    if unknown := unknown_words(loaded.vocab, text):
        named = ", ".join(map(repr, unknown[:NAMED])) + (", ..." if len(unknown) > NAMED else "")
        say(f"{len(unknown)} word(s) of the prompt are read as {loaded.vocab.unk}: {named}")
    names = ("length", "temperature", "top_k", "top_p", "seed", "mem_len", "repetition_penalty")
    how = {name: getattr(options, name) for name in names}
    drawn = generate_batch(loaded.model, loaded.vocab, [prompt] * options.samples, **how)

    def write(text: str) -> None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    # All samples are drawn side by side, and no further than the one that is being written needs.
    for n, own in enumerate(tee(drawn, options.samples)):
        if options.samples > 1:
            write(f"--- sample {n + 1}, --seed {options.seed + n}\n")
        for piece in _text(loaded.vocab, prompt, map(itemgetter(n), own), options.stop):
            write(piece)
        write("\n")
    return 0


def _text(vocab, prompt, ids: Iterable[int], stop: str | None) -> Iterator[str]:
    """Yield the prompt as the model reads it, unknown words as <unk>, and the text of the ids."""
    from minitxl.inference.generate import until

    decoder = vocab.decoder()
    yield from map(decoder.feed, prompt)
    written = chain(map(decoder.feed, ids), (decoder.flush() for _ in "1"))
    yield from written if stop is None else until(written, stop)
