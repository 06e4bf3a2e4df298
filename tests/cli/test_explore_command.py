"""`python -m minitxl explore`: a page of any run, and one line for every mistake."""

import json
import re

import pytest

from minitxl import cli, load_pretrained
from minitxl.storage.run_folder import save_run
from minitxl.viz import Reading


@pytest.fixture
def explore(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINITXL_DEBUG", raising=False)

    def run(*argv):
        capsys.readouterr()
        code = cli.main(["explore", *argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def data_of(path):
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_the_shipped_model_and_telling_passages_by_default(explore, tmp_path):
    code, out, err = explore()
    assert (code, err) == (0, "")
    path = tmp_path / "explorer.html"
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    assert (
        out
        == f"explorer.html: {size}, segments of 64 characters, memory 192; open it in a browser\n"
    )
    assert path.stat().st_size < 6e6
    data = data_of(path)
    first = data["passages"][0]
    text = "".join(data["symbols"][t] for t in first["tokens"])
    assert text.startswith('Then listen:\n\n"Louis XIV')
    # the space after "badly." attends to the quotation mark that opened the speech
    trained, start = load_pretrained("war-and-peace"), data["start"]
    reading = Reading(trained.model, trained.vocab.encode(text)[:257], tgt_len=64)
    weights = reading.attention(192)[start["layer"]][start["head"], first["read"] - 193]
    assert text[weights.argmax()] == '"' and weights.argmax() < 64
    assert [p["title"] for p in data["passages"]][-1] == "your own text"


def test_a_passage_a_file_and_where_to_begin(explore, tmp_path):
    passage = "It was the best of times, it was the worst of times. " * 2
    options = ["--tgt-len", "16", "--mem-len", "16", "--head", "0"]
    code, out, err = explore("tiny-xl", "--text", passage, "--out", "sub/a.html", *options)
    assert (code, err) == (0, "") and "segments of 16 characters, memory 16;" in out
    data = data_of(tmp_path / "sub" / "a.html")
    assert "".join(data["symbols"][t] for t in data["passages"][0]["tokens"]) == passage
    assert data["M"] == 16 and data["start"]["head"] == -1
    (tmp_path / "text.txt").write_text(passage, encoding="utf-8")
    assert explore("tiny-xl", "--text", "text.txt", "--out", "b.html", *options)[0] == 0
    other = data_of(tmp_path / "b.html")
    assert other["passages"][0]["title"] == "text.txt"
    assert other["passages"][0]["tokens"] == data["passages"][0]["tokens"]


def test_mistakes_are_told_in_one_line(explore, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "taken").write_text("")
    for argv, words in (
        (["--text", "too short"], "has 9 tokens, two segments of 64"),
        (["--text", "none.txt"], "there is no file 'none.txt'"),
        (["--text", "π" * 200], "'π' at position 0"),
        (["--text", "latin.txt"], "'latin.txt' is not UTF-8"),
        (["--out", "taken/page.html"], "taken"),
        (["--out", "."], "not a regular file"),
        (["--tgt-len", "1"], "--tgt-len 1: give 2 or more"),
        (["--mem-len", "-1"], "--mem-len -1: give 0 or more"),
        (["--layer", "7"], "layer=7 must be 1 ... 6"),
        (["--head", "6"], "head=6 must be 0 ... 5"),
        (["tiny-abs-alone"], "attn_type=2, and a page knows types 0 and 1"),
        (["nowhere"], "no folder 'nowhere'"),
    ):
        code, out, err = explore(*argv)
        assert (code, out) == (2, "") and err.count("\n") == 1, argv
        assert err.startswith("minitxl: error: ") and words in err, (argv, err)
    assert not (tmp_path / "explorer.html").exists()


def test_an_imported_model_is_asked_for_a_text(explore, tmp_path):
    trained = load_pretrained("tiny-xl")
    save_run(tmp_path / "run", trained.model, trained.vocab, "char", "", "from elsewhere")
    code, _, err = explore("run")
    assert code == 2 and "give one as --text" in err
    assert explore("run", "--text", "to be or not to be " * 9)[0] == 0
