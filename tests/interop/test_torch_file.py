"""Files of PyTorch without PyTorch: real ones of both layouts, hostile ones, and round trips.

The files of golden/torch_files were written by PyTorch itself (golden/make_torch_files.py).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minitxl.errors import MinitxlError
from minitxl.interop import safe_pickle
from minitxl.interop.torch_file import read_state_dict, read_torch, read_vocab_pickle, write_torch
from minitxl.storage import checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_files"
LAYOUTS = ["zip", "legacy"]
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
STATE = {
    "0.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "0.bias": np.arange(3, dtype=np.float32) + 10,
    "1.weight": np.arange(3, dtype=np.float32) + 20,
    "1.bias": np.arange(3, dtype=np.float32) + 30,
    "2.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "2.bias": np.arange(3, dtype=np.float32) + 40,
}
SYMBOLS = ["<eos>", "the", ",", "é", "<unk>"]


def assert_same(found: dict, expected: dict) -> None:
    """Equal in names, order, types, shapes and every bit."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert type(found[name]) is np.ndarray, name
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def refused(call, path: Path, *args) -> str:
    """Return the message of the MinitxlError that the call must raise: one line with the name."""
    with pytest.raises(MinitxlError) as caught:
        call(path, *args)
    message = str(caught.value)
    assert type(caught.value) is MinitxlError
    assert message.isprintable() and 20 < len(message) < 900 and path.name in message, message
    return message


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def push(value: object) -> bytes:
    """The opcodes that push a value, for pickles made by hand."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]  # which leaves the memo alone


def storage(kind="Float", key="0", numel: int = 4) -> bytes:
    kind = f"ctorch\n{kind}Storage\n".encode()
    return b"(" + push("storage") + kind + push(key) + push("cpu") + push(numel) + b"tQ"


def tensor(of=None, offset=0, size=(4,), stride=(1,), end=b"\x89}t") -> bytes:
    of = storage() if of is None else of
    return REBUILD + b"(" + of + push(offset) + push(size) + push(stride) + end + b"R"


def legacy(body: bytes, keys=("0",), data=((4, bytes(16)),), system=None) -> bytes:
    system = {"little_endian": True} if system is None else system
    parts = [MAGIC, pickle.dumps(1001, 2), pickle.dumps(system, 2), b"\x80\x02" + body + b"."]
    parts.append(pickle.dumps(list(keys), 2))
    return b"".join(parts) + b"".join(n.to_bytes(8, "little") + raw for n, raw in data)


def zipped(body: bytes, members=None, method=zipfile.ZIP_STORED) -> bytes:
    members = {"data/0": bytes(16)} if members is None else members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in {"data.pkl": b"\x80\x02" + body + b".", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


LAYOUT = {"zip": zipped, "legacy": legacy}


# ----------------------------------------------------------------------------- PyTorch's own files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_type_and_every_view_is_read(layout):
    found = read_torch(GOLDEN / f"everything.{layout}")
    floats = np.array([0.0, -0.0, 1.5, -2.0, np.inf, np.nan])
    ints = np.array([0, 1, 2, 127])
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    bfloat16 = floats.astype(np.float32)
    bfloat16.view(np.uint32)[-1] = 0xFFFF0000  # the NaN that PyTorch wrote, to its last bit
    plain = {key: found.pop(key) for key in ("plain", "counter", "ordered")}
    assert_same(
        found,
        {
            "float16": floats.astype(np.float16),
            "bfloat16": bfloat16,
            "float32": floats.astype(np.float32),
            "float64": floats,
            **{f"int{n}": -ints.astype(f"int{n}") for n in (8, 16, 32, 64)},
            "uint8": ints.astype(np.uint8) + np.uint8(128),
            "bool": ints > 0,
            "base": base,
            "tied": base,
            "transposed": base.T,
            "slice": base[1:, 1::2],
            "bfloat16_row": np.array([3, 4, 5], dtype=np.float32),
            "scalar": np.array(7),
            "empty": np.zeros((0, 3), dtype=np.float32),
            "parameter": np.ones(2, dtype=np.float32),
        },
    )
    assert plain == {
        "plain": [1, -(2**40), 0.5, True, None, "é", (1, (2,), (3, 4)), {3: "three"}],
        "counter": Counter(a=2, b=1, c=1),
        "ordered": OrderedDict(b=1, a=2),
    }
    assert type(plain["counter"]) is Counter and type(plain["ordered"]) is OrderedDict
    found["base"][1, 1] = 99  # what shared memory still does, and it can be written to
    assert found["tied"][1, 1] == found["transposed"][1, 1] == found["slice"][0, 0] == 99


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["state_dict", "checkpoint"])
def test_state_dicts_are_read_wrapped_or_not(layout, name):
    found = read_state_dict(GOLDEN / f"{name}.{layout}")
    assert_same(found, STATE)
    assert np.shares_memory(found["0.weight"], found["2.weight"])


@pytest.mark.parametrize("name", ["vocab.zip", "vocab.legacy", "vocab.pkl"])
def test_vocabularies_are_read(name):
    assert read_vocab_pickle(GOLDEN / name) == SYMBOLS


def test_code_is_refused_by_its_name():
    message = refused(read_torch, GOLDEN / "module.zip")
    assert message.endswith(
        "module.zip asks for the Python object torch.nn.modules.linear.Linear, "
        "which a checkpoint does not need: refused"
    )


def test_deflated_members_are_read(tmp_path):
    with (
        zipfile.ZipFile(GOLDEN / "state_dict.zip") as stored,
        zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    assert_same(read_state_dict(tmp_path / "a"), STATE)


def test_old_pickles_are_read(tmp_path):
    """Python 2's strings and OrderedDict, and the tensors of PyTorch 0.3."""
    body = ORDERED + b"(]](U\x01wctorch._utils\n_rebuild_tensor\n("
    body += storage() + push(1) + push((3,)) + push((1,)) + b"tReatR"
    raw = np.arange(4, dtype="<f4").tobytes()
    found = read_torch(put(tmp_path / "a", legacy(body, data=[(4, raw)])))
    assert type(found) is OrderedDict
    assert_same(found, {"w": np.array([1, 2, 3], dtype=np.float32)})


