"""Vocabularies: symbols of text to token ids and back.

Two of them, because one serves readability and the other generality: characters (small, and a
picture of the model can label its keys) and bytes (256 ids, any file at all).
"""

import codecs

import numpy as np

from minitxl.errors import MinitxlError

_NAMED_AT_MOST = 5  # unknown symbols that an error message spells out


class CharVocab:
    """Characters as tokens: token `i` is the i-th of `symbols`, which stand in Unicode order.

    Raises MinitxlError unless `symbols` is a non-empty str in strictly ascending order, which
    also makes every character unique. `CharVocab.from_text` sorts for you.
    """

    def __init__(self, symbols: str):
        if not isinstance(symbols, str) or not symbols:
            raise MinitxlError(
                f"a character vocabulary needs a non-empty str of symbols, got {_short(symbols)}"
            )
        codes = _codepoints(symbols)
        disorder = np.flatnonzero(codes[1:] <= codes[:-1])
        if disorder.size:
            i = int(disorder[0])
            raise MinitxlError(
                f"vocabulary symbols must be unique and in ascending order, but {symbols[i + 1]!r} "
                f"follows {symbols[i]!r} at position {i + 1}: use CharVocab.from_text(text)"
            )
        # Half a surrogate pair cannot be written to any UTF-8 file or terminal.
        surrogates = np.flatnonzero((codes >= 0xD800) & (codes < 0xE000))
        if surrogates.size:
            raise MinitxlError(
                f"vocabulary symbol {symbols[int(surrogates[0])]!r} is half a surrogate pair, "
                "not a character: leave it out"
            )
        self.symbols = symbols
        self._codes = codes
        # A table over code points costs at most 4.5 MB and makes encoding one indexing step.
        self._ids = np.full(int(codes[-1]) + 1, -1, dtype=np.int32)
        self._ids[codes] = np.arange(codes.size, dtype=np.int32)

    @classmethod
    def from_text(cls, text: str) -> "CharVocab":
        """Return the vocabulary of every character that occurs in `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def n_token(self) -> int:
        """Number of different tokens."""
        return self._codes.size

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of `text`, (len(text),) int32.

        Raises MinitxlError naming the characters that the vocabulary lacks and where they stand.
        """
        if not isinstance(text, str):
            raise MinitxlError(
                f"a character vocabulary encodes str, got {type(text).__name__}: "
                'decode it first, or use level="byte"'
            )
        codes = _codepoints(text)
        # Code points beyond the table share its last entry, then are marked as unknown.
        ids = self._ids[np.minimum(codes, self._ids.size - 1)]
        ids[codes >= self._ids.size] = -1
        if ids.size and ids.min() < 0:
            raise MinitxlError(self._unknown(codes, np.flatnonzero(ids < 0)))
        return ids

    def _unknown(self, codes: np.ndarray, positions: np.ndarray) -> str:
        lacking, first = np.unique(codes[positions], return_index=True)
        order = np.argsort(first)[:_NAMED_AT_MOST]  # as met in the text
        named = ", ".join(f"{chr(lacking[k])!r} at position {positions[first[k]]}" for k in order)
        more = lacking.size - order.size
        return (
            f"the text has {lacking.size} symbol(s) that the vocabulary of {self.n_token} lacks: "
            f"{named}{f' and {more} more' if more else ''} (positions count from 0): "
            "replace them, or train on a text that has them"
        )

    def decode(self, ids) -> str:
        """Return the text of a one-dimensional sequence of token ids, each in [0, n_token)."""
        return self._codes[_checked_ids(ids, self.n_token)].tobytes().decode("utf-32-le")

    def to_bytes(self, ids) -> bytes:
        """Return the text of `ids` as UTF-8 bytes: what a compressor would be given."""
        return self.decode(ids).encode("utf-8")

    def decoder(self) -> "Decoder":
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return Decoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON."""
        return {"type": "char", "symbols": self.symbols}

    def __eq__(self, other) -> bool:
        return isinstance(other, CharVocab) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        return f"CharVocab({_short(self.symbols)}, n_token={self.n_token})"


class ByteVocab:
    """Bytes as tokens: token `i` is the byte of value `i`, so nothing is ever unknown."""

    n_token = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return the token ids of bytes, or of the UTF-8 form of a str, (n_bytes,) int32."""
        if isinstance(text, str):
            try:
                text = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise MinitxlError(
                    f"the text has {text[error.start]!r} at position {error.start} (from 0), half "
                    "a surrogate pair, which UTF-8 cannot hold: leave it out, or pass bytes"
                ) from error
        if not isinstance(text, bytes | bytearray | memoryview):
            raise MinitxlError(f"a byte vocabulary encodes str or bytes, got {_kind(text)}")
        return np.frombuffer(text, dtype=np.uint8).astype(np.int32)

    def decode(self, ids) -> str:
        """Return the text of token ids; what is not UTF-8 becomes U+FFFD, the replacement mark."""
        return self.to_bytes(ids).decode("utf-8", errors="replace")

    def to_bytes(self, ids) -> bytes:
        """Return the bytes of a one-dimensional sequence of token ids, exactly."""
        return _checked_ids(ids, self.n_token).astype(np.uint8).tobytes()

    def decoder(self) -> "Decoder":
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return Decoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON."""
        return {"type": "byte"}

    def __eq__(self, other) -> bool:
        return isinstance(other, ByteVocab)

    def __hash__(self) -> int:
        return hash(ByteVocab)

    def __repr__(self) -> str:
        return "ByteVocab()"


class Decoder:
    """Text from one token id after another: all that `feed` returns, then `flush`, is `decode`.

    A character of several bytes appears with its last byte; until then `feed` returns "".
    """

    def __init__(self, vocab: CharVocab | ByteVocab):
        self._vocab = vocab
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Return the text that is complete with this token: often one character, maybe none."""
        return self._utf8.decode(self._vocab.to_bytes([token_id]))

    def flush(self) -> str:
        """Return the replacement mark of a character cut short at the end, or ""."""
        return self._utf8.decode(b"", final=True)


def vocab_from_dict(d: dict) -> CharVocab | ByteVocab:
    """Return the vocabulary that `to_dict` described; anything else raises MinitxlError."""
    if not isinstance(d, dict):
        raise MinitxlError(f"a stored vocabulary must be a dict, got {_kind(d)}: damaged file?")
    kind = d.get("type")
    if kind == "byte" and set(d) == {"type"}:
        return ByteVocab()
    if kind == "char" and set(d) == {"type", "symbols"}:
        return CharVocab(d["symbols"])
    raise MinitxlError(
        f"a stored vocabulary of type {_short(kind)} with the keys {_short(sorted(map(str, d)))} "
        'is unknown: expected {"type": "byte"} or {"type": "char", "symbols": ...}'
    )


def _codepoints(text: str) -> np.ndarray:
    """Return the code points of `text`, (len(text),) little-endian uint32."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def _checked_ids(ids, n_token: int) -> np.ndarray:
    """Return `ids` as a one-dimensional integer array whose values lie in [0, n_token)."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise MinitxlError(
            f"token ids must be a one-dimensional sequence of integers, got shape {array.shape} "
            f"of {array.dtype}: decode one row at a time"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_token:
        raise MinitxlError(
            f"token id {low if low < 0 else high} is outside the vocabulary of {n_token} "
            f"(ids 0 to {n_token - 1}): it comes from another vocabulary"
        )
    return array


def _kind(value) -> str:
    return type(value).__name__


def _short(value) -> str:
    """Return a one-line repr of at most 60 characters: error messages must stay readable."""
    text = repr(value[:60] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= 60 else text[:57] + "..."
