"""Contiguous streams: how a recurrent model is fed.

A text is cut into `batch_size` rows of equal length that are read side by side. Row b of one
batch goes on exactly where row b of the batch before it ended: the memory that the model kept
of the last segment is then truly the past of this one.

    the text      abcdefghijklm          batch_size=2, tgt_len=3
    row 0         abc def                targets bcd efg
    row 1         ghi jkl                targets hij klm

A text of several documents may be told where each begins (`documents.py`): then every row forgets
where its own document ends, and the others read on.
"""

import operator
import zlib
from collections.abc import Iterator

import numpy as np

from minitxl.data.documents import checked_starts, position_ids
from minitxl.errors import MinitxlError

_CHUNK = 1 << 20


class Stream:
    """Endless training batches over `tokens`, a one-dimensional array of integer ids.

    Each row has batches_per_epoch * tgt_len tokens, and row b + 1 starts where row b ends. The
    last tokens of the text, fewer than batch_size * tgt_len, fill no batch and are not used.
    With ext_len a batch begins that many tokens earlier, where there are some, and so has more
    tokens than targets: the targets are those of its last tgt_len positions. document_starts, such
    as `np.flatnonzero(tokens == eos) + 1`: where documents begin, of which no other may be seen.

    `epoch` is the number of completed passes, `batches_per_epoch` the number of batches in one.
    Raises MinitxlError when the text has fewer than batch_size * tgt_len + 1 tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        batch_size: int,
        tgt_len: int,
        ext_len: int = 0,
        document_starts=None,
    ):
        self.ext_len = ext_len
        self.batch_size = _positive("batch_size", batch_size)
        self.tgt_len = _positive("tgt_len", tgt_len)
        self._tokens = one_dimensional(tokens)
        # Every input needs the token after it as its target, hence the "- 1".
        self.batches_per_epoch = (self.n_tokens - 1) // (self.batch_size * self.tgt_len)
        if self.batches_per_epoch < 1:
            raise MinitxlError(
                f"the text has {self.n_tokens} tokens, one batch of batch_size={self.batch_size} "
                f"times tgt_len={self.tgt_len} needs {self.batch_size * self.tgt_len + 1}: "
                "use a longer text, or a smaller batch_size or tgt_len"
            )
        self._inputs, self._targets = _rows(
            self._tokens, self.batch_size, self.batches_per_epoch * self.tgt_len
        )
        self._starts = _checked_starts(document_starts, self.n_tokens)
        self._position = 0  # of the next batch in its epoch, in [0, batches_per_epoch)
        self.epoch = 0
        self._crc32: int | None = None

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the whole text."""
        return self._tokens.size

    def next(self) -> tuple:
        """Return (tokens, targets, fresh): two (B, T) int32 arrays and whether to forget.

        targets[b, -t] is the token that follows tokens[b, -t]. `fresh` is True for the first batch
        of every epoch: nothing before it belongs to these rows, so memories must start empty.
        With document_starts a fourth comes with them, the position_ids (B, T) of the tokens, as
        `model.forward` takes them: `trainer.step(*stream.next())`.
        """
        start = self._position * self.tgt_len
        window = slice(start, start + self.tgt_len)
        read = slice(max(0, start - self.ext_len), window.stop)
        batch = self._inputs[:, read].astype(np.int32)  # (B, L) -> (B, ext_len + T)
        targets = self._targets[:, window].astype(np.int32)  # (B, L) -> (B, T)
        fresh = self._position == 0
        self._position += 1
        if self._position == self.batches_per_epoch:
            self._position = 0
            self.epoch += 1
        places = _position_ids(self._starts, read, batch.shape, self._inputs.shape[1])
        return batch, targets, fresh, *places

    def state(self) -> dict:
        """Return the exact place in the text as JSON-able integers, with what it is valid for."""
        return {"position": self._position, "epoch": self.epoch, **self._identity()}

    def set_state(self, state: dict) -> None:
        """Go to the place that `state()` told, so that the next batch is the same one.

        Raises MinitxlError, and changes nothing, where the state belongs to a stream of another
        batch_size, tgt_len or text, or is damaged.
        """
        identity = self._identity()
        expected = {"position", "epoch", *identity}
        if not isinstance(state, dict) or set(state) != expected:
            found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise MinitxlError(
                f"a stream's state needs the keys {sorted(expected)}, got {str(found)[:80]!r}: "
                "take it from Stream.state()"
            )
        for key, value in state.items():
            # bool is an int to Python, and True would pass for position 1.
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
                raise MinitxlError(
                    f"a stream's state has {key}={repr(value)[:40]}, which must be an integer "
                    "from 0 to 2**63 - 1: the checkpoint is damaged"
                )
        for key in ("batch_size", "tgt_len", "n_tokens"):
            if state[key] != identity[key]:
                raise MinitxlError(
                    f"the stream was saved with {key}={state[key]}, "
                    f"this one has {key}={identity[key]}: resume with the same text and sizes"
                )
        if state["crc32"] != identity["crc32"]:
            raise MinitxlError(
                f"the text has changed since the stream was saved (its crc32 was "
                f"{state['crc32']}, is now {identity['crc32']}): resume with the same text, "
                "or start anew"
            )
        if state.get("documents") != identity.get("documents"):
            raise MinitxlError(
                "the stream was saved with documents that began elsewhere: resume with the same "
                "document_starts"
            )
        if state["position"] >= self.batches_per_epoch:
            raise MinitxlError(
                f"a stream's state has position={state['position']}, an epoch has "
                f"{self.batches_per_epoch} batches: the checkpoint is damaged"
            )
        self._position = state["position"]
        self.epoch = state["epoch"]

    def _identity(self) -> dict:
        if self._crc32 is None:
            self._crc32 = _checksum(self._tokens)
        documents = {} if self._starts is None else {"documents": _checksum(self._starts)}
        return {
            "batch_size": self.batch_size,
            "tgt_len": self.tgt_len,
            "n_tokens": self.n_tokens,
            "crc32": self._crc32,
            **documents,
        }


