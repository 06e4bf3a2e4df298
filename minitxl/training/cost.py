"""What a model costs before it is built: parameters, products and memory, from its settings alone.

Nothing is allocated here. Letters as in `Config`, and: T tokens of a segment, those of ext_len
included; S of them have a target; M rows of memory, full; K = M + T keys; E = H Dh, all heads
together. (Memory tokens count as 2 m tokens more of a segment.)
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from minitxl.config import LEARNED, RELATIVE, SHAW, Config, TrainConfig
from minitxl.model.transformer_xl import network_of

# --- parameters ---------------------------------------------------------------------------------


def count_parameters(config: Config) -> dict[str, int]:
    """Return the number of parameters by part, tied ones counted once; their sum is all."""
    parts = {"embedding and softmax": 0, "attention": 0, "feed-forward": 0, "LayerNorm": 0}
    for name, shape in network_of(config).param_shapes(config).items():
        parts[_part(name)] += math.prod(shape)
    return parts


def _part(name: str) -> str:
    if "_norm." in name:
        return "LayerNorm"
    if ".ff." in name:
        return "feed-forward"
    if name.startswith(("layers.", "memory.")) or name in ("r_w_bias", "r_r_bias"):
        return "attention"
    return "embedding and softmax"


# --- the clusters of the softmax ----------------------------------------------------------------


def zipf_shares(config: Config) -> tuple[float, ...]:
    """Return the share of a text's words in every cluster, if the n-th word had frequency ~ 1/n.

    Real texts have fewer rare words than that: it errs on the side of too much work.
    """
    edges = (0, *config.cutoffs, config.n_token)
    total = _harmonic(config.n_token)
    return tuple((_harmonic(b) - _harmonic(a)) / total for a, b in itertools.pairwise(edges))


def _harmonic(n: int) -> float:
    """1 + 1/2 + ... + 1/n, to five digits."""
    return sum(1 / k for k in range(1, n + 1)) if n < 50 else math.log(n) + 0.5772157 + 0.5 / n


class _Cluster(NamedTuple):
    n_word: int  # columns of its softmax; the head's has one more for each tail
    width: int  # E_i, of its vectors
    share: float  # of the targets that come to this softmax; 1 for the head


def _clusters(config: Config, shares) -> list[_Cluster]:
    c = config
    shares = shares or zipf_shares(c)
    edges = itertools.pairwise((0, *c.cutoffs, c.n_token))
    sizes = [(stop - first, c.embed_width // c.div_val**i) for i, (first, stop) in enumerate(edges)]
    tails = [_Cluster(n, width, s) for (n, width), s in zip(sizes, shares, strict=True)][1:]
    return [_Cluster(sizes[0][0] + len(tails), sizes[0][1], 1.0), *tails]


def _n_target(config: Config, settings: TrainConfig) -> int:
    """S: positions of a segment whose loss counts."""
    return config.tgt_len - (config.tgt_len // 2 if settings.loss_on == "half" else 0)


def _n_query(config: Config) -> int:
    """T: tokens of a segment that are read."""
    return config.tgt_len + config.ext_len + 2 * config.memory.n_slot


def _n_mem(config: Config) -> int:
    """M: rows that stand before a segment."""
    return config.mem_len + config.memory.n_coarse


# --- products -----------------------------------------------------------------------------------


def forward_flops(config: Config, rows: int, shares=None, n_target: int | None = None) -> dict:
    """Return the FLOPs by part of one pass over `rows` rows of a segment with a full memory.

    Matrix products alone, 2 for each multiply and add, all K keys of every query (the masked half
    is computed too). For each row, and R for the pass:
      projections  N (4 T D E + 4 K D E)     queries and output; keys and values
      positions    N 2 K D E                 W_kR R, once for all rows
      attention    N 6 T K E                 q k^T, q r^T, p v
      feed-forward N 4 T D F
      memory       what another memory than the paper's has to compute (model/family/memories/)
      softmax      2 S D V; adaptive: 2 S share_i (D E_i + E_i V_i) for every cluster, the head's
                   share 1; and 2 T share_i E_i D for the embedding, where there are projections
    shares: of the text's words in every cluster (default: `zipf_shares`); n_target: S (default:
    tgt_len).
    """
    c, b, t = config, rows, _n_query(config)
    d, e, k = c.d_model, c.n_head * c.d_head, _n_mem(c) + t
    s = c.tgt_len if n_target is None else n_target
    products = 3 if c.attn_type in (RELATIVE, SHAW) else 2  # the others have no q r^T
    parts = {
        "projections": c.n_layer * b * 4 * (t + k) * d * e,
        "positions": c.n_layer * 2 * k * d * e if c.attn_type == RELATIVE else 0,
        "attention": c.n_layer * b * 2 * products * t * k * e,
        "feed-forward": c.n_layer * b * 4 * t * d * c.d_inner,
    }
    memory = network_of(c).memory
    if memory is not None:
        parts["memory"] = c.n_layer * b * memory.flops(t)
    softmax = 0.0
    for cluster in _clusters(c, shares):
        project = d * cluster.width if c.has_projections else 0
        softmax += 2 * b * s * cluster.share * (project + cluster.width * cluster.n_word)
    if c.has_projections:
        widths = [cluster.width for cluster in _clusters(c, shares)]
        bands = zip(shares or zipf_shares(c), widths, strict=True)
        softmax += sum(2 * b * t * share * width * d for share, width in bands)
    return parts | {"embedding and softmax": softmax}


def step_flops(config: Config, settings: TrainConfig, threads: int, shares=None) -> dict:
    """Return the FLOPs by part of one update: three times the forward pass of every piece.

    Backward counts as two forward passes, one for the inputs' and one for the weights' gradients.
    That is a little too much: nothing flows into R, nor, with LayerNorm after, into the memory.
    """
    pieces = settings.accumulate * threads
    rows, s = settings.batch_size // pieces, _n_target(config, settings)
    parts = forward_flops(config, rows, shares, s)
    return {name: 3 * pieces * n for name, n in parts.items()}


# --- memory -------------------------------------------------------------------------------------


class _Piece:
    """Numbers (not bytes) that one piece of the batch holds; only what grows with its size."""

    def __init__(self, config: Config, rows: int, n_target: int, shares, training: bool):
        c, b, t = config, rows, _n_query(config)
        k, d, e, f = _n_mem(c) + t, c.d_model, c.n_head * c.d_head, c.d_inner
        self.drop = 1 if training and c.dropout > 0 else 0
        self.dropatt = 1 if training and c.dropatt > 0 else 0
        self.clusters = _clusters(c, shares)
        self.td, self.te, self.tf = b * t * d, b * t * e, b * t * f
        self.kd, self.ke, self.square = b * k * d, b * k * e, b * c.n_head * t * k
        self.s, self.n_key, self.config, self.rows = b * n_target, k, c, b

    @property
    def before_attention(self) -> int:
        """Kept by a layer once it has queries, keys and values: its inputs and those three."""
        c = self.config
        inputs = self.td + (self.kd if c.attn_type == LEARNED and not c.pre_lnorm else 0)
        if c.pre_lnorm:  # LayerNorm's output and x_hat of all K rows
            inputs += 2 * self.kd + self.rows * self.n_key
        queries = 2 if c.attn_type in (RELATIVE, SHAW) else 1
        r = self.n_key * c.n_head * c.d_head if c.attn_type == RELATIVE else 0
        return inputs + queries * self.te + 2 * self.ke + r

    @property
    def layer(self) -> int:
        """Kept by a layer for backward."""
        probs = (1 + 2 * self.dropatt) * self.square  # p; with dropatt its mask and p after it
        norms = self.td if self.config.pre_lnorm else 2 * self.td  # x_hat
        feed_forward = self.td + (1 + 2 * self.drop) * self.tf  # input; ReLU, mask, dropped
        masks = 2 * self.drop * self.td  # of the two blocks' outputs
        return self.before_attention + probs + self.te + norms + feed_forward + masks

    @property
    def loss(self) -> int:
        """Kept by the softmax: inputs and log-probabilities; the head's matrix with its columns."""
        c, kept = self.config, 0.0
        for cluster in self.clusters:
            n = self.s * cluster.share
            kept += n * (c.d_model + cluster.n_word)
            kept += n * cluster.width if c.has_projections else 0
        head = self.clusters[0]
        return int(kept) + (head.n_word * head.width if c.cutoffs else 0)

    @property
    def caches(self) -> int:
        """Kept by forward for backward, but for the memory."""
        return self.config.n_layer * self.layer + 2 * self.drop * self.td + self.loss

    @property
    def attention_forward(self) -> int:
        """Kept and passing within one layer: input, queries, scores four times over."""
        return self.before_attention + self.te + self.td + (4 + self.dropatt) * self.square

    @property
    def loss_forward(self) -> int:
        """Passing while the head's log-probabilities are made: logits and their exponentials."""
        return int(2 * self.s * self.clusters[0].n_word)

    @property
    def backward(self) -> int:
        """Passing in backward, at its largest."""
        c = self.config
        gradients = c.n_layer * self.td  # dLoss/dh_n of all layers is kept
        # Of the matrices: this layer's, and those of the one above until these are done.
        weights = 2 * c.d_model * (2 * c.d_inner + 5 * c.n_head * c.d_head)
        core = 2 * self.square + 3 * self.ke + 3 * self.te
        heads = 4 * self.ke + 2 * self.te + 2 * (self.kd if c.pre_lnorm else self.td)
        attention = gradients + weights + max(core, heads) + 2 * self.td
        feed_forward = gradients + weights + 2.25 * self.tf + self.td
        return int(max(attention, feed_forward, self._softmax_backward, self._embedding_backward))

    @property
    def _softmax_backward(self) -> float:
        logits = [self.s * cluster.share * cluster.n_word for cluster in self.clusters]
        tables = [cluster.n_word * cluster.width for cluster in self.clusters]
        # The logits' gradient, with the targets' columns as bool and as float, or its product.
        head = max(2.25 * logits[0], logits[0] + tables[0])
        return max(head, sum(tables) + 2.25 * max(logits[1:], default=0)) + 2 * self.td

    @property
    def _embedding_backward(self) -> float:
        c = self.config
        tables = c.n_token * c.embed_width
        if c.div_val > 1:
            tables = sum(cluster.n_word * cluster.width for cluster in self.clusters)
        one_hot = 1.25 * c.n_token * self.rows * _n_query(c) if c.n_token <= 256 else 0
        return (c.n_layer + 3) * self.td + tables + one_hot


