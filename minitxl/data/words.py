"""Words as tokens: a vocabulary of the words of a training text, by falling frequency.

A line is its words, as white space parts them, and then <eos>, the symbol of its end; a blank line
is <eos> alone. These are the tokens of the paper's word-level texts and of the released code.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

import numpy as np

from minitxl.data.checks import checked_ids, kind, short
from minitxl.errors import MinitxlError

EOS, UNK = "<eos>", "<unk>"

_NAMED_AT_MOST = 5  # unknown words that an error message spells out
_CHUNK = 1 << 20  # characters made into words at once: a word costs 60 bytes while it is a str


class WordVocab:
    """Words as tokens: token `i` is `symbols[i]`.

    `eos` is the symbol that stands for the end of a line, so for "\\n"; it must be among `symbols`.
    `unk` stands for every word that is not among them; where it is not there itself, such words
    are an error. Raises MinitxlError unless the symbols are different words without white space.
    """

    def __init__(self, symbols: Iterable[str], *, eos: str = EOS, unk: str = UNK):
        symbols = [] if isinstance(symbols, str) else list(symbols)
        wrong = [s for s in (*symbols, eos, unk) if not isinstance(s, str)]
        if wrong or not symbols:
            what = f"one that has a {kind(wrong[0])} in it" if wrong else "none"
            raise MinitxlError(f"a word vocabulary needs a list of str as symbols, got {what}")
        self.symbols, self.eos, self.unk = symbols, eos, unk
        self._ids = {word: i for i, word in enumerate(symbols)}
        self._check()
        self._unknown_id = self._ids.get(unk, -1)
        self._shown = list(symbols)  # as `decode` shows them
        self._shown[self._ids[eos]] = "\n"

    def _check(self) -> None:
        joined = " ".join(self.symbols)
        if joined.split() != self.symbols:
            wrong = next(word for word in self.symbols if word.split() != [word])
            raise MinitxlError(
                f"vocabulary symbol {short(wrong)} is empty or has white space in it"
            )
        try:
            joined.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MinitxlError(
                f"vocabulary symbols have {joined[error.start]!r} in them, half a surrogate pair, "
                "which UTF-8 cannot hold: leave it out"
            ) from error
        if len(self._ids) < len(self.symbols):
            twice = next(word for i, word in enumerate(self.symbols) if self._ids[word] != i)
            raise MinitxlError(f"vocabulary symbol {short(twice)} comes twice: leave one out")
        if self.eos not in self._ids:
            raise MinitxlError(
                f"the vocabulary lacks {short(self.eos)}, which is to end a line: add it, or name "
                "another symbol of the vocabulary as eos"
            )

    @classmethod
    def from_text(cls, text: str, **options) -> "WordVocab":
        """Return the vocabulary of a text; the options are those of `from_counts`."""
        index = WordIndex(options.get("eos", EOS))
        counts = np.bincount(index.ids_of_text(text), minlength=len(index.words))
        return cls.from_counts(dict(zip(index.words, counts.tolist(), strict=True)), **options)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        eos: str = EOS,
        unk: str = UNK,
        add_unk: bool = False,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> "WordVocab":
        """Return the vocabulary of words with their counts, which stand in order of occurrence.

        `eos` comes first, then the words by falling count, those of the same count as they first
        occur: the order of the released code, whose vocabularies begin `<eos>`, `the`, `,`, `.`.
        Words rarer than `min_count`, and the rarest beyond `max_size` symbols in all, are left
        out. `unk` is then a symbol with their counts as its own, so that it takes the place of
        its frequency, which an adaptive softmax relies on; also if it is in the text, or if
        `add_unk` asks for it for the sake of texts to come.
        """
        if min_count < 1 or (max_size is not None and max_size < 2):
            raise MinitxlError(
                f"min_count={min_count} must be at least 1, and max_size={max_size} at least 2"
            )
        words = {w: n for w, n in counts.items() if w not in (eos, unk) and n > 0}
        kept = {w: n for w, n in words.items() if n >= min_count}
        n_special = 1 + (add_unk or unk in counts or len(kept) < len(words))
        if max_size is not None and len(kept) + n_special > max_size:
            by_count = sorted(kept, key=kept.__getitem__, reverse=True)  # stable
            cut = set(by_count[max_size - 2 :])  # two: eos, and unk for those that go now
            kept = {w: n for w, n in kept.items() if w not in cut}
        n_unknown = counts.get(unk, 0) + sum(words.values()) - sum(kept.values())
        if n_unknown or add_unk or unk in counts:
            kept = {w: kept.get(w, n_unknown) for w in (*counts, unk) if w in kept or w == unk}
        return cls([eos, *sorted(kept, key=kept.__getitem__, reverse=True)], eos=eos, unk=unk)

    @property
    def n_token(self) -> int:
        """Number of different tokens."""
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of `text`, one-dimensional int32.

        White space parts words, and every end of a line ("\\n", "\\r\\n" or "\\r") is `eos`. A last
        line that does not end, such as a prompt to be continued, gets none; the files of a corpus
        are read by `WordIndex.ids_of_file`, which ends it as the released code does. Unknown words
        become `unk`, if the vocabulary has it; else MinitxlError names them and their places.
        """
        if not isinstance(text, str):
            raise MinitxlError(f"a word vocabulary encodes str, got {kind(text)}: decode it first")
        parts, unknown, n = [], {}, 0
        for words in _words(_slices(text), self.eos):
            ids = np.fromiter(
                map(self._ids.get, words, repeat(self._unknown_id)), np.int32, len(words)
            )
            if self._unknown_id < 0:
                for i in np.flatnonzero(ids < 0).tolist():
                    unknown.setdefault(words[i], n + i)
            parts.append(ids)
            n += len(words)
        if unknown:
            raise MinitxlError(self._lacks(unknown))
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def _lacks(self, unknown: dict[str, int]) -> str:
        first = list(unknown.items())[:_NAMED_AT_MOST]
        named = ", ".join(f"{short(word)} at word {place}" for word, place in first)
        more = len(unknown) - len(first)
        return (
            f"the text has {len(unknown)} word(s) that the vocabulary of {self.n_token} lacks: "
            f"{named}{f' and {more} more' if more else ''} (words count from 0): replace them, or "
            f"use a vocabulary that has {self.unk}"
        )

    def decode(self, ids) -> str:
        """Return the text of a one-dimensional sequence of token ids, each in [0, n_token).

        `eos` becomes "\\n", and one space stands between two words of a line: text whose lines have
        single spaces, and none at their ends, comes back from its ids as it was.
        """
        words = map(self._shown.__getitem__, checked_ids(ids, self.n_token).tolist())
        # No symbol has white space in it, so spaces beside a newline are the joints.
        return " ".join(words).replace(" \n", "\n").replace("\n ", "\n")

    def to_bytes(self, ids) -> bytes:
        """Return the text of `ids` as UTF-8 bytes: what a compressor would be given."""
        return self.decode(ids).encode("utf-8")

    def decoder(self) -> "WordDecoder":
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return WordDecoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON.

        The symbols are one text with spaces between them: 267,735 words are read and written as
        JSON in milliseconds.
        """
        symbols = " ".join(self.symbols)
        return {"type": "word", "symbols": symbols, "eos": self.eos, "unk": self.unk}

    @classmethod
    def from_dict(cls, d: dict) -> "WordVocab":
        """Return the vocabulary that `to_dict` described."""
        if not isinstance(d["symbols"], str):
            raise MinitxlError(
                f"the symbols of a stored word vocabulary must be one str with a space between "
                f"words, got {kind(d['symbols'])}: damaged file?"
            )
        return cls(d["symbols"].split(" "), eos=d["eos"], unk=d["unk"])

    def __eq__(self, other) -> bool:
        return isinstance(other, WordVocab) and (
            (self.symbols, self.eos, self.unk) == (other.symbols, other.eos, other.unk)
        )

    def __hash__(self) -> int:
        return hash((tuple(self.symbols), self.eos, self.unk))

    def __repr__(self) -> str:
        return f"WordVocab({short(self.symbols[:5])}, n_token={self.n_token})"


class WordDecoder:
    """Text from one token id after another: all that `feed` returns is `decode` of all ids."""

    def __init__(self, vocab: WordVocab):
        self._vocab = vocab
        self._after_word = False

    def feed(self, token_id: int) -> str:
        """Return the word, behind a space if it follows another one, or the end of the line."""
        text = self._vocab.decode([token_id])
        is_word = text != "\n"
        gap = " " if is_word and self._after_word else ""
        self._after_word = is_word
        return gap + text

    def flush(self) -> str:
        """Return "": a word is complete at once."""
        return ""


class WordIndex:
    """Numbers words as they first occur, while a text is read, once, as a stream.

    The vocabulary, which needs the counts of the whole training text, comes later; `new_ids` then
    translates. `both_ends` puts `eos` in front of every line as well.
    """

    def __init__(self, eos: str = EOS, *, both_ends: bool = False):
        self.eos, self._both_ends = eos, both_ends
        self._index: defaultdict[str, int] = defaultdict()
        self._index.default_factory = self._index.__len__  # a new word gets the next number

    @property
    def words(self) -> list[str]:
        """All words so far, in order of occurrence."""
        return list(self._index)

    def ids_of_file(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the numbers of a file's words, uint32, block by block; its last line ends too."""
        for words in _words(_ended(texts), self.eos, both_ends=self._both_ends):
            yield self._ids(words)

    def ids_of_text(self, text: str) -> np.ndarray:
        """Return the numbers of the words of a text, one-dimensional uint32; see `encode`."""
        parts = map(self._ids, _words(_slices(text), self.eos))
        return np.concatenate([np.zeros(0, np.uint32), *parts])

    def _ids(self, words: list[str]) -> np.ndarray:
        return np.fromiter(map(self._index.__getitem__, words), np.uint32, len(words))

    def counts(self, blocks: Iterable[np.ndarray]) -> dict[str, int]:
        """Return how often each word is in a text given as blocks of its numbers."""
        total = np.zeros(len(self._index), dtype=np.int64)
        for ids in blocks:
            total += np.bincount(ids, minlength=total.size)
        return dict(zip(self._index, total.tolist(), strict=True))

    def new_ids(self, vocab: WordVocab) -> np.ndarray:
        """Return the id in `vocab` of each word: new_ids[number], (n_words,) int32."""
        return vocab.encode(" ".join(self._index))