# -------------------------------------------------------------------- state dicts of other formats


def test_content_tells_the_format_not_the_name(tmp_path):
    np.savez(tmp_path / "a.npz", **STATE)
    np.savez_compressed(tmp_path / "b.npz", **STATE)
    save_file(STATE, tmp_path / "c")
    for name, source in [("pt.npz", "state_dict.zip"), ("pt.safetensors", "state_dict.legacy")]:
        put(tmp_path / name, (GOLDEN / source).read_bytes())
    (tmp_path / "a.npz").rename(tmp_path / "a.bin")
    for path in tmp_path.iterdir():
        assert_same(dict(sorted(read_state_dict(path).items())), dict(sorted(STATE.items())))


def test_an_npz_keeps_types_orders_and_shapes(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(True),
        "empty": np.zeros((0, 2), dtype=np.int16),
        "half": np.arange(3, dtype=np.float16),
    }
    np.savez(tmp_path / "a.npz", big_endian=np.arange(3, dtype=">i4"), **arrays)
    expected = {"big_endian": np.arange(3, dtype=np.int32), **arrays}
    assert_same(read_state_dict(tmp_path / "a.npz"), expected)


def test_aliases_of_a_safetensors_file_are_resolved(tmp_path):
    tensors = {"word_emb.0.weight": np.ones(2), "format": np.zeros(1), "other": np.zeros(3)}
    metadata = {
        "format": "other",  # what every file of safetensors.torch has: never an alias
        "crit.0.weight": "word_emb.0.weight",
        "other": "word_emb.0.weight",  # it is there itself
        "crit.1.weight": "word_emb.1.weight",  # which is not there
        "some text": "other",
    }
    del tensors["format"]
    save_file(tensors, tmp_path / "a", metadata)
    found = read_state_dict(tmp_path / "a")
    assert set(found) == {*tensors, "crit.0.weight"}
    assert found["crit.0.weight"] is found["word_emb.0.weight"]
    assert found["other"].shape == (3,)


def test_a_damaged_checkpoint_of_ours_is_refused(tmp_path):
    checkpoint.save(tmp_path / "a", STATE, {})
    assert_same(read_state_dict(tmp_path / "a"), dict(sorted(STATE.items())))
    data = bytearray((tmp_path / "a").read_bytes())
    data[-1] ^= 1
    assert "checksum" in refused(read_state_dict, put(tmp_path / "b", data))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"]", "no state dict"),
        (b"}", "holds no tensors"),
        (b"}" + push("epoch") + push(3) + b"s", "no state dict"),
        (b"}" + push("a") + tensor() + b"s" + push("epoch") + push(3) + b"s", "no state dict"),
        (b"}" + push(1) + tensor() + b"s", "no state dict"),
        (
            b"}("
            + push("model")
            + (b"}" + push("a") + tensor() + b"s")
            + push("state_dict")
            + (b"}" + push("b") + tensor() + b"s")
            + b"u",
            "state_dict and model",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value, words):
    keys = ["0"] if b"Storage" in value else []
    path = put(tmp_path / "a", legacy(value, keys, [(4, bytes(16))] * len(keys)))
    assert words in refused(read_state_dict, path)


