"""Checkpoints: exact round trips, atomic replacement under every simulated failure, messages."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minitxl import files
from minitxl.errors import MinitxlError
from minitxl.storage import checkpoint
from minitxl.storage.checkpoint import load, load_tensors, read_json, save, write_json, write_text

ROOT = Path(checkpoint.__file__).parents[2]
DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
EXAMPLE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, dtype=np.int64)}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and every bit (so NaN equals NaN, and -0.0 does not equal 0.0)."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def refused(call, *args) -> str:
    """Return the message of the MinitxlError that the call must raise: one printable line."""
    with pytest.raises(MinitxlError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.isprintable() and 20 < len(message) < 900, message
    return message


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, np.dtype(dtype).itemsize * math.prod(shape), dtype=np.uint8)
    array = (raw & 1 if dtype == "bool" else raw).view(dtype).reshape(shape)
    save(tmp_path / "a", {"x": array}, {})
    tensors, state = load(tmp_path / "a")
    assert list(tensors) == ["x"] and same(tensors["x"], array) and state == {}
    assert tensors["x"].flags.writeable


def test_special_floats_keep_their_bits(tmp_path):
    for dtype, bits in (("float16", "uint16"), ("float32", "uint32"), ("float64", "uint64")):
        array = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1], dtype=dtype)
        array.view(bits)[0] += 1  # a NaN with a payload
        save(tmp_path / "a", {"x": array}, {})
        assert same(load(tmp_path / "a")[0]["x"], array)


def test_strides_and_byte_order_do_not_matter(tmp_path):
    base = np.arange(24, dtype=np.float64).reshape(4, 6)
    views = {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[::2, ::-3],
        "broadcast": np.broadcast_to(base[:, :1], (4, 5)),
        "row": base[2],
        "big_endian": base.astype(">f8"),
        "big_endian_int": np.array(300, dtype=">u2"),
        "frozen": np.frombuffer(b"\x01\x02", dtype=np.uint8),
    }
    before = {name: array.copy() for name, array in views.items()}
    save(tmp_path / "a", views, {})
    tensors, _ = load(tmp_path / "a")
    assert list(tensors) == sorted(views)
    for name, array in views.items():
        native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(
            array.shape
        )
        assert same(tensors[name], native), name
        assert np.array_equal(array, before[name])  # nothing passed in is modified


def test_state_comes_back_exactly(tmp_path):
    state = {
        "rng": np.random.default_rng(5).bit_generator.state,  # integers of 128 bits
        "nested": [[1, [2.5, None, True]], {"a": {}, "b": []}, "é\u2028\ud800\0 \"'\\", ""],
        "floats": [0.1, 1e-323, 1.7976931348623157e308, -0.0, 1 / 3, 2.0],
        "big": [2**128 - 1, -(2**63), 10**300],
        "best": math.inf,
        "": 0,
        "crc32": "mine",
    }
    save(tmp_path / "a", {}, state)
    tensors, loaded = load(tmp_path / "a")
    assert tensors == {} and loaded == state
    assert json.dumps(loaded) == json.dumps(state)  # tells 2.0 from 2 and -0.0 from 0.0
    rng = np.random.default_rng(0)
    rng.bit_generator.state = loaded["rng"]
    assert rng.random() == np.random.default_rng(5).random()


def test_state_keeps_nan_and_infinity_but_json_files_refuse_them(tmp_path):
    save(tmp_path / "a", {}, {"loss": [math.nan, -math.inf]})
    loss = load(tmp_path / "a")[1]["loss"]
    assert math.isnan(loss[0]) and loss[1] == -math.inf
    assert "run.json['a'][1] cannot" in refused(
        write_json, tmp_path / "run.json", {"a": [1, math.inf]}
    )
    (tmp_path / "run.json").write_text('{"a": NaN}', encoding="utf-8")
    assert "NaN is not a standard JSON number" in refused(read_json, tmp_path / "run.json")


def test_equal_input_gives_equal_bytes_in_another_process(tmp_path):
    state = {"z": 1, "a": [2, {"y": 0.1, "b": None}]}
    save(tmp_path / "a", EXAMPLE, state)
    script = """
        import sys, numpy as np
        from minitxl.storage.checkpoint import load, save
        save(sys.argv[2], *load(sys.argv[1]))
    """
    start(script, tmp_path / "a", tmp_path / "b").wait(60)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_json_round_trip(tmp_path):
    path = tmp_path / "run.json"
    obj = {"text": "é\n\ud800", "list": [1, 2.5, None], "deep": {"x": {"y": [True]}}}
    write_json(path, obj)
    assert read_json(path) == obj
    data = path.read_bytes()
    assert data.endswith(b"}\n") and b"\r" not in data
    path.write_bytes(b"\xef\xbb\xbf" + data)  # as some editors on Windows save it
    assert read_json(path) == obj
    write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"


# ---------------------------------------------------------------------------- what cannot be saved


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"rng": {"key": np.zeros(2)}}, "state['rng']['key'] cannot"),
        ({"a": [0, {"step": np.int64(3)}]}, "state['a'][1]['step'] cannot"),
        ({"a": {1: "x"}}, "state['a'][1]: JSON allows only text"),
        ({"a": {2.0}}, "state['a'] cannot"),
        ({"a": b"x"}, "state['a'] cannot"),
        ({"bad\nkey": object()}, r"state['bad\nkey'] cannot"),
        ({"a": 10**5000}, "state['a'] cannot"),
        ([1], "state must be a dict, got a list"),
    ],
)
def test_state_that_json_cannot_hold_is_named(tmp_path, state, place):
    assert place in refused(save, tmp_path / "a", {}, state)
    assert list(tmp_path.iterdir()) == []


def test_deep_and_circular_states_are_refused(tmp_path):
    circle: list = []
    circle.append(circle)
    assert "nested over 100 deep" in refused(save, tmp_path / "a", {}, {"c": circle})
    deep: dict = {}
    for _ in range(50_000):
        deep = {"d": deep}
    assert "nested over 100 deep" in refused(write_json, tmp_path / "a", deep)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": [1.0, 2.0]}, "tensor 'x' is a list"),
        ({"x": np.float32(1)}, "tensor 'x' is a float32"),
        ({"x": np.array(["a"])}, "has the type <U1"),
        ({"x": np.array([None])}, "has the type object"),
        ({"x": np.zeros(2, complex)}, "has the type complex128"),
        ({"x": np.zeros(2, "datetime64[s]")}, "has the type datetime64[s]"),
        ({"x": np.zeros(2, [("a", "f4")])}, "has the type"),
        ({"__metadata__": np.zeros(2)}, "'__metadata__'"),
        ({3: np.zeros(2)}, "must be text"),
        ({"\ud800": np.zeros(2)}, "surrogates not allowed"),
    ],
)
def test_tensors_that_cannot_be_saved_are_named(tmp_path, tensors, words):
    assert words in refused(save, tmp_path / "a", tensors, {})
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_JSON", 2000)
    assert "at most 2000" in refused(save, tmp_path / "a", {}, {"a": "x" * 2000})
    assert "at most 2000" in refused(write_json, tmp_path / "a", {"a": "x" * 2000})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- what cannot be read: messages


def test_messages_name_the_file_and_say_what_to_do(tmp_path):
    path = tmp_path / "last.safetensors"
    assert "last.safetensors does not exist" in refused(load, path)
    assert "check the path" in refused(read_json, tmp_path)
    assert "check the path" in refused(load, f"{tmp_path}/nul\0byte")
    assert "check that the folder exists" in refused(save, tmp_path / "no" / "x", {}, {})
    save(path, EXAMPLE, {"step": 12})
    path.write_bytes(path.read_bytes()[:-1])
    message = refused(load, path)
    assert "last.safetensors is damaged" in message and "restore it from a copy" in message
    path.write_bytes(path.read_bytes()[:50])
    assert "cut short (50 bytes long), or no safetensors file" in refused(load, path)


def test_a_flipped_bit_in_the_numbers_is_seen(tmp_path):
    path = tmp_path / "a"
    save(path, EXAMPLE, {"step": 12})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "a is damaged: its checksum is" in refused(load, path)
    assert "a is damaged: its checksum is" in refused(load_tensors, path)


def test_files_of_others(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(EXAMPLE, path, metadata={"format": "pt"})
    assert all(same(array, EXAMPLE[name]) for name, array in load_tensors(path).items())
    assert "is not a minitxl checkpoint" in refused(load, path)
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    message = refused(load_tensors, path)
    assert "tensor 'x' has the type BF16" in message and "convert the file to float32" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refused(load, tmp_path / "pipe")
    assert "not a file" in refused(read_json, tmp_path / "pipe")


def test_a_device_is_not_replaced(tmp_path):
    """Renaming over /dev/null would take it away from the whole machine."""
    device = tmp_path / "device"
    try:
        os.mkfifo(device)
    except (AttributeError, OSError):
        pytest.skip("no special files here")
    assert "not a regular file" in refused(save, device, EXAMPLE, {})
    assert not device.is_file() and device.exists()


def test_out_of_memory_is_an_error_of_one_line(tmp_path, monkeypatch):
    save(tmp_path / "a", EXAMPLE, {})

    def no_memory(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(checkpoint, "_entries", no_memory)
    monkeypatch.setattr(checkpoint, "serialize", no_memory)
    assert "does not fit into memory" in refused(load, tmp_path / "a")
    assert "out of memory" in refused(save, tmp_path / "a", EXAMPLE, {})


# -------------------------------------------------------------------------------------- atomicity


class FailingFile:
    """A file on a disk that is full after some bytes, or whose flush or close fails."""

    def __init__(self, path, mode, fails_in):
        self.file, self.fails_in = open(path, mode), fails_in

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self._fail("close")

    def _fail(self, where):
        if where == self.fails_in:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, data):
        self.file.write(data[: len(data) // 2] if self.fails_in == "write" else data)
        self.file.flush()
        self._fail("write")

    def flush(self):
        self._fail("flush")

    def fileno(self):
        return self.file.fileno()


@pytest.fixture(params=["new", "old"])
def target(request, tmp_path):
    """A path with nothing there yet, or with an older checkpoint."""
    if request.param == "old":
        save(tmp_path / "last", EXAMPLE, {"step": 1})
    return tmp_path / "last"


def assert_unharmed(target):
    if target.exists():
        assert load(target)[1] == {"step": 1}
        assert [p.name for p in target.parent.iterdir()] == ["last"]
    else:
        assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("fails_in", ["write", "flush", "close"])
def test_a_full_disk_leaves_the_old_file(target, monkeypatch, fails_in):
    opened = lambda path, mode: FailingFile(path, mode, fails_in)  # noqa: E731
    monkeypatch.setattr(files, "open", opened, raising=False)
    for message in (
        refused(save, target, EXAMPLE, {"step": 2}),
        refused(write_json, target, {"step": 2}),
    ):
        assert "last: No space left on device; free some disk space; what was there" in message
    monkeypatch.undo()
    assert_unharmed(target)


def test_a_real_write_that_fails_half_way_leaves_the_old_file(target):
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        message = refused(save, target, {"x": np.ones(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in message
    assert_unharmed(target)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failing_system_calls_leave_the_old_file(target, monkeypatch, function):
    def fails(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, function, fails)
    assert "Input/output error" in refused(save, target, EXAMPLE, {"step": 2})
    monkeypatch.undo()
    assert_unharmed(target)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_ctrl_c_leaves_the_old_file(target, monkeypatch, function):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(target, EXAMPLE, {"step": 2})
    monkeypatch.undo()
    assert_unharmed(target)


def test_a_target_that_is_open_elsewhere_is_tried_again(target, monkeypatch):
    """On Windows os.replace raises PermissionError while another program has the target open."""
    calls, slept, replace = [], [], os.replace

    def busy(source, destination, times):
        calls.append(source)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, destination)

    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "replace", lambda a, b: busy(a, b, times=99))
    assert "close programs that have the file open" in refused(save, target, EXAMPLE, {"step": 2})
    assert_unharmed(target)
    assert len(calls) == 6 and 1 < sum(slept) < 3
    calls.clear()
    monkeypatch.setattr(os, "replace", lambda a, b: busy(a, b, times=3))
    save(target, EXAMPLE, {"step": 2})
    assert load(target)[1] == {"step": 2} and len(calls) == 4


def test_saving_over_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "last").mkdir()
    refused(save, tmp_path / "last", EXAMPLE, {})
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.skipif(os.name == "nt", reason="links need special rights on Windows")
def test_a_link_is_followed_and_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "last").symlink_to(tmp_path / "disk" / "real")
    save(tmp_path / "last", EXAMPLE, {"step": 1})
    assert (tmp_path / "last").is_symlink() and load(tmp_path / "disk" / "real")[1] == {"step": 1}
    (tmp_path / "plain").touch()
    assert (tmp_path / "disk" / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    kept = ["last", "last.tmp", ".last.json.0123abcd.tmp", ".last.0123abcd", "x.last.0123abcd.tmp"]
    for name in [*kept, ".last.0123abcd.tmp", ".last.ffffffff.tmp"]:
        (tmp_path / name).touch()
    save(tmp_path / "last", EXAMPLE, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    odd = tmp_path / "a[b]*"
    (tmp_path / ".a[b]*.0123abcd.tmp").touch()
    write_json(odd, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, odd.name])


def test_two_savers_to_one_path_never_break_the_file(tmp_path):
    failures = []

    def saver(step):
        for _ in range(40):
            try:
                save(tmp_path / "last", {"x": np.full(10_000, step)}, {"step": step})
            except MinitxlError as error:
                failures.append(str(error))

    save(tmp_path / "last", {"x": np.full(10_000, 0)}, {"step": 0})
    threads = [threading.Thread(target=saver, args=(step,)) for step in (1, 2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tensors, state = load(tmp_path / "last")
        assert np.all(tensors["x"] == state["step"])
    assert all("what was there before is unharmed" in failure for failure in failures)
    assert len(failures) < 80 and [p.name for p in tmp_path.iterdir()] == ["last"]


def start(script: str, *args) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("moment", ["half written", "before fsync", "before replace"])
def test_death_at_each_step_leaves_the_old_file(target, moment):
    script = """
        import os, sys
        import numpy as np
        from minitxl.storage import checkpoint
        def die(*args): os._exit(7)
        if sys.argv[2] == "half written":
            whole = checkpoint.serialize
            checkpoint.serialize = lambda *args, **kw: whole(*args, **kw)[:-8]  # what is on disk
        if sys.argv[2] == "before replace":
            os.replace = die
        else:
            os.fsync = die
        checkpoint.save(sys.argv[1], {"x": np.ones(1000)}, {"step": 2})
    """
    process = start(script, target, moment)
    process.communicate(timeout=60)
    assert process.returncode == 7
    leftovers = [p for p in target.parent.iterdir() if p.suffix == ".tmp"]
    assert len(leftovers) == 1
    if target.exists():
        assert load(target)[1] == {"step": 1}
    save(target, EXAMPLE, {"step": 3})
    assert [p.name for p in target.parent.iterdir()] == ["last"] and load(target)[1] == {"step": 3}


def test_kill_in_a_loop_of_saves_always_leaves_a_saved_state(tmp_path):
    path = tmp_path / "last"
    script = """
        import sys
        import numpy as np
        from minitxl.storage.checkpoint import save
        step = int(sys.argv[2])
        while True:
            step += 1
            save(sys.argv[1], {"x": np.full(300_000, step), "y": np.array(step)}, {"step": step})
            print(step, flush=True)
    """
    rng, step = random.Random(0), 0
    for _ in range(5):
        process = start(script, path, step)
        try:
            process.stdout.readline()  # it is saving now
            time.sleep(rng.uniform(0, 0.03))
        finally:
            process.kill()
        reported = process.communicate(timeout=60)[0].split()
        tensors, state = load(path)
        assert state["step"] > step
        step = state["step"]
        assert np.all(tensors["x"] == step) and tensors["y"] == step
        if reported:  # one more may have been renamed but not reported
            assert step - int(reported[-1]) in (0, 1)
        assert len(list(tmp_path.iterdir())) <= 2
    save(path, EXAMPLE, {})
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
