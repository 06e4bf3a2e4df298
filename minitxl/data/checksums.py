"""Is a file the one that others have vouched for, and a text the one that it was?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from minitxl.data.vocab import stored_vocab
from minitxl.errors import MinitxlError

_CHUNK = 1 << 20  # ids at once


def check_file(path: Path, n_bytes: int | None, checksum: str, way_out: str) -> None:
    """Raise MinitxlError, with both values and the way out, unless the file is the expected one.

    n_bytes: its size, None if that is not known; checksum: "sha256:..." or "md5:...".
    """
    size = path.stat().st_size
    if n_bytes is not None and size != n_bytes:
        raise MinitxlError(f"{path} has {size:,} bytes, the real one has {n_bytes:,}: {way_out}")
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        # usedforsecurity: a strict OpenSSL refuses MD5, which two sets have and nothing better
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    found = digest.hexdigest()
    if found != expected:
        raise MinitxlError(f"{path} has {algorithm} {found}, expected {expected}: {way_out}")


def text_checksum(corpus) -> str:
    """Return a sha256 of a `Corpus`: of its vocabulary and of all ids, wherever they are stored."""
    digest = hashlib.sha256(json.dumps(stored_vocab(corpus.vocab)).encode("ascii"))
    for ids in (corpus.train, corpus.valid, corpus.test):
        digest.update(f" {ids.size} ".encode())
        for start in range(0, ids.size, _CHUNK):
            digest.update(ids[start : start + _CHUNK].astype("<i4").tobytes())
    return digest.hexdigest()
