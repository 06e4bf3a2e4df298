"""Damaged and hostile checkpoint files: each is refused in one line, or read exactly as saved."""

from __future__ import annotations

import itertools
import json
import os
import string
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.storage.checkpoint import load, load_tensors, read_json, save, write_json

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

# No deadline and no example database: the machine may be slow, the runs must be repeatable.
FUZZ = settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TENSORS = {
    "layers.0.w": np.array([[1.5, -0.0], [np.nan, np.inf]], dtype=np.float32),
    "layers.1.w": np.array([[2.5, 1.0], [0.0, -1.0]], dtype=np.float32),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), dtype=np.int16),
    "step": np.array(12, dtype=np.int64),
}
STATE = {"step": 12, "rng": {"state": 2**127 + 1, "inc": 3}, "lr": 0.1, "é": [None, "x\ud800"]}


def put(path: Path, data: bytes) -> Path:
    """Write a new file: some file systems flush to the disk when an old one is overwritten."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def bits(tensors: dict) -> dict:
    return {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in tensors.items()}


def assert_refused(path: Path, call) -> None:
    """The call must raise a MinitxlError of one short, printable line that names the file."""
    try:
        result = call(path)
    except MinitxlError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 900 and path.name in message, message
        assert type(error) is MinitxlError
    else:
        pytest.fail(f"accepted: {path.read_bytes()[:200]!r} -> {result!r:.200}")


def assert_refused_or_same(path: Path, expected=(TENSORS, STATE)) -> None:
    try:
        tensors, state = load(path)
    except MinitxlError:
        assert_refused(path, load)
    else:
        assert bits(tensors) == bits(expected[0]) and json.dumps(state) == json.dumps(expected[1])


def assert_refused_or_read(path: Path, call=load_tensors) -> None:
    """For arbitrary content: any MinitxlError, or real arrays that can be used."""
    try:
        result = call(path)
    except MinitxlError:
        assert_refused(path, call)
    else:
        assert isinstance(result, dict)
        if call is load_tensors:
            assert all(isinstance(array.tobytes(), bytes) for array in result.values())


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good"
    save(path, TENSORS, STATE)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Waiting for the disk at each of a thousand saves would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def safetensors_bytes(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


# ------------------------------------------------------------------------------- our files, damaged


def test_every_truncation_is_refused(tmp_path, good):
    path = put(tmp_path / "last", good)
    for n in reversed(range(len(good))):
        os.truncate(path, n)
        assert_refused(path, load)
        assert_refused(path, load_tensors)


def test_every_flipped_bit_is_refused_or_harmless(tmp_path, good):
    """Harmless: the same JSON written otherwise, such as \\u00e9 and \\u00E9."""
    path, accepted = put(tmp_path / "last", good), 0
    with open(path, "r+b", buffering=0) as file:
        for position in range(len(good)):
            for bit in range(8):
                file.seek(position)
                file.write(bytes([good[position] ^ (1 << bit)]))
                try:
                    tensors, state = load(path)
                except MinitxlError as error:
                    assert str(error).isprintable() and "last" in str(error)
                else:
                    assert bits(tensors) == bits(TENSORS) and json.dumps(state) == json.dumps(STATE)
                    accepted += 1
            file.seek(position)
            file.write(good[position : position + 1])
    assert accepted < 20


@FUZZ
@given(data=st.data())
def test_edits_of_a_good_file(tmp_path, good, data):
    """Several flips; pieces cut, doubled, zeroed or replaced; the rest appended or prepended."""
    path, damaged = tmp_path / "last", bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        stop = start + data.draw(st.integers(0, 40))
        piece = bytes(damaged[start:stop])
        edit = data.draw(st.sampled_from(["flip", "cut", "double", "zero", "random", "append"]))
        if edit == "flip" and start < len(damaged):
            damaged[start] ^= data.draw(st.integers(1, 255))
        elif edit == "cut":
            del damaged[start:stop]
        elif edit == "double":
            damaged[start:start] = piece
        elif edit == "zero":
            damaged[start:stop] = bytes(len(piece))
        elif edit == "random":
            damaged[start:stop] = data.draw(st.binary(max_size=40))
        elif edit == "append":
            damaged += piece or b"\0"
    put(path, damaged)
    assert_refused_or_same(path)
    assert_refused_or_read(path)


@pytest.mark.parametrize("field", ["data_offsets", "dtype", "shape"])
def test_headers_that_were_mended_by_hand_are_still_refused(tmp_path, good, field):
    """Two tensors exchange a field: often valid safetensors, but another model."""
    path, length = tmp_path / "last", int.from_bytes(good[:8], "little")
    for a, b in itertools.combinations(TENSORS, 2):
        header = json.loads(good[8 : 8 + length])
        if header[a][field] != header[b][field]:
            header[a][field], header[b][field] = header[b][field], header[a][field]
            put(path, safetensors_bytes(header, good[8 + length :]))
            assert_refused(path, load)
            assert_refused(path, load_tensors)


def test_the_checksum_cannot_be_left_out(tmp_path, good):
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["minitxl"])
    path = tmp_path / "last"
    for metadata in (
        {"state": ours["state"]},
        {**ours, "crc32": None},
        {**ours, "crc32": int(ours["crc32"], 16)},
        {"crc32": ours["crc32"]},
        {**ours, "state": None},
        {**ours, "state": list(ours["state"])},
        [ours["state"], ours["crc32"]],
        None,
        "text",
    ):
        header["__metadata__"]["minitxl"] = json.dumps(metadata)
        put(path, safetensors_bytes(header, good[8 + length :]))
        assert_refused(path, load)
        assert_refused(path, load_tensors)


# ------------------------------------------------------------------------------------ hostile files


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2)
OUR_BOMB = b'{"crc32": "00000000", "state": %b}'
HOSTILE = {
    "nothing": b"",
    "no safetensors": b"PK\x03\x04" + bytes(100),
    "text": b"This is a text file, and the first eight bytes are a long length.",
    "length 0": bytes(8),
    "length 2^63": safetensors_bytes(b"{}", length=2**63),
    "length 2^64-1": safetensors_bytes(b"{}", length=2**64 - 1),
    "length 90 MB": safetensors_bytes(b"{}", length=90_000_000),
    "length one too long": safetensors_bytes(b"{}", length=3),
    "big-endian length": (2).to_bytes(8, "big") + b"{}",
    "header too large": safetensors_bytes(b"{}" + b" " * 2**24),
    "no UTF-8": safetensors_bytes(b'{"\xff":1}'),
    "UTF-16": safetensors_bytes("{}".encode("utf-16")),
    "list": safetensors_bytes(b"[]"),
    "zero bytes behind": safetensors_bytes(b"{}\0\0"),
    "deep lists": safetensors_bytes(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep metadata": safetensors_bytes(b'{"__metadata__":' + b'{"a":' * 100_000 + b"}" * 100_001),
    "same name twice": safetensors_bytes(TWICE, bytes(8)),
    "metadata twice": safetensors_bytes(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata key twice": safetensors_bytes(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "metadata None inside": safetensors_bytes({"__metadata__": {"minitxl": None}}),
    "metadata number inside": safetensors_bytes({"__metadata__": {"minitxl": 1}}),
    "metadata NaN": safetensors_bytes(b'{"__metadata__":NaN}'),
    "metadata NaN inside": safetensors_bytes(b'{"__metadata__":{"minitxl":NaN}}'),
    "metadata list": safetensors_bytes({"__metadata__": [1]}),
    "unknown dtype": safetensors_bytes({"a": entry("Q7")}, bytes(8)),
    "dtype None": safetensors_bytes({"a": entry(None)}, bytes(8)),
    "bfloat16": safetensors_bytes({"a": entry("BF16", (4,))}, bytes(8)),
    "float8": safetensors_bytes({"a": entry("F8_E4M3", (8,))}, bytes(8)),
    "float4": safetensors_bytes({"a": entry("F4", (16,))}, bytes(8)),
    "complex": safetensors_bytes({"a": entry("C64", (1,))}, bytes(8)),
    "bool of 2": safetensors_bytes({"a": entry("BOOL", (2,), (0, 2))}, b"\x01\x02"),
    "shape overflows": safetensors_bytes({"a": entry(shape=(2**63, 4))}, bytes(8)),
    "shape wraps to 8": safetensors_bytes({"a": entry(shape=(2**62, 4, 2))}, bytes(8)),
    "shape too large": safetensors_bytes({"a": entry(shape=(2**40,))}, bytes(8)),
    "shape 2^70": safetensors_bytes({"a": entry(shape=(2**70,))}, bytes(8)),
    "empty but too wide": safetensors_bytes({"a": entry(shape=(0, 2**63), offsets=(0, 0))}),
    "empty but 2^64-1": safetensors_bytes({"a": entry(shape=(0, 2**64 - 1), offsets=(0, 0))}),
    "empty but too large": safetensors_bytes({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}),
    "shape negative": safetensors_bytes({"a": entry(shape=(-2,))}, bytes(8)),
    "shape fraction": safetensors_bytes({"a": entry(shape=(2.0,))}, bytes(8)),
    "shape NaN": safetensors_bytes({"a": entry(shape=(float("nan"),))}, bytes(8)),
    "shape None": safetensors_bytes({"a": {**entry(), "shape": None}}, bytes(8)),
    "65 axes": safetensors_bytes({"a": entry(shape=(1,) * 64 + (2,))}, bytes(8)),
    "100,000 axes": safetensors_bytes({"a": entry(shape=(1,) * 10**5 + (2,))}, bytes(8)),
    "no shape": safetensors_bytes({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "offsets reversed": safetensors_bytes({"a": entry(offsets=(8, 0))}, bytes(8)),
    "offsets overlap": safetensors_bytes({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "offsets with a hole": safetensors_bytes(
        {"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)
    ),
    "offsets beyond": safetensors_bytes({"a": entry(offsets=(2**63, 2**63 + 8))}, bytes(8)),
    "offsets wrap": safetensors_bytes({"a": entry(offsets=(2**64 - 8, 0))}, bytes(8)),
    "data too short": safetensors_bytes({"a": entry()}, bytes(7)),
    "data too long": safetensors_bytes({"a": entry()}, bytes(9)),
    "name with an escape": safetensors_bytes({"a\n\x1b[31m\u202e": entry("Q7")}, bytes(8)),
    "name of a megabyte": safetensors_bytes({"n" * 10**6: entry("BF16", (4,))}, bytes(8)),
    "surrogate name": safetensors_bytes(b'{"\\ud800":%b}' % json.dumps(entry()).encode(), bytes(8)),
}
JSON_BOMBS = {
    "nothing": b"",
    "deep lists": b'{"a": ' + b"[" * 10**6 + b"]" * 10**6 + b"}",
    "deep dicts": b'{"a": ' * 10**6 + b"1" + b"}" * 10**6,
    "deep, never closed": b"[" * 10**6,
    "integer of 100,000 digits": b'{"a": 1' + b"0" * 100_000 + b"}",
    "key twice": b'{"a": 1, "a": 2}',
    "key twice, far inside": b'{"a": [{"b": {"c": 1, "d": 2, "c": 3}}]}',
    "200,000 keys and one twice": b"{"
    + b"".join(b'"%d": 0, ' % i for i in range(200_000))
    + b'"199999": 1}',
    "no JSON": b"{'a': 1}",
    "two values": b"{} {}",
    "list": b"[]",
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zero bytes": bytes(1000),
    "control characters": b'{"\x1b[2J\n": }',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_files(tmp_path, name):
    path = tmp_path / "model.safetensors"
    put(path, HOSTILE[name])
    began = time.process_time()
    tracemalloc.start()
    try:
        assert_refused(path, load_tensors)
        assert_refused(path, load)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6 and time.process_time() - began < 10


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_json_bombs(tmp_path, name):
    path = tmp_path / "run.json"
    put(path, JSON_BOMBS[name])
    assert_refused(path, read_json)
    text = (OUR_BOMB % JSON_BOMBS[name]).decode("latin-1")
    put(path, safetensors_bytes({"__metadata__": {"minitxl": text}}))
    assert_refused(path, load)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "run.json"
    put(path, b"{}" + b" " * 2**24)
    assert_refused(path, read_json)
    put(path, b"{}" + b" " * (2**24 - 2))
    assert read_json(path) == {}


def test_harmless_oddities_are_accepted(tmp_path):
    path = tmp_path / "a"
    for header, data, shape in (
        ({"a": entry(), "__metadata__": None}, bytes(8), (2,)),
        ({"a": {**entry(), "unknown": 1}}, bytes(8), (2,)),
        ({"a": entry(shape=(0, 2**40), offsets=(0, 0))}, b"", (0, 2**40)),
        ({"": entry(shape=(), offsets=(0, 4))}, bytes(4), ()),
    ):
        put(path, safetensors_bytes(header, data))
        (array,) = load_tensors(path).values()
        assert array.shape == shape and array.dtype == np.float32
        assert_refused(path, load)


numbers = st.one_of(
    st.sampled_from(
        [0, 1, 2, 4, 8, 16, 2**31, 2**32, 2**62, 2**63, 2**64 - 8, 2**64, -1, 0.5, None]
    ),
    st.integers(0, 20),
)
dtypes = st.sampled_from("F64 F32 F16 BF16 F8_E5M2 F4 C64 I64 I32 I8 U8 U64 BOOL f32 X".split())
entries = st.fixed_dictionaries(
    {"dtype": dtypes, "shape": st.lists(numbers, max_size=4)},
    optional={"data_offsets": st.lists(numbers, max_size=3), "extra": numbers},
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
metadata = st.dictionaries(
    st.sampled_from(["minitxl", "format"]),
    st.one_of(json_values, json_values.map(json.dumps)),
    max_size=2,
)


@FUZZ
@given(
    header=st.dictionaries(
        st.text(string.printable, max_size=3), entries | json_values, max_size=3
    ),
    extra=st.none() | metadata | json_values,
    data=st.binary(max_size=64),
    wrong=st.sampled_from([0, 0, 0, -1, 1, 8, 2**40]),
)
def test_made_up_headers(tmp_path, header, extra, data, wrong):
    path = tmp_path / "model.safetensors"
    text = json.dumps(header if extra is None else {**header, "__metadata__": extra}).encode()
    put(path, safetensors_bytes(text, data, length=max(0, len(text) + wrong)))
    assert_refused_or_read(path)
    assert_refused(path, load)  # nobody guesses a checksum


@FUZZ
@given(
    dtype=st.sampled_from(["F32", "BOOL", "I64", "U8"]),
    shape=st.lists(st.integers(0, 3), max_size=4),
    data=st.data(),
)
def test_valid_files_of_others_are_read(tmp_path, dtype, shape, data):
    size = {"F32": 4, "BOOL": 1, "I64": 8, "U8": 1}[dtype] * int(np.prod(shape))
    raw = data.draw(st.binary(min_size=size, max_size=size))
    raw = bytes(byte & 1 for byte in raw) if dtype == "BOOL" else raw
    path = tmp_path / "a"
    put(path, safetensors_bytes({"a": entry(dtype, shape, (0, size))}, raw))
    array = load_tensors(path)["a"]
    assert array.shape == tuple(shape) and array.tobytes() == raw


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes(tmp_path, data):
    path = tmp_path / "a"
    put(path, data)
    assert_refused(path, load)
    assert_refused_or_read(path)
    assert_refused_or_read(path, read_json)


# --------------------------------------------------------------------------------------- round trip

arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.unsigned_integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@FUZZ
@given(
    tensors=st.dictionaries(names.filter(lambda name: name != "__metadata__"), arrays, max_size=3),
    state=st.dictionaries(st.text(st.characters(), max_size=4), json_values, max_size=3),
    reverse=st.booleans(),
)
def test_round_trip(tmp_path, tensors, state, reverse):
    path = tmp_path / "a"
    given_tensors = {name: a.T if reverse else a for name, a in tensors.items()}
    path.unlink(missing_ok=True)
    save(path, given_tensors, state)
    loaded, loaded_state = load(path)
    expected = {
        name: np.asarray(a, dtype=a.dtype.newbyteorder("="), order="C")
        for name, a in given_tensors.items()
    }
    assert bits(loaded) == bits(expected)
    assert json.dumps(loaded_state) == json.dumps(state)  # text: NaN equals NaN
    assert bits(load_tensors(path)) == bits(expected)


@FUZZ
@given(obj=st.dictionaries(st.text(max_size=4), json_values, max_size=3))
def test_json_round_trip(tmp_path, obj):
    path = tmp_path / "run.json"
    try:
        json.dumps(obj, allow_nan=False)
    except ValueError:
        with pytest.raises(MinitxlError, match="not JSON compliant"):
            write_json(path, obj)
    else:
        path.unlink(missing_ok=True)
        write_json(path, obj)
        assert read_json(path) == obj
