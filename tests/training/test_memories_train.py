"""The other memories from one end to the other: train, resume, evaluate, write, and their cost."""

import json

import numpy as np
import pytest

from helpers.memories import KINDS
from helpers.models import B, Letters, T, V, make_model, make_tokens
from minitxl import Memory, MinitxlError, TrainConfig, TransformerXL, course, viz
from minitxl.backend import get_backend
from minitxl.cli import main
from minitxl.inference.by_line import score_lines
from minitxl.inference.cached import CachedReader, reader_of
from minitxl.inference.evaluate import evaluate
from minitxl.inference.generate import generate, generate_batch
from minitxl.inference.plain import PlainReader, SegmentReader
from minitxl.interop.huggingface import save_huggingface
from minitxl.interop.official import arguments_of
from minitxl.storage import checkpoint
from minitxl.storage.generations import NEWEST
from minitxl.storage.run_folder import load_run
from minitxl.training import run
from minitxl.training.cost import (
    count_parameters,
    evaluation_memory,
    forward_flops,
    memory_bytes,
    training_memory,
)
from minitxl.training.trainer import Trainer

CPU = get_backend("cpu", "float64")
SOME = ["conv-attention", "conv-autoencode", "random", "sum-elu-rows", "delta-rows", "tokens"]
some_kinds = pytest.mark.parametrize("kind", SOME)


# --- training -----------------------------------------------------------------------------------


@some_kinds
def test_a_trainer_goes_on_to_the_same_bits(kind):
    """Through its state, in two pieces, with dropout: as if it had never stopped."""

    def trainer():
        model = make_model(CPU, **KINDS[kind], dropout=0.1)
        return Trainer(model, TrainConfig(steps=8, batch_size=4, threads=1, accumulate=2, warmup=0))

    ids = make_tokens(4, 8 * T + 1)
    batches = [(ids[:, i : i + T], ids[:, i + 1 : i + T + 1]) for i in range(0, 8 * T, T)]
    whole, first, second = trainer(), trainer(), trainer()
    for batch in batches:
        whole.step(*batch)
    for batch in batches[:5]:
        first.step(*batch)
    arrays, values = first.state()
    second.load_state(arrays, json.loads(json.dumps(values)))
    for batch in batches[5:]:
        second.step(*batch)
    ours, theirs = second.state()[0], whole.state()[0]
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    with pytest.raises(MinitxlError, match="the batch has 2 rows, the one before had 4"):
        second.step(ids[:2, :T], ids[:2, 1 : T + 1])


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    words = np.random.default_rng(0).choice(["sun ", "moon ", "star\n"], 400)
    path.write_text("".join(words), encoding="utf-8", newline="\n")
    return path


SIZES = dict(n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=8)
RUN = dict(device="cpu", quiet=True)


@pytest.mark.parametrize("kind", ["conv-attention", "delta-rows", "tokens"])
def test_a_run_goes_on_to_the_same_bits(kind, book, tmp_path):
    """Trained, stopped and resumed in its folder; then loaded, measured, and heard."""
    options = dict(batch_size=2, threads=1, eval_every=3, save_every=2, seed=1)
    options |= dict(data=str(book), model_options={**SIZES, **KINDS[kind]}, **RUN)
    whole = run.train(out=tmp_path / "whole", steps=6, **options)
    stopped = tmp_path / "stopped"

    class StopError(Exception):
        pass

    save = run._Run.save

    def stop_after(self):
        save(self)
        if self.trainer.n_step == 4:
            raise StopError

    run._Run.save = stop_after
    try:
        with pytest.raises(StopError):
            run.train(out=stopped, steps=6, **options)
    finally:
        run._Run.save = save
    run.train(resume=stopped, model_options={"memory": KINDS[kind]["memory"]}, **RUN)
    ours, theirs = (checkpoint.load(folder / NEWEST)[0] for folder in (stopped, whole))
    assert set(ours) == set(theirs) and any(name.startswith("mems.") for name in ours)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    loaded = load_run(whole, device="cpu")
    assert loaded.model.config.memory == KINDS[kind]["memory"]
    text = loaded.vocab.encode(book.read_text(encoding="utf-8"))
    assert np.isfinite(evaluate(loaded.model, text, batch_size=2).nats)
    assert len(list(generate(loaded.model, loaded.vocab, "moon ", length=12))) == 12
    with pytest.raises(MinitxlError, match=r"memory=.* contradicts the run in .*; leave the"):
        run.train(
            resume=stopped, model_options={"memory": Memory(kind="matrix", rule="sum")}, **RUN
        )


