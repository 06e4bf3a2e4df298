"""`python -m minitxl explore`: a page of any run, and one line for every mistake."""

import json
import re

import numpy as np
import pytest

from helpers.models import Letters, make_model
from minitxl import cli, load_pretrained
from minitxl.backend import get_backend
from minitxl.storage.run_folder import save_run
from minitxl.viz import Reading
from minitxl.viz.explorer import looking_far, token_explorer


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


def test_the_shipped_model_and_a_telling_passage_by_default(explore, tmp_path):
    code, out, err = explore()
    assert (code, err) == (0, "")
    path = tmp_path / "explorer.html"
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    assert out.startswith(f"explorer.html: {size}, 4 segments of 64 characters, memory 192;")
    data = data_of(path)
    assert "".join(data["shown"]).startswith('Then·listen:↵↵"Louis·XIV')
    # the space after "badly." attends to the quotation mark that opened the speech
    start = data["start"]
    p = Reading(*_model_and(data["shown"]), tgt_len=64).attention(192)
    weights = p[start["layer"] - 1][start["head"] - 1, start["query"] - 192]
    assert data["shown"][weights.argmax()] == '"' and weights.argmax() < 64


def _model_and(shown):
    trained = load_pretrained("war-and-peace")
    text = "".join(shown).replace("·", " ").replace("↵", "\n")
    return trained.model, trained.vocab.encode(text + " ")


def test_a_passage_a_file_and_where_to_begin(explore, tmp_path):
    passage = "It was the best of times, it was the worst of times. " * 2
    options = ["--tgt-len", "16", "--segments", "3", "--mem-len", "16", "--head", "0"]
    code, out, err = explore("tiny-xl", "--text", passage, "--out", "sub/a.html", *options)
    assert (code, err) == (0, "") and "3 segments of 16 characters, memory 16;" in out
    data = data_of(tmp_path / "sub" / "a.html")
    assert "".join(data["shown"]) == passage[:48].replace(" ", "·")
    assert data["memories"] == [0, 16] and data["start"]["head"] == 0
    (tmp_path / "text.txt").write_text(passage, encoding="utf-8")
    assert explore("tiny-xl", "--text", "text.txt", "--out", "b.html", *options)[0] == 0
    assert data_of(tmp_path / "b.html") == data


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
        (["--tgt-len", "0"], "--tgt-len 0: give 1 or more"),
        (["--segments", "1"], "--segments 1: give 2 or more"),
        (["--layer", "7"], "layer=7 must be 1 ... 6"),
        (["--head", "6"], "head=6 must be 0 ... 5"),
        (["--mem-len", "193"], "mem_len=193 must be 0 ... 192"),
        (["tiny-abs-alone"], "attn_type=2 has absolute positions"),
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


def test_it_begins_where_one_key_far_back_weighs_most():
    """Checked against a loop over the rows; and that a layer or head once chosen stays."""
    model = make_model(get_backend("cpu", "float64"), tgt_len=6)
    reading = Reading(model, np.random.default_rng(1).integers(0, 11, 25), tgt_len=6)
    rows = {
        (layer, head, query): p[head - 1, query, :12].max()
        for layer, p in enumerate(reading.attention(18), start=1)
        for head in range(1, p.shape[0] + 1)
        for query in range(6)
    }
    best = max(rows, key=rows.get)
    assert tuple(looking_far(reading).values()) == best
    for layer, head in ((1, 2), (2, 3)):
        found = looking_far(reading, layer=layer, head=head)
        assert (found["layer"], found["head"]) == (layer, head)
        assert found["query"] == max(range(6), key=lambda q: rows[layer, head, q])
    none = looking_far(reading, 0)
    assert none == {"layer": 1, "head": 0, "query": None}
    token_explorer(model, Letters(), np.r_[reading.tokens, 0], tgt_len=6, mem_len=0, **none)
