"""Damaged and random files of PyTorch: each is refused in one line, or read as it was written."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.interop import safe_pickle
from minitxl.interop.torch_file import read_state_dict, read_torch, read_vocab_pickle, write_torch

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
GOLDEN = Path(__file__).parents[1] / "golden" / "torch_files"
TYPES = "bool uint8 int8 int16 int32 int64 float16 float32 float64".split()
READERS = {"vocab": read_vocab_pickle, "everything": read_torch}  # and read_state_dict


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """No waiting for the disk, and bombs that are small."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(safe_pickle, "_MAX_STEPS", 20_000)


def put(path: Path, data: bytes) -> Path:
    """Write a new file: some file systems flush to the disk when an old one is overwritten."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def plain(value: object) -> object:
    """A form that `==` compares in types and bits; a result is never nested over 100 deep."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        assert {type(key) for key in value} <= {str, int} and not getattr(value, "__dict__", None)
        return type(value), [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [plain(item) for item in value]
    assert value is None or type(value) in (str, int, float, bool)
    return type(value), repr(value)


def read_or_refused(call, path: Path) -> object:
    """Return the result in its plain form, or None if it was refused in one line, as it must be."""
    try:
        return plain(call(path))
    except MinitxlError as error:
        message = str(error)
        assert type(error) is MinitxlError
        assert message.isprintable() and len(message) < 900 and path.name in message, message
        return None


def reader_of(name: str):
    return READERS.get(name.split(".")[0], read_state_dict)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, bytes]:
    """An .npz, and a deflated archive of PyTorch, small enough to be damaged everywhere."""
    arrays, packed = io.BytesIO(), io.BytesIO()
    np.savez(arrays, a=np.arange(3, dtype=np.float32), b=np.array(True))
    with (
        zipfile.ZipFile(GOLDEN / "state_dict.zip") as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name in ("data.pkl", "byteorder", *(f"data/{i}" for i in range(5))):
            deflated.writestr(f"x/{name}", stored.read(f"state_dict/{name}"))
    return {"npz": arrays.getvalue(), "deflated": packed.getvalue()}


FILES = [path.name for path in sorted(GOLDEN.iterdir()) if path.name != "module.zip"]
FILES += ["npz", "deflated"]
EACH = [  # the long ones in the step of the long tests
    pytest.param(name, marks=pytest.mark.slow if name.startswith("everything") else ())
    for name in FILES
]


# ------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("name", EACH)
def test_every_truncation_is_refused(tmp_path, others, name):
    data = others.get(name) or (GOLDEN / name).read_bytes()
    path = tmp_path / "damaged"
    assert read_or_refused(reader_of(name), put(path, data)) is not None
    for n in range(len(data)):
        assert read_or_refused(reader_of(name), put(path, data[:n])) is None, n


@pytest.mark.parametrize("name", EACH)
def test_a_flipped_bit(tmp_path, others, name):
    """A zip archive has checksums: read as it was, or refused. The old layout has none."""
    data = others.get(name) or (GOLDEN / name).read_bytes()
    path = tmp_path / "damaged"
    call = reader_of(name)
    right = read_or_refused(call, put(path, data))
    has_checksums = data.startswith(b"PK")
    refused = 0
    rng = random.Random(0)
    places = sorted(rng.sample(range(len(data)), min(len(data), 800)))
    for i in places:
        flipped = bytearray(data)
        flipped[i] ^= 1 << rng.randrange(8)
        found = read_or_refused(call, put(path, flipped))
        refused += found is None
        if has_checksums:
            assert found in (None, right), i
    assert refused > len(places) / 10


@FUZZ
@given(st.data())
def test_pieces_lost_doubled_or_overwritten(tmp_path, others, data):
    name = data.draw(st.sampled_from(FILES))
    content = others.get(name) or (GOLDEN / name).read_bytes()
    i, j = sorted(data.draw(st.lists(st.integers(0, len(content)), min_size=2, max_size=2)))
    new = data.draw(st.sampled_from([b"", content[i:j] * 2, bytes(j - i), b"\xff" * (j - i)]))
    path = put(tmp_path / "damaged", content[:i] + new + content[j:])
    read_or_refused(reader_of(name), path)


# ------------------------------------------------------------------------------------ random files

ATOMS = [op.code.encode("latin-1") for op in pickletools.opcodes]
ATOMS += [pickle.dumps(v, 2)[2:-1] for v in (0, 1, 4, -1, 2**40, 0.5, "0", "cpu", "storage", "a")]
ATOMS += [b"h\0", b"q\0", b"q\1", b"h\1", b"\x85", b"\x86", b"\x87", b"(", b"t", b"e", b"u", b")"]
ATOMS += [
    f"c{name}\n".encode()
    for name in (
        "torch\nFloatStorage",
        "torch\nBFloat16Storage",
        "torch\nBoolStorage",
        "torch\nSize",
        "torch._utils\n_rebuild_tensor",
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
        "collections\nOrderedDict",
        "collections\nCounter",
    )
]
FLOATS = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\4tQ"
ATOMS += [FLOATS, FLOATS + b"K\0K\4\x85K\1\x85", b"ctorch._utils\n_rebuild_tensor_v2\n(" + FLOATS]


@FUZZ
@given(st.lists(st.sampled_from(ATOMS) | st.binary(max_size=3), max_size=30))
def test_random_programs(tmp_path, atoms):
    """Streams of opcodes, whole names and whole storages: plain data or one line."""
    body = b"\x80\x02" + b"".join(atoms) + b"."
    read_or_refused(read_vocab_pickle, put(tmp_path / "a.pkl", body))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/data/0", np.arange(4, dtype="<f4").tobytes())
    read_or_refused(read_torch, tmp_path / "a.zip")


def change_and_read(path: Path, data) -> None:
    """The opcodes of a real pickle, some of them left out, doubled, exchanged or replaced."""
    with zipfile.ZipFile(GOLDEN / "everything.zip") as archive:
        stream = archive.read("everything/data.pkl")
        members = [(n, archive.read(n)) for n in archive.namelist() if "/data/" in n]
    starts = [position for _, _, position in pickletools.genops(stream)]
    ops = [stream[i:j] for i, j in zip(starts, [*starts[1:], len(stream)], strict=True)]
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(ops) - 1))
        j = data.draw(st.integers(0, len(ops) - 1))
        new = data.draw(st.sampled_from([[], [ops[i], ops[i]], [ops[j]], [ops[i], ops[j]], None]))
        ops[i : i + 1] = [data.draw(st.sampled_from(ATOMS))] if new is None else new
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("everything/data.pkl", b"".join(ops))
        for name, content in members:
            archive.writestr(name, content)
    tracemalloc.start()
    try:
        read_or_refused(read_torch, path)
        assert tracemalloc.get_traced_memory()[1] < 100 * path.stat().st_size + 2**20
    finally:
        tracemalloc.stop()