def _slices(text: str) -> Iterator[str]:
    return (text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))


def _ended(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, and an end of the line where the last one lacks it."""
    last = "\n"
    for text in texts:
        yield text
        last = text[-1:] or last
    if last != "\n":  # behind "\r" it makes one end with it
        yield "\n"


def _words(texts: Iterable[str], eos: str, *, both_ends: bool = False) -> Iterator[list[str]]:
    """Yield the words and `eos` of a text that comes in parts, cut anywhere."""
    for text in _whole_words(texts, at_spaces=not both_ends):
        if both_ends:  # whole lines: each gets a second end, in front
            text = "\n" + text.removesuffix("\n").replace("\n", "\n\n") + "\n"
        yield text.replace("\n", f" {eos} ").split()


def _whole_words(texts: Iterable[str], *, at_spaces: bool) -> Iterator[str]:
    """Cut a text anew, behind ends of lines (or spaces), with "\\n" for all ends of lines."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    rest: list[str] = []
    for text in texts:
        text = newlines.decode(text)
        end = max(text.rfind("\n"), text.rfind(" ") if at_spaces else -1) + 1
        if end:
            yield "".join([*rest, text[:end]])
            rest = []
        rest.append(text[end:])
    last = "".join(rest) + newlines.decode("", final=True)
    if last:
        yield last
