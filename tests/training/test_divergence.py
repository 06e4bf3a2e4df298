"""Training that goes wrong says so, while it runs and at its end; so do models that are ruined."""

import warnings

import numpy as np
import pytest

from helpers.models import make_model, make_tokens
from minitxl import TrainConfig, cli
from minitxl.backend import get_backend
from minitxl.errors import MinitxlError, MinitxlWarning
from minitxl.inference.units import UNITS
from minitxl.storage import checkpoint
from minitxl.training.divergence import Guard
from minitxl.training.report import LONGEST, _bar
from minitxl.training.trainer import Trainer

SMALL = "n_layer=1 d_model=16 n_head=2 d_head=8 d_inner=16 tgt_len=8 mem_len=8".split()
TINY = ["--batch-size", "2", "--device", "cpu", "--eval-every", "20"]
TINY += [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.txt").write_text("The quick brown fox jumps.\n" * 400, encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lr", [30, 1000])
def test_divergence_is_told_and_is_an_error(home, capsys, lr):
    argv = ["train", "--data", "s.txt", "--out", "r", "--lr", lr, "--steps", 60, *TINY]
    assert cli.main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) < 500
    last = err.strip().splitlines()[-1]
    assert last.startswith("minitxl: error: ") and "diverged" in last and "lower" in last, err
    if "worse than guessing" in last:
        assert "bits); lower --lr" in last and "is worse than guessing" in err
        assert (home / "r" / "best.safetensors").exists() and "best.safetensors" in last
        assert cli.main(["train", "--resume", "r", "--quiet", "--device", "cpu"]) == 2  # still


def test_an_early_end_does_not_hide_it(home, capsys):
    argv = ["train", "--data", "s.txt", "--out", "r", "--lr", 0.8, "--steps", 400, *TINY]
    argv += ["--patience", 1, "--eval-every", 5, "--set", "log_every=6", "--set", "warmup=2"]
    assert cli.main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert "stopped early, of 400 steps" in err and "diverged: worse than guessing" in err


def test_learning_is_no_divergence(home, capsys):
    argv = ["train", "--data", "s.txt", "--out", "r", "--steps", 60, *TINY]
    assert cli.main([str(a) for a in argv]) == 0
    assert "guessing" not in "".join(capsys.readouterr())


def test_the_guard_speaks_once_until_it_recovers():
    guard = Guard(16, TrainConfig(warmup=10), UNITS["char"])
    nan = float("nan")
    told = [
        guard.remark(step, loss) for step, loss in enumerate((2.8, 2, nan, 9, 2.7, 3), start=10)
    ]
    assert [bool(remark) for remark in told] == [False, False, True, False, False, True]
    guard.check_end([{"step": 20, "loss": 2.0}, {"step": 20, "valid_loss": 99.0}], 2.0)
    with pytest.raises(MinitxlError, match=r"diverged: worse than guessing \(4.00 bits\); lower"):
        guard.check_end([{"step": 1, "loss": 2.8}, {"step": 20, "loss": 3.0}], None)
    # A run of few steps that began above guessing is not trained yet, which is no divergence.
    guard.check_end([{"step": 1, "loss": 4.0}, {"step": 20, "loss": 3.9}], None)


@pytest.mark.parametrize("n", [0, 5, 72.4, 1e7, 1e300, float("inf")])
def test_bars_are_capped(n):
    assert len(_bar(n)) <= LONGEST + 4


def test_targets_that_are_not_shifted():
    model = make_model(get_backend("cpu", "float64"))
    x = make_tokens(2, 5)

    def step(tokens, targets):
        Trainer(model, TrainConfig(batch_size=2, threads=1)).step(tokens, targets)

    with pytest.warns(MinitxlWarning, match="one step later"):
        step(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(x[:, :-1], x[:, 1:])
        step(np.ones_like(x), np.ones_like(x))  # a text of one symbol


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_ruined_weights_are_told(home, capsys, value):
    argv = ["train", "--data", "s.txt", "--level", "word", "--out", "r", "--steps", 2, *TINY]
    assert cli.main([str(a) for a in argv]) == 0
    arrays, state = checkpoint.load("r/best.safetensors")
    name = next(name for name in arrays if name.endswith("w_1"))
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0] = value
    checkpoint.save("r/best.safetensors", arrays, state)
    before = sorted(home.iterdir())
    for argv in (
        ["eval", "r", "--json"],
        ["explore", "r", "--out", "x.html"],
        ["export", "r", "--to", "official", "--out", "x"],
        ["export", "r", "--to", "huggingface", "--out", "x"],
        ["generate", "r"],
    ):
        capsys.readouterr()
        assert cli.main(argv) == 2
        out, err = capsys.readouterr()
        assert out == "" and "1 of" in err and "not finite numbers" in err and name in err, argv
        assert "--checkpoint last" in err
    assert sorted(home.iterdir()) == before
