"""`explore`: the token explorer of a model as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from minitxl.cli.common import RUN_HELP, add_checkpoint, add_command, add_device, load

OPENING = 'Then listen:\n\n"Louis XIV'  # a passage of War and Peace that repeats itself


def add(commands) -> None:
    """Add the command and its options."""
    sentence = "write a page in which one points at a token and sees what it attends to"
    parser = add_command(commands, "explore", run, sentence)
    add = parser.add_argument
    default = "default: war-and-peace"
    add("folder", metavar="RUN", nargs="?", default="war-and-peace", help=f"{RUN_HELP}; {default}")
    add(
        "--text",
        metavar="TEXT",
        help="a file, or the passage itself (default: its test text)",
    )
    add("--out", metavar="FILE", default="explorer.html", help="the page (default: explorer.html)")
    add("--tgt-len", type=int, metavar="N", default=64, help="tokens of a segment (default: 64)")
    add("--segments", type=int, metavar="N", default=4, help="at most so many (default: 4)")
    add("--mem-len", type=int, metavar="N", help="tokens of memory (default: all that was read)")
    add("--layer", type=int, metavar="N", help="shown first (default: one that looks far back)")
    add("--head", type=int, metavar="N", help="shown first; 0: the mean of all (default: likewise)")
    add_checkpoint(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page and print where it is and how large."""
    from minitxl.viz.explorer import looking_far, token_explorer
    from minitxl.viz.reading import Reading

    loaded = load(options)
    tokens = _passage(loaded, options)
    lengths = dict(tgt_len=options.tgt_len, mem_len=options.mem_len)
    reading = Reading(loaded.model, tokens, tgt_len=options.tgt_len)
    start = looking_far(reading, options.mem_len, layer=options.layer, head=options.head)
    explorer = token_explorer(loaded.model, loaded.vocab, tokens, **lengths, **start)
    path = explorer.save(options.out)
    memory, unit = explorer.data["memories"][-1], explorer.data["unit"]
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {reading.n_segments} segments of "
        f"{options.tgt_len} {unit}s, memory {memory}; open it in a browser"
    )
    return 0


def _passage(loaded, options: argparse.Namespace):
    """Return the tokens of the passage: whole segments, and the target of the last token."""
    from minitxl.errors import MinitxlError

    for name, low in (("tgt_len", 1), ("segments", 2)):
        if getattr(options, name) < low:
            option = "--" + name.replace("_", "-")
            raise MinitxlError(f"{option} {getattr(options, name)}: give {low} or more")
    tokens, what = _text(loaded, options.text)
    short = 2 * options.tgt_len + 1
    if len(tokens) < short:
        raise MinitxlError(
            f"{what} has {len(tokens)} tokens, two segments of {options.tgt_len} and the token "
            f"after them are {short}: give a longer --text or a smaller --tgt-len"
        )
    return tokens[: options.segments * options.tgt_len + 1]


def _text(loaded, text: str | None):
    """Return tokens in the model's own vocabulary, and a name for them."""
    from minitxl.data.encoded import encoded_file, encoded_text
    from minitxl.errors import MinitxlError
    from minitxl.storage.run_text import load_corpus_of

    if text is None:
        corpus = load_corpus_of(loaded.info, option="--text")
        tokens = corpus.test
        if loaded.info["data"] == "war-and-peace" and loaded.info["level"] == "char":
            tokens = tokens[corpus.vocab.decode(tokens).index(OPENING) :]
        if corpus.vocab != loaded.vocab:
            tokens = loaded.vocab.encode(corpus.vocab.decode(tokens))
        return tokens, f"the test text of {corpus.name}"
    file = _file(text)
    if file is None and Path(text).suffix and not any(c.isspace() for c in text):
        raise MinitxlError(f"there is no file {text!r}; --text takes a file, or a passage")
    if file is None:
        return encoded_text(loaded.vocab, text), "the --text, which is no file,"
    return encoded_file(loaded.vocab, file), str(file)


def _file(text: str) -> Path | None:
    """The file that a text names, if it names one; a passage may be too long for a name."""
    try:
        path = Path(text)
        return path if path.exists() and not path.is_dir() else None  # a pipe will do
    except (OSError, ValueError):
        return None
