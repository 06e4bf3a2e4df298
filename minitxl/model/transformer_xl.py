"""`TransformerXL`: a configuration, parameters on one device, and the network that they belong to.

What it computes is in `network.py`. At the end of this file another member of the family takes the
paper's place, where a configuration asks for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitxl.backend import Backend, get_backend
from minitxl.config import RELATIVE, SINUSOID, Config
from minitxl.errors import MinitxlError
from minitxl.model.family.memories.kinds import Memory, check_states
from minitxl.model.family.memories.walk import with_memory
from minitxl.model.family.network import ends_of, member
from minitxl.model.network import PAPER, Gradients, ModelCache, Network
from minitxl.model.ops import inverse_frequencies
from minitxl.model.params import Params, draw


class TransformerXL:
    """A Transformer-XL language model with its parameters on one device.

    >>> model = TransformerXL(Config(n_token=78), device="cpu")
    >>> nll, mems, cache = model.forward(tokens, targets)         # first segment, no memory
    >>> grads = model.backward(cache)                             # of nll.mean()
    >>> nll, mems, cache = model.forward(more, targets, mems)     # next segment, with memory
    """

    def __init__(
        self,
        config: Config,
        device: str | Backend = "auto",
        dtype: str = "float32",
        seed: int = 0,
        params: Params | None = None,
        memory: type[Memory] | None = None,
    ):
        if memory is not None:  # a class of the reader's own, see `family/memories/kinds.py`
            config = config.replace(memory=config.memory.replace(kind="custom"))
        self.config, self.memory = config, memory
        self.backend = get_backend(device, dtype)
        if params is None:
            params = draw(empty_params(config, self.backend, memory), config, self.backend, seed)
        self.params = params
        self.network = network_of(config, memory)

    def __repr__(self) -> str:
        return f"TransformerXL({self.n_params:,} parameters on {self.backend.name}, {self.config})"

    @property
    def n_params(self) -> int:
        """Number of parameters, the tied embedding counted once."""
        return self.params.flat.shape[0]

    def with_options(self, **changes) -> TransformerXL:
        """Return a model that shares these parameters but has other lengths, for evaluation.

        changes: any of mem_len, tgt_len, ext_len, clamp_len, same_length.
        """
        may = ("mem_len", "tgt_len", "ext_len", "clamp_len", "same_length")
        wrong = sorted(set(changes) - set(may))
        if wrong:
            raise MinitxlError(
                f"{', '.join(wrong)} cannot change for given parameters; only {', '.join(may)} can"
            )
        config = self.config.replace(max_klen=self.config.table_len, **changes)
        return TransformerXL(config, device=self.backend, params=self.params, memory=self.memory)

    def start_mems(self, batch_size: int) -> list:
        """Return the memory of a stream's start: n_layer arrays (B, 0, D).

        With start_mems="zeros" (B, mem_len, D): rows of zeros, which are attended to like others.
        """
        b, c = self.backend, self.config
        if self.network.memory is not None:
            where = dict(dtype=b.dtype, device=b.device, xp=b.xp)
            return self.network.memory.start(batch_size, **where)
        shape = (batch_size, c.mem_len if c.start_mems == "zeros" else 0, c.d_model)
        return [b.xp.zeros(shape, dtype=b.dtype, device=b.device)] * c.n_layer

    def forward(self, tokens, targets, mems=None, rng=None, inspect=None, position_ids=None):
        """Return nll (B, S) in nats per token, new mems, and a cache for `backward`.

        tokens (B, T), targets (B, S): integers, 0 <= id < n_token, of any T >= S >= 1. targets are
        the tokens one step later, tokens = ids[:, :-1] and targets = ids[:, 1:]: what is to be
        predicted. With S < T the loss is that of the last S positions. mems: what an earlier call
        returned, or None at a stream's start (`start_mems`). rng: `model.backend.rng(key, ...)`
        turns dropout on.
        inspect: an `Inspection` to fill with hidden states, attention probabilities and terms.
        position_ids (B, T): the place of each token in its document, 0 at the first one, where
        rows hold documents of their own lengths: a token sees those of its document alone, be they
        in the memory or in the segment. A row shorter than others begins with any ids at place 0.
        The cache refers to the parameters: call `backward` before they change.
        """
        return self._forward(tokens, targets, mems, position_ids, rng=rng, inspect=inspect)

    def score(self, tokens, targets, mems=None, position_ids=None):
        """Return nll (B, S) and new mems as `forward` does, without keeping a cache.

        targets (B, S) are the tokens (B, T) one step later, as there.
        """
        return self._forward(tokens, targets, mems, position_ids, rng=None, keep=False)[:2]

    def _forward(self, tokens, targets, mems, position_ids, **options):
        tokens = self.checked_ids(tokens, "tokens")
        targets = self.checked_ids(targets, "targets")
        self.check_targets(tokens, targets)
        mems = self.checked_mems(mems, tokens.shape[0])
        options |= dict(position_ids=self.checked_places(position_ids, tokens), xp=self.backend.xp)
        return self.network.forward(self.params, tokens, targets, mems, self.config, **options)

    def backward(self, cache: ModelCache, dnll=None) -> Params:
        """Return the gradients, by name, of nll.mean() - or of sum(nll * dnll) for dnll (B, S)."""
        return self.backward_all(cache, dnll).params

    def backward_all(self, cache: ModelCache, dnll=None, dleft=None, through=False) -> Gradients:
        """Like `backward`, with the gradients of hidden states and memories; see `Gradients`.

        dleft, through: see `network.backward`.
        """
        b, s = cache.shape[0], cache.n_target
        back = self.backend
        if dnll is None:
            dnll = back.xp.full((b, s), 1.0 / (b * s), dtype=back.dtype, device=back.device)
        else:
            dnll = back.asarray(dnll, dtype=back.dtype)
            if tuple(dnll.shape) != (b, s):
                raise MinitxlError(
                    f"dnll has shape {tuple(dnll.shape)}, nll has {(b, s)}: give one number for "
                    "each token, or None for the gradient of the mean"
                )
        return self.network.backward(
            self.params,
            dnll,
            cache,
            self.config,
            scatter_add=back.scatter_add,
            xp=back.xp,
            dleft=dleft,
            through=through,
        )

    def predict(self, tokens, mems=None, inspect=None, last=None, position_ids=None):
        """Return log-probabilities (B, T, V) of each next token, and the new mems.

        last: how many positions from the end are wanted, None: all T; position_ids: see `forward`.
        """
        tokens = self.checked_ids(tokens, "tokens")
        mems = self.checked_mems(mems, tokens.shape[0])
        if last is not None and last < 1:
            raise MinitxlError(f"last={last} must be at least 1, or None for all positions")
        return self.network.log_probs_forward(
            self.params, tokens, mems, self.config, xp=self.backend.xp, inspect=inspect, last=last,
            position_ids=self.checked_places(position_ids, tokens),
        )  # fmt: skip

    def checked_ids(self, ids, name: str):
        """Return ids (B, T) as an array of the backend; MinitxlError for what no model can read."""
        return self.backend.asarray(self.checked_on_host(ids, name), dtype=self.backend.xp.int32)

    def checked_on_host(self, ids, name: str):
        """Return ids (B, T) where they are, checked as far as costs no wait for the device."""
        return _checked_ids(ids, name, self.config.n_token, self.backend)

    def check_targets(self, tokens, targets) -> None:
        """Raise MinitxlError where targets (B, S) do not fit tokens (B, T)."""
        x, y = tuple(tokens.shape), tuple(targets.shape)
        if x[0] != y[0] or x[1] < y[1]:
            raise MinitxlError(
                f"targets has shape {y}, tokens {x}; they must match, or the targets be shorter: "
                "targets are the tokens one step later, of the last positions"
            )

    def checked_places(self, position_ids, tokens):
        """Return position_ids (B, T) as an array of the backend, or None as it is."""
        if position_ids is None:
            return None
        places, c = _checked_ids(position_ids, "position_ids", 2**31, self.backend), self.config
        x, y = tuple(tokens.shape), tuple(places.shape)
        if x != y:
            raise MinitxlError(
                f"position_ids has shape {y}, tokens {x}; give each token its place in its document"
            )
        if c.memory.kind != "xl":
            raise MinitxlError(
                f"position_ids cannot be used with a {c.memory.kind} memory, whose rows stand for "
                "several tokens; read each document by itself"
            )
        if c.start_mems == "zeros" or (c.ext_len and c.released.ext_len_swapped):
            raise MinitxlError(
                'position_ids cannot be used with start_mems="zeros" or ext_len_swapped, whose '
                "memory is not what stood before; read each document by itself"
            )
        return self.backend.asarray(places, dtype=self.backend.xp.int32)

    def checked_mems(self, mems, batch_size: int) -> Sequence:
        """Return mems, or those of a stream's start for None; an error where they do not fit."""
        if mems is None:
            return self.start_mems(batch_size)
        if self.network.memory is not None:
            check_states(mems, self.network.memory, batch_size, self.backend)
            return mems
        _check_mems(mems, batch_size, self.config, self.backend)
        return mems


