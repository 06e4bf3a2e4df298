"""Presets: the released scripts' settings, and what `train --dry-run` says about a run."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from minitxl.cli import main
from minitxl.data.datasets import DATASETS
from minitxl.errors import MinitxlError
from minitxl.training.cost import count_parameters, training_memory
from minitxl.training.presets import PRESETS, find_preset, merge_options, settings_of
from minitxl.training.run import train

RELEASED = {name: preset for name, preset in PRESETS.items() if preset.released}


@pytest.fixture(autouse=True)
def empty_place(tmp_path, monkeypatch):
    """A working folder of its own, and no data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINITXL_DATA", str(tmp_path / "no-data"))
    return tmp_path


def settings(name, n_token=None, text="a text", model=None, train=None):
    preset = find_preset(name)
    n_token = n_token or (preset.released.n_token if preset.released else 33_278)
    return settings_of(preset, n_token, text, model or {}, train or {})


# ---- the presets


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    preset = PRESETS[name]
    config, _ = settings(name)
    lengths = {k: v for k, v in preset.evaluation.items() if k != "batch_size"}
    config.replace(**lengths)
    assert preset.data == "war-and-peace" or preset.data in DATASETS
    assert (preset.level == "word") == bool(config.cutoffs)


@pytest.mark.parametrize(
    ("name", "n_params", "millions"),
    [
        ("enwik8-base", 41_055_436, "41.06"),
        ("enwik8-large", 277_231_820, "277.23"),
        ("text8-base", 40_964_635, "40.96"),
        ("wt103-base", 151_107_538, "151.11"),
        ("wt103-large", 285_170_506, "285.17"),
        ("lm1b-base", 357_812_082, "357.81"),
    ],
)
def test_as_many_parameters_as_the_released_scripts_have(name, n_params, millions):
    config, _ = settings(name)
    assert sum(count_parameters(config).values()) == n_params == PRESETS[name].released.n_params
    assert f"{n_params / 1e6:.2f}" == millions


def test_as_many_parameters_as_the_published_checkpoint_has():
    """wt103-large with u and v of their own in every layer, as Hugging Face published it."""
    config, _ = settings("wt103-large", model={"untie_r": True})
    assert sum(count_parameters(config).values()) == 285_205_322
    assert config.tie_projs == (False, True, True, True)


def test_settings_of_the_released_scripts():
    """Updates, batch, warm-up, segment, and the lengths of evaluation, script by script."""
    table = {
        "enwik8-base": (400_000, 22, 0, 512, 80, 2100, 820),
        "enwik8-large": (400_000, 64, 4000, 768, 128, 3800, 1000),
        "text8-base": (400_000, 22, 0, 512, 80, 2100, 820),
        "wt103-base": (200_000, 60, 0, 150, 64, 640, 400),
        "wt103-large": (4_000_000, 128, 16_000, 384, 128, 1600, 1000),
        "lm1b-base": (500_000, 224, 20_000, 32, 32, 128, None),
    }
    assert list(table) == list(RELEASED)
    for name, row in table.items():
        config, s = settings(name)
        e = RELEASED[name].evaluation
        lengths = (e["tgt_len"], e["mem_len"], e.get("clamp_len"))
        assert row == (s.steps, s.batch_size, s.warmup, config.tgt_len, *lengths), name
        assert (s.lr, s.lr_end, s.schedule, s.clip) == (2.5e-4, 0.0, "cosine", 0.25)
        assert config.mem_len == config.tgt_len and e["same_length"] is True
        assert not (config.pre_lnorm or config.untie_r or config.same_length)


def test_evaluation_as_options_of_the_command():
    assert PRESETS["lm1b-base"].eval_options == (
        "--tgt-len 32 --mem-len 128 --same-length --batch-size 64"
    )
    assert PRESETS["tiny"].eval_options == ""


# ---- options


