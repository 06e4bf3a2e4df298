"""A run that begins from another model: its weights go with their symbols, and all is told."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from minitxl import MinitxlError, TransformerXL, cli, load_run, save_run
from minitxl.data import ByteVocab, CharVocab, NumberVocab, TokenVocab, WordVocab
from minitxl.data.merge import id_map, merged, translated
from minitxl.data.text import Corpus
from minitxl.model.family.adaptive import embedding_bands
from minitxl.storage import checkpoint
from minitxl.storage.generations import NEWEST
from minitxl.training import run

SMALL = dict(n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8, mem_len=8)
SETTINGS = dict(batch_size=2, threads=1, eval_every=4, save_every=3, device="cpu", quiet=True)
OLD = "sun moon star\n" * 60
NEW = "Zoë ran by noon, a star.\r\nmut\r\n" * 40  # new, between and beyond; no u s o m o n


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run._Run, "_draw", lambda self: None)
    (tmp_path / "old.txt").write_text(OLD, encoding="utf-8", newline="\n")
    (tmp_path / "new.txt").write_text(NEW, encoding="utf-8", newline="")
    return tmp_path


def base(steps=6, data="old.txt", out="base", level=None, **sizes):
    options = {**SETTINGS, "learning_rate": 0.05, "model_options": {**SMALL, **sizes}}
    return run.train(data=data, out=out, steps=steps, level=level, **options)


def go(out="r", data="new.txt", steps=4, init_from="base", **more):
    return run.train(data=data, out=out, steps=steps, init_from=init_from, **{**SETTINGS, **more})


def before_the_first_step(out="r", **options):
    """The model as it begins: the run is stopped at once."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.Trainer, "step", stopped)
        go(out, **options)
    return load_run(out, device="cpu", which="last")


def stopped(*_):
    raise KeyboardInterrupt


def info_of(out):
    return json.loads(Path(f"{out}/run.json").read_text(encoding="utf-8"))


def rows(model, i):
    """The embedding of a token, and what the softmax has of it."""
    params = model.params
    if "word_emb" in params:
        return [params["word_emb"][i], params["out_bias"][i]]
    found = []
    for n, band in enumerate(embedding_bands(params, model.config)):
        if band.first <= i < band.stop:
            found += [band.table[i - band.first], params[f"out_bias.{n}"][i - band.first]]
            found += [params[f"out_emb.{n}"][i - band.first]] if f"out_emb.{n}" in params else []
    return found


def assert_carried(old, new):
    """Each symbol has the rows that it had, and all else of the model is as it was."""
    ids = id_map(old.vocab, new.vocab)
    for i, j in enumerate(ids):
        for a, b in zip(rows(old.model, i), rows(new.model, j), strict=True):
            np.testing.assert_array_equal(a, b)
    for name, array in old.model.params.items():
        if array.shape == new.model.params[name].shape:
            np.testing.assert_array_equal(array, new.model.params[name])
    return np.setdiff1d(np.arange(new.vocab.n_token), ids)


# --- vocabularies ---


@pytest.mark.parametrize(
    ("known", "other", "both"),
    [
        (CharVocab("bd"), CharVocab("ace"), CharVocab("abcde")),
        (CharVocab("\nb"), CharVocab("\n\ra"), CharVocab("\nab")),
        (CharVocab("b"), CharVocab("\ra"), CharVocab("\nab")),
        (CharVocab("\rb"), CharVocab("\n\ra"), CharVocab("\n\rab")),
        (ByteVocab(b"bd"), ByteVocab(b"ad"), ByteVocab(b"abd")),
        (NumberVocab(4), NumberVocab(3), NumberVocab(4)),
        (TokenVocab(["b", "a"]), TokenVocab(["c", "a"]), TokenVocab(["b", "a", "c"])),
        (TokenVocab(["b", "b"]), TokenVocab(["b", "b"]), TokenVocab(["b", "b"])),
        (
            WordVocab(["</s>", "b", "?"], eos="</s>", unk="?"),
            WordVocab(["<eos>", "c", "<unk>", "b"]),
            WordVocab(["</s>", "b", "?", "c"], eos="</s>", unk="?"),
        ),
        (
            WordVocab(["<eos>", "b"]),
            WordVocab(["<eos>", "a", "<unk>"]),
            WordVocab(["<eos>", "b", "a", "<unk>"]),
        ),
    ],
)
def test_vocabularies_are_merged_by_symbol(known, other, both):
    assert merged(known, other) == both
    for part in (known, other):
        for i, j in enumerate(id_map(part, both)):
            shown = part.decode([i])
            assert both.decode([j]) in (shown, {"\r": "\n", "<unk>": "?"}.get(shown))