# --- what a model refuses to read ---------------------------------------------------------------


def _checked_ids(ids, name: str, n_token: int, backend: Backend):
    """Return ids (B, T), where they are, or raise MinitxlError for what no model can read.

    The range of an array on a GPU stays unknown: the GPU would have to be waited for.
    """
    given, xp = ids, backend.xp
    try:
        if backend.name == "cpu" or not hasattr(ids, "shape"):  # such as a nested list
            ids = xp.asarray(ids)
        shape, dtype = tuple(ids.shape), str(ids.dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        shape, dtype = (), "object"
    if "object" in dtype:
        raise MinitxlError(
            f"{name} must be integers (B, T), it holds rows of different length, or what is no "
            "number: rows come side by side by minitxl.data.documents.right_aligned(rows)"
        )
    if "int" not in dtype and 0 not in shape:
        raise MinitxlError(
            f"{name} is of type {dtype}; token ids must be integers, as vocab.encode(text) gives"
        )
    if len(shape) != 2 or 0 in shape:
        raise MinitxlError(
            f"{name} has shape {shape}; it must be (B, T), both at least 1: one row is [ids]"
        )
    if ids is not given or hasattr(ids, "__array_interface__"):
        own = xp if ids is not given else ids.__array_namespace__()
        low, high = int(own.min(ids)), int(own.max(ids))
        if low < 0 or high >= n_token:
            raise MinitxlError(
                f"{name} holds ids from {low} to {high}, the model knows 0 to {n_token - 1}; use "
                "the vocabulary it was trained with"
            )
    return ids


def _check_mems(mems: Sequence, batch_size: int, config: Config, backend: Backend) -> None:
    """Raise MinitxlError where memories do not fit the model or the batch."""
    if len(mems) != config.n_layer:
        raise MinitxlError(
            f"mems holds {len(mems)} arrays, the model has {config.n_layer} layers: they come from "
            "another model; start with mems=None"
        )
    if any(not hasattr(mem, "shape") for mem in mems):
        raise MinitxlError("mems holds something that is no array; start with mems=None")
    length = mems[0].shape[1] if len(mems[0].shape) == 3 else -1
    for n, mem in enumerate(mems):
        if len(mem.shape) != 3 or mem.shape[1] != length:
            raise MinitxlError(
                f"mems[{n}] has shape {tuple(mem.shape)}, it must be (B, M, D) with one M for "
                "all layers; start with mems=None"
            )
        if mem.shape[2] != config.d_model:
            raise MinitxlError(
                f"mems[{n}] has d_model={mem.shape[2]}, the model has {config.d_model}: they come "
                "from another checkpoint; start with mems=None"
            )
        if mem.dtype != backend.dtype:
            raise MinitxlError(
                f"mems[{n}] is of type {mem.dtype}, the model of {backend.dtype_name}: they come "
                "from another model; start with mems=None"
            )
        if mem.shape[0] != batch_size:
            raise MinitxlError(
                f"mems[{n}] has batch size {mem.shape[0]}, tokens has {batch_size}: row b of a "
                "batch must continue row b of the one before; start with mems=None"
            )
    if length > config.mem_len:
        raise MinitxlError(
            f"mems hold {length} tokens, the model has mem_len={config.mem_len}: cut them to their "
            "last rows, or start with mems=None"
        )


# --- the family ---------------------------------------------------------------------------------


def network_of(config: Config, memory: type[Memory] | None = None) -> Network:
    """Return the paper's functions or, where the configuration asks for another encoding,
    vocabulary or memory, those of the family. This is the one place where that is decided."""
    if config.memory.kind != "xl":
        return with_memory(config, ends_of(config), memory)
    paper = config.attn_type == RELATIVE and config.is_plain
    return PAPER if paper else member(config)


def empty_params(config: Config, backend: Backend, memory: type[Memory] | None = None) -> Params:
    """Make parameters that are all 0, with the constants of the model."""
    where = dict(dtype=backend.dtype, device=backend.device, xp=backend.xp)
    constants = {}
    if config.attn_type in (RELATIVE, SINUSOID):
        constants["inv_freq"] = inverse_frequencies(d_model=config.d_model, **where)
    shapes = network_of(config, memory).param_shapes(config)
    return Params.zeros(shapes, constants=constants, **where)
