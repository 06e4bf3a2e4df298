"""The commands as a user meets them: a model is trained for a few steps, measured, let write.

Most commands run in this process, which is quicker; those about pipes, consoles and signals run
as `python -m minitxl`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minitxl import cli
from minitxl.cli import train
from minitxl.config import Config, Memory
from minitxl.errors import MinitxlError
from minitxl.tools import doctor
from minitxl.tools.doctor import Check
from minitxl.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
TEXT = "".join(f"Line {i}: the café closes at {i % 12 + 1}.\n" for i in range(150))
SMALL = "n_layer=1 d_model=16 n_head=2 d_head=8 d_inner=16 tgt_len=8 mem_len=8".split()
TINY = ["--steps", "4", "--batch-size", "2", "--device", "cpu", "--quiet"]
TINY += [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a text and two runs of four steps: "chars" and "bytes"."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    for level in ("char", "byte"):
        out = str(folder / f"{level}s")
        data = str(folder / "text.txt")
        assert cli.main(["train", "--data", data, "--level", level, "--out", out, *TINY]) == 0
    return folder


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.delenv("MINITXL_DEBUG", raising=False)
    monkeypatch.setenv("MINITXL_DATA", str(home / "data"))  # which is not there
    return home


@pytest.fixture
def command(at_home, capsys):
    """Run a command in this process; return (exit code, stdout, stderr)."""

    def run(*argv):
        capsys.readouterr()
        try:
            code = cli.main([str(a) for a in argv])
        except SystemExit as leave:  # argparse
            code = leave.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def fails(command):
    """Run a command that must fail with one line, and return that line."""

    def run(*argv):
        code, out, err = command(*argv)
        assert code == 2, err
        assert out == ""
        assert err.startswith("minitxl: error: ") and err.count("\n") == 1, err
        return err

    return run


def process(home, *argv, **environment):
    """Start `python -m minitxl` in the home folder."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "minitxl", *argv],
        cwd=home,
        env={**os.environ, "MINITXL_DEBUG": "", "OPENBLAS_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# ---- help and options


def test_version_help_and_no_command(command):
    from minitxl import __version__

    assert command("--version") == (0, f"minitxl {__version__}\n", "")
    code, out, _ = command()
    assert code == 2 and all(f"\n    {name} " in out for name in ("train", "eval", "doctor"))
    for name in ("train", "eval", "generate", "data", "doctor"):
        code, out, _ = command(name, "--help")
        assert code == 0 and f"python -m minitxl {name}" in out


def test_train_help_lists_presets_and_fields(command):
    _, out, _ = command("train", "--help")
    for name, preset in PRESETS.items():
        assert any(name in line and preset.summary in line for line in out.splitlines())
    assert "same_length" in out and "n_token" not in out


def test_settings_are_read_by_the_fields_type():
    settings = ["n_layer=6", "dropout=2e-1", "same_length=True", "pre_lnorm = no", "dropatt=0"]
    read = train.read_settings(settings)
    assert read == {
        "n_layer": 6,
        "dropout": 0.2,
        "same_length": True,
        "pre_lnorm": False,
        "dropatt": 0.0,
    }
    assert [type(v) for v in read.values()] == [int, float, bool, bool, float]
    Config(n_token=5, **read)


def test_settings_of_a_memory_come_together():
    read = train.read_settings(["mem_len=4", "memory.kind=compressive", "memory.n_coarse=3"])
    memory = Memory(kind="compressive", n_coarse=3)
    assert read == {"mem_len": 4, "memory": memory.to_dict()}
    assert Config.from_dict({"n_token": 5, **read}).memory == memory
    with pytest.raises(MinitxlError, match="kind='lstm' must be one of"):
        train.read_settings(["memory.kind=lstm"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("n_layer", "write FIELD=VALUE"),
        ("n_layers=3", "did you mean n_layer?"),
        ("colour=red", "the fields are n_layer, d_model"),
        ("n_token=5", "no field 'n_token'"),
        ("n_layer=2.5", "n_layer is of type int"),
        ("dropout=lots", "dropout is of type float"),
        ("untie_r=maybe", "untie_r is of type bool"),
        ("memory=matrix", "did you mean memory."),
        ("memory.kinds=xl", "did you mean memory.kind?"),
        ("memory.rate=many", "memory.rate is of type int"),
    ],
)
def test_settings_that_do_not_fit(setting, words):
    with pytest.raises(MinitxlError) as caught:
        train.read_settings([setting])
    assert words in str(caught.value) and setting in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("trian", "invalid choice: 'trian'"),
        ("train --stepz 4", "--stepz"),
        ("train --step 4", "--step"),  # no abbreviations
        ("train --steps many", "argument --steps: invalid int value: 'many'"),
        ("train --steps 0 --out new --data text.txt", "steps=0"),
        ("train --lr nan --out new --data text.txt", "nan"),
        ("train --lr -1 --out new --data text.txt", "lr"),
        ("train --preset huge --out new", "huge"),
        ("train --data no-such-file.txt --out new", "no-such-file.txt"),
        ("train --data . --out new", "folder"),
        ("train --level words --out new", "invalid choice: 'words'"),
        ("train --data enwik8 --level byte --out new", "python -m minitxl data get enwik8"),
        ("data", "required: ACTION"),
        ("data get enwik9", "did you mean enwik8?"),
        ("data prepare text8", "text8.zip"),
        ("train --set n_layer=0 --data text.txt --out new", "n_layer=0"),
        ("train --set d_model=15 --data text.txt --out new", "d_model=15"),
        ("train --set n_layer=two --data text.txt --out new", "n_layer is of type int"),
        ("train --batch-size 100000 --data text.txt --out new", "100000"),
        ("train --resume nowhere", "nowhere"),
        ("train --resume text.txt", "text.txt"),
        ("train --resume chars --set n_layer=2", "n_layer"),
        ("eval", "required: RUN"),
        ("eval nowhere", "nowhere"),
        ("eval text.txt", "text.txt"),
        ("eval chars --mem-len -1", "mem_len=-1"),
        ("eval chars --tgt-len 0", "tgt_len=0"),
        ("eval chars --clamp-len 0", "clamp_len=0"),
        ("eval chars --same-length --mem-len 0", "same_length"),
        ("eval chars --batch-size 0", "batch_size"),
        ("eval chars --max-tokens 0", "max_tokens=0"),
        ("eval chars --split test2", "invalid choice: 'test2'"),
        ("eval chars --data no-such-file.txt", "no-such-file.txt"),
        ("eval chars --data war-and-peace", "lacks"),
        ("generate nowhere", "nowhere"),
        ("generate chars --temperature -1", "temperature is -1.0"),
        ("generate chars --temperature nan", "temperature is nan"),
        ("generate chars --top-p 0", "top_p is 0.0"),
        ("generate chars --top-k -3", "top_k is -3"),
        ("generate chars --length -3", "length is -3"),
        ("generate chars --seed -3", "seed is -3"),
        ("generate chars --mem-len -3", "mem_len is -3"),
        ("generate chars --prompt ab€c", "'€' at position 2"),
        ("doctor --now", "--now"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(fails, at_home, argv, words):
    before = sorted(at_home.rglob("*"))
    assert words in fails(*argv.split())
    assert sorted(at_home.rglob("*")) == before


# ---- train


def test_train_writes_a_run(home):
    names = set(contents(home / "chars"))
    wanted = {"run.json", "last.safetensors", "best.safetensors", "metrics.jsonl", "loss_curve.png"}
    assert names >= wanted


def test_train_does_not_overwrite_a_run(fails, at_home):
    before = contents(at_home / "chars")
    assert "chars" in fails("train", "--data", "text.txt", "--out", "chars", *TINY)
    assert contents(at_home / "chars") == before


def test_train_hands_over_what_was_asked_for_and_nothing_else(monkeypatch):
    from minitxl.training import run

    asked = {}
    monkeypatch.setattr(run, "train", lambda **options: asked.update(options))
    assert cli.main(["train"]) == 0 and asked == {}
    line = "--lr 0.5 --set n_layer=2 --set dropout=0 --set clip=1 --quiet --resume x --eval-every 0"
    assert cli.main(["train", *line.split()]) == 0
    assert asked == {
        "learning_rate": 0.5,
        "model_options": {"n_layer": 2, "dropout": 0.0},
        "train_options": {"clip": 1.0},
        "quiet": True,
        "resume": "x",
        "eval_every": 0,
    }


# ---- eval


def test_eval_measures(command):
    code, out, _ = command("eval", "chars")
    assert code == 0
    assert "test split" in out and "nats per token" in out and "bpc" in out and "mem_len 8" in out


def test_eval_as_json(command):
    code, out, _ = command(
        "eval", "chars", "--json", "--mem-len", "20", "--split", "all", "--max-tokens", "100"
    )
    result = json.loads(out)
    assert code == 0 and result["mem_len"] == 20 and result["tgt_len"] == 8
    assert result["n_tokens"] == 100 and result["text"].endswith("whole text")
    assert 0 < result["bpc"] < 10 and result["bpc"] == pytest.approx(result["nats"] / 0.693147)


def test_eval_of_another_text_in_the_models_vocabulary(command, at_home):
    (at_home / "other.txt").write_text("the café closes. " * 20, encoding="utf-8")
    for run in ("chars", "bytes"):
        code, out, err = command("eval", run, "--data", "other.txt", "--split", "all", "--json")
        assert code == 0, err
        assert json.loads(out)["n_tokens"] == 20 * (17 + (run == "bytes")) - 1
    same = command("eval", "chars", "--data", "text.txt", "--json")[1]
    own = command("eval", "chars", "--json")[1]
    assert json.loads(same)["nats"] == json.loads(own)["nats"]


# ---- generate


def test_generate_continues_the_prompt(command):
    argv = ("generate", "chars", "--prompt", "Line café", "--length", "30")
    code, out, err = command(*argv)
    assert code == 0 and err == ""
    assert out.startswith("Line café") and out.endswith("\n") and len(out) == 9 + 30 + 1
    assert command(*argv, "--seed", "0") == (code, out, err)
    assert command(*argv, "--seed", "1")[1] != out


def test_generate_options(command):
    argv = ("generate", "chars", "--length", "20")
    greedy = command(*argv, "--temperature", "0")[1]
    assert command(*argv, "--top-k", "1")[1] == greedy == command(*argv, "--top-p", "1e-9")[1]
    assert command(*argv, "--length", "0")[1] == "\n"
    assert command(*argv, "--checkpoint", "last", "--mem-len", "100")[0] == 0


def test_generate_bytes_that_are_no_utf8(command):
    code, out, _ = command("generate", "bytes", "--length", "100", "--prompt", "é€")
    assert code == 0 and out.startswith("é€") and "\ufffd" in out


def test_a_terminal_is_spared_control_characters(command, monkeypatch):
    _, plain, _ = command("generate", "bytes", "--length", "200")
    monkeypatch.setattr("_pytest.capture.CaptureIO.isatty", lambda self: True)
    _, shown, _ = command("generate", "bytes", "--length", "200")
    assert "\x1b" in plain or any(ord(c) < 32 and c not in "\n\t" for c in plain)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)


# ---- damaged runs


def damaged(home, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(home / "chars", folder)
    return folder


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_checkpoint(fails, at_home, tmp_path, keep):
    folder = damaged(at_home, tmp_path)
    for name in ("best.safetensors", "last.safetensors", "last.older.safetensors"):
        file = folder / name
        file.write_bytes(file.read_bytes()[:keep])
    before = contents(folder)
    assert "best.safetensors" in fails("eval", folder)
    assert "best.safetensors" in fails("generate", folder, "--length", "5")
    assert "last.safetensors" in fails("train", "--resume", folder)
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}', "\0\0"])
def test_a_damaged_run_json(fails, at_home, tmp_path, text):
    folder = damaged(at_home, tmp_path)
    (folder / "run.json").write_text(text, encoding="utf-8")
    assert "run.json" in fails("generate", folder)
    assert "run.json" in fails("train", "--resume", folder)


def test_a_run_without_its_files(fails, command, at_home, tmp_path):
    assert str(tmp_path) in fails("generate", tmp_path)
    folder = damaged(at_home, tmp_path)
    (folder / "best.safetensors").unlink()  # as before the first evaluation: the last one serves
    assert command("generate", folder, "--length", "5")[0] == 0
    (folder / "last.safetensors").unlink()  # the one before it serves, with a word
    assert "last.older.safetensors of step" in command("generate", folder, "--length", "5")[2]
    (folder / "last.older.safetensors").unlink()
    assert "holds no checkpoint" in fails("generate", folder)


# ---- everything that can end a command


def raising(error):
    def check(options):
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MinitxlError("two\nlines"), 2, "two lines"),
        (PermissionError(13, "Permission denied", "a.txt"), 2, "a.txt: Permission denied"),
        (OSError("odd"), 2, "odd"),
        (MemoryError(), 2, "out of memory"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "x is not installed: pip"),
        (KeyError("k"), 1, "KeyError: 'k' (this is a bug of minitxl; MINITXL_DEBUG=1"),
    ],
)
def test_every_exception_is_one_line(command, monkeypatch, error, code, line):
    monkeypatch.setattr(cli.doctor, "run", raising(error))
    got, out, err = command("doctor")
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("minitxl: error: ") and line in err
    monkeypatch.setenv("MINITXL_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["doctor"])


@pytest.mark.parametrize("name", ["eval", "generate", "doctor"])
def test_ctrl_c(command, monkeypatch, name):
    monkeypatch.setattr(getattr(cli, name), "run", raising(KeyboardInterrupt()))
    argv = (name,) if name == "doctor" else (name, "chars")
    assert command(*argv) == (130, "", "\nminitxl: interrupted\n")


def test_doctor(command, monkeypatch):
    found = [Check("a", False, "No GPU.", "None needed.", required=False)]
    monkeypatch.setattr(doctor, "checks", lambda: found)
    code, out, _ = command("doctor")
    assert code == 0 and "note  a  No GPU." in out
    found.append(Check("b", False, "Broken.", "Mend it."))
    code, out, _ = command("doctor")
    assert code == 1 and "FAIL  b  Broken." in out and "-> Mend it." in out


def test_a_reader_that_goes_away_ends_generate_quietly(home):
    running = process(home, "generate", "chars", "--length", "100000")
    assert len(running.stdout.read(20)) == 20  # it streams
    running.stdout.close()
    assert running.wait(timeout=30) == 0
    assert running.stderr.read() == b""


def test_a_console_that_lacks_a_symbol_does_not_stop_it(home):
    running = process(
        home,
        "generate",
        "chars",
        "--length",
        "3",
        "--prompt",
        "caf\u00e9",
        PYTHONIOENCODING="ascii",
    )
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0 and err == b"" and out.startswith(b"caf?")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to the whole console")
def test_ctrl_c_from_the_keyboard(home):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored: nohup
    running = process(home, "generate", "chars", "--length", "100000")
    signal.signal(signal.SIGINT, before)
    running.stdout.read(20)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130 and err.replace(b"\r", b"") == b"\nminitxl: interrupted\n"


def test_without_any_output_at_all(command, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert command("generate", "chars", "--length", "3")[0] == 0
    assert command("generate", "nowhere")[0] == 2


# ---- import and export


GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface"


@pytest.mark.parametrize("case", ["published", "div_val_1"])
def test_import_generate_export(case, command, tmp_path):
    """A Hugging Face folder becomes a run, writes, is measured, and goes out again, both ways."""
    run = tmp_path / "run"
    code, out, err = command("import", GOLDEN / case, "--out", run)
    assert (code, err) == (0, "") and "words; written to" in out
    code, out, err = command("generate", run, "--length", "12", "--seed", "1")
    assert (code, err) == (0, "") and len(out.split()) > 2
    code, out, err = command("eval", run)
    assert code == 2 and "--data" in err
    (tmp_path / "text.txt").write_text("na né <unk> fa\n" * 40, encoding="utf-8")
    code, out, err = command("eval", run, "--data", tmp_path / "text.txt", "--split", "all")
    assert (code, err) == (0, "") and "bits per word" in out and "200 tokens" not in out
    code, out, err = command("export", run, "--to", "huggingface", "--out", tmp_path / "hf")
    assert (code, err) == (0, "") and "config.json, model.safetensors, vocab.json" in out
    code, out, err = command("export", run, "--to", "official", "--out", tmp_path / "official")
    assert code == 0 and "starts from zeros memory, there a stream starts from empty" in out
    official = tmp_path / "official"
    arguments = ("--arguments", official / "arguments.json", "--vocab", official / "vocab.json")
    again = tmp_path / "again"
    code, out, err = command("import", official / "state_dict.pt", *arguments, "--out", again)
    assert (code, err) == (0, "")
    code, _, err = command("import", official / "state_dict.pt", *arguments, "--out", again)
    assert code == 2 and "exists and is not empty" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "nowhere", "--out", "x"), "is no folder"),
        (("import", ".", "--out", "x"), "no config.json"),
        (("import", "text.txt", "--arguments", "text.txt", "--out", "x"), "text.txt"),
        (("export", "bytes", "--to", "huggingface", "--out", "bytes"), "not empty"),
        (("eval", "bytes", "--stride", "3"), "give --window too"),
        (("eval", "bytes", "--window", "8", "--mem-len", "3"), "--mem-len"),
        (("eval", "bytes", "--window", "8", "--stride", "9"), "between 1 and window=8"),
    ],
)
def test_mistakes_of_import_and_export(arguments, words, command):
    code, _, err = command(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_eval_with_a_window(command):
    code, out, err = command("eval", "chars", "--window", "8", "--stride", "2")
    assert (code, err) == (0, "") and "window 8, stride 2" in out