def test_options_replace_the_presets_settings():
    config, s = settings("tiny", 78, model={"n_layer": 2}, train={"steps": 50, "lr": 0.1})
    assert (config.n_layer, config.d_model, config.n_token) == (2, 128, 78)
    assert (s.steps, s.lr, s.batch_size) == (50, 0.1, 16)
    assert s.warmup == 5  # a tenth, for the preset's 200 would be more than all
    assert settings("tiny", train={"steps": 50, "warmup": 20})[1].warmup == 20
    assert settings("tiny", train={"steps": 90_000})[1].warmup == 200


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("wt103-base", {}, "more than 200000 different words, a text has 78"),
        ("lm1b-base", {}, "--set cutoffs= --set tie_projs="),
        ("wt103-base", {"cutoffs": (50, 90)}, "n_token=78"),
        ("tiny", {"n_token": 5}, "n_token comes from the text"),
        ("tiny", {"colour": 5}, "no field colour"),
    ],
)
def test_options_that_do_not_fit(name, model, words):
    with pytest.raises(MinitxlError) as caught:
        settings(name, 78, model=model)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_way_out_of_large_cutoffs_works():
    config, _ = settings("lm1b-base", 78, model={"cutoffs": (), "tie_projs": ()})
    assert config.n_cluster == 1
    assert settings("wt103-base", 78, model={"cutoffs": (10,)})[0].n_cluster == 2
    edge = PRESETS["wt103-base"].model["cutoffs"][-1]
    assert settings("wt103-base", edge + 1)[0].n_token == edge + 1
    with pytest.raises(MinitxlError, match="a text has 200000"):
        settings("wt103-base", edge)


def test_unknown_presets():
    with pytest.raises(MinitxlError, match=r"did you mean wt103-base\?"):
        find_preset("wt103-bsae")
    with pytest.raises(MinitxlError, match="choose one of tiny, small"):
        find_preset("huge")


def test_options_given_twice():
    assert merge_options({"steps": 5, "lr": None}, {"steps": 5}) == {"steps": 5}
    assert merge_options({"steps": None}, None) == {}
    with pytest.raises(MinitxlError, match="steps is given twice, as 5 and as 6"):
        merge_options({"steps": 5}, {"steps": 6})


def test_a_preset_for_words_takes_the_words_of_a_file(empty_place):
    words = np.random.default_rng(0).integers(0, 30, 2000)
    (empty_place / "text.txt").write_text(" ".join(f"w{n}" for n in words), encoding="utf-8")
    options = dict(data="text.txt", steps=2, batch_size=4, quiet=True, device="cpu")
    tiny = dict(n_layer=1, d_model=8, d_embed=8, d_head=4, d_inner=8, tgt_len=4, mem_len=4)
    folder = train("wt2-small", **options, model_options={**tiny, "cutoffs": (10, 20)})
    assert '"level": "word"' in (folder / "run.json").read_text(encoding="utf-8")


def test_the_presets_own_text_is_the_default():
    with pytest.raises(MinitxlError, match="wikitext-103 is not prepared"):
        train("wt103-base", quiet=True)


# ---- --dry-run


@pytest.fixture
def dry_run(capsys, monkeypatch, empty_place):
    """Run `train --dry-run` with some options -> exit code, stdout, stderr; it writes nothing."""
    import minitxl.cli.dry_run

    monkeypatch.setattr(minitxl.cli.dry_run, "_rate", lambda *_: 1e9)

    def forbidden(*_, **__):
        raise AssertionError("a dry run must not do that")

    monkeypatch.setattr("minitxl.model.transformer_xl.empty_params", forbidden)
    monkeypatch.setattr("urllib.request.urlopen", forbidden)

    def run(*options):
        before = sorted(empty_place.iterdir())
        code = main(["train", "--dry-run", "--device", "cpu", *options])
        assert sorted(empty_place.iterdir()) == before
        return code, *capsys.readouterr()

    return run


def number(out: str, row: str) -> str:
    """The amount in a row of the table."""
    return re.search(rf"^ *{re.escape(row)} +([\d.,]+)", out, re.MULTILINE).group(1)


@pytest.mark.parametrize("name", RELEASED)
def test_a_dry_run_of_a_released_script_needs_no_data(dry_run, name):
    code, out, err = dry_run("--preset", name)
    released = RELEASED[name].released
    assert (code, err) == (0, "")
    assert number(out, f"with {released.n_token:,} symbols") == f"{released.n_params:,}"
    assert f"released script's model: {released.n_params:,}" in out
    assert f"data get {RELEASED[name].data}" in out and RELEASED[name].eval_options in out
    assert max(len(line) for line in out.splitlines() if "minitxl eval" not in line) <= 100


