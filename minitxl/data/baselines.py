"""What general compressors pay for the same text: the honest thing to print beside a model's bpc.

A compressor predicts too. Its price for a held-out text is how much longer its output gets when
that text follows the training text, so it is compared with a model trained on the same part.
"""

import zlib

import numpy as np

from minitxl.errors import MinitxlError

PPMD = {
    ("war-and-peace", "valid"): 1.724,
    ("war-and-peace", "test"): 1.775,
    ("tiny-shakespeare", "valid"): 2.021,
    ("tiny-shakespeare", "test"): 2.054,
}
"""Bits per character of PPMd (variant H, order 8 for War and Peace and 6 for Tiny Shakespeare:
the best ones) on a shipped corpus, by (corpus, split): what the split costs after the first 90%.
Recorded here, because Python's standard library has no PPMd."""


def _gzip(data: bytes) -> bytes:
    # wbits 31 is gzip's own file format; memory level 9 instead of zlib's default 8 is what
    # the gzip command has (War and Peace: 2.967 instead of 2.970 bpc).
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31, 9)
    return compressor.compress(data) + compressor.flush()


def _bzip2(data: bytes) -> bytes:
    import bz2  # here, as in `_xz`: a browser's Python may lack it, and needs it for nothing else

    return bz2.compress(data, 9)


def _xz(data: bytes) -> bytes:
    # xz with its "extreme" flag is no better here (Tiny Shakespeare: 2.614 instead of 2.611 bpc).
    import lzma

    return lzma.compress(data, preset=9)


_COMPRESSORS = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}


def compression_bpc(
    train_text: bytes, held_out: bytes, *, n_symbols: int | None = None
) -> dict[str, float]:
    """Return bits per symbol of `held_out` given `train_text` for "gzip", "bzip2" and "xz".

    bpc = 8 (C(train + held_out) - C(train)) / n_symbols, C = size in bytes after compression at
    the strongest setting. `n_symbols` is the number of symbols in `held_out`, if these are not
    bytes: characters, for a model of characters (the same number for ASCII text).

    What they can look back to differs: gzip 32 kB, bzip2 the current block of 900 kB, xz 64 MB.
    Takes about 1.5 s per MB of training text, most of it in xz. Raises MinitxlError for an empty
    `held_out`, or arguments that are not bytes.
    """
    for name, value in (("train_text", train_text), ("held_out", held_out)):
        if not isinstance(value, bytes):
            raise MinitxlError(
                f"{name} must be bytes, got {type(value).__name__}: use vocab.to_bytes(ids)"
            )
    n_symbols = len(held_out) if n_symbols is None else n_symbols
    if not 1 <= n_symbols <= len(held_out):
        raise MinitxlError(
            f"held_out has {len(held_out)} bytes and n_symbols={n_symbols}: "
            "both must be at least 1, and a symbol takes at least one byte"
        )
    return {
        name: 8 * (len(compress(train_text + held_out)) - len(compress(train_text))) / n_symbols
        for name, compress in _COMPRESSORS.items()
    }


def unigram_nats(train: np.ndarray, held_out: np.ndarray, n_token: int) -> float:
    """Return the price of a text, in nats per token, by the frequencies of another one's tokens.

    A model that knows no context: p(w) = (count(w) + 1) / (N + V).
    """
    counts = np.bincount(train, minlength=n_token) + 1.0
    return float(np.mean(np.log(counts.sum()) - np.log(counts)[held_out]))
