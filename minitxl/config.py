"""Shape and settings of a model (`Config`) and of its training (`TrainConfig`)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from minitxl.errors import MinitxlError


class _Settings:
    """What `Config` and `TrainConfig` share: to and from a plain dict, with types checked."""

    def to_dict(self) -> dict:
        """Return the fields as a dict that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict):
        """Build from a dict as written by `to_dict`; unknown or missing fields are an error."""
        if not isinstance(values, dict):
            raise MinitxlError(f"{cls.__name__} must be a mapping, got {type(values).__name__}")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(str(k) for k in values if k not in known)
        if unknown:
            raise MinitxlError(
                f"{cls.__name__} has no field {', '.join(unknown)}; "
                f"it has {', '.join(sorted(known))}"
            )
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        missing = sorted(required - set(values))
        if missing:
            raise MinitxlError(f"{cls.__name__} lacks the field {', '.join(missing)}")
        tuples = {f.name for f in dataclasses.fields(cls) if f.type == "tuple"}  # JSON has lists
        return cls(**{k: _as_tuple(v) if k in tuples else v for k, v in values.items()})

    def replace(self, **changes):
        """Return a copy with some fields changed (and validated again)."""
        return dataclasses.replace(self, **changes)

    def _check_types(self) -> None:
        for f in dataclasses.fields(self):
            value, want = getattr(self, f.name), str(f.type)
            if want == "bool":
                ok = isinstance(value, bool)
            elif want == "int":
                ok = isinstance(value, int) and not isinstance(value, bool)
            elif want == "float":
                ok = isinstance(value, (int, float)) and not isinstance(value, bool)
                if ok and not math.isfinite(value):
                    raise MinitxlError(f"{f.name} must be a finite number, got {value!r}")
            elif want == "tuple":
                ok = isinstance(value, tuple) and all(isinstance(v, int) for v in value)
            elif want in ("Released", "Memory"):
                ok = isinstance(value, {"Released": Released, "Memory": Memory}[want])
            else:
                ok = isinstance(value, str)
            if not ok:
                raise MinitxlError(f"{f.name} must be of type {want}, got {value!r}")

    def _require(self, name: str, ok: bool, rule: str) -> None:
        if not ok:
            raise MinitxlError(f"{name}={getattr(self, name)!r} must be {rule}")


def _as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


# What sizes may be at most: files that come from others are not believed more. Nothing is made
# before; and names would fill the memory for as many layers as a number of ten digits asks for.
_LONG, _WIDE, _MANY = 2**20, 2**20, 10_000
_LIMITS = dict(
    **dict.fromkeys(("n_layer", "n_head"), _MANY),
    **dict.fromkeys(("d_model", "d_head", "d_inner", "d_embed", "div_val"), _WIDE),
    **dict.fromkeys(("tgt_len", "mem_len", "ext_len"), _LONG),
    max_klen=3 * _LONG,  # by default their sum
    **dict.fromkeys(("n_token", "clamp_len"), 2**31 - 1),
)


RELATIVE, SHAW, SINUSOID, LEARNED, ROPE, ALIBI = ATTN_TYPES = range(6)  # 0 to 3 as released


@dataclass(frozen=True, kw_only=True)
class Released(_Settings):
    """What the released codes do differently from each other, or from the paper's intention.

    The defaults are the intention; `minitxl.interop` sets the rest.
    """

    cluster_order: str = "natural"  # the head's columns for clusters; "reversed" in PyTorch's code
    same_length_extra: int = 0  # keys that same_length shows beyond mem_len; 1 in the TF code
    ext_len_swapped: bool = False  # PyTorch's code: M and T change places in the update of mems
    raw_queries: bool = False  # with pre_lnorm queries skip the LayerNorm; so types 2 and 3

    def __post_init__(self) -> None:
        self._check_types()
        self._require(
            "same_length_extra", 0 <= self.same_length_extra <= _LONG, f"between 0 and {_LONG}"
        )
        orders = ("natural", "reversed")
        self._require("cluster_order", self.cluster_order in orders, "'natural' or 'reversed'")


MEMORIES = ("xl", "compressive", "matrix", "tokens", "custom")