def test_module_is_taken_off_only_from_all_names(tmp_path):
    for names, expected in [
        (["module.a", "module.b"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.module.a"], ["module.a"]),
    ]:
        write_torch(tmp_path / "a", {name: np.zeros(1) for name in names})
        assert list(read_state_dict(tmp_path / "a")) == expected


@pytest.mark.parametrize("call", [read_torch, read_state_dict, read_vocab_pickle])
def test_other_files_are_refused(tmp_path, call):
    for data in [b"", b"PK", b"PK\x05\x06", b"\x80", b"hello", bytes(100), b"\x80\x02}."]:
        refused(call, put(tmp_path / "a", data))
    refused(call, tmp_path / "missing")
    refused(call, tmp_path)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "not one that torch.save wrote" in refused(call, put(tmp_path / "a", file.getvalue()))


# ------------------------------------------------------------------------------------- vocabularies


@pytest.mark.parametrize(
    ("vocab", "symbols"),
    [
        ({"idx2sym": ["a", "b"]}, ["a", "b"]),
        ({"sym2idx": {"b": 1, "c": 2, "a": 0}}, ["a", "b", "c"]),
        ({"idx2sym": ["a", "b"], "sym2idx": OrderedDict(b=1, a=0)}, ["a", "b"]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_vocabulary_may_have_either_table(tmp_path, vocab, symbols, protocol):
    path = put(tmp_path / "a", pickle.dumps(vocab, protocol))
    assert read_vocab_pickle(path) == symbols


@pytest.mark.parametrize(
    "vocab",
    [
        [],
        {},
        {"idx2sym": []},
        {"idx2sym": ("a",)},
        {"idx2sym": {0: "a"}},
        {"idx2sym": ["a", 1]},
        {"idx2sym": ["a", ["b"]]},
        {"idx2sym": ["a", "a"]},
        {"sym2idx": ["a"]},
        {"sym2idx": {"a": 0, "b": 2}},
        {"sym2idx": {"a": 0, "b": 0}},
        {"sym2idx": {"a": 1, "b": 2}},
        {"sym2idx": {"a": 0, "b": True}},
        {"sym2idx": {"a": 0, "b": 1.0}},
        {"sym2idx": {"a": 0, 5: 1}},
        {"idx2sym": ["a", "b"], "sym2idx": {"a": 1, "b": 0}},
        {"idx2sym": ["a", "b"], "sym2idx": {"a": 0}},
        {"idx2sym": ["a", "b"], "sym2idx": {"a": 0, "b": 1, "c": 2}},
        {"idx2sym": ["a", "b"], "sym2idx": {"a": 0, "b": True}},
        {"idx2sym": ["a", "b"], "sym2idx": 3},
    ],
)
def test_a_vocabulary_that_is_wrong_is_refused(tmp_path, vocab):
    assert "is no vocabulary" in refused(
        read_vocab_pickle, put(tmp_path / "a", pickle.dumps(vocab))
    )


def test_the_tokenizer_s_pattern_is_refused_by_name(tmp_path):
    path = put(tmp_path / "a", pickle.dumps({"idx2sym": ["a"], "pattern": re.compile("a")}))
    assert "asks for the Python object re._compile" in refused(read_vocab_pickle, path)


def test_a_plain_pickle_is_only_read_as_a_vocabulary(tmp_path):
    path = put(tmp_path / "a", pickle.dumps({"idx2sym": ["a"]}))
    assert "not one that torch.save wrote" in refused(read_torch, path)
    refused(read_vocab_pickle, put(tmp_path / "b", pickle.dumps({"idx2sym": ["a"]}) + b"x"))


# ---------------------------------------------------------------------------------- hostile pickles


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n" + push("touch PWNED") + b"\x85R",
        push("os") + push("system") + b"\x93" + push("touch PWNED") + b"\x85R",
        b"(" + push("touch PWNED") + b"ios\nsystem\n",
        b"(cos\nsystem\n" + push("touch PWNED") + b"o",
        b"cos\nsystem\n)\x81",
    ],
    ids=["GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ"],
)
def test_no_opcode_reaches_another_object(tmp_path, monkeypatch, layout, body):
    monkeypatch.chdir(tmp_path)
    message = refused(read_torch, put(tmp_path / "a", LAYOUT[layout](body)))
    assert "asks for the Python object os.system, which a checkpoint does not need" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "torch load",
        "torch._utils _rebuild_tensor_v3",
        "torch.FloatStorage __class__",
        "collections.OrderedDict __init__",
        "collections Counter.__class__",
        "minitxl.storage.checkpoint save",
        "torch.storage _load_from_bytes",
        "collections defaultdict",
    ],
)
def test_only_the_listed_names_are_allowed(tmp_path, name):
    module, attribute = name.split()
    body = f"c{module}\n{attribute}\n".encode()
    message = refused(read_torch, put(tmp_path / "a", legacy(body)))
    assert f"asks for the Python object {module}.{attribute}, which" in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x82\x01", "opcode EXT1"),
        (b"\x83\x01\x00", "opcode EXT2"),
        (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
        (ORDERED + b")\x81", "opcode NEWOBJ"),
        (b"(ccollections\nOrderedDict\no", "opcode OBJ"),
        (b"(icollections\nOrderedDict\n", "opcode INST"),
        (b"P0\n", "opcode PERSID"),
        (b"\x96" + bytes(8), "opcode BYTEARRAY8"),
        (b"N0", "opcode POP"),
        (b"N2", "opcode DUP"),
        (b"))}\x92", "opcode NEWOBJ_EX"),
        (b"C\x01x", "opcode SHORT_BINBYTES"),
        (b"\x8b\x01\0\0\0\x05", "opcode LONG4"),
        (b"I5\n", "opcode INT"),
        (b"\xff", "unknown"),
        (b"}}b", "attributes"),
        (b"ccollections\nCounter\n)R}b", "attributes"),
        (tensor() + b"}b", "attributes"),
        (b"ctorch\nFloatStorage\n)R", "not callable"),
        (b"})R", "not callable"),
        (ORDERED + b"]R", "must be a tuple"),
        (ORDERED + b"(K\x01tR", "list of pairs"),
        (ORDERED + b"(](K\x01K\x02K\x03tatR", "list of pairs"),
        (ORDERED + b"](K\x01K\x02K\x03ta\x85R", "list of pairs"),
        (ORDERED + b"]]\x86R", "cannot be run"),
        (b"ccollections\nCounter\n(" + push("abc") + b"tR", "Counter"),
        (b"ccollections\nCounter\n(]tR", "Counter"),
        (push(1) + push(2) + b"a", "no list"),
        (push(1) + push(2) + push(3) + b"s", "no dict"),
        (tensor() + push(0) + push(1) + b"s", "no dict"),
        (tensor() + b"Na", "no list"),
        (ORDERED + b")RNa", "no list"),
        (b"}(K\x01u", "key without value"),
        (b"})K\x01s", "neither text nor an int64"),
        (b"}N" + push(1) + b"s", "neither text nor an int64"),
        (b"}\x88Ns", "neither text nor an int64"),
        (b"}ctorch\nFloatStorage\nNs", "neither text nor an int64"),
        (b"}" + push(2**63) + push(1) + b"s", "neither text nor an int64"),
        (b"}" + push("a") + push(1) + b"s" + push("a") + push(2) + b"s", "twice"),
        (b"a", "not there"),
        (b"\x85", "not there"),
        (b"h\x07", "not there"),
        (b"t", "not there"),
        (b"", "not there"),
        (b"NN", "leaves values"),
        (b"(N", "leaves values"),
        (b"N(N\x86t", "not there"),
        (b"N(q\0t\x86", "MARK"),
        (push(1) + push("x") + b"\x93", "asks for the Python object 1.x"),
        (b"c" + b"x" * 5000 + b"\n\n", "asks for the Python object xxx"),
        (b"c" + b"x" * 5000, "damaged"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data"),
        (b"X\xff\xff\xff\xff", "only 40 remain"),
        (b"T\xff\xff\xff\xff", "byte count < 0"),
        (b"\x8d" + b"\xff" * 8, "byte count > sys.maxsize"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f", "remain"),
        (b"\x96" + b"\xff" * 7 + b"\x7f", "remain"),
        (b"\x95" + b"\xff" * 7 + b"\x7fN", "cut short"),
        (b"\x80\x09N", "protocol: 9"),
        (b"I" + b"9" * 10**6 + b"\n", "digits"),
        (b"X\x01\x00\x00\x00\xff", "utf-8"),
        (b"X\x03\x00\x00\x00\xed\xa0\x80", "surrogates"),
        (b"U\x01\xff", "utf-8"),
        (push("x") + b"Q", "persistent id"),
        (push(("module", "x", "y", "z")) + b"Q", "persistent id"),
        (push(("storage", "torch.FloatStorage", "0", "cpu", 4)) + b"Q", "persistent id"),
        (storage(numel=-1), "persistent id"),
        (storage(key=0), "persistent id"),
        (b"(" + push("storage") + REBUILD + push("0") + push("cpu") + push(4) + b"tQ", "persist"),
        (storage(), "in the place of a value"),
        (REBUILD, "in the place of a value"),
        (b"]" + storage() + b"a", "in the place of a value"),
        (b"}" + push("a") + storage() + b"\x85s", "in the place of a value"),
        (storage() + storage("Double", "0") + b"\x86", "two types"),
        (storage() + storage(numel=3) + b"\x86", "two types"),
        (b"ctorch\nSize\n(K\x01tR", "no tuple"),
        (b"ctorch\nSize\n)R", "missing 1 required"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01K\x02K\x03tR", "no tensor"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, body, words):
    assert words in refused(read_torch, put(tmp_path / "a", legacy(body)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(size=(5,)), "beyond the end"),
        (dict(offset=1), "beyond the end"),
        (dict(size=(2, 2), stride=(3, 1)), "beyond the end"),
        (dict(size=(2,), stride=(2**62,)), "beyond the end"),
        (dict(size=(2**62,), stride=(1,)), "beyond the end"),
        (dict(size=(5,), stride=(0,)), "repeats the 4"),
        (dict(size=(2**40, 2**40), stride=(0, 0)), "repeats the 4"),
        (dict(size=(4,), stride=(1, 1)), "1 sizes and 2 strides"),
        (dict(size=(1,) * 65, stride=(1,) * 65), "65 sizes"),
        (dict(size=(0, 2**70), stride=(1, 1)), "no storage, size and stride"),
        (dict(size=("a", 10**9), stride=(1, 1)), "no storage, size and stride"),
        (dict(size=(0, 2**62, 2**62), stride=(1, 1, 1)), "damaged"),
        (dict(size=(-1,)), "no storage, size and stride"),
        (dict(stride=(-1,)), "no storage, size and stride"),
        (dict(offset=-1), "no storage, size and stride"),
        (dict(offset=0.0), "no storage, size and stride"),
        (dict(size=(True,)), "no storage, size and stride"),
        (dict(size=[4]), "no storage, size and stride"),
        (dict(size=(("a",),)), "no storage, size and stride"),
        (dict(of=b"N"), "no storage, size and stride"),
        (dict(end=b"\x89t"), "more than plain numbers"),
        (dict(end=b"\x89}" + push({"neg": True}) + b"t"), "more than plain numbers"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_must_lie_in_its_storage(tmp_path, layout, options, words):
    path = put(tmp_path / "a", LAYOUT[layout](tensor(**options)))
    assert words in refused(read_torch, path)


def test_odd_views_are_read(tmp_path):
    """A stride of a single row means nothing, and an empty tensor lies anywhere."""
    raw = np.arange(4, dtype="<f4").tobytes()
    for options, expected in [
        (dict(size=(1, 2), stride=(2**62, 3)), [[0, 3]]),
        (dict(size=(), stride=(), offset=3), 3),
        (dict(size=(2, 0), stride=(1, 1), offset=9), np.zeros((2, 0))),
        (dict(size=(2, 2), stride=(1, 1)), [[0, 1], [1, 2]]),  # overlapping rows
    ]:
        path = put(tmp_path / "a", legacy(tensor(**options), data=[(4, raw)]))
        assert_same({"x": read_torch(path)}, {"x": np.array(expected, dtype=np.float32)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(keys=[]), "list of storages"),
        (dict(keys=["0", "0"]), "list of storages"),
        (dict(keys=["0", "1"]), "list of storages"),
        (dict(keys=[0]), "list of storages"),
        (dict(data=[(3, bytes(16))]), "has 3 numbers"),
        (dict(data=[(2**62, bytes(16))]), "numbers, not 4"),
        (dict(data=[(4, bytes(15))]), "cut short"),
        (dict(data=[(4, bytes(17))]), "behind its last storage"),
        (dict(system={"little_endian": False}), "not little-endian"),
        (dict(system={}), "not little-endian"),
        (dict(system=[1]), "not little-endian"),
    ],
)
def test_the_parts_of_a_legacy_file_must_agree(tmp_path, options, words):
    assert words in refused(read_torch, put(tmp_path / "a", legacy(tensor(), **options)))


def test_the_protocol_of_a_legacy_file_must_be_1001(tmp_path):
    data = legacy(tensor()).replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2))
    assert "not 1001" in refused(read_torch, put(tmp_path / "a", data))


@pytest.mark.parametrize(
    "state",
    [
        b"}" + push("items") + b"Ns",
        b"}" + push("__class__") + b"ctorch\nFloatStorage\ns",
        b"N}" + push("__class__") + b"ctorch\nFloatStorage\ns\x86",
        b"N}" + push("__dict__") + b"N" + b"s\x86",
        b"}" + push("__setstate__") + ORDERED + b"sb}",
        b")" + b"\x85" * 40_000,
    ],
)
def test_attributes_are_skipped(tmp_path, state):
    """A state dict has `_metadata`; others could hide methods, or be called."""
    body = ORDERED + b")R" + push("a") + tensor() + b"s" + state + b"b"
    found = read_torch(put(tmp_path / "a", legacy(body)))
    assert type(found) is OrderedDict and not vars(found)
    assert_same(found, {"a": np.zeros(4, dtype=np.float32)})


def test_long_integers_are_read(tmp_path):
    """Up to the 255 bytes of LONG1; no number counts as a size before it is compared."""
    body = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"
    assert read_torch(put(tmp_path / "a", zipped(body))) == 2 ** (255 * 8 - 1) - 1
    for options in (dict(size=(2**2000,)), dict(offset=2**2000), dict(of=storage(numel=2**2000))):
        assert_cheap(read_torch, put(tmp_path / "a", zipped(tensor(**options))))


def test_storages_that_view_others_are_refused(tmp_path):
    of = storage()[:-2] + b"(" + push("1") + push(0) + push(4) + b"ttQ"
    assert "before 0.4" in refused(read_torch, put(tmp_path / "a", legacy(tensor(of))))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "'0' is missing"),
        ({"data/0": bytes(15)}, "has 15 bytes"),
        ({"data/0": bytes(17)}, "has 17 bytes"),
        ({"data/0": bytes(16), "byteorder": "big"}, "not little-endian"),
        ({"data/0": bytes(16), "../archive2/data.pkl": "N."}, None),
        ({"data/0": bytes(16), "data.pkl ": "N."}, None),
    ],
)
def test_the_members_of_a_zip_must_fit(tmp_path, members, words):
    path = put(tmp_path / "a", zipped(tensor(), members))
    if words is None:
        assert_same({"x": read_torch(path)}, {"x": np.zeros(4, dtype=np.float32)})
    else:
        assert words in refused(read_torch, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_archives_are_refused(tmp_path):
    file = io.BytesIO(zipped(tensor()))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    assert "same name" in refused(read_torch, put(tmp_path / "a", file.getvalue()))
    data = zipped(tensor(), method=zipfile.ZIP_BZIP2)
    assert "compression" in refused(read_torch, put(tmp_path / "a", data))
    data = bytearray(zipped(tensor()))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refused(read_torch, put(tmp_path / "a", data))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (10, b"\1", "lists 2 members"),  # number of members
        (12, b"\0\0\0\0", "lists 0 members"),  # bytes of the directory
        (12, b"\xff\xff\xff\x7f", "not whole"),
        (16, b"\xff\xff\xff\x7f", "not whole"),  # where it begins
    ],
)
def test_the_end_of_an_archive_is_checked(tmp_path, place, value, words):
    data = bytearray(zipped(tensor()))
    place += data.index(b"PK\5\6")
    data[place : place + len(value)] = value
    assert words in refused(read_torch, put(tmp_path / "a", data))


