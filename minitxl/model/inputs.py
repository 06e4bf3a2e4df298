"""What a model refuses to read: ids, targets and memories that do not fit, each in one line."""

from __future__ import annotations

from collections.abc import Sequence

from minitxl.backend import Backend
from minitxl.config import Config
from minitxl.errors import MinitxlError


def checked_ids(ids, name: str, n_token: int, xp):
    """Return ids (B, T), where they are, or raise MinitxlError for what no model can read.

    Their range is looked at on the host only: a GPU would have to be waited for.
    """
    if not hasattr(ids, "shape"):
        ids = xp.asarray(ids)  # a nested list
    shape = tuple(ids.shape)
    if len(shape) != 2 or 0 in shape:
        raise MinitxlError(f"{name} has shape {shape}; it must be (B, T), both at least 1")
    if "int" not in str(ids.dtype):
        raise MinitxlError(f"{name} is of type {ids.dtype}; token ids must be integers")
    if hasattr(ids, "__array_interface__"):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= n_token:
            raise MinitxlError(
                f"{name} holds ids from {low} to {high}, the model knows 0 to {n_token - 1}; use "
                "the vocabulary it was trained with"
            )
    return ids


def check_targets(tokens: tuple, targets: tuple) -> None:
    """Raise MinitxlError where the shapes (B, S) of targets and (B, T) of tokens do not fit."""
    if targets[0] != tokens[0] or targets[1] > tokens[1]:
        raise MinitxlError(
            f"targets has shape {targets}, tokens {tokens}; they must match, or the targets be "
            "shorter: targets are the tokens one step later, of the last positions"
        )


def check_mems(mems: Sequence, batch_size: int, config: Config, backend: Backend) -> None:
    """Raise MinitxlError where memories do not fit the model or the batch."""
    if len(mems) != config.n_layer:
        raise MinitxlError(
            f"mems holds {len(mems)} arrays, the model has {config.n_layer} layers: they come from "
            "another model; start with mems=None"
        )
    if any(not hasattr(mem, "shape") for mem in mems):
        raise MinitxlError("mems holds something that is no array; start with mems=None")
    length = mems[0].shape[1] if len(mems[0].shape) == 3 else -1
    for n, mem in enumerate(mems):
        if len(mem.shape) != 3 or mem.shape[1] != length:
            raise MinitxlError(
                f"mems[{n}] has shape {tuple(mem.shape)}, it must be (B, M, D) with one M for "
                "all layers; start with mems=None"
            )
        if mem.shape[2] != config.d_model:
            raise MinitxlError(
                f"mems[{n}] has d_model={mem.shape[2]}, the model has {config.d_model}: they come "
                "from another checkpoint; start with mems=None"
            )
        if mem.dtype != backend.dtype:
            raise MinitxlError(
                f"mems[{n}] is of type {mem.dtype}, the model of {backend.dtype_name}: they come "
                "from another model; start with mems=None"
            )
        if mem.shape[0] != batch_size:
            raise MinitxlError(
                f"mems[{n}] has batch size {mem.shape[0]}, tokens has {batch_size}: row b of a "
                "batch must continue row b of the one before; start with mems=None"
            )
    if length > config.mem_len:
        raise MinitxlError(
            f"mems hold {length} tokens, the model has mem_len={config.mem_len}: cut them to their "
            "last rows, or start with mems=None"
        )