def memory_bytes(config: Config, itemsize: int = 4) -> int:
    """Return the bytes that a full memory takes for each row of the batch, in all layers."""
    c, memory = config, network_of(config).memory
    return memory.n_bytes(itemsize) if memory else itemsize * c.n_layer * c.mem_len * c.d_model


def _memory(config: Config, rows: int) -> int:
    """Old and new memory: both are cut out of [memory ; segment], which stays as long as they."""
    c = config
    segment = c.n_layer * _n_query(c) * c.d_model
    return 2 * rows * (memory_bytes(c, itemsize=1) + segment)


def training_memory(
    config: Config, settings: TrainConfig, threads: int, itemsize: int = 4, shares=None
) -> dict[str, int]:
    """Return the bytes of one update by what they hold, at the peak; their sum is all.

    Counted are the arrays that `forward` keeps for `backward` and the largest that pass, with a
    full memory, all threads at their peak at once. Python, NumPy and the text come on top.
    """
    c, s = config, settings
    n_params = sum(count_parameters(c).values())
    rows = s.batch_size // (s.accumulate * threads)
    piece = _Piece(c, rows, _n_target(c, s), shares, training=True)
    n_gradient = threads + (s.accumulate > 1)  # one for each thread, and the sum so far
    forward = max(
        (c.n_layer - 1) * piece.layer + piece.attention_forward,
        piece.caches + piece.loss_forward,
    )
    peak = max(forward - n_params, piece.caches + piece.backward)  # forward has no gradients yet
    parts = {
        "parameters": n_params,
        "gradients": n_gradient * n_params,
        "Adam": 2 * n_params,
        "memory, old and new": _memory(c, s.batch_size),
        "kept for backward": threads * piece.caches,
        "passing": threads * (peak - piece.caches),
    }
    return {name: itemsize * n for name, n in parts.items()}


def evaluation_memory(
    config: Config, batch_size: int, threads: int, itemsize: int = 4, shares=None
) -> int:
    """Return the bytes of `evaluate` at its peak: parameters, memory, and one layer at work.

    Of the plain operations and cached=False. Keys and values that are kept (inference/cached.py)
    come on top, N rows of 2 H Dh + D numbers for each token of about 1.5 memories and two segments.
    """
    c = config
    piece = _Piece(c, batch_size // threads, c.tgt_len, shares, training=False)
    at_work = max(piece.layer + piece.attention_forward, piece.loss + piece.loss_forward)
    return itemsize * (
        sum(count_parameters(c).values()) + _memory(c, batch_size) + threads * at_work
    )
