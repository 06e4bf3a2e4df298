"""Sizes that nothing can have are refused at once, by their name; Ctrl-C leaves one line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitxl import cli
from minitxl.pretrained import models_folder

HUGE = ("1000000000", "99999999999999999999", "9" * 400)


def refused(capsys, argv):
    began = time.monotonic()
    assert cli.main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert time.monotonic() - began < 5 and "bug" not in err and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("field", ["n_layer", "d_model", "n_head", "d_inner", "mem_len", "tgt_len"])
def test_settings(capsys, tmp_path, field, value):
    dry = ["--dry-run", "--out", tmp_path / "r"]
    assert f"{field}=" in refused(capsys, ["train", "--set", f"{field}={value}", *dry])


@pytest.mark.parametrize("value", HUGE[1:])
@pytest.mark.parametrize("command", [["generate"], ["eval", "--max-tokens", "5"]])
def test_lengths(capsys, command, value):
    assert "mem_len=" in refused(capsys, [*command, "tiny-xl", "--mem-len", value])


def test_a_long_memory_takes_room_only_as_it_fills(capsys):
    """The longest that is allowed would take gigabytes for a text of five tokens."""
    from minitxl.inference.cached import CachedReader
    from minitxl.pretrained import load_pretrained

    argv = ["eval", "tiny-xl", "--max-tokens", "5", "--mem-len", str(2**20), "--device", "cpu"]
    assert cli.main(argv) == 0
    model = load_pretrained("tiny-xl", device="cpu").model.with_options(mem_len=2**20)
    reader = CachedReader(model)
    reader.read([[1, 2, 3]])
    assert sum(a.nbytes for layer in reader._layers for a in vars(layer).values()
               if hasattr(a, "nbytes")) < 2**26  # fmt: skip


@pytest.mark.parametrize("value", [2**20, 2**31, 10**9, 10**30])
@pytest.mark.parametrize("field", ["n_layer", "d_model", "d_inner", "d_head", "n_head", "n_token"])
def test_foreign_files(capsys, tmp_path, field, value):
    shutil.copytree(models_folder() / "tiny-xl", tmp_path / "r")
    info = json.loads((tmp_path / "r" / "run.json").read_text(encoding="utf-8"))
    info["config"][field] = value
    (tmp_path / "r" / "run.json").write_text(json.dumps(info), encoding="utf-8")
    message = refused(capsys, ["eval", tmp_path / "r", "--max-tokens", "5"])
    assert f"{field}=" in message or "shape" in message


@pytest.mark.parametrize("value", ["a" * 10**6, ["a"] * 10**5, "\x1b[2J", "9" * 5000])
@pytest.mark.parametrize("place", [("config", "d_model"), ("vocab", "type"), ("train", "lr")])
def test_what_a_message_quotes_is_short_and_printable(capsys, tmp_path, place, value):
    shutil.copytree(models_folder() / "tiny-xl", tmp_path / "r")
    info = json.loads((tmp_path / "r" / "run.json").read_text(encoding="utf-8"))
    info[place[0]][place[1]] = value
    (tmp_path / "r" / "run.json").write_text(json.dumps(info), encoding="utf-8")
    asked = ["train", "--resume"] if place[0] == "train" else ["eval"]
    message = refused(capsys, [*asked, tmp_path / "r"])
    assert len(message) < 900 and message.strip().isprintable()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_while_a_compiled_module_is_loaded(monkeypatch, capsys):
    """NumPy's, for one, makes an ImportError of it, with a page of advice."""

    def load(argv):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        raise ImportError("the C-extensions failed to load")

    monkeypatch.setattr(cli, "_main", load)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "\nminitxl: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_during_start_up_is_one_line(tmp_path):
    """At any moment from the first line of ours on; Python's own start is not ours."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True)\n"
    code += "import runpy, sys; sys.argv = ['minitxl', *sys.argv[1:]]\n"
    code += "runpy.run_module('minitxl', run_name='__main__')"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, "train", "--steps", "9", "--out", str(tmp_path / "r")]
    for n in range(20):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
        )
        process.stdout.readline()
        deadline = time.monotonic() + n / 20
        while process.poll() is None:  # ignored until minitxl listens
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.005)
        if n < 2:  # may have come too early to be heard
            process.kill()
            process.communicate()
            continue
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
        told = [line for line in err.splitlines() if line.strip()]
        # The second signal may come while Python, having been told, is on its way out.
        assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err, err
        assert told.count("minitxl: interrupted") == 1, err
        if not told[0].startswith("finishing this step"):  # where the training had not yet begun
            assert told[0] == "minitxl: interrupted" and len(told) <= 2, err
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