@dataclass(frozen=True, kw_only=True)
class Memory(_Settings):
    """What is kept between segments, where it is not the paper's: see `model/family/memories/`.

    "xl" keeps the last mem_len states; "compressive" (Rae et al. 2019) beside these n_coarse rows,
    each for `rate` states that have left them; "matrix" (Katharopoulos et al. 2020, Schlag et al.
    2021, Munkhdalai et al. 2024) one matrix a head; "tokens" (Bulatov et al. 2022) n_slot states
    read before the segment and written after it; "custom" is a class: `TransformerXL(memory=...)`.
    """

    kind: str = "xl"  # one of MEMORIES
    # compressive
    n_coarse: int = 0  # rows of the coarse memory; mem_len is n_fine
    rate: int = 4  # c: states for one coarse row
    compress: str = "mean"  # "mean", "max", "conv"; controls: "every" c-th state, "random" ones
    loss: str = "none"  # that trains "conv": "none", "attention" or "autoencode"
    # matrix
    rule: str = "delta"  # "sum", or "delta": what was stored under the key is taken away first
    feature: str = "unit"  # phi: "unit", x / |x|; "elu", elu(x) + 1
    reads: str = "all"  # "past": a token does not read what its own segment writes
    # tokens
    n_slot: int = 0  # m

    def __post_init__(self) -> None:
        self._check_types()
        one_of = dict(
            kind=MEMORIES,
            compress=("mean", "max", "conv", "every", "random"),
            loss=("none", "attention", "autoencode"),
            rule=("sum", "delta"),
            feature=("unit", "elu"),
            reads=("all", "past"),
        )
        for name, values in one_of.items():
            self._require(name, getattr(self, name) in values, f"one of {', '.join(values)}")
        for name, least in dict(n_coarse=0, rate=1, n_slot=0).items():
            rule = f"between {least} and {_LONG}"
            self._require(name, least <= getattr(self, name) <= _LONG, rule)
        if self.loss != "none" and self.compress != "conv":
            raise MinitxlError(
                f"loss={self.loss!r} trains a convolution, and compress={self.compress!r} has "
                'nothing to learn; set compress="conv" or loss="none"'
            )