def test_a_flipped_number_in_a_zip_is_seen(tmp_path):
    data = bytearray((GOLDEN / "state_dict.zip").read_bytes())
    place = data.index(np.arange(6, dtype="<f4").tobytes())
    data[place] ^= 1
    assert "not whole" in refused(read_state_dict, put(tmp_path / "a", data))


def test_a_pickle_of_a_zip_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("minitxl.interop.torch_file.MAX_PICKLE", 100)
    assert "more than 100 bytes" in refused(read_torch, GOLDEN / "state_dict.zip")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_storages_are_read_in_pieces(layout, monkeypatch):
    right = read_torch(GOLDEN / f"everything.{layout}")
    monkeypatch.setattr("minitxl.interop.storages._CHUNK", 4)
    found = read_torch(GOLDEN / f"everything.{layout}")
    for name in ("bfloat16", "bfloat16_row", "base", "float64", "bool"):
        assert found[name].tobytes() == right[name].tobytes()


def test_a_bool_has_only_two_values(tmp_path):
    data = legacy(tensor(storage("Bool")), data=[(4, b"\0\1\2\0")])
    assert "bytes other than 0 and 1" in refused(read_torch, put(tmp_path / "a", data))


# ------------------------------------------------------------------------------ time and memory


def assert_cheap(call, path: Path, mib: float = 8, seconds: float = 10) -> str:
    start = time.process_time()  # other work on the machine does not count
    tracemalloc.start()
    try:
        message = refused(call, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib * 2**20, f"{peak / 2**20:.1f} MiB"
    assert time.process_time() - start < seconds
    return message


def laughs(levels: int = 30) -> bytes:
    """A list of ten times a list of ten times ...: a thousand bytes, 10**30 values."""
    body = push(["ha"]) + b"q\x00"
    for _ in range(levels):
        body += b"](" + b"h\x00" * 10 + b"eq\x00"
    return b"(" + body + b"t"


# Hashing these would overflow the stack of C, or take until the end of time.
KEYS = [b")" + b"\x85" * 40_000, b")q\0" + b"h\0\x86q\0" * 100]  # (t, t)
KEYED = [b"}%bNs", b"}(%bNu", ORDERED + b"]%bN\x86a\x85R", b"ccollections\nCounter\n}%bNs\x85R"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tensor(storage(numel=2**40), size=(2**40,)), "claim more bytes"),
        (tensor(storage("BFloat16", numel=10**12)), "claim more bytes"),
        (b"r\xff\xff\xff\xff", "into a memo after"),
        (b"Nr\xff\xff\xff\xff", "into a memo after"),
        (b"Nr\x00\x00\x10\x00", "into a memo after"),
        (b"]" * 10_000 + b"a" * 9_999, "over 100 deep"),
        (b")" + b"\x85" * 10_000, "over 100 deep"),
        *((key_of % key, "neither text nor an int64") for key in KEYS for key_of in KEYED),
        (tensor(size=(1,) * 40_000, stride=(1,) * 40_000), "40000 sizes"),
        (b"]q\0h\0a", "refers to itself"),
        (b"}q\0" + push("x") + b"h\0s", "refers to itself"),
        (b"N" * 200_000, "more than 100000 steps"),
        (laughs(), "spreads out"),
        (b"(]q\0(" + b"N" * 1000 + b"e" + b"h\0" * 9000 + b"t", "spreads out"),
        (
            # one long list, and ten thousand times its copy as an OrderedDict
            b"(ccollections\nOrderedDict\nq\1]("
            + b"".join(push((i, None)) for i in range(1000))
            + b"eq\0"
            + b"h\1h\0\x85R" * 10_000
            + b"t",
            "copies more values",
        ),
        (
            b"(ccollections\nCounter\nq\1}("
            + b"".join(push(i) + b"N" for i in range(1000))
            + b"uq\0"
            + b"h\1h\0\x85R" * 10_000
            + b"t",
            "copies more values",
        ),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else value,
)
def test_claims_and_bombs_cost_little(tmp_path, monkeypatch, body, words):
    monkeypatch.setattr(safe_pickle, "_MAX_STEPS", 100_000)  # of 8 million: a fraction of the time
    path = put(tmp_path / "a", zipped(body, {}))
    assert words in assert_cheap(read_torch, path, mib=16)


