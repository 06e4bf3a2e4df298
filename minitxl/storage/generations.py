"""The newest checkpoint of a run and the one before it, which is used where the newest is damaged.

    last.safetensors         the newest
    last.older.safetensors   the one that it replaced

A disk can lose a file that was written well. Then the run goes on from the older one, with a word;
that it comes to the same bits holds from whichever checkpoint it goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from minitxl.errors import MinitxlError, MinitxlWarning
from minitxl.storage import checkpoint

NEWEST, OLDER = "last.safetensors", "last.older.safetensors"


def has_newest(folder: Path) -> bool:
    """Say whether there is a checkpoint to go on from, whole or not."""
    return any((folder / name).exists() for name in (NEWEST, OLDER))


def save_newest(folder: Path, arrays: Mapping, state: dict, *, keep: bool = True) -> None:
    """Write the newest checkpoint; keep: the one before it becomes the older one."""
    checkpoint.save(folder / NEWEST, arrays, state, OLDER if keep else None)


def load_newest(folder: Path) -> tuple[dict, dict, bool]:
    """Return arrays and state of the newest checkpoint that is whole, and whether it is the newest.

    Warns where it is the older one; MinitxlError where neither is whole.
    """
    try:
        return *checkpoint.load(folder / NEWEST), True
    except MinitxlError as error:
        damaged = error
    if not (folder / OLDER).exists():
        raise damaged
    try:
        arrays, state = checkpoint.load(folder / OLDER)
    except MinitxlError as error:
        raise MinitxlError(f"{damaged}; and the one before it: {error}") from error
    warnings.warn(
        f"{damaged}; the one before it is used, {OLDER} of step {state.get('n_step')}",
        MinitxlWarning,
        stacklevel=2,
    )
    return arrays, state, False
