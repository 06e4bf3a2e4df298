"""The library where much is missing, as in a browser's Python: no lzma, no threads, NumPy alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minitxl.viz.by_position import position_bins

MISSING = ("lzma", "_lzma", "bz2", "safetensors", "threadpoolctl", "tqdm", "matplotlib")

BLOCKED = f"""
import sys, threading
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nowhere())
def start(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
"""


def blocked(code: str, folder: Path) -> str:
    """What a new Python prints that has neither threads nor the packages of MISSING."""
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED + code],
        capture_output=True, text=True, timeout=120, cwd=folder,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("without")
    (path / "text.txt").write_text("the cat sat on the mat, and the dog on the log.\n" * 60)
    return path


TRAINED = """
import minitxl
from minitxl import Config, Stream, TrainConfig, Trainer, TransformerXL, load_corpus
corpus = load_corpus("text.txt")
sizes = dict(n_layer=2, d_model=16, n_head=2, d_head=8, d_inner=32, tgt_len=8, mem_len=8)
model = TransformerXL(Config(n_token=corpus.vocab.n_token, **sizes))
stream = Stream(corpus.train, batch_size=4, tgt_len=8)
"""


def test_a_model_is_built_trained_measured_and_writes(folder):
    code = """
tokens, targets, fresh = stream.next()
nll, mems, cache = model.forward(tokens, targets)
assert model.backward(cache)["layers.0.attn.w_k"].any()
trainer = Trainer(model, TrainConfig(steps=20, batch_size=4, threads=2, lr=0.01, warmup=0))
losses = [float(trainer.step(*stream.next())) for _ in range(20)]
assert losses[-1] < 0.9 * losses[0], losses
assert 0 < minitxl.evaluate(model, corpus.valid, batch_size=2, threads=2).bpc < 10
assert len(list(minitxl.generate(model, corpus.vocab, "the ", length=5))) == 5
print("done")
"""
    assert blocked(TRAINED + code, folder) == "done"


def test_a_shipped_model_writes(folder):
    code = """
import minitxl
run = minitxl.load_pretrained("war-and-peace", device="cpu")
print(run.vocab.decode(list(minitxl.generate(run.model, run.vocab, "Natasha ", length=10))))
"""
    assert len(blocked(code, folder)) >= 5


@pytest.mark.parametrize(
    "call, said",
    [
        (
            "load_corpus('war-and-peace')",
            "the shipped text 'war-and-peace' is packed with xz, and this Python has no module "
            "lzma: give the path of a plain text file",
        ),
        (
            "checkpoint.save('x.safetensors', {}, {})",
            "cannot save x.safetensors: the package safetensors is not installed; pip install "
            "safetensors",
        ),
    ],
)
def test_what_is_missing_is_told_in_one_line(folder, call, said):
    code = f"""
from minitxl import MinitxlError, load_corpus
from minitxl.storage import checkpoint
try:
    {call}
except MinitxlError as error:
    print(error)
"""
    assert blocked(code, folder) == said


def test_doubling_bins_fit_an_integer_of_32_bits(monkeypatch):
    arange = np.arange
    monkeypatch.setattr(np, "arange", lambda *a, **kw: arange(*a, **{"dtype": np.int32} | kw))
    assert position_bins(20).tolist() == [0, 1, 2, 4, 8, 16, 20]
