"""Tokens of any kind: vocabularies, the files of these, and arrays of ids, hostile ones too."""

import io
import json
import pickle

import numpy as np
import pytest

from minitxl.data import CharVocab, NumberVocab, TokenVocab, load_corpus, vocab_from_dict
from minitxl.data.checksums import text_checksum
from minitxl.data.encoded import encoded_file
from minitxl.data.ids import MOST, load_ids
from minitxl.data.tokens import as_tokens, load_vocab
from minitxl.data.vocab import level_of, stored_vocab
from minitxl.errors import MinitxlError

EVENTS = ["on_60", "off_60", "wait_10", "on_64"]


class Own:
    """A vocabulary of the least kind: three attributes, and no way to be stored of its own."""

    def __init__(self, symbols, joint=""):
        self.symbols, self.joint = symbols, joint
        self.n_token = len(symbols)

    def encode(self, text):
        return [self.symbols.index(s) for s in (text.split(self.joint) if self.joint else text)]

    def decode(self, ids):
        return self.joint.join(self.symbols[i] for i in ids)


def refusal(call, *args, **options):
    with pytest.raises(MinitxlError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


# --- vocabularies ---


def test_pieces_are_the_fewest_that_make_up_a_text():
    """Taking the longest first would run into nothing: ab, then c is unknown."""
    vocab = TokenVocab(["a", "ab", "bc", "the ", "th", "e", " "])
    assert vocab.decode(vocab.encode("abc")) == "abc" and vocab.encode("abc").tolist() == [0, 2]
    assert vocab.encode("the ab").tolist() == [3, 1]
    assert vocab.encode("").size == 0
    assert "goes on at position 3 (from 0), 'xyz'" in refusal(vocab.encode, "abaxyz")


def test_names_have_a_space_between():
    vocab = TokenVocab(EVENTS, spaced=True)
    text = "on_60 wait_10 on_64 off_60"
    assert vocab.decode(vocab.encode(text)) == text
    assert vocab.encode("  on_60\n on_64 ").tolist() == [0, 3]
    decoder = vocab.decoder()
    assert "".join(map(decoder.feed, [0, 2, 3, 1])) + decoder.flush() == text
    assert "no symbol 'on_61', at place 1" in refusal(vocab.encode, "on_60 on_61")
    assert "symbol 1 of the vocabulary, 'a b'" in refusal(TokenVocab, ["a", "a b"], spaced=True)


def test_numbers():
    vocab = NumberVocab(300)
    assert vocab.decode([7, 299]) == "7 299" and vocab.encode("7 299").tolist() == [7, 299]
    for wrong in ("300", "-1", "x", "1.0", "٣", "9" * 30, " \n"):
        refusal(vocab.encode, wrong)
    assert "outside the vocabulary" in refusal(vocab.decode, [300])


@pytest.mark.parametrize(
    "vocab",
    [TokenVocab(["a", "", "�", "�"]), TokenVocab(EVENTS, spaced=True), NumberVocab(10**6)],
)
def test_stored_and_back(vocab):
    again = vocab_from_dict(json.loads(json.dumps(stored_vocab(vocab))))
    assert again == vocab and hash(again) == hash(vocab) and level_of(again) == "token"
    assert again != NumberVocab(5) and repr(again)


@pytest.mark.parametrize(
    "damaged",
    [
        {"type": "token", "symbols": "abc", "spaced": False},
        {"type": "token", "symbols": ["a", 1], "spaced": False},
        {"type": "token", "symbols": ["a"], "spaced": "no"},
        {"type": "token", "symbols": ["\ud800"], "spaced": False},
        {"type": "token", "symbols": []},
        {"type": "number", "n_token": 0},
        {"type": "number", "n_token": 1e9},
        {"type": "number", "n_token": True},
    ],
)
def test_damaged_ones_are_refused(damaged):
    refusal(vocab_from_dict, damaged)


def test_ones_of_the_users_own_are_stored_as_what_they_show():
    assert as_tokens(Own(EVENTS, " ")) == TokenVocab(EVENTS, spaced=True)
    assert as_tokens(Own(["th", "e", " "])) == TokenVocab(["th", "e", " "])
    assert stored_vocab(CharVocab("ab")) == {"type": "char", "symbols": "ab"}


def test_what_is_no_vocabulary_or_cannot_be_stored():
    own = Own(["a", "b"])
    own.n_token = 3
    assert "decode([2]) fails with IndexError" in refusal(stored_vocab, own)
    own.n_token = "2"
    assert "has n_token='2'" in refusal(stored_vocab, own)
    assert "lacks encode and decode" in refusal(stored_vocab, object())
    own.n_token, own.decode = 2, lambda ids: ids
    assert "decode([0]) is a list, must be str" in refusal(stored_vocab, own)


# --- vocabulary files ---


@pytest.mark.parametrize(
    ("name", "data", "symbols"),
    [
        ("v.txt", b"on\noff\n", ["on", "off"]),
        ("v.txt", b"\xef\xbb\xbfon\r\noff", ["on", "off"]),
        ("v.json", b'["th", "e", " "]', ["th", "e", " "]),
        ("v.json", b'{"e": 1, "th": 0}', ["th", "e"]),
    ],
)
def test_vocabulary_files(tmp_path, name, data, symbols):
    (tmp_path / name).write_bytes(data)
    assert load_vocab(tmp_path / name) == TokenVocab(symbols, spaced=name == "v.txt")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("v.txt", b"", "symbol 0 of the vocabulary, '', is empty"),
        ("v.txt", b"a\n\nb\n", "symbol 1 of the vocabulary, '', is empty"),
        ("v.txt", b"a\nb\na\n", "symbol 'a' comes twice"),
        ("v.txt", b"a b\n", "has white space"),
        ("v.txt", b"\xff\xfe", "utf-8"),
        ("v.json", b'["a", "a"]', "symbol 'a' comes twice"),
        ("v.json", b'{"a": 0, "b": 2}', "its ids must be 0 to 1"),
        ("v.json", b'{"a": true}', "its ids must be 0 to 0"),
        ("v.json", b"[1, 2]", "a int in it"),
        ("v.json", b"3", "it holds a int"),
        ("v.json", b"[" * 100000, "v.json is no vocabulary"),
        ("v.json", b'["a"', "v.json is no vocabulary"),
    ],
)
def test_wrong_vocabulary_files(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    assert words in refusal(load_vocab, tmp_path / name)
    refusal(load_vocab, tmp_path / "none.txt")
    refusal(load_vocab, tmp_path)


# --- arrays of ids ---


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape, descr="<i4", extra=""):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}{extra}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("something pickled was read",))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.array([Evil()] * 50, dtype=object), allow_pickle=True), "no array of numbers"),
        (pickle.dumps(Evil()), "no array of numbers"),
        (npy(np.arange(-1, 60)), "ids from -1 to 59"),
        (npy(np.arange(60.0)), "holds float64, token ids are whole numbers"),
        (npy(np.ones(60, dtype=bool)), "holds bool"),
        (npy(np.array(["a"] * 60)), "holds <U1"),
        (npy(np.arange(60).reshape(2, 30)), "the shape (2, 30)"),
        (npy(np.array(3)), "the shape ()"),
        (npy(np.array([2**63] * 60, dtype=np.uint64)), "ids from 0 to 9,223,372,036,854,775,808"),
        (npy(np.full(60, MOST)), f"ids are 0 to {MOST - 1:,} at most"),
        (npy(np.arange(39)), "39 tokens, at least 40"),
        (npy(np.zeros(0, dtype=np.int32)), "0 tokens, at least 40"),
        (npy(np.arange(60))[:-8], "no array of numbers"),
        (header((10**15,)), "no array of numbers"),
        (header((10**30,)), "no array of numbers"),
        (header((-5,)), "no array of numbers"),
        (header("(" * 3000), "no array of numbers"),
        (header("__import__('os')"), "no array of numbers"),
        (b"\x93NUMPY\x01\x00\xff\xff", "no array of numbers"),
        (b"\x93NUMPY\x09\x00", "no array of numbers"),
        (b"", "no array of numbers"),
        (b"to be or not to be " * 9, "no array of numbers"),
    ],
)
def test_hostile_arrays_end_in_one_line(tmp_path, data, words):
    path = tmp_path / "ids.npy"
    path.write_bytes(data)
    assert words in refusal(load_corpus, path)


