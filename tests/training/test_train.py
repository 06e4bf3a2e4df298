"""Training: it learns, in pieces as in one, and goes on to the same bits after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from helpers.models import make_model, make_tokens
from helpers.strict_backend import StrictBackend
from minitxl import Config, MinitxlError, TrainConfig, TransformerXL
from minitxl.backend import get_backend
from minitxl.backend.threads import one_blas_thread
from minitxl.data import Stream
from minitxl.inference.evaluate import evaluate
from minitxl.storage import checkpoint
from minitxl.storage.run_folder import read_metrics
from minitxl.training import run
from minitxl.training.optim import Adam, clip_by_norm, learning_rate
from minitxl.training.trainer import Trainer
from minitxl.viz.loss_curve import loss_curve

CPU = get_backend("cpu", "float64")


# --- optimizer ---


def test_adam_by_hand():
    """Two steps of one number, computed on paper from the definition."""
    flat, adam = np.array([1.0]), None
    adam = Adam(flat, beta1=0.9, beta2=0.99, eps=0.0, xp=np)
    adam.step(flat, np.array([0.5]), lr=0.1)
    assert flat[0] == pytest.approx(0.9)  # the first step is lr * sign(g)
    adam.step(flat, np.array([-0.2]), lr=0.1)
    m = (0.9 * 0.05 + 0.1 * -0.2) / (1 - 0.9**2)
    v = (0.99 * 0.0025 + 0.01 * 0.04) / (1 - 0.99**2)
    assert flat[0] == pytest.approx(0.9 - 0.1 * m / np.sqrt(v))


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_clipping(backend, max_norm, expected):
    grad = backend.asarray(np.array([3.0, 4.0]))
    assert float(clip_by_norm(grad, max_norm, xp=backend.xp)) == pytest.approx(5.0)
    assert np.linalg.norm(backend.to_numpy(grad)) == pytest.approx(expected, rel=1e-5)


def test_schedules():
    cosine = TrainConfig(steps=100, warmup=10, lr=1.0, lr_end=0.1)
    rates = [learning_rate(i, cosine) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    inv = cosine.replace(schedule="inv_sqrt")
    assert learning_rate(39, inv) == pytest.approx(0.5)
    assert learning_rate(99, cosine.replace(schedule="constant")) == 1.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(schedule="linear"), "cosine"),
        (dict(lr=0.0), "lr=0.0"),
        (dict(batch_size=10, threads=4), "multiple of 4"),
        (dict(steps=0), "steps=0"),
        (dict(seed=-1), "seed=-1"),
    ],
)
def test_wrong_settings(fields, words):
    with pytest.raises(MinitxlError, match=words):
        TrainConfig(**fields)


def test_adam_eps():
    flat = np.array([1.0])
    Adam(flat, eps=0.5, xp=np).step(flat, np.array([0.5]), lr=0.1)
    assert flat[0] == pytest.approx(1.0 - 0.1 * 0.5 / (0.5 + 0.5))


def test_adam_in_blocks():
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=100), rng.normal(size=(3, 100))
    results = []
    for block in (None, 7):
        flat = start.copy()
        adam = Adam(flat, block=block, xp=np)
        for g in grads:
            adam.step(flat, g, lr=0.1)
        results.append(flat)
    np.testing.assert_array_equal(*results)


# --- steps ---


@pytest.mark.parametrize("pieces", [1, 2])
def test_trainer_is_the_loop_that_one_would_write(pieces):
    """Forward, backward, clip, Adam, by hand: over two epochs of three batches, with dropout."""
    s = TrainConfig(steps=6, batch_size=4, threads=pieces, lr=0.01, warmup=3, clip=0.5, seed=5)
    model, other = (make_model(CPU, dropout=0.3, dropatt=0.2) for _ in range(2))
    text, trainer = make_tokens(61, seed=9), Trainer(model, s)
    adam = Adam(other.params.flat, xp=np)
    stream, mems = Stream(text, batch_size=4, tgt_len=5), None
    assert stream.batches_per_epoch == 3
    for step in range(6):
        tokens, targets, fresh = stream.next()
        assert fresh == (step in (0, 3))
        loss = trainer.step(tokens, targets, fresh)
        mems = [None] * pieces if fresh else mems
        grad, nll_mean = 0.0, 0.0
        for i, rows in enumerate(np.split(np.arange(4), pieces)):
            rng = CPU.rng(s.seed, step, i)
            nll, mems[i], cache = other.forward(tokens[rows], targets[rows], mems[i], rng=rng)
            grad = grad + other.backward(cache).flat / pieces
            nll_mean += nll.mean() / pieces
        norm = np.linalg.norm(grad)
        adam.step(other.params.flat, grad * min(1, s.clip / norm), learning_rate(step, s))
        assert float(trainer.grad_norm) == pytest.approx(norm, rel=1e-9)
        assert float(loss) == pytest.approx(nll_mean, rel=1e-9)
        np.testing.assert_allclose(model.params.flat, other.params.flat, rtol=0, atol=1e-7)


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_a_step_never_looks_at_a_number(pre_lnorm, monkeypatch):
    """Loss, norm and clipping stay on the device: a GPU would be waited for at every look."""
    backend = StrictBackend()
    model = make_model(backend, dropout=0.3, dropatt=0.2, pre_lnorm=pre_lnorm, clamp_len=3)
    trainer = Trainer(model, TrainConfig(batch_size=4, accumulate=2, threads=1))

    def looks(self):
        raise AssertionError("a step took a number from the device")

    for name in ("__float__", "__int__", "__index__", "__bool__"):
        monkeypatch.setattr(type(model.params.flat), name, looks)
    for seed in range(3):
        loss = trainer.step(make_tokens(4, 5, seed=seed), make_tokens(4, 5, seed=seed + 9))
    monkeypatch.undo()
    assert 0 < float(loss) < 10 and float(trainer.grad_norm) > 0


def test_state_is_a_snapshot():
    """What `state` returned does not change with the trainer, and takes it back."""
    model = make_model(CPU)
    trainer = Trainer(model, TrainConfig(batch_size=4, threads=2))
    x, y = make_tokens(4, 5), make_tokens(4, 5, seed=1)
    trainer.step(x, y)
    arrays, values = trainer.state()
    first = float(trainer.step(x, y))
    trainer.load_state(arrays, values)
    assert float(trainer.step(x, y)) == first


def test_failed_step_changes_nothing(monkeypatch):
    model = make_model(CPU)
    trainer = Trainer(model, TrainConfig(batch_size=4, accumulate=2, threads=1))
    x, y = make_tokens(4, 5), make_tokens(4, 5, seed=1)
    trainer.step(x, y)
    before, backward, calls = trainer.state(), TransformerXL.backward, []

    def fails_once(self, cache):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return backward(self, cache)

    monkeypatch.setattr(TransformerXL, "backward", fails_once)
    with pytest.raises(KeyboardInterrupt):
        trainer.step(x, y)
    after = trainer.state()
    assert before[1] == after[1]
    for name, array in before[0].items():
        np.testing.assert_array_equal(array, after[0][name])


def losses(model, settings, steps, batch=4):
    stream = Stream(make_tokens(2000, seed=9), batch_size=batch, tgt_len=5)
    trainer = Trainer(model, settings)
    return [float(trainer.step(*stream.next())) for _ in range(steps)]


def test_overfits_one_batch(backend):
    """What can be learned by heart is learned by heart."""
    model = make_model(backend, scale=0.0, n_layer=1)
    trainer = Trainer(model, TrainConfig(steps=120, lr=2e-2, warmup=5, batch_size=2, threads=1))
    tokens, targets = make_tokens(2, 5), make_tokens(2, 5, seed=1)
    first = float(trainer.step(tokens, targets, fresh=True))
    for _ in range(119):
        last = float(trainer.step(tokens, targets, fresh=True))
    assert first > 2.0 and last < 0.05


def test_pieces_make_no_difference():
    """Accumulated or threaded, the step is that of the whole batch, to rounding."""
    settings = TrainConfig(steps=8, batch_size=4, warmup=2, threads=1)
    whole = make_model(CPU)
    expected = losses(whole, settings, 8)
    for pieces in (dict(accumulate=4), dict(threads=2), dict(threads=2, accumulate=2)):
        model = make_model(CPU)
        got = losses(model, settings.replace(**pieces), 8)
        np.testing.assert_allclose(got, expected, rtol=1e-10)
        np.testing.assert_allclose(model.params.flat, whole.params.flat, atol=1e-9)


def test_threads_are_deterministic():
    settings = TrainConfig(steps=8, batch_size=4, warmup=2, threads=2)
    runs = []
    for _ in range(2):
        model = make_model(CPU, dropout=0.3, dropatt=0.2)
        losses(model, settings, 8)
        runs.append(model.params.flat.copy())
    np.testing.assert_array_equal(*runs)


def test_wrong_batch():
    trainer = Trainer(make_model(CPU), TrainConfig(batch_size=4, threads=2))
    with pytest.raises(MinitxlError, match="3 rows"):
        trainer.step(make_tokens(3, 5), make_tokens(3, 5))
    trainer.step(make_tokens(4, 5), make_tokens(4, 5, seed=1))
    with pytest.raises(MinitxlError, match="fresh=True"):
        trainer.step(make_tokens(2, 5), make_tokens(2, 5))


def test_blas_limit_is_put_back():
    """Two overlapping blocks of two threads, the first to open being the first to close."""

    def threads():
        found = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
        return found[0] if found else None

    before, first, second = threads(), one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() in (1, None)
    second.__exit__(None, None, None)
    assert threads() == before


# --- evaluation ---


def test_evaluate_is_the_mean_nll():
    """Over all rows and segments, the short last one included; bpc and perplexity follow."""
    model = make_model(CPU)
    tokens = make_tokens(48)
    result = evaluate(model, tokens)
    mems, nll = None, []
    for start in range(0, 47, 5):
        x, y = tokens[start : start + 5][: 47 - start], tokens[start + 1 : start + 6]
        out, mems, _ = model.forward(x[None], y[None], mems)
        nll.append(out)
    expected = np.concatenate(nll, axis=1)
    assert result.n_tokens == expected.size == 47
    assert result.nats == pytest.approx(expected.mean(), rel=1e-12)
    assert result.bpc == pytest.approx(result.nats / np.log(2))
    assert result.perplexity == pytest.approx(np.exp(result.nats))
    rows = [evaluate(model, tokens[i * 11 : i * 11 + 12]).nats for i in range(4)]
    assert evaluate(model, tokens, batch_size=4).nats == pytest.approx(np.mean(rows), rel=1e-12)


def test_evaluate_with_other_lengths():
    model = make_model(CPU)
    tokens = make_tokens(60)
    base = evaluate(model, tokens).nats
    for other in (dict(mem_len=0), dict(mem_len=20), dict(tgt_len=3), dict(clamp_len=2)):
        assert evaluate(model, tokens, **other).nats != base
    # One query at a time over a memory of everything: the same as all in one pass.
    one = evaluate(model, tokens, tgt_len=1, mem_len=100).nats
    assert one == pytest.approx(evaluate(model, tokens, tgt_len=59).nats, rel=1e-10)
    for wrong in (dict(batch_size=0), dict(batch_size=60), dict(max_tokens=0)):
        with pytest.raises(MinitxlError):
            evaluate(model, tokens, **wrong)


# --- runs: interrupted at any moment, resumed to the same bits ---

TINY = dict(n_layer=2, d_model=16, n_head=2, d_head=8, d_inner=16, tgt_len=16, mem_len=16)
TINY |= dict(dropout=0.2, dropatt=0.1)
SETTINGS = dict(batch_size=4, eval_every=10, save_every=5, threads=2, seed=3)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    words = ["war ", "and ", "peace ", "Natasha ", "Pierre ", "\n"]
    text = "".join(words[i] for i in np.random.default_rng(0).integers(0, 6, 3000))
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(text, encoding="utf-8")
    return path


def start(book, out, steps=40, **more):
    run.train(
        data=str(book),
        out=out,
        steps=steps,
        device="cpu",
        quiet=True,
        **{"model_options": TINY, **SETTINGS, **more},
    )


@pytest.fixture(scope="module")
def uninterrupted(book, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    start(book, out)
    return contents(out)


def contents(folder):
    """All that a run wrote, without clock times."""
    out = {}
    for name in ("last", "best"):
        arrays, state = checkpoint.load(folder / f"{name}.safetensors")
        state.pop("seconds", None)
        out[name] = ({k: v.tobytes() for k, v in arrays.items()}, state)
    out["metrics"] = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(line)
        line.pop("seconds", None)
        out["metrics"].append(line)
    return out


def command(book, out, *more):
    settings = [f"--set={k}={v}" for k, v in TINY.items()]
    settings += ["--batch-size=4", "--eval-every=10", "--save-every=5", "--threads=2", "--seed=3"]
    new = [f"--data={book}", f"--out={out}", "--steps=40", *settings]
    resume = [f"--resume={out}"]
    options = resume if (out / "run.json").exists() else new
    return [sys.executable, "-m", "minitxl", "train", "--device=cpu", "--quiet", *options, *more]


@pytest.mark.slow
def test_killed_and_resumed(book, tmp_path, uninterrupted):
    """kill -9 at several moments, each as soon as the run has got a little further."""
    out, kills = tmp_path / "killed", 0
    for lines in (1, 2, 4):
        process = subprocess.Popen(command(book, out), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            file = out / "metrics.jsonl"
            if file.exists() and file.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        if not (out / "last.safetensors").exists():  # killed before the first checkpoint
            for file in out.glob("*"):
                file.unlink()
    assert kills >= 1
    subprocess.run(command(book, out), check=True, timeout=120)
    assert contents(out) == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_and_resume(book, tmp_path, uninterrupted):
    out = tmp_path / "stopped"
    process = subprocess.Popen(command(book, out), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in errors
    _, state = checkpoint.load(out / "last.safetensors")
    assert 0 < state["n_step"] < 40
    subprocess.run(command(book, out), check=True, timeout=120)
    assert contents(out) == uninterrupted


def test_resumed_in_process(book, tmp_path, uninterrupted, monkeypatch):
    """An exception in the middle of a step that no checkpoint follows."""
    out, step = tmp_path / "run", Trainer.step

    def fails_at_18(self, *batch):
        if self.n_step == 18:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", fails_at_18)
    with pytest.raises(KeyboardInterrupt):
        start(book, out)
    monkeypatch.setattr(Trainer, "step", step)
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 17, "lo')  # a line that a kill cut off
    assert checkpoint.load(out / "last.safetensors")[1]["n_step"] == 15
    run.train(resume=out, device="cpu", quiet=True)
    assert contents(out) == uninterrupted


def test_resume_refuses_contradictions(book, tmp_path):
    out = tmp_path / "run"
    start(book, out, steps=3)
    before = contents(out)
    for wrong in (
        dict(steps=2),
        dict(eval_every=7),
        dict(data="tiny-shakespeare"),
        dict(model_options={"n_layer": 5}),
        dict(out=tmp_path / "other"),
        dict(level="byte"),
    ):
        with pytest.raises(MinitxlError):
            run.train(resume=out, device="cpu", quiet=True, **wrong)
    with pytest.raises(MinitxlError, match="not empty; continue"):
        start(book, out)
    with pytest.raises(MinitxlError, match="not empty; choose"):
        start(book, out.parent)
    with pytest.raises(MinitxlError, match="given twice"):
        start(book, tmp_path / "other", steps=3, train_options={"steps": 4})
    with pytest.raises(MinitxlError, match=r"no run\.json"):
        run.train(resume=tmp_path / "nowhere")
    assert contents(out) == before


def test_changed_text_is_noticed(book, tmp_path):
    own = tmp_path / "own.txt"
    own.write_bytes(book.read_bytes())
    out = tmp_path / "run"
    start(own, out, steps=3)
    own.write_bytes(book.read_bytes().replace(b"war", b"raw", 1))
    with pytest.raises(MinitxlError, match="changed"):
        run.train(resume=out, device="cpu", quiet=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("when", [dict(save_every=1), dict(eval_every=1, steps=1), {}])
def test_divergence_is_one_line(book, tmp_path, when):
    """A rate of 1e30 ruins the first update; no NaN is written, and nothing called best."""
    with np.errstate(all="ignore"), pytest.raises(MinitxlError, match="diverged"):
        start(book, tmp_path / "run", learning_rate=1e30, **when)
    arrays, state = checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert all(np.isfinite(a).all() for a in arrays.values()) and np.isfinite(state["n_step"])
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_killed_before_the_first_checkpoint(book, tmp_path, uninterrupted, monkeypatch):
    out, save = tmp_path / "run", run._Run.save

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(run._Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        start(book, out)
    monkeypatch.setattr(run._Run, "save", save)
    assert not (out / "last.safetensors").exists()
    run.train(resume=out, device="cpu", quiet=True)
    assert contents(out) == uninterrupted


def test_best_is_the_best(book, tmp_path):
    """best.safetensors holds the parameters of the smallest validation loss in the log."""
    out = tmp_path / "run"
    # A rate that never falls on a text of noise: the validation loss goes up and down.
    start(book, out, steps=60, learning_rate=0.05, eval_every=4, model_options=TINY,
          train_options={"schedule": "constant"})  # fmt: skip
    valid = [m["valid_loss"] for m in read_metrics(out) if "valid_loss" in m]
    assert min(valid) < valid[-1]
    _, state = checkpoint.load(out / "best.safetensors")
    assert state["valid_nats"] == min(valid)
    loaded = run.load_run(out, device="cpu")
    measured = evaluate(loaded.model, run.load_corpus_of(loaded.info).valid, batch_size=16)
    assert measured.nats == pytest.approx(min(valid), rel=1e-5)


def test_short_validation(book, tmp_path):
    start(book, tmp_path / "run", steps=2, eval_every=1, train_options={"eval_tokens": 10})
    assert len([m for m in read_metrics(tmp_path / "run") if "valid_bpc" in m]) == 2


def test_curve_that_cannot_be_written(book, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minitxl.viz.loss_curve.save_loss_curve", full)
    start(book, tmp_path / "run", steps=12)
    assert "No space left" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "run" / "last.safetensors")[1]["n_step"] == 12


@pytest.mark.parametrize("values", [[6.2, 6.0], [4.0, 2.0], [1.0], [float("nan")]])
def test_curve_is_upright(values):
    lines = [{"step": i, "tokens": 10 * i, "bpc": v, "valid_bpc": v} for i, v in enumerate(values)]
    low, high = loss_curve(lines).axes[0].get_ylim()
    assert low < high


def test_state_of_another_model(tmp_path):
    a, b = make_model(CPU), make_model(CPU, n_layer=3)
    settings = TrainConfig(batch_size=4, threads=2)
    arrays, values = Trainer(a, settings).state()
    flat = b.params.flat.copy()
    with pytest.raises(MinitxlError, match="belongs to another model"):
        Trainer(b, settings).load_state(arrays, values)
    with pytest.raises(MinitxlError, match="2 pieces"):
        Trainer(a, settings.replace(threads=1)).load_state(arrays, values)
    wide = make_model(CPU, d_inner=10)
    with pytest.raises(MinitxlError, match="shape"):
        Trainer(wide, settings).load_state(arrays, values)
    np.testing.assert_array_equal(flat, b.params.flat)  # refused as a whole


def test_learns_the_book(book, tmp_path):
    """Real learning: far below the entropy of single letters after 150 steps."""
    out = tmp_path / "run"
    start(book, out, steps=150, learning_rate=5e-3, eval_every=150, save_every=150)
    loaded = run.load_run(out, device="cpu")
    corpus = run.load_corpus_of(loaded.info)
    counts = np.bincount(corpus.train) / len(corpus.train)
    order_0 = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
    assert order_0 > 3.0
    assert evaluate(loaded.model, corpus.test).bpc < 0.6 * order_0
    assert loaded.step == 150 and isinstance(loaded.model, TransformerXL)
    assert loaded.model.config == Config.from_dict(loaded.info["config"])
    assert (out / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