@dataclass(frozen=True, kw_only=True)
class Config(_Settings):
    """Shape of a Transformer-XL and of its relatives. The names are those of the released code.

    mem_len=0 is the model without recurrence (the paper's vanilla Transformer with attn_type 2
    or 3).
    """

    n_token: int  # V: size of the vocabulary
    n_layer: int = 4  # N in the paper: every further layer adds one memory to the reach (sec. 3.2)
    d_model: int = 128  # D: width of the hidden states
    n_head: int = 4  # H: attention heads
    d_head: int = 32  # Dh: width of a head; H * Dh need not be D
    d_inner: int = 512  # F: width inside the feed-forward block; 4 D is customary
    tgt_len: int = 64  # T: tokens of a segment (the paper's L)
    mem_len: int = 64  # M at most: cached tokens; the paper trains with M = T
    # Distances beyond this share one encoding (of a learned table so many rows are told apart); -1:
    # never. It helps when M is longer than in training
    clamp_len: int = -1
    same_length: bool = False  # every query sees at most mem_len keys, itself included
    untie_r: bool = False  # u and v of their own for every layer (the TF code's option)
    pre_lnorm: bool = False  # LayerNorm before each block, as the presets do, not after (sec. 3.3)
    dropout: float = 0.1  # on embedding, R, block outputs, inside the FF, and before the softmax
    dropatt: float = 0.0  # on attention probabilities
    init_std: float = 0.02  # of every weight at the start, u and v included
    layer_norm_epsilon: float = 1e-5  # added to the variance
    # --- the family: other encodings of position (sec. 4.2's ablation) ---
    # 0: relative, of this paper; 1: relative, learned (Shaw et al. 2018); 2: absolute sinusoid
    # (Vaswani et al. 2017); 3: absolute, learned for every layer (Al-Rfou et al. 2018); 4: rotary,
    # RoPE (Su et al. 2021); 5: linear biases, ALiBi (Press et al. 2021)
    attn_type: int = RELATIVE
    ext_len: int = 0  # tokens of the segment before that are read again, with gradient
    max_klen: int = 0  # rows of a learned table (types 1, 3); 0: tgt_len + ext_len + mem_len
    # --- words: large vocabularies, the frequent words first (sec. 4.1; model/family/) ---
    d_embed: int = 0  # E: width of the embedding; 0: d_model. Another width needs a projection
    cutoffs: tuple = ()  # ids where the softmax's rarer clusters begin; (): one plain softmax
    div_val: int = 1  # cluster i has vectors of width E // div_val^i; 1: all of width E
    tie_weight: bool = True  # the softmax's matrices are the embedding's
    tie_projs: tuple = ()  # and so are the projections, by cluster; (): all but the first
    proj_init_std: float = 0.01  # of the projections at the start
    start_mems: str = "empty"  # a stream's first memory: "empty", or "zeros" (TF, Hugging Face)
    memory: Memory = Memory()  # another memory than the paper's
    released: Released = Released()  # what only imported models need

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """As `to_dict` wrote it; version 0.1.0 wrote the fields of `released` beside the others."""
        if isinstance(values, dict):
            names = {f.name for f in dataclasses.fields(Released)}
            beside = {k: v for k, v in values.items() if k in names}
            within = values.get("released", {})
            if beside:
                values = {k: v for k, v in values.items() if k not in names}
            if beside or isinstance(within, dict):
                values = values | {"released": Released.from_dict(beside or within)}
            if isinstance(values.get("memory"), dict):
                values = values | {"memory": Memory.from_dict(values["memory"])}
        return super().from_dict(values)

    @property
    def embed_width(self) -> int:
        """E, the width of the embedding's vectors (of the first cluster's)."""
        return self.d_embed or self.d_model

    @property
    def table_len(self) -> int:
        """Rows of a learned table of positions."""
        return self.max_klen or self.tgt_len + self.ext_len + self.mem_len

    @property
    def most_keys(self) -> int:
        """How many keys a query sees at most under `same_length`, itself included."""
        return self.mem_len + self.released.same_length_extra

    @property
    def n_cluster(self) -> int:
        """Clusters of the softmax, the head included."""
        return len(self.cutoffs) + 1

    @property
    def has_projections(self) -> bool:
        """Whether the embedding's vectors are projected to d_model, the hidden ones back."""
        return self.div_val != 1 or self.embed_width != self.d_model

    @property
    def is_plain(self) -> bool:
        """Whether one tied table serves as embedding and softmax (model/embedding.py)."""
        return self.tie_weight and not self.cutoffs and not self.has_projections

    def ties_projection(self, cluster: int) -> bool:
        """Whether the softmax's projection of a cluster is the embedding's."""
        return self.tie_projs[cluster] if self.tie_projs else cluster > 0

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("n_token", "n_layer", "d_model", "n_head", "d_head", "d_inner", "tgt_len"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name, most in _LIMITS.items():
            self._require(name, getattr(self, name) <= most, f"at most {most}")
        self._require("mem_len", self.mem_len >= 0, "at least 0")
        self._require("clamp_len", self.clamp_len == -1 or self.clamp_len >= 1, "-1 (off) or >= 1")
        if self.attn_type in (RELATIVE, SINUSOID):
            self._require("d_model", self.d_model % 2 == 0, "even: R is half sines, half cosines")
        if self.attn_type == ROPE:
            self._require("d_head", self.d_head % 2 == 0, "even: RoPE turns pairs of numbers")
            self._require("clamp_len", self.clamp_len == -1, "-1: RoPE turns by every distance")
        for name in ("dropout", "dropatt"):
            self._require(name, 0.0 <= getattr(self, name) < 1.0, "at least 0 and below 1")
        self._require("init_std", self.init_std > 0, "above 0")
        self._require("layer_norm_epsilon", self.layer_norm_epsilon > 0, "above 0")
        if self.same_length and self.most_keys < 1:
            # The released code then masks every key, the query's own too, and returns NaN.
            raise MinitxlError(
                f"same_length=True with mem_len={self.mem_len} would hide every key; set mem_len "
                "to 1 or more"
            )
        self._require("attn_type", self.attn_type in ATTN_TYPES, "0 to 5")
        for name in ("ext_len", "max_klen", "d_embed"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("proj_init_std", self.proj_init_std > 0, "above 0")
        self._require("start_mems", self.start_mems in ("empty", "zeros"), "'empty' or 'zeros'")
        self._check_words()
        self._check_memory()

    def _check_memory(self) -> None:
        kind = self.memory.kind
        if kind == "xl":
            return
        for name, plain in dict(
            attn_type=RELATIVE, ext_len=0, same_length=False, start_mems="empty"
        ).items():
            self._require(name, getattr(self, name) == plain, f"{plain!r} with a {kind} memory")
        if kind == "tokens":
            self._require("mem_len", self.mem_len == 0, "0 with memory tokens, which replace it")
            if self.memory.n_slot < 1:
                raise MinitxlError("memory tokens need n_slot of 1 or more, it is 0")

    def _check_words(self) -> None:
        edges = (0, *self.cutoffs, self.n_token)
        rising = all(a < b for a, b in itertools.pairwise(edges))
        self._require("cutoffs", rising, f"rising numbers between 1 and n_token={self.n_token}")
        narrowest = self.embed_width // max(1, self.div_val) ** (self.n_cluster - 1)
        self._require(
            "div_val",
            self.div_val >= 1 and narrowest >= 1,
            f"at least 1, and so small that the last of {self.n_cluster} clusters, d_embed="
            f"{self.embed_width} divided by it {self.n_cluster - 1} times, is 1 wide or more",
        )
        self._require(
            "tie_projs",
            not self.tie_projs
            or (len(self.tie_projs) == self.n_cluster and set(self.tie_projs) <= {0, 1}),
            f"empty, or {self.n_cluster} times true or false, one for each cluster",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Settings):
    """How a model is trained. Lengths of time are counted in steps (parameter updates)."""

    steps: int = 1000  # updates in all; the schedule ends here
    batch_size: int = 16  # B: contiguous rows of text that are read side by side
    lr: float = 1e-3  # peak learning rate of Adam
    lr_end: float = 0.02  # the cosine schedule ends at this fraction of lr
    schedule: str = "cosine"  # cosine | inv_sqrt | constant, each after the warm-up
    warmup: int = 100  # steps of linear warm-up from 0
    loss_on: str = "full"  # full | half: the recent half of each segment alone (sec. 4.2)
    clip: float = 0.25  # largest norm of the gradient, as in the released scripts; 0: no clipping
    beta1: float = 0.9  # Adam
    beta2: float = 0.999  # Adam
    eps: float = 1e-8  # Adam
    accumulate: int = 1  # pieces of the batch that are run one after the other, to save memory
    # Pieces of the batch that run at the same time on a CPU, in all MPI processes together; 0: one
    # per core. Each draws its own dropout, so another number gives another, equally good, run.
    threads: int = 0
    eval_every: int = 200  # steps between two evaluations on the validation split; 0: never
    eval_batch_size: int = 16  # rows of text side by side during evaluation
    eval_tokens: int = 0  # tokens of the validation split that are read each time; 0: all
    patience: int = 0  # evaluations without a better one after which training ends; 0: none
    save_every: int = 200  # steps between two checkpoints
    log_every: int = 20  # steps between two lines of metrics.jsonl
    seed: int = 0  # of the initial weights and of dropout

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("steps", "batch_size", "accumulate", "eval_batch_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("save_every", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        whole = ("threads", "warmup", "clip", "eval_every", "eval_tokens", "patience", "seed")
        for name in whole:
            self._require(name, getattr(self, name) >= 0, "at least 0")
        if self.patience and not self.eval_every:
            raise MinitxlError(
                f"patience={self.patience} counts evaluations, and eval_every=0 makes none; set "
                "eval_every, or leave patience out"
            )
        self._require("lr", self.lr > 0, "above 0")
        self._require("lr_end", 0 <= self.lr_end <= 1, "between 0 and 1")
        self._require("eps", self.eps > 0, "above 0")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require(
            "schedule", self.schedule in SCHEDULES, "one of " + ", ".join(map(repr, SCHEDULES))
        )
        self._require("loss_on", self.loss_on in ("full", "half"), "'full' or 'half'")
        pieces = self.accumulate * max(1, self.threads)
        if self.batch_size % pieces:
            raise MinitxlError(
                f"batch_size={self.batch_size} cannot be cut into accumulate * threads = {pieces} "
                f"equal pieces; choose a multiple of {pieces}"
            )


SCHEDULES = ("cosine", "inv_sqrt", "constant")
