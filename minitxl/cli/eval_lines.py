"""`eval --lines`: what each line of a text costs by itself."""

from __future__ import annotations

import argparse
import json
import math


def score(loaded, options: argparse.Namespace) -> int:
    """Print what each line of the text costs by itself, and all of them together."""
    from minitxl.data.encoded import file_text, plain_line_ends
    from minitxl.errors import MinitxlError
    from minitxl.inference.by_line import score_lines
    from minitxl.inference.generate import printable
    from minitxl.inference.units import bits, perplexity

    if options.data is None:
        raise MinitxlError("--lines scores the lines of a text of your own; give it as --data FILE")
    unused = [n for n in ("window", "stride", "max_tokens") if getattr(options, n) is not None]
    if unused or options.batch_size != 1:
        option = "--" + (unused[0] if unused else "batch_size").replace("_", "-")
        raise MinitxlError(f"{option} is of no use with --lines; leave it out")
    names = ("tgt_len", "mem_len", "clamp_len", "same_length")
    how = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    model, text = loaded.model.with_options(**how), plain_line_ends(file_text(options.data))
    found = []
    for line in score_lines(model, loaded.vocab, text.split("\n")):
        check_finite(line.nats)
        nats = line.nats / line.n_tokens
        figures = {"nats": nats, "bpc": bits(nats), "perplexity": perplexity(nats)}
        found.append({"text": line.text, "n_tokens": line.n_tokens, **figures})
        if not options.json:
            print(f"{nats:8.4f} nats  {bits(nats):8.4f} bits  {printable(line.text)}")
    if not found:
        raise MinitxlError(f"{options.data!r} has no line with a symbol in it; use another text")
    n = sum(line["n_tokens"] for line in found)
    mean = sum(line["nats"] * line["n_tokens"] for line in found) / n
    if options.json:
        total = {"nats": mean, "bpc": bits(mean), "perplexity": perplexity(mean), "n_tokens": n}
        print(json.dumps({"run": options.folder, "text": options.data, **total, "lines": found}))
    else:
        print(
            f"{len(found):,} lines, {n:,} tokens: {mean:.4f} nats per token, {bits(mean):.4f} bits"
        )
    return 0


def check_finite(nats: float) -> None:
    """Raise MinitxlError for a loss that says nothing; what holds it is not the text's fault."""
    from minitxl.errors import MinitxlError

    if not math.isfinite(nats):
        raise MinitxlError(
            f"the loss is {nats}: the model's numbers overflow, its training has diverged; take "
            "another --checkpoint or train anew with a lower --lr"
        )