def test_an_archive_of_arrays(tmp_path):
    np.savez(tmp_path / "ids.npz", ids=np.arange(60))
    (tmp_path / "ids.npz").rename(tmp_path / "ids.npy")
    assert "is an archive" in refusal(load_corpus, tmp_path / "ids.npy")
    assert "is a folder" in refusal(load_corpus, tmp_path)
    assert "no file" in refusal(load_corpus, tmp_path / "none.npy")


@pytest.mark.parametrize("dtype", ["<i8", ">u2", "<u1", ">i4"])
def test_ids_are_split_as_a_text_is(tmp_path, dtype):
    ids = (np.arange(1000) % 200).astype(dtype)
    np.save(tmp_path / "ids.npy", ids)
    corpus = load_corpus(tmp_path / "ids.npy")
    parts = (corpus.train, corpus.valid, corpus.test)
    assert [p.size for p in parts] == [900, 50, 50] and corpus.train.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(parts), ids)
    assert corpus.vocab == NumberVocab(200) and corpus.level == "token"
    assert not any(p.flags.writeable for p in parts)
    assert text_checksum(corpus) == text_checksum(load_corpus(corpus.name, corpus.level))


def test_ids_with_a_vocabulary(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(60) % 4)
    corpus = load_corpus(tmp_path / "ids.npy", vocab=TokenVocab(EVENTS, spaced=True))
    assert corpus.vocab.decode(corpus.test) == "off_60 wait_10 on_64"
    message = refusal(load_corpus, tmp_path / "ids.npy", vocab=TokenVocab(["a", "b", "c"]))
    assert "ids from 0 to 3, the vocabulary has 3 symbols, 0 to 2" in message
    vocab = NumberVocab(4)
    assert encoded_file(vocab, tmp_path / "ids.npy").tolist() == [0, 1, 2, 3] * 15
    assert "vocabulary has 3 symbols" in refusal(encoded_file, NumberVocab(3), tmp_path / "ids.npy")
    assert load_ids(tmp_path / "ids.npy", 300).dtype == np.uint16


def test_a_text_in_tokens(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + b"the end " * 60)
    for vocab in (Own(list("thend ")), TokenVocab(["the", " ", "end", "the end "])):
        corpus = load_corpus(tmp_path / "t.txt", vocab=vocab)
        assert corpus.vocab is vocab and corpus.level == "token"
        assert vocab.decode(corpus.train).startswith("the end the end")
    assert "level 'char' has a vocabulary of its own" in refusal(
        load_corpus, tmp_path / "t.txt", level="char", vocab=vocab
    )
    assert "--vocab FILE" in refusal(load_corpus, tmp_path / "t.txt", level="token")
    assert "of level 'byte'" in refusal(load_corpus, "enwik8", vocab=vocab)
    bytes_of_it = load_corpus("tiny-shakespeare", vocab=Own([chr(i) for i in range(128)]))
    assert bytes_of_it.vocab.n_token == 128
