"""`generate`: a model writes."""

from __future__ import annotations

import argparse
import sys
from itertools import chain

from minitxl.cli.common import RUN_HELP, add_checkpoint, add_command, add_device, load


def add(commands) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "generate", run, "let a model write")
    add = parser.add_argument
    add("folder", metavar="RUN", help=RUN_HELP)
    add("--length", type=int, metavar="N", default=1000, help="tokens to write (default: 1000)")
    add("--prompt", metavar="TEXT", default="", help="what it continues (default: a new line)")
    add("--temperature", type=float, metavar="X", default=1.0, help="0: the likeliest token")
    add("--top-k", type=int, metavar="K", default=0, help="only the K likeliest tokens; 0: all")
    add("--top-p", type=float, metavar="P", default=1.0, help="only the likeliest, of mass P")
    add("--seed", type=int, metavar="N", default=0, help="same seed, same text (default: 0)")
    add("--mem-len", type=int, metavar="N", help="tokens of memory (default: as in training)")
    add_checkpoint(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print the prompt, then what the model writes, token by token."""
    from minitxl.data.encoded import encoded_text
    from minitxl.inference.generate import generate, printable

    loaded = load(options)
    names = ("prompt", "length", "temperature", "top_k", "top_p", "seed", "mem_len")
    tokens = generate(loaded.model, loaded.vocab, **{n: getattr(options, n) for n in names})
    decoder = loaded.vocab.decoder()

    def write(text: str) -> None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    # The prompt as the model reads it: where tokens are words, the unknown ones are <unk>.
    for token in chain(encoded_text(loaded.vocab, options.prompt), tokens):
        write(decoder.feed(token))
    write(decoder.flush() + "\n")
    return 0
