"""Any stream of tokens trains, is measured, writes and is explored: ids, events, own pieces."""

import json

import numpy as np
import pytest

from minitxl import (
    Config,
    MinitxlError,
    Stream,
    TrainConfig,
    Trainer,
    TransformerXL,
    cli,
    generate,
    load_run,
    save_run,
)
from minitxl.data import NumberVocab, TokenVocab
from minitxl.storage.run_folder import read_metrics
from minitxl.training import run

EVENTS = ["on_60", "off_60", "wait_10", "on_64", "off_64"]
SIZES = dict(n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8, mem_len=8)
TINY = ["--steps", 4, "--batch-size", 2, "--device", "cpu", "--eval-every", 2]
TINY += [word for field, value in SIZES.items() for word in ("--set", f"{field}={value}")]


class Bpe:
    """Somebody's tokenizer: `encode` merges from the left, which no list of symbols tells."""

    symbols = ("a", "b", "ab", "aba")
    n_token = 4

    def encode(self, text):
        ids = []
        for c in text:
            last = self.symbols[ids[-1]] if ids else ""
            if last and last + c in self.symbols:
                ids[-1] = self.symbols.index(last + c)
            else:
                ids.append(self.symbols.index(c))
        return ids

    def decode(self, ids):
        return "".join(self.symbols[i] for i in ids)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = np.random.default_rng(0).integers(0, 5, 800)
    np.save("ids.npy", ids)
    (tmp_path / "events.txt").write_text("\n".join(EVENTS), encoding="utf-8")
    (tmp_path / "pieces.json").write_text('["th", "e", " ", "the ", "end "]', encoding="utf-8")
    monkeypatch.setattr(run._Run, "_draw", lambda self: None)
    return tmp_path


@pytest.fixture
def command(home, capsys):
    def call(*argv):
        capsys.readouterr()
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("options", "vocab"),
    [
        ([], NumberVocab(5)),
        (["--vocab", "events.txt"], TokenVocab(EVENTS, spaced=True)),
        (["--vocab", "pieces.json"], TokenVocab(["th", "e", " ", "the ", "end "])),
    ],
)
def test_ids_by_the_commands(command, home, options, vocab):
    code, out, err = command("train", "--data", "ids.npy", *options, "--out", "r", *TINY)
    assert code == 0, err
    assert "720 tokens to learn from, 5 symbols" in out and "bits per token" in out
    assert "unigrams" in out and "a sample, going on from the first 40 tokens" in out
    assert load_run("r", device="cpu").vocab == vocab
    assert {"bits", "valid_bits"} <= {key for line in read_metrics("r") for key in line}
    shown = vocab.decode([0, 3])
    device = ["--device", "cpu"]
    code, out, err = command("generate", "r", "--prompt", shown, "--length", 5, *device)
    assert code == 0 and out.startswith(shown) and len(vocab.encode(out[:-1])) <= 7, err
    assert command("generate", "r", "--length", 3, *device)[0] == 0
    for argv in ([], ["--data", "ids.npy"]):
        code, out, err = command("eval", "r", "--split", "valid", *argv, *device)
        assert code == 0 and "40 tokens" not in err and "bits per token" in out, err
    (home / "some.txt").write_text(shown + "\n", encoding="utf-8")
    lines = ["--lines", "--data", "some.txt", "--json", *device]
    code, out, err = command("eval", "r", *lines)
    assert code == 0 and json.loads(out)["n_tokens"] == 2, err
    page = ["--out", "x.html", "--tgt-len", 8, *device]
    for text in ([], ["--text", "ids.npy"]):
        code, out, err = command("explore", "r", *text, *page)
        assert code == 0 and "segments of 8 " in out, err
    code, out, err = command("train", "--resume", "r", "--steps", 6, *options, *device)
    assert code == 0, err


def test_a_text_by_the_commands_in_tokens_of_a_file(command, home):
    (home / "t.txt").write_text("the end the th e end " * 30, encoding="utf-8", newline="\n")
    code, _, err = command(
        "train", "--data", "t.txt", "--vocab", "pieces.json", "--out", "r", *TINY
    )
    assert code == 0, err
    for argv in ([], ["--data", "t.txt"]):
        code, _, err = command("eval", "r", *argv, "--split", "all", "--device", "cpu")
        assert code == 0, err