def test_kinds_that_do_not_go_together():
    for known, other in (
        (CharVocab("ab"), ByteVocab()),
        (TokenVocab(["a"]), TokenVocab(["a"], spaced=True)),
        (NumberVocab(3), TokenVocab(["0"], spaced=True)),
    ):
        with pytest.raises(MinitxlError, match="of different kinds"):
            merged(known, other)
    with pytest.raises(MinitxlError, match="look alike"):
        merged(TokenVocab(["a", "a"]), TokenVocab(["b"]))
    with pytest.raises(MinitxlError, match="1 of the text's 2 symbols are not among"):
        id_map(CharVocab("ab"), CharVocab("bc"))


def test_a_text_is_translated():
    text, vocab = "ab\r\nc\rd\r\n\r\n", CharVocab("\n\rabcd")
    ids = vocab.encode(text)
    corpus = Corpus("x", vocab, ids, ids[:3], ids[2:4], "", "char")
    for within in (CharVocab("\nabcdz"), CharVocab("\n\rabcdz"), vocab):
        found = translated(corpus, within)
        plain = "\r" not in within.symbols
        assert within.decode(found.train) == ("ab\nc\nd\n\n" if plain else text)
        assert within.decode(found.test) == ("\n" if plain else "\r\n")


# --- weights ---

FAMILY = {
    "plain": {},
    "untied, one table": dict(tie_weight=False, cutoffs=(3, 6)),
    "clusters": dict(cutoffs=(3, 6), div_val=2),
    "clusters, untied": dict(cutoffs=(2, 5), div_val=2, tie_weight=False, d_embed=4),
    "learned table": dict(attn_type=3, mem_len=0),
    "Shaw": dict(attn_type=1),
}


@pytest.mark.parametrize("level", ["char", "byte", "word"])
@pytest.mark.parametrize("member", FAMILY)
def test_weights_go_with_their_symbols(member, level):
    sizes = dict(FAMILY[member])
    if level == "word" and "cutoffs" in sizes:
        sizes["cutoffs"] = (2, 3)
    base(steps=2, level=level, **sizes)
    old = load_run("base", device="cpu")
    new = before_the_first_step(seed=5, model_options={"mem_len": 12} if not sizes else {})
    fresh = assert_carried(old, new)
    assert new.model.config.n_layer == 1
    if level == "byte":
        assert len(fresh) == 0
        return
    assert set("Zë,.") <= set(new.vocab.symbols) if level == "char" else "Zoë" in new.vocab.symbols
    assert len(fresh) == new.vocab.n_token - old.vocab.n_token > 2
    drawn = TransformerXL(new.model.config, device="cpu", seed=5)
    for i in fresh:
        for a, b in zip(rows(new.model, i), rows(drawn, i), strict=True):
            np.testing.assert_array_equal(a, b)
    # What follows is chosen among the known symbols as before.
    tokens = old.vocab.encode("star moon")[None]
    if "cutoffs" not in sizes and not old.model.config.dropout:
        ids = id_map(old.vocab, new.vocab)
        before, after = (old.model.predict(tokens)[0], new.model.predict(ids[tokens])[0][..., ids])
        np.testing.assert_allclose(before - before[..., :1], after - after[..., :1], atol=1e-5)


def test_it_is_told_and_recorded(capsys):
    base()
    go(quiet=False)
    out = capsys.readouterr().out
    assert out.startswith("begins from ") and "1 layers, D 8" in out.splitlines()[0]
    new = sorted(set(NEW) - set(OLD) - {"\r"})
    named = ", ".join(map(repr, new[:8]))
    more = f" and {len(new) - 8} more" if len(new) > 8 else ""
    assert f"{len(new)} new symbols get fresh rows: {named}{more}" in out
    lacks = len(set(OLD) - set(NEW))
    assert (f"; {lacks} that the text lacks keep theirs" in out) == (lacks > 0)
    info = info_of("r")
    assert info["init_from"]["step"] == load_run("base", device="cpu").step
    assert info["init_from"]["run"].endswith("base") and len(info["init_from"]["sha256"]) == 64
    assert info["config"]["n_token"] == len(set(OLD) | set(NEW) - {"\r"})
    assert info["train"]["lr"] == 0.05 and info["train"]["seed"] == 0
    for argv in (
        ["eval", "r"],
        ["eval", "r", "--data", "old.txt"],
        ["eval", "r", "--data", "new.txt"],
        ["generate", "r", "--prompt", "Zoë sun", "--length", "5"],
        ["explore", "r", "--out", "x.html", "--tgt-len", "8"],
    ):
        assert cli.main([*argv, "--device", "cpu"]) == 0, argv


