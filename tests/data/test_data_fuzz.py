"""Random and hostile input for the data layer: exact round trips, or one clear line."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitxl.data import (
    ByteVocab,
    CharVocab,
    Stream,
    load_corpus,
    segments,
    text,
    vocab_from_dict,
)
from minitxl.errors import MinitxlError

# The tests below take their folder once and write the same file again for every example.
fuzz = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
characters = st.characters(exclude_categories=["Cs"])
sizes = st.integers(min_value=1, max_value=9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)


def accepted(call, *args, **kwargs):
    """Return what the call returns, or None after a refusal in one line; all else is a bug."""
    try:
        return call(*args, **kwargs)
    except MinitxlError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        return None


def parts(corpus) -> np.ndarray:
    return np.concatenate([corpus.train, corpus.valid, corpus.test])


@fuzz
@given(
    content=st.binary(max_size=200)
    | st.text(characters, max_size=200).map(str.encode)
    | st.tuples(st.text(characters, min_size=40), st.binary(max_size=3)).map(
        lambda pair: pair[0].encode() + pair[1]
    ),
    chunk=st.integers(min_value=3, max_value=50),
)
def test_any_file_is_read_exactly_or_refused(tmp_path, content, chunk):
    path = tmp_path / "any"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_CHUNK", chunk)
        as_bytes = accepted(load_corpus, path, "byte")
        as_text = accepted(load_corpus, path, "char")
    assert (as_bytes is None) == (len(content) < 40)
    if as_bytes is not None:
        assert as_bytes.vocab.to_bytes(parts(as_bytes)) == content
    try:
        plain = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        plain = None
    assert (as_text is None) == (plain is None or len(plain) < 40)
    if as_text is not None:
        assert as_text.vocab.decode(parts(as_text)) == plain
        n = len(plain)
        assert as_text.train.size == int(0.9 * n)
        assert as_text.train.size + as_text.valid.size == int(0.95 * n)
        assert min(as_text.valid.size, as_text.test.size) >= 2


@fuzz
@given(good=st.text(characters, max_size=60), tail=st.binary(max_size=8), chunk=sizes)
def test_the_place_of_a_bad_byte_is_pythons_own(tmp_path, good, tail, chunk):
    content = good.encode() + tail
    if content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "_CHUNK", chunk)
            with pytest.raises(MinitxlError, match=f"byte {error.start} is 0x") as caught:
                load_corpus(path)
        assert f"0x{content[error.start]:02x}" in str(caught.value)


@fuzz
@given(content=st.text(characters, min_size=1), other=st.text())
def test_char_vocab_round_trip(content, other):
    vocab = CharVocab.from_text(content)
    assert vocab.decode(vocab.encode(content)) == content
    assert vocab_from_dict(json.loads(json.dumps(vocab.to_dict()))) == vocab
    ids = accepted(vocab.encode, other)
    assert (ids is None) == bool(set(other) - set(content))
    if ids is not None:
        assert vocab.decode(ids) == other


@fuzz
@given(content=st.binary())
def test_byte_vocab_round_trip_and_streaming(content):
    vocab = ByteVocab()
    ids = vocab.encode(content)
    assert vocab.to_bytes(ids) == content
    decoder = vocab.decoder()
    assert "".join(map(decoder.feed, ids)) + decoder.flush() == vocab.decode(ids)


@fuzz
@given(content=st.text(characters, min_size=1))
def test_char_streaming_is_decode(content):
    vocab = CharVocab.from_text(content)
    decoder = vocab.decoder()
    assert "".join(map(decoder.feed, vocab.encode(content))) + decoder.flush() == content


@fuzz
@given(
    d=json_values
    | st.fixed_dictionaries({"type": st.just("char"), "symbols": json_values | st.text()})
    | st.fixed_dictionaries({"type": json_values, "symbols": st.text()})
)
def test_hostile_vocabulary(d):
    vocab = accepted(vocab_from_dict, d)
    if vocab is not None:
        assert vocab.to_dict() == d


@fuzz
@given(n=st.integers(0, 200), batch_size=sizes, tgt_len=sizes)
def test_stream_rows_go_on_where_they_ended(n, batch_size, tgt_len):
    tokens = np.arange(n)  # each token is its own position
    stream = accepted(Stream, tokens, batch_size=batch_size, tgt_len=tgt_len)
    assert (stream is None) == (n < batch_size * tgt_len + 1)
    if stream is None:
        return
    seen, before = [], None
    for i in range(2 * stream.batches_per_epoch):
        x, y, fresh = stream.next()
        assert x.shape == y.shape == (batch_size, tgt_len)
        assert np.array_equal(y, x + 1)
        assert fresh == (i % stream.batches_per_epoch == 0)
        if not fresh:
            assert np.array_equal(x[:, 0], before)
        before = y[:, -1]
        seen.append(x)
    assert stream.epoch == 2
    once = np.sort(np.concatenate(seen[: len(seen) // 2], axis=None))
    assert np.array_equal(once, np.arange(once.size))
    assert 0 <= n - 1 - once.size < batch_size * tgt_len


@fuzz
@given(n=st.integers(30, 200), batch_size=sizes, steps=st.integers(0, 40), tgt_len=st.just(3))
def test_state_is_exact(n, batch_size, steps, tgt_len):
    stream = Stream(np.arange(n), batch_size=batch_size, tgt_len=tgt_len)
    for _ in range(steps):
        stream.next()
    resumed = Stream(np.arange(n), batch_size=batch_size, tgt_len=tgt_len)
    resumed.set_state(json.loads(json.dumps(stream.state())))
    for _ in range(5):
        (x, y, fresh), again = stream.next(), resumed.next()
        assert np.array_equal(x, again[0]) and np.array_equal(y, again[1]) and fresh == again[2]
        assert stream.epoch == resumed.epoch


@fuzz
@given(changes=st.dictionaries(st.sampled_from(["position", "epoch", "crc32"]), json_values))
def test_hostile_state_changes_nothing(changes):
    stream = Stream(np.arange(100), batch_size=4, tgt_len=5)
    stream.next()
    before = stream.state()
    wish = {**before, **changes}
    accepted(stream.set_state, wish)
    assert stream.state() in (before, wish)
    stream.next()


@fuzz
@given(n=st.integers(0, 200), batch_size=sizes, tgt_len=sizes)
def test_segments_cover_every_target_once(n, batch_size, tgt_len):
    pairs = accepted(segments, np.arange(n), batch_size=batch_size, tgt_len=tgt_len)
    assert (pairs is None) == (n < batch_size + 1)
    if pairs is None:
        return
    pairs = list(pairs)
    for (x, y), following in zip(pairs, [*pairs[1:], None], strict=True):
        assert np.array_equal(y, x + 1)
        if following is not None:
            assert x.shape == (batch_size, tgt_len)
            assert np.array_equal(following[0][:, 0], y[:, -1])
    assert 1 <= pairs[-1][0].shape[1] <= tgt_len
    targets = np.sort(np.concatenate([y for _, y in pairs], axis=None))
    assert np.array_equal(targets, np.arange(1, targets.size + 1))
    assert 0 <= n - 1 - targets.size < batch_size
