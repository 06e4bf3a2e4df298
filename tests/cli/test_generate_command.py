"""`generate`: prompts from anywhere, several samples, and where the writing ends."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from minitxl import cli

TEXT = "the cat sat on the mat .\nthe dog sat on the cat .\n" * 20
TINY = "n_layer=1 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=8 mem_len=8".split()
CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run each of characters, words and bytes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "t.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    how = ["--steps", "3", "--batch-size", "2", "--quiet", *CPU]
    how += [word for setting in TINY for word in ("--set", setting)]
    for level in ("char", "word", "byte"):
        data = ["--data", str(folder / "t.txt"), "--level", level]
        assert cli.main(["train", *data, "--out", str(folder / level), *how]) == 0
    return folder


@pytest.fixture
def write(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(level, *options, code=0):
        capsys.readouterr()
        argv = ["generate", str(runs / level), *CPU, *map(str, options)]
        assert cli.main(argv) == code
        return capsys.readouterr()

    return run


def test_samples_are_those_of_their_seeds(write):
    one = [write("char", "--length", 40, "--seed", n, "--prompt", "the ").out for n in (5, 6, 7)]
    found = write("char", "--length", 40, "--seed", 5, "--prompt", "the ", "--samples", 3).out
    heads = [f"--- sample {n + 1}, --seed {n + 5}\n" for n in range(3)]
    assert found == "".join(h + text for h, text in zip(heads, one, strict=True))


def test_it_stops_before_the_text_that_is_given(write):
    whole = write("char", "--length", 60, "--prompt", "the ").out
    stop = whole[20:22]
    assert write("char", "--length", 60, "--prompt", "the ", "--stop", stop).out == (
        whole[: whole.index(stop, 4)] + "\n"
    )
    assert "--stop is empty" in write("char", "--stop", "", code=2).err
    many = write("char", "--length", 10**9, "--stop", "t", "--samples", 3).out  # it ends
    assert many.count("--- sample") == 3


@pytest.mark.parametrize("level", ["char", "word", "byte"])
@pytest.mark.parametrize("data", [b"the cat", b"\xef\xbb\xbfthe cat\r\nsat", b"", b"\n"])
def test_a_prompt_comes_from_a_file_or_from_stdin(write, monkeypatch, level, data):
    """Read as every text is; the last line is not ended, for it goes on."""
    with open("p.txt", "wb") as file:
        file.write(data)
    options = ["--length", 12]
    from_file = write(level, *options, "--prompt-file", "p.txt").out
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert write(level, *options, "--prompt-file", "-").out == from_file
    if level != "byte":
        plain = data.decode("utf-8-sig").replace("\r\n", "\n")
        assert write(level, *options, "--prompt", plain).out == from_file
        assert from_file.startswith(plain)


def test_bytes_are_taken_as_they_are(write, runs):
    with open("p.bin", "wb") as file:
        file.write(b"\xff\xfe\x80")
    assert write("byte", "--length", 0, "--prompt-file", "p.bin").out.count("\ufffd") == 3
    assert "is not UTF-8" in write("char", "--prompt-file", "p.bin", code=2).err


def test_a_prompt_that_cannot_be_read(write, monkeypatch):
    assert "'none.txt'" in write("char", "--prompt-file", "none.txt", code=2).err
    monkeypatch.setattr("sys.stdin", None)
    assert "cannot read standard input" in write("char", "--prompt-file", "-", code=2).err
    endless = SimpleNamespace(read=lambda n: b"a" * n)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=endless))
    monkeypatch.setattr("minitxl.data.text.PIPED", 3 << 20)
    err = write("char", "--prompt-file", "-", code=2).err
    assert "'standard input' is no plain file and does not end within" in err


def test_words_that_are_not_known_are_named(write):
    """The prompt is split as the text was: at white space, of any kind."""
    found = write("word", "--length", 3, "--prompt", "the bird\tsat  bird , <unk>")
    assert found.out.startswith("the <unk> sat <unk> <unk> <unk>")
    assert found.err == "2 word(s) of the prompt are read as <unk>: 'bird', ','\n"
    assert write("word", "--length", 3, "--prompt", "the cat").err == ""


@pytest.mark.parametrize("samples", [0, -1, 10**12])
def test_numbers_of_samples(write, samples):
    assert "must be from 1 to 4096" in write("char", "--samples", samples, code=2).err


def test_a_prompt_of_ids(write, runs, tmp_path):
    """A model of tokens takes its prompt as numbers, or from a file of ids."""
    ids = np.random.default_rng(0).integers(0, 9, 600)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "p.npy", ids[:3])
    how = ["--steps", "2", "--batch-size", "2", "--quiet", *CPU, "--out", str(runs / "ids")]
    how += [word for setting in TINY for word in ("--set", setting)]
    assert cli.main(["train", "--data", str(tmp_path / "ids.npy"), *how]) == 0
    wanted = write("ids", "--length", 5, "--prompt", " ".join(map(str, ids[:3].tolist()))).out
    assert write("ids", "--length", 5, "--prompt-file", tmp_path / "p.npy").out == wanted
    np.save(tmp_path / "p.npy", ids[:3] + 9)
    assert "p.npy" in write("ids", "--prompt-file", tmp_path / "p.npy", code=2).err