def test_the_command_line(book, tmp_path, capsys):
    out, sets = tmp_path / "run", []
    memory = ["memory.kind=compressive", "memory.n_coarse=4", "memory.rate=2"]
    for setting in (*(f"{k}={v}" for k, v in SIZES.items()), "mem_len=4", *memory):
        sets += ["--set", setting]
    command = ["train", "--data", str(book), "--out", str(out), "--device", "cpu", *sets]
    assert main([*command, "--dry-run"]) == 0
    assert main([*command, "--steps", "3", "--threads", "1", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["eval", str(out), "--device", "cpu"]) == 0
    assert main(["generate", str(out), "--device", "cpu", "--length", "9"]) == 0
    capsys.readouterr()
    assert main(["explore", str(out), "--out", str(tmp_path / "page.html")]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "compressive memory" in said[0]
    wrong = ["--set", "memory.kind=tokens", "--dry-run"]
    assert main(["train", "--data", str(book), "--device", "cpu", *wrong]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "mem_len=" in said[0]


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_lines_and_text(kind):
    """Losses are those of `score`, segment by segment; other readers say the same."""
    model = make_model(CPU, **KINDS[kind])
    ids = make_tokens(1, 4 * T + 4)[0]
    total, mems = 0.0, None
    for start in range(0, len(ids) - 1, T):
        part = ids[start : start + T + 1]
        nll, mems = model.score(part[None, :-1], part[None, 1:], mems)
        total += float(nll.sum())
    for cached in (True, False):
        found = evaluate(model, ids, cached=cached)
        assert found.nats * (len(ids) - 1) == pytest.approx(total, rel=1e-12)
    vocab = Vocabulary()
    line = vocab.decode(ids[: 2 * T + 1])
    scored = next(iter(score_lines(model, vocab, [line])))
    assert scored.n_tokens == 2 * T + 1 and scored.nats > 0
    written = list(generate(model, vocab, line, length=7, seed=3))
    assert written == list(generate(model, vocab, line, length=7, seed=3)) and len(written) == 7
    both = list(generate_batch(model, vocab, [line, line], length=7, seed=3))
    assert [pair[0] for pair in both] == written
    with pytest.raises(MinitxlError, match="read each document by itself"):
        next(generate_batch(model, vocab, [line, line[:3]], length=2))
    with pytest.raises(MinitxlError, match="keys cannot be kept"):
        CachedReader(model)


class Vocabulary(Letters):
    n_token = V

    def encode(self, text):
        from helpers.models import LETTERS

        return np.array([LETTERS.index(c) for c in text], dtype=np.int32)


@pytest.mark.parametrize("cuts", [[1] * 17, [3, 5, 9], [17], [5, 5, 5, 2], [11, 1, 5]])
def test_memory_tokens_are_written_once_a_segment(cuts):
    """However the tokens come, they are read in segments of T, as in training."""
    model = make_model(CPU, **KINDS["tokens"])
    reader = reader_of(model, B)
    assert isinstance(reader, SegmentReader)
    ids = make_tokens(B, 18)
    want, mems = [], None
    for start in range(0, 17, T):
        log_p, mems = model.predict(ids[:, start : min(start + T, 17)], mems)
        want.append(log_p)
    want = np.concatenate(want, axis=1)
    got, losses, start = [], [], 0
    other = reader_of(model, B)
    for n in cuts:
        got.append(reader.read(ids[:, start : start + n]))
        losses.append(other.score(ids[:, start : start + n], ids[:, start + 1 : start + n + 1]))
        start += n
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, rtol=0, atol=1e-12)
    nll = -np.take_along_axis(want, ids[:, 1:, None].astype(int), axis=-1)[:, :, 0]
    np.testing.assert_allclose(np.concatenate(losses, axis=1), nll, rtol=0, atol=1e-12)
    reader.reset()
    again = reader.read(ids[:, :3], last=2)
    np.testing.assert_allclose(again, want[:, 1:3], rtol=0, atol=1e-12)
    assert not isinstance(reader_of(make_model(CPU, **KINDS["mean"])), SegmentReader)
    assert isinstance(reader_of(make_model(CPU, **KINDS["mean"])), PlainReader)


# --- cost ---------------------------------------------------------------------------------------


def full(model, batch, n_token=60):
    mems, t = None, model.config.tgt_len
    ids = make_tokens(batch, n_token)
    for start in range(0, n_token, t):
        _, mems = model.predict(ids[:, start : start + t], mems)
    return mems


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_a_full_memory(kind):
    """All that a row of the batch keeps; where blocks do not come out even, c - 1 states more."""
    model = make_model(CPU, **{**KINDS[kind], "tgt_len": 6, "dropout": 0.0})
    found = 0
    for state in full(model, 3):
        fields = state._asdict() if isinstance(state, tuple) else {"": state}
        found += sum(a.nbytes for name, a in fields.items() if name != "born")
    c = model.config
    waiting = -c.mem_len % c.memory.rate if c.memory.kind == "compressive" else 0
    waiting = 0 if c.memory.compress == "random" else waiting
    want = memory_bytes(c, itemsize=8) + 8 * c.n_layer * waiting * c.d_model
    assert found == 3 * want


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_memory_are_counted(kind):
    config = make_model(CPU, **KINDS[kind]).config
    assert sum(count_parameters(config).values()) == TransformerXL(config, "cpu").n_params
    assert "memory" in forward_flops(config, 4)
    for n in (
        *training_memory(config, TrainConfig(batch_size=4), 1).values(),
        evaluation_memory(config, 4, 1),
    ):
        assert n > 0


# --- what they are refused for ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "delta-rows", "tokens"])
def test_what_knows_the_papers_memory_alone_says_so(kind, tmp_path):
    model = make_model(CPU, **KINDS[kind])
    name = model.config.memory.kind
    for use in (
        lambda: viz.Reading(model, make_tokens(30), tgt_len=T),
        lambda: viz.live(model, Vocabulary(), "ab"),
        lambda: save_huggingface(model, tmp_path),
        lambda: arguments_of(model.config),
        lambda: course.install(model, rel_shift=lambda x: x),
    ):
        with pytest.raises(MinitxlError, match=name) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