def test_integers_that_collide_are_refused(tmp_path):
    prime = 2**61 - 1  # Python's hash of an integer is the rest of the division by it
    keys = b"".join(push(prime * (2**10 + i)) + b"N" for i in range(50_000))
    path = put(tmp_path / "a", zipped(b"}(" + keys + b"u", {}))
    assert "neither text nor an int64" in assert_cheap(read_torch, path, mib=40)


def test_zip_bombs_are_refused_before_they_unpack(tmp_path):
    zeros = bytes(80 * 2**20)
    bomb = zipped(tensor(), {"data/0": zeros}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert "claim to unpack" in assert_cheap(read_torch, put(tmp_path / "a", bomb))
    assert "claim to unpack" in assert_cheap(read_state_dict, put(tmp_path / "a", bomb))


def npz(header: dict | bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY" + version + size + text + data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz({"descr": "<f4", "fortran_order": False, "shape": (2**40,)}), "shorter than"),
        (npz({"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**40)}), "shorter than"),
        (npz({"descr": "<f4", "fortran_order": False, "shape": (-1,)}), "shorter than"),
        (npz({"descr": "<f4", "fortran_order": False, "shape": (-1, -1)}, bytes(4)), "shorter"),
        (npz({"descr": "<f4", "fortran_order": False, "shape": (2,)}, bytes(9)), "longer than"),
        (npz({"descr": "<f4", "fortran_order": False, "shape": (15,)}, bytes(9)), "cut short"),
        (npz({"descr": "|O", "fortran_order": False, "shape": ()}, b"cos\nsystem\n."), "the type"),
        (npz({"descr": "<U9", "fortran_order": False, "shape": ()}, bytes(36)), "the type"),
        (npz({"descr": "<c8", "fortran_order": False, "shape": ()}, bytes(8)), "the type"),
        (npz({"descr": "<M8[s]", "fortran_order": False, "shape": ()}, bytes(8)), "the type"),
        (npz({"descr": "|b1", "fortran_order": False, "shape": ()}, b"\2"), "other than 0 and 1"),
        (npz(b"(" * 9000), "no readable header|damaged"),
        (npz(b"-" * 9000), "no readable header"),
        (npz(b"{'a': '''"), "no readable header"),
        (npz(b"", version=b"\3\0"), "version"),
        (npz(b"__import__('os').system('x')"), "damaged"),
    ],
)
def test_hostile_npz_files_are_refused(tmp_path, data, words):
    message = assert_cheap(read_state_dict, put(tmp_path / "a", data), mib=60)
    assert re.search(words, message)


# ---------------------------------------------------------------------------------------- writing


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 4))  # square: only its strides tell the transposed one
    state = {
        **{t: rng.integers(0, 2, (2, 3)).astype(t) for t in "bool uint8 int8 int16".split()},
        **{t: rng.integers(0, 99, (2, 3)).astype(t) for t in "int32 int64".split()},
        **{t: base.astype(t) for t in "float16 float32 float64".split()},
        "é.x": base,
        "same": base,
        "transposed": base.T,
        "transposed_again": base.T,
        "row": base[1],
        "big_endian": np.arange(3, dtype=">i4"),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.int16),
        "long": np.zeros(70_000, dtype=np.int8),
    }
    write_torch(tmp_path / "a", state)
    found = read_state_dict(tmp_path / "a")
    expected = {n: a.astype(a.dtype.newbyteorder("<")) for n, a in state.items()}
    assert_same(found, expected)
    assert np.shares_memory(found["é.x"], found["same"])
    assert np.shares_memory(found["transposed"], found["transposed_again"])
    assert not np.shares_memory(found["é.x"], found["row"])
    with zipfile.ZipFile(tmp_path / "a") as archive:
        data = [name for name in archive.namelist() if "/data/" in name]
    assert len(data) == len(state) - 2
    write_torch(tmp_path / "b", state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_written_unless_all_can_be(tmp_path, monkeypatch):
    path = put(tmp_path / "a", b"old")
    for state, words in [
        ({"a": np.zeros(2, dtype=np.uint16)}, "uint16"),
        ({"a": np.zeros(2, dtype=np.complex64)}, "complex64"),
        ({"a": np.array([None])}, "object"),
        ({"a": [1, 2]}, "list"),
        ({1: np.zeros(2)}, "must be text"),
        ({"\ud800": np.zeros(2)}, "surrogates"),
    ]:
        with pytest.raises(MinitxlError, match=words) as caught:
            write_torch(path, state)
        assert str(caught.value).isprintable()
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_torch(path, STATE)
    monkeypatch.undo()
    refused(write_torch, tmp_path / "missing" / "a", STATE)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_mapping_that_makes_its_arrays_ties_none(tmp_path):
    """Arrays that live one after the other may have one address: that is no tie."""

    class Made(Mapping):
        def __iter__(self):
            return iter("abcdefgh")

        def __len__(self):
            return 8

        def __getitem__(self, name):
            return np.full((2, 5), ord(name))[:, ::2]  # stored as a copy: then it is gone

    write_torch(tmp_path / "a", Made())
    found = read_state_dict(tmp_path / "a")
    assert [found[name][0, 0] for name in "abcdefgh"] == list(b"abcdefgh")


# --------------------------------------------------------------------------- where PyTorch is there


@pytest.mark.parametrize("new", [True, False], ids=LAYOUTS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_save_to_read_torch(tmp_path, new, protocol):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    names = "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool".split()
    tensors = {name: (base * 3).to(getattr(torch, name)) for name in names}
    tensors |= {
        "tied": tensors["float32"],
        "permuted": base.permute(2, 0, 1),
        "sliced": base[1::2, :, 2:5],
        "bfloat16_view": tensors["bfloat16"].permute(2, 1, 0)[1:3],
        "parameter": torch.nn.Parameter(base[0]),
        "special": torch.tensor([float("nan"), 1e-45, -0.0]).bfloat16(),
    }
    options = dict(_use_new_zipfile_serialization=new, pickle_protocol=protocol)
    torch.save({"model": tensors, "step": 5}, tmp_path / "a", **options)
    found = read_torch(tmp_path / "a")
    assert found["step"] == 5
    expected = {name: t.detach() for name, t in tensors.items()}
    expected = {n: (t.float() if t.dtype == torch.bfloat16 else t) for n, t in expected.items()}
    assert_same(found["model"], {name: t.numpy() for name, t in expected.items()})
    assert np.shares_memory(found["model"]["permuted"], found["model"]["sliced"])
    assert np.shares_memory(found["model"]["tied"], found["model"]["float32"])
    assert_same(read_state_dict(tmp_path / "a"), found["model"])
    options["pickle_protocol"] = 2  # 5 needs PyTorch itself
    torch.save(base[:1].expand(9, 5, 6), tmp_path / "b", **options)
    assert ".contiguous()" in refused(read_torch, tmp_path / "b")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "c", **options)
    assert "torch.nn.modules.linear.Linear" in refused(read_torch, tmp_path / "c")


def test_write_torch_to_torch_load(tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 4, 5)) * 3
    names = "float16 float32 float64 int8 int16 int32 int64 uint8 bool".split()
    state = {name: base.astype(name) for name in names if name != "uint8"}
    state |= {
        "uint8": np.arange(256, dtype=np.uint8),
        "tied": state["float32"],
        "transposed": base.T,
        "sliced": base[::2, 1:, ::-1],
        "scalar": np.array(3),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "é": np.zeros((1, 2, 1)),
    }
    write_torch(tmp_path / "a", state)
    for options in ({}, {"mmap": True}):
        found = torch.load(tmp_path / "a", weights_only=True, **options)
        assert found["tied"].data_ptr() == found["float32"].data_ptr()
        assert all(tensor.is_contiguous() for tensor in found.values())
        assert_same({name: t.numpy() for name, t in found.items()}, state)
    module = torch.nn.Linear(2, 3)
    write_torch(tmp_path / "b", {n: np.ones(t.shape, "f4") for n, t in module.state_dict().items()})
    module.load_state_dict(torch.load(tmp_path / "b", weights_only=True))
    assert math.prod(module.weight.detach().numpy().reshape(-1)) == 1
