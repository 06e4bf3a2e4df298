"""Hugging Face's `TransfoXLLMHeadModel`: a folder with config.json, weights and a vocabulary.

It descends from the TensorFlow code, and the published 18.3-perplexity model needs its ways, which
are set in the `Config`: a stream starts from mem_len rows of zeros, seen like others, and the
columns of the head for the tails stand in natural order.
"""

from __future__ import annotations

import os
from pathlib import Path

from minitxl.config import RELATIVE, Config
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError
from minitxl.interop.names import HUGGING_FACE, build, refuse_unless, to_theirs
from minitxl.interop.torch_file import read_state_dict, read_vocab_pickle
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage import checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = ("vocab.json", "vocab.bin", "vocab.pkl")
_OURS = "minitxl"  # a key in config.json that the library carries along and does not read,
_ONLY_OURS = ("start_mems", "init_std", "proj_init_std")  # for what its own keys cannot say
# What the library takes where config.json is silent (these are the published model's settings).
_DEFAULTS = dict(
    d_model=1024, d_embed=1024, n_head=16, d_head=64, d_inner=4096, n_layer=18, div_val=4,
    cutoffs=[20000, 40000, 200000], mem_len=1600, clamp_len=1000, same_length=True, untie_r=True,
    pre_lnorm=False, dropout=0.1, dropatt=0.0, layer_norm_epsilon=1e-5,
)  # fmt: skip
_TGT_LEN = 128  # not among the library's settings: the length that the paper evaluates with


def config_of(settings: dict) -> Config:
    """Return the `Config` of a config.json."""
    if settings.get("model_type", "transfo-xl") != "transfo-xl":
        raise MinitxlError(
            f"config.json is that of a {settings['model_type']!r}, not of a 'transfo-xl'"
        )
    if settings.get("attn_type", RELATIVE) != RELATIVE:
        raise MinitxlError(
            f"config.json has attn_type={settings['attn_type']!r}, the library knows only 0"
        )
    values = {name: settings.get(name, default) for name, default in _DEFAULTS.items()}
    n_token = settings.get("vocab_size", settings.get("n_token"))
    if not isinstance(n_token, int) or not isinstance(values["cutoffs"], list):
        raise MinitxlError(
            f"config.json has vocab_size={n_token!r} and cutoffs={values['cutoffs']!r}; it is not "
            "that of a Transformer-XL"
        )
    n = len(values["cutoffs"]) + 1
    ties = settings.get("tie_projs")
    if ties is None:
        ties = [False] + [bool(settings.get("proj_share_all_but_first", True))] * (n - 1)
    if not isinstance(ties, list) or len(ties) < n:
        raise MinitxlError(f"config.json has tie_projs={ties!r}; {n} entries are needed")
    clamp_len = values.pop("clamp_len")
    if type(clamp_len) is int and clamp_len <= 0:
        clamp_len = -1
    ours = settings.get(_OURS)
    ours = ours if isinstance(ours, dict) else {}
    return Config.from_dict(
        {
            **values,
            "start_mems": "zeros",
            **{name: ours[name] for name in _ONLY_OURS if name in ours},
            "n_token": n_token,
            "tgt_len": settings.get("tgt_len", _TGT_LEN),
            "clamp_len": clamp_len,
            "tie_projs": tuple(bool(t) for t in ties[:n]),
            # `tie_weight`, which the published config.json has, is not read by the library
            "tie_weight": settings.get("tie_word_embeddings", True),
            "released": {},
        }
    )


def load_huggingface(
    directory: str | os.PathLike, dtype: str = "float32", device: str = "cpu"
) -> TransformerXL:
    """Return the model in a folder with config.json and model.safetensors or pytorch_model.bin.

    A pickle is read without running anything from it. Raises `MinitxlError` for a missing, damaged
    or hostile file, and where weights and settings do not fit, naming the array.
    """
    config = config_of(checkpoint.read_json(_file(directory, ("config.json",))))
    return build(read_state_dict(_file(directory, WEIGHTS)), config, HUGGING_FACE, device, dtype)


def load_huggingface_vocab(directory: str | os.PathLike) -> WordVocab | None:
    """Return the vocabulary in such a folder, or None where there is none (see `read_vocab`)."""
    for name in VOCABULARIES:
        if (Path(directory) / name).is_file():
            return read_vocab(Path(directory) / name)
    return None


def read_vocab(path: str | os.PathLike) -> WordVocab:
    """Read vocab.json (symbol -> id), the safe one, or vocab.bin or vocab.pkl.

    Those are pickles, read without running anything from them. Raises `MinitxlError` for a damaged
    file and unless every id from 0 on has exactly one symbol.
    """
    if Path(path).suffix != ".json":
        return WordVocab(read_vocab_pickle(path))
    ids = checkpoint.read_json(path)
    by_id = {i: symbol for symbol, i in ids.items() if type(i) is int}
    if set(by_id) != set(range(len(ids))):
        raise MinitxlError(
            f"{path}: its {len(ids)} symbols do not have the ids 0 to {len(ids) - 1}, each once; "
            "it is damaged"
        )
    return WordVocab([by_id[i] for i in range(len(ids))])


def save_vocab(vocab, path: str | os.PathLike) -> None:
    """Write vocab.json, symbol -> id; bytes are written as the numbers that they are."""
    symbols = getattr(vocab, "symbols", None) or [str(i) for i in range(vocab.n_token)]
    checkpoint.write_json(path, {symbol: i for i, symbol in enumerate(symbols)})


def save_huggingface(
    model: TransformerXL, directory: str | os.PathLike, vocab: WordVocab | None = None
) -> None:
    """Write config.json, model.safetensors and vocab.json into a folder.

    There a stream starts from zeros: one that starts empty must be given memories of no rows. Our
    own settings stand in config.json too, so that `load_huggingface` has them back. Raises
    `MinitxlError` for what the library cannot express.
    """
    c = model.config
    refuse_unless(
        "the library",
        {
            f"attn_type={c.attn_type}": c.attn_type == RELATIVE,
            f"a {c.memory.kind} memory": c.memory.kind == "xl",
            f"ext_len={c.ext_len}": c.ext_len == 0,
            f"same_length_extra={c.released.same_length_extra}": not c.released.same_length_extra,
            "raw_queries with pre_lnorm": not (c.released.raw_queries and c.pre_lnorm),
        },
    )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(c, name) for name in _DEFAULTS if name != "cutoffs"}
    settings |= {
        "architectures": ["TransfoXLLMHeadModel"],
        "model_type": "transfo-xl",
        "vocab_size": c.n_token,
        "d_embed": c.embed_width,
        "cutoffs": list(c.cutoffs),
        "tie_projs": [c.ties_projection(i) for i in range(c.n_cluster)],
        "tie_word_embeddings": c.tie_weight,
        "tgt_len": c.tgt_len,
        "attn_type": 0,
        _OURS: {name: getattr(c, name) for name in _ONLY_OURS},
    }
    state = to_theirs(model.params, c, HUGGING_FACE)
    kept = {id(a): name for name, a in reversed(state.items())}  # the first name of what is tied
    state = {name: a for name, a in state.items() if kept[id(a)] == name}
    checkpoint.save_tensors(folder / WEIGHTS[0], state, metadata={"format": "pt"})
    checkpoint.write_json(folder / "config.json", settings)
    if vocab is not None:
        save_vocab(vocab, folder / "vocab.json")


def _file(directory: str | os.PathLike, names) -> Path:
    folder = Path(directory)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MinitxlError(
        f"{str(folder)!r} holds no {' and no '.join(names)}; give the folder of a saved "
        "TransfoXLLMHeadModel"
    )