def segments(
    tokens: np.ndarray, *, batch_size: int, tgt_len: int, ext_len: int = 0, document_starts=None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Return an iterator over the whole text once, for evaluation: (tokens, targets) pairs.

    Both are (B, T) int32, the last pair (B, T') with 1 <= T' <= T; with ext_len the tokens begin
    that many earlier, where there are some. Each token of the text is a
    target exactly once, except its very first one, which nothing precedes, and a remainder of
    fewer than batch_size tokens at the end: with batch_size=1 there is none. Memories start
    empty and go from each pair to the next, so a larger batch_size is faster but has more rows
    whose first tokens lack their past. With document_starts the position_ids of the tokens come as
    a third. Raises MinitxlError for fewer than batch_size + 1 tokens.
    """
    batch_size = _positive("batch_size", batch_size)
    tgt_len = _positive("tgt_len", tgt_len)
    tokens = one_dimensional(tokens)
    row_len = (tokens.size - 1) // batch_size
    if row_len < 1:
        raise MinitxlError(
            f"the text has {tokens.size} tokens, batch_size={batch_size} rows need at least "
            f"{batch_size + 1}: use a longer text or a smaller batch_size"
        )
    inputs, targets = _rows(tokens, batch_size, row_len)
    starts = _checked_starts(document_starts, tokens.size)

    def segment(start: int):
        read = slice(max(0, start - ext_len), start + tgt_len)
        x = inputs[:, read].astype(np.int32)  # (B, L) -> (B, T)
        y = targets[:, start : start + tgt_len].astype(np.int32)
        return x, y, *_position_ids(starts, read, x.shape, row_len)

    return map(segment, range(0, row_len, tgt_len))  # lazy; the checks above run at the call


def _rows(tokens: np.ndarray, batch_size: int, row_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Return views (inputs, targets), (B, L) each; targets are the text one token later."""
    used = batch_size * row_len
    inputs = tokens[:used].reshape(batch_size, row_len)  # (B * L,) -> (B, L)
    targets = tokens[1 : used + 1].reshape(batch_size, row_len)  # (B * L,) -> (B, L)
    return inputs, targets


def _checked_starts(document_starts, n_tokens: int) -> np.ndarray | None:
    return None if document_starts is None else checked_starts(document_starts, n_tokens)


def _position_ids(starts, read: slice, shape: tuple[int, int], row_len: int) -> tuple:
    """Return the places (B, T) of these columns of all rows in their documents; () without any."""
    if starts is None:
        return ()
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return (position_ids(rows * row_len + read.start + columns, starts),)


def _positive(name: str, value) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise MinitxlError(f"{name} must be an integer of 1 or more, got {repr(value)[:40]}")
    return number


def one_dimensional(tokens) -> np.ndarray:
    """Return the ids of a text as an array, not copied where it is one; or raise MinitxlError."""
    try:
        tokens = np.asarray(tokens)
    except (TypeError, ValueError):
        tokens = np.asarray("rows of different length")
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise MinitxlError(
            f"tokens must be a one-dimensional array of integers, got shape {tokens.shape} of "
            f"{tokens.dtype}: encode the text with a vocabulary first"
        )
    return tokens


def _checksum(tokens: np.ndarray) -> int:
    """Return a crc32 that does not depend on the dtype the ids happen to be stored in."""
    crc = 0
    for start in range(0, tokens.size, _CHUNK):
        crc = zlib.crc32(tokens[start : start + _CHUNK].astype("<i4").tobytes(), crc)
    return crc
