"""A run goes on only as what it was: one process, its text, its vocabulary, its sizes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minitxl import MinitxlError
from minitxl.cli import main
from minitxl.errors import MinitxlWarning
from minitxl.lock import locked
from minitxl.storage import checkpoint
from minitxl.storage.generations import NEWEST, OLDER
from minitxl.training import run

SMALL = dict(n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8, mem_len=8)
SETTINGS = dict(batch_size=2, threads=1, eval_every=4, save_every=2, seed=1)
LEFT = ".run.json.abcdef01.tmp"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    words = np.random.default_rng(0).choice(["sun ", "moon ", "star\n"], 400)
    path.write_text("".join(words), encoding="utf-8", newline="\n")
    return path


def train(data, out, **more):
    options = {**SETTINGS, "steps": 8, **more}
    return run.train(
        data=str(data), out=out, device="cpu", quiet=True, model_options=SMALL, **options
    )


def go_on(out, **more):
    return run.train(resume=out, device="cpu", quiet=True, **more)


@pytest.fixture(scope="module")
def whole(book, tmp_path_factory):
    return checkpoint.load(train(book, tmp_path_factory.mktemp("w") / "w") / NEWEST)[0]


def is_same(out, arrays):
    found = checkpoint.load(out / NEWEST)[0]
    return all(np.array_equal(found[name], a) for name, a in arrays.items())


def interrupted(book, out, at=6, **more):
    """A run that was stopped: when it has saved twice, or before its first checkpoint."""
    save, saved = run._Run.save, []

    def stops(self):
        saved.append(1)
        if len(saved) > at // 2:
            raise KeyboardInterrupt
        save(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run._Run, "save", stops)
        train(book, out, **more)
    return out


@pytest.mark.parametrize("attn_type", [4, 5])
def test_a_run_with_another_encoding_goes_on(book, tmp_path, monkeypatch, attn_type):
    monkeypatch.setitem(SMALL, "attn_type", attn_type)
    straight = checkpoint.load(train(book, tmp_path / "straight") / NEWEST)[0]
    out = interrupted(book, tmp_path / "r")
    go_on(out)
    assert is_same(out, straight)


def test_what_a_kill_left_is_no_obstacle(book, tmp_path, whole):
    """`mkdir r; touch r/.run.json.abcdef01.tmp; train --out r`, and the same for --resume."""
    out = tmp_path / "r"
    out.mkdir()
    (out / LEFT).touch()
    train(book, out)
    assert is_same(out, whole) and not (out / LEFT).exists()
    (out / LEFT).touch()
    (out / ".lock").touch()  # of a process that is no more
    go_on(out)
    assert not (out / LEFT).exists() and not (out / ".lock").exists()


def test_one_process_at_a_time(book, tmp_path, whole):
    out = tmp_path / "r"
    out.mkdir()
    with locked(out), pytest.raises(MinitxlError, match=f"in use by process {os.getpid()}"):
        train(book, out)
    assert not list(out.iterdir())
    interrupted(book, out)
    before = sorted((p.name, p.read_bytes()) for p in out.iterdir())
    with locked(out), pytest.raises(MinitxlError, match="in use"):
        go_on(out)
    assert sorted((p.name, p.read_bytes()) for p in out.iterdir()) == before
    go_on(out)
    assert is_same(out, whole)


def test_the_older_checkpoint_leads_to_the_same_bits(book, tmp_path, whole):
    out = interrupted(book, tmp_path / "r")
    assert checkpoint.load(out / OLDER)[1]["n_step"] == 2
    (out / NEWEST).write_bytes((out / NEWEST).read_bytes()[:-100])
    with pytest.warns(MinitxlWarning, match="of step 2"):
        go_on(out)
    assert is_same(out, whole)


def test_a_run_that_has_no_checkpoint_yet_says_how_to_go_on(book, tmp_path):
    out = interrupted(book, tmp_path / "r", at=0)
    assert not (out / NEWEST).exists()
    with pytest.raises(MinitxlError, match="continue it with --resume"):
        train(book, out)


@pytest.mark.parametrize("at", [0, 6])
def test_a_changed_text_is_refused(book, tmp_path, at):
    """Before the first checkpoint too, and where the vocabulary or held-out text alone differ."""
    text = book.read_bytes()
    for changed in (text + b"z", text.replace(b"sun", b"nus", 1), text[:-4] + b"nus\n"):
        own, out = tmp_path / "own.txt", tmp_path / "r"
        own.write_bytes(text)
        interrupted(own, out, at)
        own.write_bytes(changed)
        with pytest.raises(MinitxlError, match=r"own\.txt.*has changed.*--data PATH"):
            go_on(out)
        shutil.rmtree(out)


@pytest.mark.parametrize("at", [0, 6])
def test_a_changed_vocabulary_is_refused(book, tmp_path, at):
    """Also in runs of older versions, which have no checksum."""
    own, out = tmp_path / "own.txt", tmp_path / "r"
    own.write_bytes(book.read_bytes())
    interrupted(own, out, at)
    info = json.loads((out / "run.json").read_text(encoding="utf-8"))
    del info["text_sha256"]
    (out / "run.json").write_text(json.dumps(info), encoding="utf-8")
    own.write_bytes(book.read_bytes() + b"z")
    with pytest.raises(MinitxlError, match=r"vocabulary of 11 symbols.*--data PATH"):
        go_on(out)


def test_a_moved_text_is_accepted(book, tmp_path, whole):
    own, there, out = tmp_path / "own.txt", tmp_path / "there.txt", tmp_path / "r"
    own.write_bytes(book.read_bytes())
    interrupted(own, out)
    own.rename(there)
    with pytest.raises(MinitxlError, match=r"not at .*own\.txt any more.*--data PATH"):
        go_on(out)
    other = tmp_path / "other.txt"
    other.write_bytes(book.read_bytes() + b"sun ")
    with pytest.raises(MinitxlError, match=r"other\.txt is not the one of the run.*--data PATH"):
        go_on(out, data=str(other))
    go_on(out, data=str(there))
    assert is_same(out, whole)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["data"] == str(there)
    go_on(out)  # and now it knows


@pytest.mark.parametrize(("command", "option"), [("eval", "--data"), ("explore", "--text")])
def test_commands_name_their_option(book, tmp_path, capsys, command, option):
    own, out = tmp_path / "own.txt", tmp_path / "r"
    own.write_bytes(book.read_bytes())
    train(own, out)
    page = ["--out", str(tmp_path / "x.html")] if command == "explore" else []
    own.write_bytes(book.read_bytes().replace(b"moon", b"noom"))
    assert main([command, str(out), *page]) == 2
    assert "has changed since: its sha256 is " in capsys.readouterr().err
    own.unlink()
    assert main([command, str(out), *page]) == 2
    assert f"give its new place as {option} PATH" in capsys.readouterr().err


@pytest.mark.parametrize("at", [0, 6])
@pytest.mark.parametrize("field", ["n_layer", "d_model", "d_inner", "n_token"])
@pytest.mark.parametrize("value", [64, 65536, 2**31, 10**9, 10**30])
def test_hostile_sizes_take_no_memory(book, tmp_path, field, value, at):
    out = interrupted(book, tmp_path / "r", at)
    info = json.loads((out / "run.json").read_text(encoding="utf-8"))
    info["config"][field] = value
    (out / "run.json").write_text(json.dumps(info), encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(MinitxlError, match=f"{field}|n_params|shape|lacks|changed by hand"):
        go_on(out)
    with pytest.raises(MinitxlError):
        run.load_run(out, device="cpu")
    assert time.monotonic() - began < 5


def test_imported_models_have_nothing_to_resume(book, tmp_path):
    out = train(book, tmp_path / "r")
    info = json.loads((out / "run.json").read_text(encoding="utf-8"))
    info["train"] = {}
    (out / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(MinitxlError, match="trained elsewhere"):
        go_on(out)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_saves_as_ctrl_c_does(book, tmp_path, number):
    out = tmp_path / "r"
    sizes = [f"--set={k}={v}" for k, v in SMALL.items()]
    command = [sys.executable, "-m", "minitxl", "train", f"--data={book}", f"--out={out}"]
    command += ["--steps=100000", "--batch-size=2", "--device=cpu", "--save-every=100000", *sizes]
    process = subprocess.Popen(
        [*command, "--eval-every=0", "--quiet"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and f"--resume {out}" in errors
    assert checkpoint.load(out / NEWEST)[1]["n_step"] > 0
    assert not (out / ".lock").exists()
