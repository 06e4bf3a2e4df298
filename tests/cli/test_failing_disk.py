"""Every command with its n-th write failing, for all n: files are whole, or as they were.

A full disk may meet any open, write, fsync or rename. Whichever it is, the command ends with one
line that names the file, what is there is whole, and nothing temporary is left.
"""

import json
import re

import numpy as np
import pytest

from helpers.failing_disk import FailingDisk
from minitxl import cli
from minitxl.data import datasets
from minitxl.storage import checkpoint
from minitxl.tools import bench

TEXT = "".join(f"Line {i}: the cafe closes at {i % 12 + 1}.\n" for i in range(60))
SMALL = "n_layer=1 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=8 mem_len=8".split()
TINY = ["--steps", "4", "--batch-size", "2", "--device", "cpu", "--quiet", "--save-every", "2"]
TINY += [word for setting in SMALL for word in ("--set", setting)]
MOST = 300  # changes of one command: a loop that does not end is a fault of the test


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A text and runs of letters and of words."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    for level in ("char", "word"):
        data = ["--data", str(folder / "text.txt"), "--level", level]
        assert cli.main(["train", *data, "--out", str(folder / level), *TINY]) == 0
    return folder


def tree(root):
    """Path -> bytes of every file below root, hidden ones included; None for a folder."""
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*")}
    return {name: p.read_bytes() if p.is_file() else None for name, p in sorted(found.items())}


def run(capsys, *argv):
    capsys.readouterr()
    code = cli.main([str(a) for a in argv])
    return code, capsys.readouterr().err


def is_told(code, err, root):
    """One line that says what was wrong and names a file or folder below root."""
    lines = [line for line in err.splitlines() if "error:" in line]
    return code == 2 and len(lines) == 1 and str(root) in lines[0] and "No space" in lines[0]


def all_n(monkeypatch, capsys, make_root, argv, normal=lambda name, data: data):
    """Run a command with its n-th change failing until none fails; return how many there were.

    make_root(i) -> a fresh folder; argv(root) -> the command. `normal` makes the bytes of two
    runs comparable.
    """
    reference = make_root("whole")
    before = tree(reference)
    assert run(capsys, *argv(reference))[0] == 0
    whole = {name: normal(name, data) for name, data in tree(reference).items()}
    total = {}
    for lasting in (False, True):
        for n in range(1, MOST):
            root = make_root(f"{n}-{lasting}")
            with FailingDisk(monkeypatch, root, n, lasting) as disk:
                code, err = run(capsys, *argv(root))
            if not disk.failed:
                total[lasting] = n - 1
                break
            assert is_told(code, err, root), (n, code, err)
            for name, data in tree(root).items():
                fine = data is None or before.get(name) == data or whole[name] == normal(name, data)
                assert fine, f"change {n}: {name} is neither old nor whole"
                assert not re.search(r"\.tmp$|\.lock$", name), f"change {n} left {name}"
    with capsys.disabled():
        words = argv(reference)[: 2 if argv(reference)[0] in ("data", "course") else 1]
        print(f"\n{' '.join(words)}: each of {total[False]} changes failed, and all after it")
    return total[False]


def fresh(tmp_path, files=()):
    def make(name):
        root = tmp_path / str(name)
        root.mkdir()
        for file, data in files:
            (root / file).parent.mkdir(exist_ok=True, parents=True)
            (root / file).write_bytes(data)
        return root

    return make


@pytest.mark.parametrize("old", [(), [("x.html", b"a good page")]])
def test_explore(home, tmp_path, monkeypatch, capsys, old):
    words = ["--tgt-len", 8, "--device", "cpu"]

    def argv(root):
        return ["explore", home / "char", "--out", root / "x.html", *words]

    assert all_n(monkeypatch, capsys, fresh(tmp_path, old), argv) >= 5


@pytest.mark.parametrize("to", ["huggingface", "official"])
def test_export_and_import(home, tmp_path, monkeypatch, capsys, to):
    def export(root):
        return ["export", home / "word", "--to", to, "--out", root / "out", "--device", "cpu"]

    assert all_n(monkeypatch, capsys, fresh(tmp_path), export) >= 14
    there = tmp_path / "whole" / "out"
    official = [there / "state_dict.pt", "--arguments", there / "arguments.json"]
    official += ["--vocab", there / "vocab.json"]

    def back(root):
        return ["import", *([there] if to == "huggingface" else official), "--out", root / "run"]

    (tmp_path / "imports").mkdir()
    assert all_n(monkeypatch, capsys, fresh(tmp_path / "imports"), back) >= 10


@pytest.mark.parametrize("kind", ["student", "solutions"])
def test_course(tmp_path, monkeypatch, capsys, kind):
    names = ["--notebook", "01-idea"]
    from minitxl.course import notebooks

    names = ["--notebook", notebooks.known(notebooks.SOURCE)[0]]
    old = [(f"out/{names[1]}.ipynb", b"{}")]

    def argv(root):
        return ["course", kind, "--out", root / "out", *names]

    assert all_n(monkeypatch, capsys, fresh(tmp_path, old), argv) >= 5


