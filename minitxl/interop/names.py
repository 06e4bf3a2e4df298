"""How parameters are called and laid out elsewhere, and the way there and back.

Both lineages keep weights as (out, in), the transpose of ours, put q, k and v (or k and v) into one
matrix, row block by row block, and share names; `Style` says what differs between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from minitxl.backend import get_backend
from minitxl.config import LEARNED, RELATIVE, SHAW, SINUSOID, Config
from minitxl.errors import MinitxlError
from minitxl.files import one_line
from minitxl.model.params import Params
from minitxl.model.transformer_xl import TransformerXL, empty_params, network_of
from minitxl.storage.model_arrays import load_params


class Style(NamedTuple):
    """What differs between the lineages."""

    prefix: str  # of every name outside the softmax
    cluster_order: str  # of the head's columns for the tails
    shared_biases_everywhere: bool  # tied u and v have a name in every layer too


RELEASED = Style("", "reversed", False)
HUGGING_FACE = Style("transformer.", "natural", True)

INV_FREQ = "pos_emb.inv_freq"


class Entry(NamedTuple):
    """One array of theirs and the arrays of ours that it is made of."""

    theirs: str
    ours: tuple[str, ...]
    layout: str  # same | linear: transposed, stacked by rows | layers: one of ours a layer


def entries(config: Config, style: Style) -> list[Entry]:
    """Return all arrays but constants and aliases (`aliases`)."""
    c, p = config, style.prefix
    out = []
    biases = ["r_w_bias", "r_r_bias"] if c.attn_type == RELATIVE else []
    if not c.untie_r:
        out += [Entry(p + name, (name,), "same") for name in biases]
    for n in range(c.n_layer):
        layer, ours = f"{p}layers.{n}.", f"layers.{n}."
        attn = f"{ours}attn."
        if c.attn_type in (RELATIVE, SHAW):
            qkv = (attn + "w_q", attn + "w_k", attn + "w_v")
            out.append(Entry(f"{layer}dec_attn.qkv_net.weight", qkv, "linear"))
        else:
            kv = (attn + "w_k", attn + "w_v")
            out.append(Entry(f"{layer}dec_attn.q_net.weight", (attn + "w_q",), "linear"))
            out.append(Entry(f"{layer}dec_attn.kv_net.weight", kv, "linear"))
        if c.attn_type == RELATIVE:
            out.append(Entry(f"{layer}dec_attn.r_net.weight", (attn + "w_r",), "linear"))
        out.append(Entry(f"{layer}dec_attn.o_net.weight", (attn + "w_o",), "linear"))
        if c.untie_r:
            out += [Entry(f"{layer}dec_attn.{name}", (ours + name,), "same") for name in biases]
        for norm, name in (("attn_norm", "dec_attn.layer_norm"), ("ff_norm", "pos_ff.layer_norm")):
            out.append(Entry(f"{layer}{name}.weight", (f"{ours}{norm}.gamma",), "same"))
            out.append(Entry(f"{layer}{name}.bias", (f"{ours}{norm}.beta",), "same"))
        for i, part in ((1, "CoreNet.0"), (2, "CoreNet.3")):
            out.append(Entry(f"{layer}pos_ff.{part}.weight", (f"{ours}ff.w_{i}",), "linear"))
            out.append(Entry(f"{layer}pos_ff.{part}.bias", (f"{ours}ff.b_{i}",), "same"))
    tables = {SHAW: ("r_emb", "r_w_bias", "r_bias"), LEARNED: ("pos_emb",)}.get(c.attn_type, ())
    for name in tables:  # one array for all layers
        theirs = "r_emb" if name == "pos_emb" else name
        layers = tuple(f"layers.{n}.{name}" for n in range(c.n_layer))
        out.append(Entry(p + theirs, layers, "layers"))
    return out + _vocabulary(config, p)


def _vocabulary(c: Config, p: str) -> list[Entry]:
    if c.is_plain:
        table = Entry(f"{p}word_emb.emb_layers.0.weight", ("word_emb",), "same")
        return [table, Entry("crit.out_layers.0.bias", ("out_bias",), "same")]
    out = []
    for i in range(c.n_cluster):
        if i == 0 or c.div_val > 1:
            out.append(Entry(f"{p}word_emb.emb_layers.{i}.weight", (f"word_emb.{i}",), "same"))
            out.append(Entry(f"crit.out_layers.{i}.bias", (f"out_bias.{i}",), "same"))
            if not c.tie_weight:
                out.append(Entry(f"crit.out_layers.{i}.weight", (f"out_emb.{i}",), "same"))
            if c.has_projections:
                out.append(Entry(f"{p}word_emb.emb_projs.{i}", (f"emb_proj.{i}",), "linear"))
        if c.has_projections and not c.ties_projection(i):
            out.append(Entry(f"crit.out_projs.{i}", (f"out_proj.{i}",), "same"))
    if c.cutoffs:
        out += [Entry(f"crit.{n}", (n,), "same") for n in ("cluster_weight", "cluster_bias")]
    return out


def aliases(config: Config, style: Style) -> dict[str, str]:
    """Return second name -> first name of what is tied."""
    c, p = config, style.prefix
    out = {}
    for i in range(c.n_cluster):
        own = i if c.div_val > 1 else 0
        if c.tie_weight and i == own:
            out[f"crit.out_layers.{i}.weight"] = f"{p}word_emb.emb_layers.{i}.weight"
        if c.has_projections and c.ties_projection(i):
            out[f"crit.out_projs.{i}"] = f"{p}word_emb.emb_projs.{own}"
    if style.shared_biases_everywhere and c.attn_type == RELATIVE and not c.untie_r:
        for name in ("r_w_bias", "r_r_bias"):
            out |= {f"{p}layers.{n}.dec_attn.{name}": p + name for n in range(c.n_layer)}
    return out


# --- there --------------------------------------------------------------------------------------


def to_theirs(params: Params, config: Config, style: Style) -> dict[str, np.ndarray]:
    """Return parameters (or gradients) under their names, tied ones under each of theirs.

    The columns of the head that stand for the tails are put into their order. Gradients have no
    constants, so `pos_emb.inv_freq` comes with parameters alone.
    """
    shapes, out = network_of(config).param_shapes(config), {}
    if shapes != params.shapes:
        raise MinitxlError("the parameters are not of this config; take both from one model")
    for entry in entries(config, style):
        arrays = [_host(params[name]) for name in entry.ours]
        out[entry.theirs] = _join(arrays, entry.layout, _their_shape(entry, config, shapes))
    if config.released.cluster_order != style.cluster_order:
        for name in ("crit.cluster_weight", "crit.cluster_bias"):
            if name in out:
                out[name] = out[name][::-1].copy()
    if "inv_freq" in params.constants:
        out[style.prefix + INV_FREQ] = _host(params.constants["inv_freq"])
    for second, first in aliases(config, style).items():
        out[second] = out[first]
    return out


def _host(array) -> np.ndarray:
    return np.array(array.get() if hasattr(array, "get") else array)  # CuPy's way to the host


def _join(arrays, layout: str, shape) -> np.ndarray:
    if layout == "linear":
        return np.concatenate([a.T for a in arrays], axis=0)
    return np.stack(arrays).reshape(shape) if layout == "layers" else arrays[0]


def _their_shape(entry: Entry, config: Config, shapes) -> tuple[int, ...]:
    shape = shapes[entry.ours[0]]
    if entry.layout == "linear":
        return (len(entry.ours) * shape[1], shape[0])
    if entry.layout == "same":
        return shape
    if config.attn_type == LEARNED:  # theirs are cut into heads, for no use
        shape = (shape[0], config.n_head, config.d_head)
    return (config.n_layer, *shape)


# --- back ---------------------------------------------------------------------------------------


def from_theirs(state: Mapping[str, np.ndarray], config: Config, style: Style) -> dict:
    """Return our "params.<name>" (and constants), as `load_params` takes them.

    Of tied names any is enough; where several are given they must agree. Raises `MinitxlError` for
    a missing, unknown, misshapen or non-numeric array.
    """
    state = dict(state)
    _resolve(state, aliases(config, style))
    shapes, out = network_of(config).param_shapes(config), {}
    for entry in entries(config, style):
        if entry.theirs not in state:
            raise MinitxlError(
                f"the weights lack {entry.theirs!r}, which these settings ask for; check n_layer, "
                "attn_type, cutoffs, div_val, d_embed, tie_weight, tie_projs and untie_r"
            )
        array = _numbers(entry.theirs, state.pop(entry.theirs))
        want = _their_shape(entry, config, shapes)
        if array.shape != want:
            raise MinitxlError(
                f"{entry.theirs} has shape {array.shape} in the weights, {want} by the settings; "
                "they belong to different models"
            )
        if entry.theirs in ("crit.cluster_weight", "crit.cluster_bias"):
            array = array if config.released.cluster_order == style.cluster_order else array[::-1]
        parts = _split(array, entry, [shapes[name] for name in entry.ours])
        out |= {f"params.{name}": part for name, part in zip(entry.ours, parts, strict=True)}
    inv_freq = state.pop(style.prefix + INV_FREQ, None)
    if inv_freq is not None and config.attn_type in (RELATIVE, SINUSOID):
        inv_freq = _numbers(INV_FREQ, inv_freq)
        if inv_freq.shape != (config.d_model // 2,):
            raise MinitxlError(
                f"{INV_FREQ} has shape {inv_freq.shape}, ({config.d_model // 2},) is half of "
                "d_model; the weights belong to another model"
            )
        out["constants.inv_freq"] = inv_freq
    if state:
        named = ", ".join(one_line(repr(name)) for name in sorted(map(str, state))[:3])
        raise MinitxlError(
            f"the weights hold {len(state)} array(s) that these settings have no place for, such "
            f"as {named}; check n_layer, attn_type, cutoffs, div_val, tie_weight and untie_r"
        )
    return out


def build(state, config: Config, style: Style, device: str, dtype: str) -> TransformerXL:
    """Return the model of a foreign state. Nothing large is made before the settings fit it."""
    for name, count in (("n_layer", config.n_layer), ("cutoffs", config.n_cluster)):
        if count > len(state) + 1:  # settings of that size would fill the memory with names
            raise MinitxlError(
                f"{name} asks for {count} parts, the weights hold {len(state)} arrays in all; the "
                "settings belong to another model"
            )
    arrays = from_theirs(state, config, style)
    backend = get_backend(device, dtype)
    model = TransformerXL(config, device=backend, params=empty_params(config, backend))
    load_params(model, arrays)
    return model


def refuse_unless(whose: str, can: Mapping[str, bool]) -> None:
    """Raise `MinitxlError` naming what a foreign code cannot express: description -> whether."""
    cannot = [what for what, right in can.items() if not right]
    if cannot:
        raise MinitxlError(
            f"{whose} has no {', no '.join(cannot)}, and would compute something else; change the "
            "settings first, knowing that the numbers change too"
        )


def _resolve(state: dict, tied: dict[str, str]) -> None:
    """Leave the first name of what is tied, in place; any one of the names may be given."""
    for second, first in tied.items():
        if second not in state:
            continue
        array = state.pop(second)
        kept = state.setdefault(first, array)
        if kept is not array and not np.array_equal(_numbers(first, kept), _numbers(second, array)):
            raise MinitxlError(
                f"{second} and {first} are tied by the settings but differ in the weights; the "
                "model was trained with tie_weight, tie_projs or untie_r set otherwise"
            )


def _numbers(name: str, array) -> np.ndarray:
    """Return a NumPy array of floats; a tensor of PyTorch will do too."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise MinitxlError(f"{one_line(name)} is of type {array.dtype}; weights must be floats")
    return array


def _split(array, entry: Entry, shapes) -> list[np.ndarray]:
    if entry.layout == "linear":
        return [part.T for part in np.split(array, len(shapes), axis=0)]
    if entry.layout == "layers":
        return [part.reshape(shape) for part, shape in zip(array, shapes, strict=True)]
    return [array]