def test_a_dry_run_counts_what_was_asked_for(dry_run):
    _, out, _ = dry_run("--threads", "1", "--steps", "10", "--set", "n_layer=2", "--set", "seed=3")
    config, s = settings("tiny", 78, model={"n_layer": 2}, train={"steps": 10})
    n_params = sum(count_parameters(config).values())
    assert number(out, "parameters") == f"{n_params:,}"
    assert "war-and-peace, 78 symbols" in out and "10 updates\n" in out
    assert number(out, "tokens") == "10,240"
    memory = training_memory(config, s, 1)
    assert number(out, "memory of an update") == f"{sum(memory.values()) / 1e6:.3g}"
    assert "released" not in out and "data get" not in out


def test_a_dry_run_of_threads_pieces_and_float64(dry_run):
    options = ("--threads", "2", "--set", "accumulate=4", "--dtype", "float64")
    _, out, _ = dry_run(*options)
    config, s = settings("tiny", 78, train={"accumulate": 4})
    memory = sum(training_memory(config, s, 2, itemsize=8).values())
    assert number(out, "memory of an update") == f"{memory / 1e6:.3g}"
    assert "16 rows in pieces of 2, 2 at a time" in out


def test_a_dry_run_of_a_file_of_words_sees_how_many_are_rare(dry_run, empty_place):
    common, rare = "the " * 900, " ".join(f"w{n}" for n in range(100))
    (empty_place / "text.txt").write_text(rare + " " + common, encoding="utf-8")
    options = ("--preset", "wt2-small", "--data", "text.txt", "--set", "cutoffs=10")
    code, out, err = dry_run(*options)
    assert (code, err) == (0, "") and "as often as in the text" in out
    assert "preset wt2-small on text.txt, 103 symbols" in out  # with <eos> and <unk>


def test_a_dry_run_of_a_data_set_that_no_preset_is_for(dry_run):
    code, out, _ = dry_run("--data", "ptb", "--steps", "908")
    assert code == 0 and "on ptb, 10,000 symbols" in out
    assert re.search(r"tokens +929,792 +the training text 1.0 times", out)


def test_shares_of_a_text():
    from minitxl.cli.dry_run import _shares

    config, _ = settings("wt2-small", 30, model={"cutoffs": (10, 20)})
    corpus = SimpleNamespace(train=np.asarray([0, 1, 9, 10, 0, 29, 20, 5]))
    assert _shares(corpus, config) == (5 / 8, 1 / 8, 2 / 8)
    assert _shares(None, config) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--preset huge", "huge"),
        ("--preset wt103-base --data text.txt", "text.txt has 1"),
        ("--data no-such-file.txt", "no-such-file.txt"),
        ("--steps 5 --set steps=6", "steps is given twice"),
        ("--set batch_size=5 --threads 2", "batch_size=5"),
        ("--resume somewhere", "leave --resume away"),
    ],
)
def test_mistakes_in_a_dry_run(dry_run, empty_place, options, words):
    (empty_place / "text.txt").write_text("a b c d e f g h i j " * 50, encoding="utf-8")
    code, out, err = dry_run(*options.split())
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_durations_and_amounts():
    from minitxl.cli.dry_run import _amount, _duration

    told = [_duration(s) for s in (0.123, 9.96, 119.6, 120, 3600 * 8.3, 86_400 * 400, 1e12)]
    assert told == ["0.12 s", "10 s", "120 s", "2 minutes", "8.3 hours", "400 days", "31,688 years"]
    told = [_amount(n, "B") for n in (999, 999.6, 1e3, 12_345, 1.5e18, 2e22)]
    assert told == ["999 B", "1 kB", "1 kB", "12.3 kB", "1.5 EB", "2e+04 EB"]


def test_the_rate_is_measured():
    from minitxl.backend import get_backend
    from minitxl.cli.dry_run import _rate

    config, s = settings("tiny", 78)
    rate = _rate(config, s, 2, get_backend("cpu"), seconds=0.05)
    assert 1e8 < rate < 1e14
