"""train, eval, explore and generate read a text alike, short ones and endless ones too."""

import json
import math
import os

import numpy as np
import pytest

from minitxl import cli
from minitxl.data import text as texts
from minitxl.data.encoded import encoded_file, encoded_text
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError
from minitxl.inference.by_line import score_lines
from minitxl.pretrained import load_pretrained

PLAIN = "To be, or not to be,\nthat is\n\nthe question\n" * 6
SAME = {
    "plain": PLAIN.encode(),
    "mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "windows": PLAIN.replace("\n", "\r\n").encode(),
    "old mac": PLAIN.replace("\n", "\r").encode(),
}


@pytest.fixture(scope="module")
def model():
    return load_pretrained("tiny-xl", device="cpu")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capsys.readouterr()
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("how", SAME)
def test_marks_and_line_ends_make_no_difference(command, how):
    with open("s.txt", "wb") as file:
        file.write(SAME[how])
    with open("plain.txt", "wb") as file:
        file.write(SAME["plain"])
    for vocab in (CharVocab.from_text(PLAIN), WordVocab.from_text(PLAIN)):
        same = encoded_file(vocab, "plain.txt")
        np.testing.assert_array_equal(encoded_file(vocab, "s.txt"), same)
    found = []
    for name in ("s.txt", "plain.txt"):
        code, out, err = command(
            "eval", "tiny-xl", "--data", name, "--split", "all", "--json", "--device", "cpu"
        )
        assert code == 0, err
        found.append(json.loads(out)["nats"])
        page = ["--out", f"{name}.html", "--tgt-len", 32, "--device", "cpu"]
        assert command("explore", "tiny-xl", "--text", name, *page)[0] == 0
    assert found[0] == found[1]
    pages = [open(f"{name}.html", encoding="utf-8").read() for name in ("s.txt", "plain.txt")]
    assert pages[0].replace("s.txt", "plain.txt") == pages[1]  # a page is named after its text


def test_what_the_vocabulary_knows_stays(tmp_path):
    text = "a\r\nb"
    vocab = CharVocab.from_text(text)
    assert vocab.decode(encoded_text(vocab, text)) == text
    (tmp_path / "s").write_bytes(b"\xef\xbb\xbfa\r\n")
    assert ByteVocab().to_bytes(encoded_file(ByteVocab(), tmp_path / "s")) == b"\xef\xbb\xbfa\r\n"


@pytest.mark.parametrize("bad", [b"caf\xe9", "text".encode("utf-16"), b"\xff\xfe"])
def test_other_encodings_are_refused_alike(command, bad):
    with open("bad.txt", "wb") as file:
        file.write(bad * 50)
    for argv in (
        ["train", "--data", "bad.txt", "--out", "new"],
        ["eval", "tiny-xl", "--data", "bad.txt"],
        ["eval", "tiny-xl", "--data", "bad.txt", "--lines"],
        ["explore", "tiny-xl", "--text", "bad.txt"],
    ):
        code, _, err = command(*argv)
        assert code == 2 and "'" in err and "bad.txt' is not UTF-8 text: byte" in err, argv


def test_a_short_text_as_a_whole(command, model):
    with open("s.txt", "w", encoding="utf-8") as file:
        file.write("To be or not to be: that is not it")
    whole = ["eval", "tiny-xl", "--data", "s.txt", "--device", "cpu", "--split", "all"]
    code, out, err = command(*whole, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["n_tokens"] == 33 and found["perplexity"] > 1
    assert "--split all" in command(*whole[:-2])[2]
    for text, code in (("To", 0), ("T", 2), ("", 2)):
        with open("s.txt", "w", encoding="utf-8") as file:
            file.write(text)
        assert command(*whole)[0] == code
    assert "one to predict" in command(*whole)[2]


def test_lines(command, model):
    """Each line is scored as if it were alone, after a new line; all of its symbols count."""
    lines = ["To be", "", "or not to be, that is the question " * 5, "x"]
    with open("s.txt", "w", encoding="utf-8", newline="\r\n") as file:
        file.write("\n".join(lines))
    argv = ["eval", "tiny-xl", "--data", "s.txt", "--lines", "--device", "cpu"]
    code, out, err = command(*argv, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [line["text"] for line in found["lines"]] == [line for line in lines if line]
    for line in found["lines"]:
        ids = model.vocab.encode("\n" + line["text"])[None]
        nll, _ = model.model.score(ids[:, :-1], ids[:, 1:])
        assert line["n_tokens"] == len(line["text"])
        assert line["perplexity"] == pytest.approx(math.exp(line["nats"]))
        if line["n_tokens"] <= model.model.config.tgt_len:
            assert line["nats"] == pytest.approx(float(nll.mean()), rel=1e-4)
    total = sum(line["nats"] * line["n_tokens"] for line in found["lines"])
    assert found["nats"] == pytest.approx(total / found["n_tokens"])
    assert "To be" in command(*argv)[1]
    assert "--data FILE" in command("eval", "tiny-xl", "--lines")[2]
    assert "--window is of no use" in command(*argv, "--window", 9)[2]


def test_a_line_that_is_not_known_is_named(model):
    with pytest.raises(MinitxlError, match=r"line 2: .*'π' at position 1"):
        list(score_lines(model.model, model.vocab, ["ab", "aπ"]))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no endless device")
def test_endless_texts_end_by_a_limit_that_is_told(command, monkeypatch):
    monkeypatch.setattr(texts, "PIPED", 3 << 20)
    for argv in (
        ["train", "--data", "/dev/zero", "--out", "new"],
        ["eval", "tiny-xl", "--data", "/dev/zero"],
        ["explore", "tiny-xl", "--text", "/dev/zero"],
        ["train", "--data", "/dev/zero", "--level", "byte", "--out", "new"],
    ):
        code, _, err = command(*argv)
        assert code == 2 and "does not end within 3,145,728 bytes" in err, (argv, err)


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], 3, None, b"a"])
def test_a_prompt_is_one_text(model, prompt):
    from minitxl import generate

    with pytest.raises(MinitxlError, match="must be one text, got a"):
        generate(model.model, model.vocab, prompt)
