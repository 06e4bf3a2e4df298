"""The parameters of a model: their names and shapes, their first values, and one layer's share."""

from __future__ import annotations

from minitxl.backend import Backend
from minitxl.config import RELATIVE, SINUSOID, Config
from minitxl.model.embedding import vocabulary_of
from minitxl.model.family.encodings import encoding_of
from minitxl.model.layers import LayerWeights
from minitxl.model.ops import inverse_frequencies
from minitxl.model.params import Params

_BIASES = ("r_w_bias", "r_r_bias")  # u and v


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter. Weights are (in, out): y = x @ w."""
    c, encoding = config, encoding_of(config)
    heads = c.n_head * c.d_head
    biases = {}
    if c.attn_type == RELATIVE:
        biases = {name: (c.n_head, c.d_head) for name in _BIASES}
    shapes = vocabulary_of(c).shapes(c)
    if not c.untie_r:
        shapes |= biases
    projections = [name for name in encoding.weights._fields if name.startswith("w_")]
    for n in range(c.n_layer):
        layer = {f"attn.{name}": (c.d_model, heads) for name in projections}
        layer |= {"attn.w_o": (heads, c.d_model)}
        layer |= biases if c.untie_r else {}
        layer |= encoding.layer_shapes(c)
        layer |= {"attn_norm.gamma": (c.d_model,), "attn_norm.beta": (c.d_model,)}
        layer |= {"ff.w_1": (c.d_model, c.d_inner), "ff.b_1": (c.d_inner,)}
        layer |= {"ff.w_2": (c.d_inner, c.d_model), "ff.b_2": (c.d_model,)}
        layer |= {"ff_norm.gamma": (c.d_model,), "ff_norm.beta": (c.d_model,)}
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def empty_params(config: Config, backend: Backend) -> Params:
    """Make parameters that are all 0, with the constants of the model."""
    where = dict(dtype=backend.dtype, device=backend.device, xp=backend.xp)
    constants = {}
    if config.attn_type in (RELATIVE, SINUSOID):
        constants["inv_freq"] = inverse_frequencies(d_model=config.d_model, **where)
    return Params.zeros(param_shapes(config), constants=constants, **where)


def init_params(config: Config, backend: Backend, seed: int) -> Params:
    """Draw initial parameters as the released code does: the same numbers on every device.

    Weights, embedding, tables of positions, u and v from N(0, init_std); projections of the
    embedding from N(0, proj_init_std); LayerNorm weights from N(1, init_std); biases 0.
    """
    params = empty_params(config, backend)
    rng = backend.rng(seed)
    for name, shape in params.shapes.items():
        zero = (".beta", "b_1", "b_2", "cluster_bias", ".r_bias")
        if name.endswith(zero) or name.startswith("out_bias"):
            continue
        mean = 1.0 if name.endswith(".gamma") else 0.0
        std = config.proj_init_std if "_proj." in name else config.init_std
        values = rng.normal(shape) * std + mean
        params[name] = backend.xp.astype(values, backend.dtype)
    return params


def layer_weights(params: Params, n: int, config: Config) -> LayerWeights:
    """Gather the parameters (or, from gradients, the gradients) of layer n, 0-based."""
    p = f"layers.{n}."
    shared = config.attn_type == RELATIVE and not config.untie_r
    kind = encoding_of(config).weights
    attn = []
    for name in kind._fields:
        if name.startswith("w_"):
            attn.append(params[f"{p}attn.{name}"])
        else:
            attn.append(params[name if shared and name in _BIASES else p + name])
    rest = ("attn_norm.gamma", "attn_norm.beta", "ff.w_1", "ff.b_1", "ff.w_2", "ff.b_2")
    rest += ("ff_norm.gamma", "ff_norm.beta")
    return LayerWeights(kind(*attn), *(params[p + name] for name in rest))
