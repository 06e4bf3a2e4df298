"""Is a file the one that others have vouched for?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from minitxl.errors import MinitxlError


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