def test_figures(tmp_path, monkeypatch, capsys):
    def argv(root):
        return ["figures", "reach", "training_wikitext2", "--out", root]

    assert all_n(monkeypatch, capsys, fresh(tmp_path), argv) >= 10


def test_experiment(tmp_path, monkeypatch, capsys):
    from minitxl.experiments import reach

    monkeypatch.setattr(reach, "run", lambda settings, parts, progress: parts.get("a", lambda: 1))
    monkeypatch.setattr(reach, "summary", str)

    def argv(root):
        return ["experiment", "reach", "--quick", "--out", root / "r.json"]

    def seconds_apart(name, data):
        return data if "unfinished" not in name else sorted(json.loads(data))

    root = fresh(tmp_path, [("r.json", b"{}")])

    # What is done is kept: repeating the command with --resume goes on from it.
    def make(name):
        made = root(name)
        return made

    reference = make("reference")
    assert run(capsys, *argv(reference))[0] == 0
    n = 0
    while True:
        n += 1
        there = make(n)
        with FailingDisk(monkeypatch, there, n) as disk:
            code, err = run(capsys, *argv(there))
        if not disk.failed:
            break
        assert is_told(code, err, there), err
        for name, data in tree(there).items():
            assert name in ("r.json", "r.unfinished.json"), name
            json.loads(data)
        assert run(capsys, *argv(there), "--resume")[0] == 0
    with capsys.disabled():
        print(f"\nexperiment: each of {n - 1} changes failed")
    assert n > 10


def test_bench(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda *args: None)
    root = fresh(tmp_path, [("b.json", b"{}")])

    def argv(there):
        return ["bench", "--quick", "--json", there / "b.json"]

    def without_the_name(name, data):
        return re.sub(rb'"(date|command|when)": "[^"]*"', b"", data) if data else data

    assert all_n(monkeypatch, capsys, root, argv, without_the_name) >= 5


@pytest.mark.parametrize("old", [False, True])
def test_data_prepare(tmp_path, monkeypatch, capsys, old):
    """What was prepared before stays where the new one cannot be written."""
    text = tmp_path / "ptb"
    text.mkdir()
    for split in ("train", "valid", "test"):
        (text / f"ptb.{split}.txt").write_text(TEXT.replace("cafe", split), encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "valid", "test"):
        (other / f"ptb.{split}.txt").write_text("an older text of words\n" * 9, encoding="utf-8")
    make_empty, current = fresh(tmp_path), []

    def prepare(root, source):
        monkeypatch.setenv("MINITXL_DATA", str(root))
        return ["data", "prepare", "ptb", "--any-size", "--from", source]

    def make(name):
        root = make_empty(name)
        if old:
            assert run(capsys, *prepare(root, other))[0] == 0
        current.append(root)
        return root

    assert "ptb" in datasets.DATASETS
    assert all_n(monkeypatch, capsys, make, lambda root: prepare(root, text)) >= 20
    for root in current:
        monkeypatch.setenv("MINITXL_DATA", str(root))
        assert run(capsys, "data", "list", "--check")[0] == 0
        assert (root / "ptb" / "prepared" / "meta.json").exists() or not old


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True])
def test_train(home, tmp_path, monkeypatch, capsys, lasting):
    """Whatever failed, the command that the state asks for leads to the same bits."""

    def argv(root):
        if (root / "run" / "run.json").exists():
            return ["train", "--resume", root / "run", "--device", "cpu", "--quiet"]
        data = ["--data", home / "text.txt", "--eval-every", 2]
        return ["train", *data, "--out", root / "run", *TINY]

    expected = checkpoint.load(home / "char" / "last.safetensors")[0]
    counts = {}
    for resume in (False, True):
        for n in range(1, MOST):
            root = tmp_path / f"{n}-{resume}"
            root.mkdir()
            if resume:  # first to the second step, where the disk fails for the first time
                with FailingDisk(monkeypatch, root, counts[False] // 2) as disk:
                    run(capsys, *argv(root))
            with FailingDisk(monkeypatch, root, n, lasting) as disk:
                code, err = run(capsys, *argv(root))
            if not disk.failed:
                counts[resume] = n - 1
                break
            # Without links a copy serves, and a picture is no reason to stop.
            harmless = disk.failed == "link" or "loss_curve.png was not written" in err
            assert is_told(code, err, root) or (code == 0 and harmless), (n, disk.failed, err)
            for name, data in tree(root).items():
                assert not re.search(r"\.tmp$|\.lock$", name), f"change {n} left {name}"
                if name.endswith(".safetensors"):
                    checkpoint.load(root / name)
                elif name.endswith("run.json"):
                    json.loads(data)
                elif name.endswith(".jsonl"):
                    assert data == b"" or data.endswith(b"\n")
            assert run(capsys, *argv(root))[0] == 0
            found = checkpoint.load(root / "run" / "last.safetensors")[0]
            assert all(np.array_equal(found[k], a) for k, a in expected.items()), n
    with capsys.disabled():
        print(f"\ntrain: each of {counts[False]} changes failed, resuming {counts[True]}")
