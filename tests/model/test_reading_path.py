"""The README's way through the code is the way that a default model takes."""

import re
import sys
from pathlib import Path

import numpy as np

import minitxl
from minitxl import Config, TransformerXL
from minitxl.backend import get_backend

PACKAGE = Path(minitxl.__file__).parent


def entered(work) -> set[str]:
    """The files of the package that are entered."""
    seen = set()

    def note(frame, event, arg):
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            seen.add(path.relative_to(PACKAGE.parent).as_posix())

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def test_forward_and_backward_stay_on_the_reading_path():
    """At most 10 files and 1,800 lines, none of them of the family; the README lists them all."""
    model = TransformerXL(Config(n_token=11), device=get_backend("cpu", fused=False))
    tokens = np.random.default_rng(0).integers(0, 11, (2, 64))

    def work():
        _, mems, _ = model.forward(tokens, tokens)
        _, _, cache = model.forward(tokens, tokens, mems, rng=model.backend.rng(1))
        model.backward(cache)

    files = entered(work)
    lines = sum(len((PACKAGE.parent / f).read_text(encoding="utf-8").splitlines()) for f in files)
    assert len(files) <= 10 and lines <= 1800, (files, lines)
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. .*?`(minitxl/[\w/]+\.py)`", readme, re.MULTILINE)
    assert set(listed) == files and len(listed) == len(files)
    for n, name in enumerate(listed):  # from the ground up: a file needs only those before it
        text = (PACKAGE.parent / name).read_text(encoding="utf-8")
        for later in listed[n + 1 :]:
            module = later.removesuffix(".py").replace("/", ".")
            assert f"from {module} import" not in text, f"{name} imports {later}"


def test_the_family_walks_as_the_paper():
    """With the paper's own parts the family's loops give the same bits."""
    from minitxl.model.family.network import member
    from minitxl.model.network import PAPER

    config = Config(n_token=11, n_layer=3, tgt_len=5, mem_len=6, dropout=0.2, dropatt=0.1)
    model = TransformerXL(config, device="cpu", dtype="float64")
    tokens = np.random.default_rng(0).integers(0, 11, (2, 5))
    assert model.network is PAPER
    assert member(config).param_shapes(config) == PAPER.param_shapes(config)
    results = []
    for network in (PAPER, member(config)):
        model.network = network
        _, mems, _ = model.forward(tokens, tokens)
        nll, mems, cache = model.forward(tokens, tokens, mems, rng=model.backend.rng(1))
        dleft = [np.ones(mem.shape) for mem in mems]
        found = model.backward_all(cache, dleft=dleft, through=True)
        log_probs, _ = model.predict(tokens, mems)
        results.append([nll, *mems, found.params.flat, *found.hidden, *found.mems, log_probs])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
