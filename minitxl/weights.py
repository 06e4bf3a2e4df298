"""The parameters of a model: their names and shapes, their first values, and one layer's share."""

from __future__ import annotations

from minitxl.attention import AttentionWeights
from minitxl.backend import Backend
from minitxl.config import Config
from minitxl.layers import LayerWeights
from minitxl.params import Params


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter. Weights are (in, out): y = x @ w."""
    c = config
    heads = c.n_head * c.d_head
    biases = {"r_w_bias": (c.n_head, c.d_head), "r_r_bias": (c.n_head, c.d_head)}  # u and v
    shapes = {"word_emb": (c.n_token, c.d_model), "out_bias": (c.n_token,)}
    if not c.untie_r:
        shapes |= biases
    for n in range(c.n_layer):
        layer = {f"attn.{name}": (c.d_model, heads) for name in ("w_q", "w_k", "w_v", "w_r")}
        layer |= {"attn.w_o": (heads, c.d_model)}
        layer |= biases if c.untie_r else {}
        layer |= {"attn_norm.gamma": (c.d_model,), "attn_norm.beta": (c.d_model,)}
        layer |= {"ff.w_1": (c.d_model, c.d_inner), "ff.b_1": (c.d_inner,)}
        layer |= {"ff.w_2": (c.d_inner, c.d_model), "ff.b_2": (c.d_model,)}
        layer |= {"ff_norm.gamma": (c.d_model,), "ff_norm.beta": (c.d_model,)}
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def init_params(config: Config, backend: Backend, seed: int) -> Params:
    """Draw initial parameters as the released code does: the same numbers on every device.

    Weights, embedding, u and v from N(0, init_std); LayerNorm weights from N(1, init_std);
    biases 0.
    """
    shapes = param_shapes(config)
    params = Params.zeros(shapes, dtype=backend.dtype, device=backend.device, xp=backend.xp)
    rng = backend.rng(seed)
    for name, shape in shapes.items():
        if name.endswith((".beta", "b_1", "b_2", "out_bias")):
            continue
        mean = 1.0 if name.endswith(".gamma") else 0.0
        values = rng.normal(shape) * config.init_std + mean
        params[name] = backend.xp.astype(values, backend.dtype)
    return params


def layer_weights(params: Params, n: int, untie_r: bool) -> LayerWeights:
    """Gather the parameters (or, from gradients, the gradients) of layer n, 0-based."""
    p = f"layers.{n}."
    shared = p if untie_r else ""
    attn = AttentionWeights(
        *(params[f"{p}attn.{name}"] for name in ("w_q", "w_k", "w_v", "w_r", "w_o")),
        params[f"{shared}r_w_bias"],
        params[f"{shared}r_r_bias"],
    )
    rest = ("attn_norm.gamma", "attn_norm.beta", "ff.w_1", "ff.b_1", "ff.w_2", "ff.b_2")
    rest += ("ff_norm.gamma", "ff_norm.beta")
    return LayerWeights(attn, *(params[p + name] for name in rest))
