"""Vocabularies: symbols of text to token ids and back.

Characters serve readability (small, and a picture of the model can label its keys), bytes serve
generality (256 ids, any file at all); words have a module of their own.
"""

import codecs

import numpy as np

from minitxl.data.checks import checked_ids, kind, short
from minitxl.data.tokens import NumberVocab, TokenVocab, Vocabulary, as_tokens
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError

_NAMED_AT_MOST = 5  # unknown symbols that an error message spells out
_ALL_BYTES = bytes(range(256))


class CharVocab:
    """Characters as tokens: token `i` is the i-th of `symbols`, which stand in Unicode order.

    Raises MinitxlError unless `symbols` is a non-empty str in strictly ascending order, which
    also makes every character unique. `CharVocab.from_text` sorts for you.
    """

    def __init__(self, symbols: str):
        if not isinstance(symbols, str) or not symbols:
            raise MinitxlError(
                f"a character vocabulary needs a non-empty str of symbols, got {short(symbols)}"
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
        return self._codes[checked_ids(ids, self.n_token)].tobytes().decode("utf-32-le")

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
        return f"CharVocab({short(self.symbols)}, n_token={self.n_token})"


class ByteVocab:
    """Bytes as tokens: token `i` is the byte `values[i]`, so with all 256 nothing is unknown.

    `values` are the bytes that a text has, in ascending order, where a model is to predict no
    others: enwik8 has 205 of them. Raises MinitxlError unless they are in that order.
    """

    def __init__(self, values: bytes = _ALL_BYTES):
        if not isinstance(values, bytes) or not values or bytes(sorted(set(values))) != values:
            raise MinitxlError(
                f"a byte vocabulary needs different bytes in ascending order, got {short(values)}: "
                "use bytes(sorted(set(text)))"
            )
        self.values = values
        self._bytes = np.frombuffer(values, dtype=np.uint8)
        self._ids = np.full(256, -1, dtype=np.int32)
        self._ids[self._bytes] = np.arange(self.n_token, dtype=np.int32)

    @property
    def n_token(self) -> int:
        """Number of different tokens."""
        return len(self.values)

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
            raise MinitxlError(f"a byte vocabulary encodes str or bytes, got {kind(text)}")
        text = np.frombuffer(text, dtype=np.uint8)
        ids = self._ids[text]
        if ids.size and ids.min() < 0:
            place = int(np.argmax(ids < 0))
            raise MinitxlError(
                f"the text has the byte 0x{text[place]:02x} at position {place} (from 0), but it "
                f"is none of the {self.n_token} of the vocabulary: replace it, or train on a text "
                "that has it"
            )
        return ids

    def decode(self, ids) -> str:
        """Return the text of token ids; what is not UTF-8 becomes U+FFFD, the replacement mark."""
        return self.to_bytes(ids).decode("utf-8", errors="replace")

    def to_bytes(self, ids) -> bytes:
        """Return the bytes of a one-dimensional sequence of token ids, exactly."""
        return self._bytes[checked_ids(ids, self.n_token)].tobytes()

    def decoder(self) -> "Decoder":
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return Decoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON."""
        some = {} if self.values == _ALL_BYTES else {"values": list(self.values)}
        return {"type": "byte", **some}

    def __eq__(self, other) -> bool:
        return isinstance(other, ByteVocab) and self.values == other.values

    def __hash__(self) -> int:
        return hash((ByteVocab, self.values))

    def __repr__(self) -> str:
        return "ByteVocab()" if self.values == _ALL_BYTES else f"ByteVocab(n_token={self.n_token})"


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


Known = CharVocab | ByteVocab | WordVocab | TokenVocab | NumberVocab
"""The vocabularies that run.json can hold; see `data/tokens.py` for others."""


def stored_vocab(vocab: Vocabulary) -> dict:
    """Return what `vocab_from_dict` needs, as plain JSON; MinitxlError for no vocabulary."""
    return (vocab if isinstance(vocab, Known) else as_tokens(vocab)).to_dict()


def level_of(vocab: Vocabulary) -> str:
    """Return what a token of a vocabulary is: "char", "byte", "word" or "token"."""
    kinds = {CharVocab: "char", ByteVocab: "byte", WordVocab: "word"}
    return next((level for known, level in kinds.items() if isinstance(vocab, known)), "token")


def vocab_from_dict(d: dict) -> Known:
    """Return the vocabulary that `to_dict` described; anything else raises MinitxlError."""
    if not isinstance(d, dict):
        raise MinitxlError(f"a stored vocabulary must be a dict, got {kind(d)}: damaged file?")
    match d.get("type"), set(d) - {"type"}:
        case "byte", keys if not keys:
            return ByteVocab()
        case "byte", keys if keys == {"values"}:
            return ByteVocab(_bytes_of(d["values"]))
        case "char", keys if keys == {"symbols"}:
            return CharVocab(d["symbols"])
        case "word", keys if keys == {"symbols", "eos", "unk"}:
            return WordVocab.from_dict(d)
        case "token", keys if keys == {"symbols", "spaced"}:
            return TokenVocab(d["symbols"], d["spaced"])
        case "number", keys if keys == {"n_token"}:
            return NumberVocab(d["n_token"])
    raise MinitxlError(
        f"a stored vocabulary of type {short(d.get('type'))} with the keys "
        f"{short(sorted(map(str, d)))} is unknown: expected what stored_vocab returns"
    )


def _bytes_of(values) -> bytes:
    whole = isinstance(values, list) and all(type(v) is int and 0 <= v < 256 for v in values)
    if not whole or len(values) == 256:  # all of them are told by leaving the list out
        raise MinitxlError(
            f"the values of a stored byte vocabulary must be fewer than 256 whole numbers from 0 "
            f"to 255, got {short(values)}: damaged file?"
        )
    return bytes(values)


def _codepoints(text: str) -> np.ndarray:
    """Return the code points of `text`, (len(text),) little-endian uint32."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
