"""The model that ships: it is what its card says, and it knows the book."""

import json

import numpy as np
import pytest

import minitxl
from minitxl import MinitxlError, TrainConfig
from minitxl.data import load_corpus
from minitxl.experiments.group import Shape, settings_of_member
from minitxl.inference.evaluate import evaluate
from minitxl.inference.generate import generate
from minitxl.pretrained import find_run, models_folder, shipped_models
from minitxl.pretrained.__main__ import pack
from minitxl.storage import checkpoint
from minitxl.storage.run_folder import load_run


def test_it_knows_the_book():
    """Far below what bzip2 pays (2.16 bpc), on the beginning of the unseen test text."""
    pretrained = minitxl.load_pretrained("war-and-peace", device="cpu")
    corpus = load_corpus("war-and-peace")
    assert pretrained.vocab == corpus.vocab
    measured = evaluate(pretrained.model, corpus.test, batch_size=16, max_tokens=16_000)
    assert measured.bpc < 1.9


def test_memory_helps_it():
    pretrained = minitxl.load_pretrained(device="cpu")
    text = load_corpus("war-and-peace").test[:12_001]
    with_memory = evaluate(pretrained.model, text, batch_size=4, tgt_len=32)
    without = evaluate(pretrained.model, text, batch_size=4, tgt_len=32, mem_len=0)
    assert with_memory.bpc < without.bpc - 0.1


def test_it_writes():
    pretrained = minitxl.load_pretrained(device="cpu")
    ids = list(generate(pretrained.model, pretrained.vocab, "Pierre ", length=60, seed=1))
    assert ids == list(generate(pretrained.model, pretrained.vocab, "Pierre ", length=60, seed=1))
    assert " " in pretrained.vocab.decode(ids)


def test_names():
    group = ["tiny-abs-alone", "tiny-shaw", "tiny-xl", "tiny-xl-alone"]
    assert shipped_models() == [*group, "war-and-peace"]
    with pytest.raises(MinitxlError, match=r"there is tiny-abs-alone, .*, war-and-peace"):
        minitxl.load_pretrained("moby-dick")
    assert load_run(find_run("war-and-peace"), device="cpu").info["preset"] == "small"


@pytest.mark.parametrize("name", [n for n in shipped_models() if n.startswith("tiny-")])
def test_the_group_is_what_the_experiments_train(name):
    pretrained = minitxl.load_pretrained(name, device="cpu")
    want = settings_of_member(name.removeprefix("tiny-"), 0, Shape(), pretrained.vocab.n_token)
    assert pretrained.model.config == want[0]
    assert TrainConfig.from_dict(pretrained.info["train"]) == want[1]
    text = load_corpus("war-and-peace").test
    assert evaluate(pretrained.model, text, batch_size=16, max_tokens=8000).bpc < 2.45


def test_what_ships_is_small():
    files = [path for path in models_folder().rglob("*") if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) <= 10_000_000


def test_pack(tmp_path):
    """Packing keeps the best parameters to half precision, and nothing of the optimizer."""
    params = {"params.a": np.linspace(-3, 3, 50, dtype=np.float32), "adam.m": np.ones(50)}
    checkpoint.save(tmp_path / "best.safetensors", params, {"n_step": 7})
    checkpoint.write_json(tmp_path / "run.json", {"x": 1})
    (tmp_path / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    out = pack(tmp_path, tmp_path / "packed")
    arrays, state = checkpoint.load(out / "best.safetensors")
    assert list(arrays) == ["params.a"] and arrays["params.a"].dtype == np.float16
    np.testing.assert_allclose(arrays["params.a"], params["params.a"], rtol=1e-3)
    assert state == {"n_step": 7}
    assert json.loads((out / "run.json").read_text(encoding="utf-8")) == {"x": 1}
