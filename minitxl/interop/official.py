"""The released PyTorch code's `MemTransformerLM`: its state dict and constructor arguments.

What it does in a way of its own is set in the `Config`: a stream starts with an empty memory; the
columns of the head for the tails run backwards; in the memory's update the lengths of memory and
segment change places (which shows only where ext_len exceeds one of them); absolute encodings
under pre_lnorm take queries from un-normalised states. Where it differs from itself, we do not
follow: types 2 and 3 with a memory add positions into the memory again and again (model/family/).
Type 3 pays no heed to clamp_len there; here `with_options(clamp_len=...)` clamps its table too.
Refused, each in one line: a cutoff equal to n_token, clusters of width 0, models of no layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from minitxl.config import ALIBI, LEARNED, RELATIVE, ROPE, SHAW, SINUSOID, Config
from minitxl.errors import MinitxlError
from minitxl.interop.names import RELEASED, build, refuse_unless, to_theirs
from minitxl.interop.torch_file import read_state_dict, write_torch
from minitxl.model.params import Params
from minitxl.model.transformer_xl import TransformerXL

_SAME_NAME = (
    "n_token n_layer n_head d_model d_head d_inner dropout dropatt tie_weight div_val pre_lnorm "
    "tgt_len ext_len mem_len same_length attn_type untie_r"
).split()
_REQUIRED = "n_token n_layer n_head d_model d_head d_inner dropout dropatt tgt_len mem_len".split()
_KINDS = dict(
    d_embed=(int,), cutoffs=(list, tuple), tie_projs=(list, tuple), clamp_len=(int,),
    sample_softmax=(int,),
)  # fmt: skip
_SPECIAL = ("d_embed", "cutoffs", "tie_projs", "clamp_len", "adapt_inp", "sample_softmax")


def config_of(arguments: Mapping) -> Config:
    """Return the `Config` of MemTransformerLM's keyword arguments (and untie_r, which it lacks).

    Numbers and lists may be NumPy's. Raises `MinitxlError` for an unknown, missing or wrongly typed
    argument.
    """
    if not isinstance(arguments, Mapping):
        raise MinitxlError(f"the arguments must be a mapping, got {type(arguments).__name__}")
    arguments = {
        name: value.tolist() if hasattr(value, "tolist") else value  # arrays and their scalars
        for name, value in arguments.items()
    }
    for name, kinds in _KINDS.items():
        value = arguments.get(name)
        if value is not None and type(value) not in kinds:
            want = " or ".join(kind.__name__ for kind in kinds)
            raise MinitxlError(f"the argument {name}={value!r} must be of type {want}")
    unknown = sorted(set(arguments) - {*_SAME_NAME, *_SPECIAL})
    if unknown:
        raise MinitxlError(
            f"MemTransformerLM has no argument {', '.join(map(str, unknown))}; it has "
            f"{', '.join([*_SAME_NAME, *_SPECIAL])}"
        )
    missing = [name for name in _REQUIRED if arguments.get(name) is None]
    if missing:
        raise MinitxlError(f"the arguments lack {', '.join(missing)}; give the model's own")
    if (arguments.get("sample_softmax") or -1) > 0:
        raise MinitxlError("sample_softmax: the sampled softmax cannot evaluate; use cutoffs")
    fields = {n: arguments[n] for n in _SAME_NAME if arguments.get(n) is not None}
    d_embed = arguments.get("d_embed") or -1
    cutoffs = tuple(arguments.get("cutoffs") or ())
    ties = tuple(bool(t) for t in arguments.get("tie_projs") or ())
    n = len(cutoffs) + 1
    if len(ties) > n:
        raise MinitxlError(
            f"tie_projs has {len(ties)} entries, there are {n} clusters; give one for each"
        )
    attn_type = fields.get("attn_type", RELATIVE)
    if attn_type in (ROPE, ALIBI):
        raise MinitxlError(f"attn_type={attn_type} is minitxl's own; MemTransformerLM has 0 to 3")
    clamp_len = arguments.get("clamp_len") or -1
    return Config.from_dict(
        {
            **fields,
            "d_embed": d_embed if d_embed > 0 and d_embed != fields["d_model"] else 0,
            "cutoffs": cutoffs,
            "tie_projs": ties + (False,) * (n - len(ties)),
            # the table of type 3 is not clamped there
            "clamp_len": clamp_len if clamp_len > 0 and attn_type != LEARNED else -1,
            "start_mems": "empty",
            "released": {
                "cluster_order": "reversed",
                "ext_len_swapped": True,
                "raw_queries": attn_type in (SINUSOID, LEARNED),
            },
        }
    )


def arguments_of(config: Config) -> dict:
    """Return MemTransformerLM's keyword arguments for a configuration.

    untie_r, which it lacks, stands among them where it is true. A stream starts from an empty
    memory there: one that starts from zeros must be given them. Raises `MinitxlError` for what
    else the released code would compute otherwise.
    """
    c, released = config, config.released
    absolute = c.attn_type in (SINUSOID, LEARNED)
    lengths = c.tgt_len + c.ext_len + c.mem_len
    refuse_unless(
        "the released code",
        {
            f"attn_type={c.attn_type}": c.attn_type not in (ROPE, ALIBI),
            f"a {c.memory.kind} memory": c.memory.kind == "xl",
            f"same_length_extra={released.same_length_extra}": released.same_length_extra == 0,
            f"layer_norm_epsilon={c.layer_norm_epsilon}": c.layer_norm_epsilon == 1e-5,
            f"raw_queries={released.raw_queries} with pre_lnorm and attn_type={c.attn_type}": (
                not c.pre_lnorm or released.raw_queries == absolute
            ),
            f"a memory (mem_len={c.mem_len}) without faults for attn_type={c.attn_type}": (
                not (absolute and c.mem_len)
            ),
            f"clamp_len={c.clamp_len} for attn_type=3": c.attn_type != LEARNED or c.clamp_len < 0,
            f"ext_len={c.ext_len} with ext_len_swapped=False": (
                released.ext_len_swapped or not (c.ext_len and c.mem_len)
            ),
            f"tables of {c.table_len} rows for lengths of {lengths} in all": (
                c.attn_type not in (SHAW, LEARNED) or c.table_len == lengths
            ),
        },
    )
    out = {name: getattr(c, name) for name in _SAME_NAME if name != "untie_r" or c.untie_r}
    ties = [c.ties_projection(i) for i in range(c.n_cluster)]
    return out | {
        "d_embed": c.embed_width,
        "cutoffs": list(c.cutoffs),
        "tie_projs": ties,
        "clamp_len": c.clamp_len,
    }


def load_official(
    state: Mapping | str | os.PathLike,
    arguments: Mapping,
    dtype: str = "float64",
    device: str = "cpu",
) -> TransformerXL:
    """Return the model of a state dict of the released PyTorch code, to the last digit.

    state: names -> arrays, or the path of a .pt, .npz or .safetensors file. arguments:
    MemTransformerLM's keyword arguments, and untie_r. Raises `MinitxlError` where the two do not
    fit, naming the array, and for files that are damaged or hold more than numbers.
    """
    if not isinstance(state, Mapping):
        state = read_state_dict(state)
    if all(str(name).startswith("module.") for name in state):  # DataParallel's prefix
        state = {name.removeprefix("module."): array for name, array in state.items()}
    config = config_of(arguments)
    table = state.get("r_emb")
    if table is not None and len(np.shape(table)) == 4:  # made for other lengths than these
        config = config.replace(max_klen=int(np.shape(table)[1]))
    return build(state, config, RELEASED, device, dtype)


def to_official(params: Params, config: Config) -> dict[str, np.ndarray]:
    """Return parameters, or gradients, under the released PyTorch code's names and in its shapes.

    Tied arrays stand under each of their names. `load_official(to_official(...), ...)` gives the
    same numbers back.
    """
    return to_theirs(params, config, RELEASED)


def save_official(model: TransformerXL, path: str | os.PathLike) -> dict:
    """Write the state dict as torch.load reads it; return MemTransformerLM's arguments."""
    arguments = arguments_of(model.config)
    write_torch(path, to_official(model.params, model.config))
    return arguments
