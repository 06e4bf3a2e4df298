"""Golden numbers of the released PyTorch code, for tests/interop/test_interop.py.

    python tests/golden/make_released.py FOLDER

FOLDER holds the released `mem_transformer.py` and `utils/` (github.com/kimiyoung/transformer-xl,
folder pytorch), which are not part of this project. They need PyTorch and, since it was written for
0.4, two changes: masks of bool in place of byte; and without the cast of type 0's scores to
float32, which in a float64 model would cost its last nine digits. Made with PyTorch 2.13.0, CPU.

Every case is a small model in float64 and eval mode, its parameters drawn from N(0, 0.3^2) around
offsets (LayerNorm gains around 1.3), which reads three consecutive segments of 5, 5 and 3 tokens
in a batch of 2. `released/<case>.npz` holds
  arguments      MemTransformerLM's keyword arguments, as JSON
  state/<name>   the state dict, names of tied arrays once
  data/k, target/k  (T, B), (S, B): ids of segment k, as its iterator cuts them
  loss/k         (S, B) nats, in the order of the tokens
  mems/k/n       (M, B, D): the memories after segment k, n = 0 ... n_layer; none if mem_len is 0
  grad/<name>    gradient of the mean loss of the last segment, memories detached
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

BASE = dict(
    n_token=17, n_layer=2, n_head=2, d_model=8, d_head=4, d_inner=10, dropout=0.0, dropatt=0.0,
    tie_weight=True, d_embed=None, div_val=1, tie_projs=[False], pre_lnorm=False, tgt_len=5,
    ext_len=0, mem_len=7, cutoffs=[], same_length=False, attn_type=0, clamp_len=-1,
)  # fmt: skip
CASES = {
    "relative": {},
    "relative_clamped_same_length_pre_lnorm": dict(
        clamp_len=3, same_length=True, mem_len=4, pre_lnorm=True, n_head=3, d_head=3
    ),
    "relative_without_memory": dict(mem_len=0),
    "relative_ext_len": dict(ext_len=2),
    "relative_long_ext_len": dict(ext_len=5, mem_len=3),
    "shaw": dict(attn_type=1),
    "shaw_clamped_pre_lnorm": dict(attn_type=1, clamp_len=4, pre_lnorm=True, same_length=True),
    "sinusoid": dict(attn_type=2, mem_len=0),
    "sinusoid_pre_lnorm": dict(attn_type=2, mem_len=0, pre_lnorm=True, clamp_len=2),
    "learned": dict(attn_type=3, mem_len=0),
    "learned_pre_lnorm_ext_len": dict(attn_type=3, mem_len=0, pre_lnorm=True, ext_len=2),
    "projection": dict(d_embed=6, tie_projs=[True]),
    "untied": dict(d_embed=6, tie_weight=False),
    "cutoffs": dict(cutoffs=[4, 9]),
    "cutoffs_projections": dict(cutoffs=[4, 9], d_embed=6, tie_projs=[False, True, True]),
    "div_val": dict(cutoffs=[4, 9, 13], div_val=2, tie_projs=[False, True, True, True]),
    "div_val_untied": dict(cutoffs=[4, 9], div_val=2, tie_weight=False, tie_projs=[True]),
}


def build(module, arguments, seed):
    """Return the released model in float64 and eval mode, every parameter well away from 0."""
    torch.set_default_dtype(torch.float64)
    model = module.MemTransformerLM(**arguments).double().eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = rng.normal(size=tuple(p.shape))
            offset = rng.uniform(0.05, 0.15) * rng.choice([-1.0, 1.0])
            gain = name.endswith("layer_norm.weight")
            p.copy_(torch.from_numpy(1.3 + 0.1 * noise if gain else offset + 0.3 * noise))
    return model


def segments(arguments, rng):
    """Cut a random stream as the released iterator does: ext_len tokens are read again."""
    lengths, ext_len = (5, 5, 3), arguments["ext_len"]
    stream = rng.integers(0, arguments["n_token"], (sum(lengths) + 1, 2))
    start = 0
    for n in lengths:
        yield stream[max(0, start - ext_len) : start + n], stream[start + 1 : start + n + 1]
        start += n


def record(module, arguments, seed):
    """Return all arrays of a case by name."""
    model = build(module, arguments, seed)
    first = {}  # tensor -> its first name: state_dict lists tied ones twice
    for name, value in model.state_dict(keep_vars=True).items():
        first.setdefault(id(value), (name, value.detach().numpy().copy()))
    out = {f"state/{name}": value for name, value in first.values()}
    model.crit.keep_order = True  # else losses come sorted by cluster
    mems = ()
    for k, (data, target) in enumerate(segments(arguments, np.random.default_rng(seed + 1))):
        loss, *mems = model(torch.from_numpy(data), torch.from_numpy(target), *mems)
        out |= {f"data/{k}": data.astype(np.uint8), f"target/{k}": target.astype(np.uint8)}
        out[f"loss/{k}"] = loss.detach().numpy()
        out |= {f"mems/{k}/{n}": mem.numpy() for n, mem in enumerate(mems)}
    loss.mean().backward()
    out |= {f"grad/{name}": p.grad.numpy() for name, p in model.named_parameters()}
    return out


def main(folder):
    sys.path.insert(0, folder)
    import mem_transformer

    out = Path(__file__).parent / "released"
    out.mkdir(exist_ok=True)
    for seed, (name, changes) in enumerate(CASES.items()):
        arguments = {**BASE, **changes}
        arrays = record(mem_transformer, arguments, seed)
        np.savez_compressed(out / f"{name}.npz", arguments=json.dumps(arguments), **arrays)
        print(name)


if __name__ == "__main__":
    main(sys.argv[1])