def test_its_own_text_goes_on(capsys):
    base(steps=12)
    go(data=None, quiet=False, learning_rate=0.001)
    assert "no symbol is new\n" in capsys.readouterr().out
    assert info_of("r")["train"]["lr"] == 0.001
    first, last = load_run("base", device="cpu"), load_run("r", device="cpu", which="last")
    assert np.abs(first.model.params.flat - last.model.params.flat).max() < 0.01


# --- the same bits ---


def contents(out):
    arrays, state = checkpoint.load(f"{out}/{NEWEST}")
    state.pop("seconds")
    return {name: a.tobytes() for name, a in arrays.items()}, state


@pytest.mark.parametrize("at", [0, 1, 7])
def test_it_resumes_to_the_same_bits(at):
    """0: stopped before its first checkpoint, when its weights lie with the model alone."""
    base()
    go("whole", steps=10)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == 0:
            patch.setattr(run._Run, "save", stopped)
        else:
            real = run.Trainer.step
            patch.setattr(
                run.Trainer,
                "step",
                lambda self, *b: stopped() if self.n_step == at else real(self, *b),
            )
        go("r", steps=10)
    if at == 0:
        shutil.move("base", "elsewhere")
        with pytest.raises(MinitxlError, match=r"cannot be read.*remove the folder and start"):
            run.train(resume="r", device="cpu", quiet=True)
        base(steps=5)
        with pytest.raises(MinitxlError, match="has changed since; remove the folder"):
            run.train(resume="r", device="cpu", quiet=True)
        shutil.rmtree("base")
        shutil.move("elsewhere", "base")
    else:
        shutil.rmtree("base")  # no more needed
    run.train(resume="r", device="cpu", quiet=True)
    assert contents("r") == contents("whole")
    with open("new.txt", "a", encoding="utf-8") as file:
        file.write("star")
    with pytest.raises(MinitxlError, match="has changed since"):
        run.train(resume="r", device="cpu", quiet=True)


@pytest.mark.parametrize("damaged", [3, {}, {"run": 3}])
def test_a_damaged_record_is_told(damaged):
    base()
    before_the_first_step()
    info = info_of("r") | {"init_from": damaged}
    Path("r/run.json").write_text(json.dumps(info), encoding="utf-8")
    Path(f"r/{NEWEST}").unlink()
    with pytest.raises(MinitxlError, match="'init_from' is of a wrong type"):
        run.train(resume="r", device="cpu", quiet=True)


@pytest.mark.parametrize("field", ["n_token", "n_layer", "d_model"])
@pytest.mark.parametrize("value", [2**31 - 1, 10**30])
def test_hostile_sizes_of_the_model_take_no_memory(field, value):
    np.save("ids.npy", np.arange(60) % 5)
    base(data="ids.npy")
    info = info_of("base")
    info["config"][field] = value
    if field == "n_token":
        info["vocab"]["n_token"] = value
    for n_params in (info["n_params"], 10**15):
        info["n_params"] = n_params
        Path("base/run.json").write_text(json.dumps(info), encoding="utf-8")
        began = time.monotonic()
        with pytest.raises(MinitxlError):
            go(data="ids.npy")
        assert time.monotonic() - began < 5


# --- the command ---


def command(capsys, *argv):
    capsys.readouterr()
    code = cli.main([str(a) for a in argv])
    return code, *capsys.readouterr()


def test_mistakes_are_one_line_and_leave_nothing(home, capsys):
    base()
    np.save("ids.npy", np.arange(60))
    before = sorted(home.iterdir())
    for options, words in (
        (["--set", "n_layer=3"], ["n_layer=3 contradicts", "n_layer=1", "leave the option away"]),
        (["--set", "cutoffs=2,4"], ["cutoffs=(2, 4)", "cutoffs=()"]),
        (["--preset", "small"], ["the preset small has n_layer=6", "n_layer=1"]),
        (["--level", "word"], ["level=word contradicts", "level char"]),
        (["--data", "ids.npy"], ["ids.npy holds ids", "level char"]),
        (["--data", "none.txt"], ["no file"]),
        (["--data", "wikitext-2"], ["wikitext-2 are of level word", "of level char"]),
        (["--resume", "base"], ["leave one of them away"]),
        (["--init-from", "nowhere"], ["there is no folder 'nowhere'"]),
        (["--init-from", home], ["no run.json there"]),
        (["--vocab", "new.txt"], ["level char and their vocabulary"]),
    ):
        for more in ([], ["--dry-run"]):
            argv = ["train", "--init-from", "base", "--data", "new.txt", "--out", "r"]
            if "--resume" in options and not more:
                argv = argv[:5]
            code, _, err = command(capsys, *argv, *options, *more, "--device", "cpu")
            assert code == 2 and err.count("\n") == 1, (options, err)
            if not ("--resume" in options and more):
                assert all(word in err for word in words), err
    assert sorted(home.iterdir()) == before