@FUZZ
@given(st.data())
def test_changed_programs(tmp_path, data):
    change_and_read(tmp_path / "a", data)


@pytest.mark.slow
@settings(FUZZ, max_examples=3000)
@given(st.data())
def test_many_changed_programs(tmp_path, data):
    change_and_read(tmp_path / "a", data)


@FUZZ
@given(
    st.sampled_from([b"", b"PK\3\4", b"\x80\2", b"\x80\4\x95", bytes(4), bytes(8) + b"{"]),
    st.binary(max_size=200),
)
def test_random_bytes(tmp_path, start, rest):
    path = put(tmp_path / "a", start + rest)
    for call in (read_torch, read_state_dict, read_vocab_pickle):
        read_or_refused(call, path)


# ------------------------------------------------------------------------------------- round trips

KEYS = st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1)
LEAVES = st.none() | st.booleans() | st.text() | st.floats() | st.integers(-(2**79), 2**79 - 1)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(OrderedDict)
    ),
    max_leaves=20,
)


@FUZZ
@given(VALUES, st.integers(2, 5))
def test_plain_pickles_read_as_python_does(value, protocol):
    data = pickle.dumps(value, protocol)
    found, end = safe_pickle.load(
        data, 0, file_name="x", allowed={}, load_persistent=lambda pid: pid
    )
    assert end == len(data) and plain(found) == plain(value)


@FUZZ
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(TYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_written_arrays_are_read_back(tmp_path, arrays):
    path = tmp_path / "a"
    views = {name: array.T[..., ::-1] if array.ndim else array for name, array in arrays.items()}
    for state in (arrays, views):
        write_torch(path, state)
        assert plain(read_torch(path)) == plain(state)
