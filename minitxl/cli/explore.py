"""`explore`: the live component of a model as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from minitxl.cli.common import RUN_HELP, Parser, add_checkpoint, add_command, add_device, load

LONGEST = 2000  # tokens of a passage that are packed
OPENINGS = {  # passages of War and Peace's test text, by how they begin
    "a quotation left open": ('Then listen:\n\n"Louis XIV', 420),
    "a name that returns": ("And suddenly his bosom heaved", 420),
    "a dialogue": ('\n"Well, what would you do?" asked Denisov.', 420),
}


def add(commands) -> None:
    """Add the command and its options."""
    sentence = "write a page in which the model runs: type, watch its memory, let it write"
    _add_options(add_command(commands, "explore", run, sentence))


def _add_options(parser: Parser) -> Parser:
    add = parser.add_argument
    default = "default: war-and-peace"
    add("folder", metavar="RUN", nargs="?", default="war-and-peace", help=f"{RUN_HELP}; {default}")
    add(
        "--text",
        metavar="TEXT",
        help=f"a file, or the passage itself; {LONGEST:,} tokens at most (default: its test text)",
    )
    add("--out", metavar="FILE", default="explorer.html", help="the page (default: explorer.html)")
    add("--tgt-len", type=int, metavar="T", default=64, help="tokens of a segment (default: 64)")
    add("--mem-len", type=int, metavar="M", help="tokens of memory (default: three segments)")
    add("--layer", type=int, metavar="N", help="shown first (default: one that looks far back)")
    add("--head", type=int, metavar="N", help="shown first; 0: the mean of all (default: likewise)")
    add_checkpoint(parser)
    add_device(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the page and print where it is and how large."""
    shown = component(options)
    path, data = shown.save(options.out), shown.data
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, segments of {data['T']} {data['unit']}s, "
        f"memory {data['M']}; open it in a browser"
    )
    return 0


def component(options: argparse.Namespace | None = None):
    """Return the live component that the options ask for; None: as the command does alone."""
    from minitxl.errors import MinitxlError
    from minitxl.viz.in_browser import live

    options = options or _add_options(Parser()).parse_args([])
    for name, low in (("tgt_len", 2), ("mem_len", 0)):
        value = getattr(options, name)
        if value is not None and value < low:
            raise MinitxlError(f"--{name.replace('_', '-')} {value}: give {low} or more")
    loaded = load(options)
    lengths = dict(tgt_len=options.tgt_len, mem_len=options.mem_len)
    shown = dict(layer=options.layer, head=options.head)
    return live(loaded.model, loaded.vocab, _passages(loaded, options), **lengths, **shown)


def _passages(loaded, options: argparse.Namespace) -> list[tuple]:
    """Return (title, tokens) pairs."""
    tokens, what = _text(loaded, options.text)
    if options.text is None and loaded.info["data"] == "war-and-peace":
        text = loaded.vocab.decode(tokens)
        places = {title: (text.find(begins), n) for title, (begins, n) in OPENINGS.items()}
        if loaded.info["level"] == "char" and all(at >= 0 for at, _ in places.values()):
            return [(title, tokens[at : at + n]) for title, (at, n) in places.items()]
    return [(what, tokens[:LONGEST])]


def _text(loaded, text: str | None):
    """Return tokens in the model's own vocabulary, and a name for them."""
    from minitxl.data.encoded import encoded_file, encoded_text
    from minitxl.errors import MinitxlError
    from minitxl.storage.run_text import load_corpus_of

    if text is None:
        corpus = load_corpus_of(loaded.info, option="--text")
        tokens = corpus.test
        if corpus.vocab != loaded.vocab:
            tokens = loaded.vocab.encode(corpus.vocab.decode(tokens))
        return tokens, f"the test text of {corpus.name}"
    file = _file(text)
    if file is None and Path(text).suffix and not any(c.isspace() for c in text):
        raise MinitxlError(f"there is no file {text!r}; --text takes a file, or a passage")
    if file is None:
        return encoded_text(loaded.vocab, text), "your passage"
    return encoded_file(loaded.vocab, file), Path(file).name


def _file(text: str) -> Path | None:
    """The file that a text names, if it names one; a passage may be too long for a name."""
    try:
        path = Path(text)
        return path if path.exists() and not path.is_dir() else None  # a pipe will do
    except (OSError, ValueError):
        return None