def test_a_dry_run_shows_it_and_a_shipped_model_begins_it(home, capsys):
    argv = ["train", "--init-from", "tiny-xl", "--data", "new.txt", "--steps", 2, "--device", "cpu"]
    before = sorted(home.iterdir())
    code, out, err = command(capsys, *argv, "--dry-run", "--set", "mem_len=16")
    assert code == 0, err
    assert "begins from tiny-xl, 3 layers, D 128; 1 new symbol gets a fresh row: 'ë'" in out
    assert "train on new.txt, 79 symbols; nothing is trained or written" in out
    assert "memory 16" in out and sorted(home.iterdir()) == before
    code, out, err = command(capsys, *argv, "--set", "mem_len=16", "--lr", "1e-4")
    assert code == 0 and (home / "runs" / "tiny-xl-new" / "run.json").exists(), err
    assert info_of("runs/tiny-xl-new")["init_from"]["run"] == "tiny-xl"


def test_imported_models_begin_a_run(capsys):
    base()
    loaded = load_run("base", device="cpu")
    save_run("imported", loaded.model, loaded.vocab)
    code, _, err = command(capsys, "train", "--resume", "imported")
    assert code == 2 and "--init-from imported" in err
    code, _, err = command(capsys, "train", "--init-from", "imported", "--out", "r")
    assert code == 2 and "give one as --data" in err
    go(init_from="imported", threads=1)
    assert info_of("r")["train"]["lr"] == 2.5e-4


def test_of_bytes_only_those_that_occur_are_new(capsys):
    """A model of enwik8 knows 205 bytes, and any text of bytes could have all 256."""
    base(level="byte")
    loaded = load_run("base", device="cpu")
    some = ByteVocab(bytes(sorted(set(OLD.encode()))))
    model = TransformerXL(loaded.model.config.replace(n_token=some.n_token), device="cpu")
    save_run("few", model, some)
    go(init_from="few", quiet=False)
    assert "8 new symbols get fresh" in capsys.readouterr().out
    new = load_run("r", device="cpu")
    assert new.vocab.values == bytes(sorted(set((OLD + NEW).encode())))
    run.train(resume="r", steps=6, device="cpu", quiet=True)
    assert cli.main(["eval", "r", "--device", "cpu"]) == 0


@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_streams_of_tokens(home, capsys, kind):
    """A text of ids comes with its own vocabulary, whose ids are not the model's."""
    np.save("a.npy", np.arange(400) % 5)
    np.save("b.npy", np.arange(400) % 7)
    (home / "a.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    (home / "b.txt").write_text("z\ne\nd\nc\nb\na\ny\n", encoding="utf-8")
    vocab = {"numbers": [[], []], "names": [["--vocab", "a.txt"], ["--vocab", "b.txt"]]}[kind]
    sizes = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]
    common = ["--steps", 4, "--batch-size", 2, "--device", "cpu", "--quiet"]
    argv = ["train", "--data", "a.npy", *vocab[0], "--out", "base", *common, *sizes]
    assert command(capsys, *argv)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Trainer, "step", stopped)
        argv = ["train", "--init-from", "base", "--data", "b.npy", *vocab[1], "--out", "r"]
        assert command(capsys, *argv, *common)[0] == 130
    old, new = (load_run(r, device="cpu", which="last") for r in ("base", "r"))
    assert len(assert_carried(old, new)) == 2 and new.vocab.n_token == 7
    assert (
        command(capsys, "train", "--resume", "r", *vocab[1], "--device", "cpu", "--quiet")[0] == 0
    )
    for argv in (["eval", "r"], ["explore", "r", "--tgt-len", 8, "--out", "x.html"]):
        code, _, err = command(capsys, *argv, "--device", "cpu")
        assert code == 0, err
    go("again", data=None, init_from="r")  # on the text of r, whose ids are still those of b.txt
    test, was = (run.load_corpus_of(info_of(name)).test for name in ("again", "r"))
    np.testing.assert_array_equal(test, was)
    if kind == "names":  # in the model's own ids where no other vocabulary is given
        code, _, err = command(capsys, "train", "--init-from", "base", "--data", "b.npy", *common)
        assert code == 2 and "the vocabulary has 5 symbols" in err