def test_what_does_not_fit_is_told_and_leaves_nothing(command, home):
    np.save("more.npy", np.arange(60))
    np.save("minus.npy", np.arange(-3, 60))
    (home / "t.txt").write_text("abc" * 30, encoding="utf-8")
    before = sorted(home.iterdir())
    for argv, words in (
        (["--data", "more.npy", "--vocab", "events.txt"], "ids from 0 to 59, the vocabulary has 5"),
        (["--data", "minus.npy"], "ids from -3 to 59"),
        (["--data", "t.txt", "--vocab", "pieces.json"], "goes on at position 0"),
        (["--data", "ids.npy", "--vocab", "none.txt"], "none.txt"),
        (["--data", "ids.npy", "--vocab", "events.txt", "--level", "word"], "leave level"),
        (["--vocab", "ids.npy"], "ids.npy is no vocabulary"),
    ):
        for more in ([], ["--dry-run"]):
            code, _, err = command("train", *argv, *more, "--out", "r", *TINY)
            assert code == 2 and words in err and err.count("\n") == 1, (argv, err)
    assert sorted(home.iterdir()) == before


def test_resume_knows_the_ids_and_the_vocabulary(command, home):
    argv = ["train", "--data", "ids.npy", "--vocab", "events.txt", "--out", "r", *TINY]
    assert command(*argv)[0] == 0
    code, _, err = command("train", "--resume", "r", "--vocab", "pieces.json", "--device", "cpu")
    assert code == 2 and "not the 5 of the run" in err
    ids = np.load("ids.npy")
    ids[-1] = (ids[-1] + 1) % 5
    np.save("ids.npy", ids)
    code, _, err = command("train", "--resume", "r", "--device", "cpu")
    assert code == 2 and "has changed since" in err
    code, _, err = command("eval", "r", "--device", "cpu")
    assert code == 2 and "has changed since" in err


def test_a_run_json_of_too_large_a_vocabulary_leaves_no_folder(command, home, monkeypatch):
    monkeypatch.setattr("minitxl.storage.checkpoint._MAX_JSON", 2000)
    many = "\n".join(f"symbol_{i}" for i in range(400))
    (home / "many.txt").write_text(many, encoding="utf-8")
    argv = ["train", "--data", "ids.npy", "--vocab", "many.txt", "--out", "new/r", *TINY]
    code, _, err = command(*argv)
    assert code == 2 and "cannot save new/r/run.json" in err.replace("\\", "/")
    assert not (home / "new" / "r").exists()


# --- a vocabulary that is a program's own ---


@pytest.mark.parametrize("how", ["trainer", "train"])
def test_an_own_vocabulary_in_the_api(command, home, how):
    vocab, text = Bpe(), "abaababbaab" * 60
    if how == "trainer":
        ids = np.array(vocab.encode(text))
        model = TransformerXL(Config(n_token=vocab.n_token, **SIZES), device="cpu")
        trainer = Trainer(model, TrainConfig(steps=2, batch_size=2, threads=1))
        stream = Stream(ids, batch_size=2, tgt_len=8)
        for _ in range(2):
            trainer.step(*stream.next())
        save_run("r", model, vocab)
        assert json.loads((home / "r/run.json").read_text(encoding="utf-8"))["level"] == "token"
    else:
        (home / "t.txt").write_text(text, encoding="utf-8")
        options = dict(device="cpu", model_options=SIZES)
        run.train(data="t.txt", vocab=vocab, out="r", steps=2, batch_size=2, **options)
        run.train(resume="r", vocab=vocab, steps=4, device="cpu", quiet=True)
        code, _, err = command("train", "--resume", "r", "--device", "cpu")
        assert code == 2 and "a vocabulary of its own, vocab=..." in err
    loaded = load_run("r", device="cpu", vocab=vocab)
    assert loaded.vocab is vocab
    assert len(list(generate(loaded.model, loaded.vocab, "abab", length=4))) == 4
    assert len(list(generate(loaded.model, loaded.vocab, length=4))) == 4  # it has no new line
    code, out, err = command("generate", "r", "--prompt", "abab", "--length", 4, "--device", "cpu")
    assert code == 0 and out.startswith("abab") and set(out) <= set("ab\n"), err
    other = TokenVocab(["x", "y", "z", "w"])
    with pytest.raises(MinitxlError, match="not the 4 of the run"):
        load_run("r", device="cpu", vocab=other)


def test_one_that_cannot_be_stored_leaves_nothing(home):
    class Half(Bpe):
        def decode(self, ids):
            if 3 in ids:
                raise KeyError(3)
            return super().decode(ids)

    model = TransformerXL(Config(n_token=4, **SIZES), device="cpu")
    before = sorted(home.iterdir())
    with pytest.raises(
        MinitxlError, match=r"cannot be stored: decode\(\[3\]\) fails with KeyError"
    ):
        save_run("r", model, Half())
    with pytest.raises(MinitxlError, match="has 4 symbols, the model n_token=5"):
        save_run("r", TransformerXL(Config(n_token=5, **SIZES), device="cpu"), Bpe())
    np.save("ids.npy", np.load("ids.npy") % 4)
    with pytest.raises(MinitxlError, match="cannot be stored"):
        run.train(data="ids.npy", vocab=Half(), out="r", steps=2, model_options=SIZES)
    assert sorted(home.iterdir()) == before
