"""Words as tokens: a line as the released code reads it, the order of a vocabulary, round trips."""

import json
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitxl.data import ByteVocab, WordVocab, load_corpus, vocab_from_dict, words
from minitxl.data.words import WordIndex
from minitxl.errors import MinitxlError

fuzz = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
a_word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
    lambda w: w.split() == [w]
)
lines = st.lists(st.lists(a_word, max_size=5).map(" ".join), max_size=6)
raw_text = st.text(st.sampled_from("ab \n\r\t\x0b\x1c\u2028\u3000é"), max_size=40)


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(MinitxlError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 1000, message
    return message


def released(path) -> list[str]:
    """A file's tokens as the released code for WikiText reads them."""
    with open(path, encoding="utf-8") as file:
        return [symbol for line in file for symbol in [*line.strip().split(), "<eos>"]]


def read(texts, **options) -> list[str]:
    """A file's tokens as we read them."""
    index = WordIndex(**options)
    numbers = [i for block in index.ids_of_file(texts) for i in block]
    return [index.words[i] for i in numbers]


# --- reading ---


def test_lines_by_hand():
    assert read([" \n = Title = \n \nTwo  words\n"]) == [
        *("<eos>", "=", "Title", "=", "<eos>", "<eos>", "Two", "words", "<eos>")
    ]
    assert read(["a\nb"]) == read(["a\n", "b\n"]) == ["a", "<eos>", "b", "<eos>"]
    assert read(["a\r", "\nb\r"]) == ["a", "<eos>", "b", "<eos>"]
    assert read([]) == read([""]) == [] and read(["\n"]) == ["<eos>"]


def test_both_ends_of_a_line():
    wanted = "<S> a b <S> <S> c <S> <S> <S>".split()
    assert read(["a b\nc\n\n"], eos="<S>", both_ends=True) == wanted
    assert read(["a ", "b", "\nc", "\n\n"], eos="<S>", both_ends=True) == wanted
    assert read(["a ", "b"], eos="<S>", both_ends=True) == ["<S>", "a", "b", "<S>"]


@fuzz
@given(text=raw_text, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_a_file_is_read_as_by_the_released_code(tmp_path, text, cuts):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    ends = [0, *sorted(cuts), len(text)]
    parts = [text[a:b] for a, b in pairwise(ends)]
    assert read(parts) == released(path)
    each = [[*line.split(), "<eos>"] for line in released_lines(path)]
    assert read(parts, both_ends=True) == [s for line in each for s in ["<eos>", *line]]


def released_lines(path):
    with open(path, encoding="utf-8") as file:
        return list(file)


# --- the vocabulary's order ---


def test_order_by_hand():
    text = "b a\nb a c\nc d\n"
    assert WordVocab.from_text(text).symbols == ["<eos>", "b", "a", "c", "d"]
    assert WordVocab.from_text("x\n" * 9 + "a <unk> <unk>\n").symbols[:3] == ["<eos>", "x", "<unk>"]


@fuzz
@given(text=st.lists(st.sampled_from("abcdefg"), max_size=60))
def test_order_is_that_of_most_common(text):
    """Ties: as they first occur, which is what Counter does and so the released code."""
    expected = ["<eos>", *(word for word, _ in Counter(text).most_common())]
    assert WordVocab.from_text(" ".join(text)).symbols == expected


def test_rare_words_become_unk_in_the_place_of_its_frequency():
    text = "a " * 9 + "b " * 3 + "c c d d e"
    assert WordVocab.from_text(text, min_count=3).symbols == ["<eos>", "a", "<unk>", "b"]
    assert WordVocab.from_text(text, min_count=2).symbols == ["<eos>", "a", "b", "c", "d", "<unk>"]
    assert WordVocab.from_text(text, add_unk=True).symbols[-1] == "<unk>"
    own = WordVocab.from_text(text, min_count=3, eos="<S>", unk="<UNK>")
    assert own.symbols == ["<S>", "a", "<UNK>", "b"]
    assert own.encode("c a\n").tolist() == [2, 1, 0]


@pytest.mark.parametrize("max_size", range(2, 9))
def test_max_size(max_size):
    text = "a " * 9 + "b " * 3 + "c c d d e"
    symbols = WordVocab.from_text(text, max_size=max_size).symbols
    assert len(symbols) == min(max_size, 6)
    kept = "abcde"[: 5 if max_size >= 6 else max_size - 2]
    assert set(symbols) == {"<eos>", *kept} | ({"<unk>"} if max_size < 6 else set())
    again = WordVocab.from_text(text, max_size=max_size, add_unk=True)
    assert len(again.symbols) == min(max_size, 7) and "<unk>" in again.symbols


def test_sizes_that_make_no_sense():
    assert "min_count=0" in refusal(WordVocab.from_text, "a", min_count=0)
    assert "max_size=1" in refusal(WordVocab.from_text, "a", max_size=1)


# --- ids and text ---


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@fuzz
@given(text=lines.map("\n".join))
def test_round_trip(chunk, text):
    vocab = WordVocab.from_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_CHUNK", chunk)
        ids = vocab.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    if "<eos>" not in text:
        assert vocab.decode(ids) == text
    assert np.array_equal(vocab.encode(vocab.decode(ids)), ids)
    decoder = vocab.decoder()
    assert "".join(map(decoder.feed, ids)) + decoder.flush() == vocab.decode(ids)
    assert vocab.to_bytes(ids) == vocab.decode(ids).encode()
    stored = json.loads(json.dumps(vocab.to_dict()))
    assert vocab_from_dict(stored) == vocab and hash(vocab_from_dict(stored)) == hash(vocab)


def test_a_prompt_does_not_end_its_line():
    vocab = WordVocab(["<eos>", "a", "b"])
    assert vocab.encode("a b").tolist() == [1, 2]
    assert vocab.encode(" a  b \n\n").tolist() == [1, 2, 0, 0]
    assert vocab.encode("a\r\nb").tolist() == [1, 0, 2] and vocab.encode("").tolist() == []
    assert vocab.decode([1, 2, 0, 0, 1, 0]) == "a b\n\na\n" and vocab.decode([]) == ""


def test_unknown_words():
    vocab = WordVocab(["<eos>", "a"])
    message = refusal(vocab.encode, "a b a\nc b")
    assert "has 2 word(s)" in message and "'b' at word 1, 'c' at word 4 (" in message
    assert "and 3 more" in refusal(vocab.encode, "b c d e f g h i")
    assert WordVocab(["<eos>", "a", "<unk>"]).encode("a b").tolist() == [1, 2]
    assert "decode it first" in refusal(vocab.encode, b"a")


def test_foreign_ids():
    vocab = WordVocab(["<eos>", "a"])
    assert "token id 2 " in refusal(vocab.decode, [0, 2])
    assert "token id -1 " in refusal(vocab.decoder().feed, -1)
    for bad in ([[0, 1]], [0.5], 0, ["a"], [True]):
        refusal(vocab.decode, bad)


@pytest.mark.parametrize(
    ("symbols", "text"),
    [
        ([], "got none"),
        ("abc", "got none"),
        (["<eos>", 3], "a int in it"),
        (["<eos>", "a", "a"], "'a' comes twice"),
        (["a"], "lacks '<eos>'"),
        (["<eos>", "a b"], "'a b' is empty or has white space"),
        (["<eos>", "", "a"], "'' is empty"),
        (["<eos>", "\u3000"], "white space"),
        (["<eos>", "\ud800"], "surrogate"),
    ],
)
def test_symbols_that_do_not_fit(symbols, text):
    assert text in refusal(WordVocab, symbols)


@pytest.mark.parametrize(
    "change", [{"symbols": 3}, {"symbols": ["a"]}, {"symbols": "a"}, {"eos": 3}, {"unk": None}]
)
def test_a_hostile_dict(change):
    good = WordVocab(["<eos>", "a"]).to_dict()
    refusal(vocab_from_dict, {**good, **change})
    refusal(vocab_from_dict, {k: v for k, v in good.items() if k not in change})
    refusal(vocab_from_dict, {**good, "more": 1})


def test_a_vocabulary_as_large_as_wikitext_103s():
    vocab = WordVocab(["<eos>", *(f"word-{i}" for i in range(267_734))])
    began = time.process_time()
    stored = json.dumps(vocab.to_dict())
    assert vocab_from_dict(json.loads(stored)) == vocab
    assert len(stored) < 16 * 2**20 and time.process_time() - began < 5


def test_differences():
    vocab = WordVocab(["<eos>", "a"])
    assert vocab != WordVocab(["a", "<eos>"]) and vocab != WordVocab(["<eos>", "a"], unk="a")
    assert vocab != ByteVocab() and repr(vocab) == "WordVocab(['<eos>', 'a'], n_token=2)"


# --- corpora ---


def test_own_file_of_words(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat\n" * 30 + "a dog, and the end", encoding="utf-8")
    corpus = load_corpus(path, "word")
    tokens = np.concatenate([corpus.train, corpus.valid, corpus.test])
    assert corpus.level == "word" and tokens.size == 30 * 7 + 6
    assert (corpus.train.size, corpus.valid.size) == (194, 11)
    assert corpus.vocab.symbols == ["<eos>", "the", "cat", "sat", "on", "mat", "<unk>"]
    assert corpus.vocab.decode(corpus.test).endswith("<unk> <unk> <unk> the <unk>\n")
    assert corpus.train.dtype == np.uint8 and not corpus.train.flags.writeable
    again = load_corpus(corpus.name, corpus.level)
    assert again.vocab == corpus.vocab and np.array_equal(again.test, corpus.test)


def test_shipped_text_as_words():
    corpus = load_corpus("tiny-shakespeare", "word")
    n = corpus.train.size + corpus.valid.size + corpus.test.size
    assert n == 202_651 + 40_000  # `wc -w` and `wc -l`
    assert corpus.vocab.symbols[:3] == ["<eos>", "the", "I"] and corpus.train.dtype == np.uint16


def test_words_that_are_too_few_or_not_utf8(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"a " * 38)
    assert "has 39 words, at least 40" in refusal(load_corpus, path, "word")
    path.write_bytes(b"a " * 50 + b"\xe9")
    assert "byte 100 is 0xe9" in refusal(load_corpus, path, "word")


# --- bytes that occur ---


def test_a_vocabulary_of_some_bytes():
    vocab = ByteVocab(b"\nab\xff")
    assert vocab.n_token == 4 and vocab.encode(b"\xffa").tolist() == [3, 1]
    assert vocab.to_bytes([3, 0]) == b"\xff\n" and vocab.decode([1, 2]) == "ab"
    assert vocab_from_dict(json.loads(json.dumps(vocab.to_dict()))) == vocab != ByteVocab()
    assert "byte 0x63 at position 1" in refusal(vocab.encode, b"aca")
    assert "token id 4 " in refusal(vocab.decode, [4])
    for bad in (b"", b"ba", b"aa", "ab", None):
        refusal(ByteVocab, bad)
    for bad in ([], [2, 1], [1, 1], [256], [-1], [True], "ab", None, 7, list(range(256))):
        refusal(vocab_from_dict, {"type": "byte", "values": bad})
