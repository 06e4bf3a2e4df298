"""Make the files of tests/golden/torch_files with real PyTorch, for tests that run without it.

python tests/golden/make_torch_files.py    (made with PyTorch 2.13; the keys of legacy files vary)
"""

import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "torch_files"
LAYOUTS = {"zip": True, "legacy": False}  # _use_new_zipfile_serialization


def everything() -> dict:
    """All number types, and all ways in which tensors share memory."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    floats = torch.tensor([0.0, -0.0, 1.5, -2.0, float("inf"), float("nan")])
    ints = torch.tensor([0, 1, 2, 127])
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    return {
        **{str(t).removeprefix("torch."): floats.to(t) for t in types},
        **{f"int{n}": -ints.to(getattr(torch, f"int{n}")) for n in (8, 16, 32, 64)},
        "uint8": ints.to(torch.uint8) + 128,
        "bool": ints > 0,
        "base": base,
        "tied": base,
        "transposed": base.T,
        "slice": base[1:, 1::2],
        "bfloat16_row": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)[1],
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": [1, -(2**40), 0.5, True, None, "é", (1, (2,), base.shape), {3: "three"}],
        "counter": Counter("abca"),
        "ordered": OrderedDict(b=1, a=2),
    }


def state_dict() -> OrderedDict:
    """Of a real module, which has a `_metadata` attribute, with two tied weights."""
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(2, 3)
    )
    module[2].weight = module[0].weight
    for i, parameter in enumerate(module.parameters()):
        parameter.data = torch.arange(parameter.numel()).reshape(parameter.shape) + 10.0 * i
    return module.state_dict()


def vocabulary() -> dict:
    """The fields of Hugging Face's TransfoXLTokenizer."""
    symbols = ["<eos>", "the", ",", "é", "<unk>"]
    return {
        "counter": Counter({"the": 3, ",": 2, "é": 1}),
        "special": ["<eos>"],
        "min_freq": 0,
        "max_size": None,
        "lower_case": False,
        "delimiter": None,
        "vocab_file": None,
        "idx2sym": symbols,
        "sym2idx": OrderedDict((symbol, i) for i, symbol in enumerate(symbols)),
        "eos_idx": 0,
        "unk_idx": 4,
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    parallel = OrderedDict((f"module.{name}", value) for name, value in state_dict().items())
    for layout, new in LAYOUTS.items():
        for name, value in {
            "everything": everything(),
            "state_dict": state_dict(),
            "checkpoint": {"epoch": 3, "state_dict": parallel, "optimizer": {"lr": 0.1}},
            "vocab": vocabulary(),
        }.items():
            torch.save(value, FOLDER / f"{name}.{layout}", _use_new_zipfile_serialization=new)
    torch.save(torch.nn.Linear(1, 1), FOLDER / "module.zip")  # code: to be refused
    with open(FOLDER / "vocab.pkl", "wb") as file:
        pickle.dump(vocabulary(), file)
