"""Where a run ends: after its steps, after more of them, or when nothing has become better."""

import json

import numpy as np
import pytest

from minitxl import MinitxlError, TrainConfig, cli
from minitxl.errors import MinitxlWarning
from minitxl.inference.units import UNITS
from minitxl.storage import checkpoint
from minitxl.storage.generations import NEWEST, OLDER
from minitxl.storage.run_folder import read_metrics
from minitxl.training import run
from minitxl.training.best import Best, curve

SMALL = dict(n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8, mem_len=8)
SMALL |= dict(dropout=0.2)
# A rate that is too high for good: the validation loss goes up and down.
WILD = dict(learning_rate=0.1, train_options={"schedule": "constant", "warmup": 2})


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    words = np.random.default_rng(0).choice(["sun ", "moon ", "star\n"], 400)
    path.write_text("".join(words), encoding="utf-8", newline="\n")
    return path


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than all else here."""
    monkeypatch.setattr(run._Run, "_draw", lambda self: None)


def train(book, out, **more):
    settings = dict(batch_size=2, threads=1, eval_every=4, save_every=3, seed=1, **WILD)
    return run.train(
        data=str(book),
        out=out,
        device="cpu",
        **{"model_options": SMALL, "quiet": True, **settings, **more},
    )


def go_on(out, quiet=True, **more):
    return run.train(resume=out, device="cpu", quiet=quiet, **more)


def contents(out):
    """All that a run wrote, without clock times."""
    found = {}
    for name in ("last", "best"):
        arrays, state = checkpoint.load(out / f"{name}.safetensors")
        state.pop("seconds", None)
        found[name] = ({k: a.tobytes() for k, a in arrays.items()}, state)
    lines = read_metrics(out)
    return found, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def stops_at(monkeypatch, step):
    """Training is killed before its step of that number."""
    real = run.Trainer.step

    def fails(self, *batch):
        if self.n_step == step:
            raise KeyboardInterrupt
        return real(self, *batch)

    monkeypatch.setattr(run.Trainer, "step", fails)


def info_of(out):
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


# --- more steps ---


def test_more_steps_are_those_of_a_longer_run(book, tmp_path, capsys):
    """A constant rate has no end: 12 steps, then 24, are 24 from the start, twice extended too."""
    whole = contents(train(book, tmp_path / "whole", steps=24))
    out = train(book, tmp_path / "r", steps=12)
    go_on(out, steps=16)
    capsys.readouterr()
    go_on(out, quiet=False, steps=24)
    assert "the end is step 24 now, was 16: after step 16 the constant" in capsys.readouterr().out
    arrays = contents(out)[0]
    assert arrays == whole[0]
    assert info_of(out)["train"]["steps"] == 24
    assert info_of(out)["extended"] == [{"at": 12, "steps": 12}, {"at": 16, "steps": 16}]


@pytest.mark.parametrize("damage", [False, True])
def test_a_longer_run_resumes_to_the_same_bits(book, tmp_path, monkeypatch, capsys, damage):
    """With a schedule that has an end; from the older checkpoint too, which is of the new one."""
    cosine = dict(steps=8, train_options={"warmup": 2})
    whole, out = train(book, tmp_path / "w", **cosine), train(book, tmp_path / "r", **cosine)
    go_on(whole, steps=20)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stops_at(patch, 11 if not damage else 8)
        go_on(out, steps=20)
    if damage:
        assert checkpoint.load(out / OLDER)[1]["n_step"] == 8
        (out / NEWEST).write_bytes((out / NEWEST).read_bytes()[:-100])
        with pytest.warns(MinitxlWarning, match="of step 8"):
            go_on(out)
    else:
        go_on(out)  # the new end is the run's own now
    assert contents(out) == contents(whole)
    rates = [line["lr"] for line in read_metrics(whole) if "lr" in line]
    assert rates[-1] == pytest.approx(0.1 * 0.02)


@pytest.mark.parametrize("name", ["save_newest", "checkpoint.write_json"])
def test_a_new_end_that_cannot_be_written_is_no_end(book, tmp_path, monkeypatch, name):
    """Whichever file the disk is too full for, the same command leads to the same bits."""
    cosine = dict(steps=8, train_options={"warmup": 2})
    whole, out = train(book, tmp_path / "w", **cosine), train(book, tmp_path / "r", **cosine)
    go_on(whole, steps=12)

    def full(*_, **__):
        raise MinitxlError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(MinitxlError, match="No space"):
        patch.setattr(f"minitxl.training.run.{name}", full)
        go_on(out, steps=12)
    assert info_of(out)["train"]["steps"] == 8 and "extended" not in info_of(out)
    go_on(out, steps=12)
    assert contents(out) == contents(whole) and info_of(out) == info_of(whole)


@pytest.mark.parametrize("steps", [1, 7, 8])
def test_fewer_steps_than_done_are_refused(book, tmp_path, monkeypatch, steps):
    out = tmp_path / "r"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stops_at(patch, 10)
        train(book, out, steps=12)
    before = contents_of_files(out)
    with pytest.raises(MinitxlError, match=f"steps={steps} is not beyond the 9 steps.* after 12"):
        go_on(out, steps=steps)
    after = contents_of_files(out)
    assert before == after
    go_on(out, steps=10)  # sooner than planned, but not yet done
    assert checkpoint.load(out / NEWEST)[1]["n_step"] == 10


def contents_of_files(out):
    return sorted((p.name, p.read_bytes()) for p in out.iterdir())


@pytest.mark.parametrize("extended", [3, [3], [{"at": "a", "steps": 2}], {"at": 1}])
def test_a_damaged_record_is_told(book, tmp_path, extended):
    out = train(book, tmp_path / "r", steps=2)
    info = info_of(out) | {"extended": extended}
    (out / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(MinitxlError, match="'extended' is of a wrong type"):
        go_on(out)


# --- patience ---


def test_waiting_is_counted_in_evaluations():
    s = TrainConfig(eval_every=10, patience=3)
    assert [Best(1.0, 20).waited(n, s) for n in (20, 29, 30, 49, 50)] == [0, 0, 1, 2, 3]
    assert [Best(1.0, 20).is_over(n, s) for n in (49, 50, 60)] == [False, True, True]
    assert not Best(1.0, 20).is_over(50, s, since=30)
    assert not Best(1.0, 20).is_over(900, s.replace(patience=0)) and not Best().is_over(900, s)
    with pytest.raises(MinitxlError, match="patience=3 counts evaluations, and eval_every=0"):
        TrainConfig(eval_every=0, patience=3)


def test_patience_ends_a_run_and_survives_resume(book, tmp_path, monkeypatch, capsys):
    out = train(book, tmp_path / "whole", steps=400, patience=2, quiet=False)
    told = capsys.readouterr()
    valid = [(m["step"], m["valid_loss"]) for m in read_metrics(out) if "valid_loss" in m]
    losses = [loss for _, loss in valid]
    best = losses.index(min(losses))
    last = valid[-1][0]
    assert last < 400 and best == len(losses) - 3, "two evaluations after the best one"
    assert "stopped early, of 400 steps: 2 evaluations without a better" in told.err
    assert f"at step {valid[best][0]} of {last}, kept as best.safetensors" in told.out
    _, state = checkpoint.load(out / "best.safetensors")
    assert state == {"n_step": valid[best][0], "valid_nats": min(losses)}
    assert checkpoint.load(out / NEWEST)[1]["n_step"] == last
    for step in (last - 1, last - 4, last - 6):  # between and before the evaluations that count
        other = tmp_path / str(step)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stops_at(patch, step)
            train(book, other, steps=400, patience=2)
        go_on(other)
        assert contents(other) == contents(out)
    before = contents(out)
    go_on(out, quiet=False)  # there is nothing more to do, and it says so
    assert contents(out) == before and "stopped early" in capsys.readouterr().err
    go_on(out, steps=401)  # another end is asked for: waiting begins anew
    assert checkpoint.load(out / NEWEST)[1]["n_step"] >= last + 8
    go_on(tmp_path / str(step), patience=50)
    assert info_of(tmp_path / str(step))["train"]["patience"] == 50
    assert checkpoint.load(tmp_path / str(step) / NEWEST)[1]["n_step"] > last


def test_the_report_names_the_best_and_its_curve():
    metrics = [{"step": n, "valid_loss": abs(n - 70) / 100 + 1, "loss": 0.0} for n in range(200)]
    text = curve(metrics, Best(1.0, 70), UNITS["char"])
    assert "1.443 bpc at step 70 of 199" in text and "loss_curve.png" in text
    assert "2.453 at 0, " in text and text.endswith("3.304 at 199") and text.count(" at ") < 14
    assert curve([], Best(), UNITS["char"]) == ""


def test_the_command_has_the_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--patience", "2", "--eval-every", "0", "--out", "r"]) == 2
    assert "patience=2 counts evaluations" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
