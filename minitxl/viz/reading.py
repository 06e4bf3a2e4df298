"""A passage read by a model, segment after segment, and what the pictures need to know of it.

What was read once is kept, so that a slider that returns to a memory length costs no computing.
"""

from __future__ import annotations

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.model.attention import Inspection
from minitxl.model.through_memory import hidden_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage.model_arrays import load_params, params_of
from minitxl.viz.gradient import gradient_norms

LOSSES = ("the whole segment", "the first character", "the last character")


class Reading:
    """`tokens` (S * T + 1,) cut into S consecutive segments of `tgt_len` = T, for one model.

    The memory's length may differ from the one in training; the parameters are the model's own.
    """

    def __init__(self, model, tokens, *, tgt_len: int) -> None:
        kind = model.config.memory.kind
        if kind != "xl":
            raise MinitxlError(
                f"the model has a {kind} memory, whose rows are no single tokens: these pictures "
                "show the paper's own; give a model with memory kind xl"
            )
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or len(tokens) < 2 * tgt_len + 1:
            raise MinitxlError(
                f"the passage has shape {tokens.shape}: pictures of memory need one row of at "
                f"least 2 * {tgt_len} + 1 tokens, two segments and the target of the last token"
            )
        self.model = model
        self.tgt_len = tgt_len
        self.n_segments = (len(tokens) - 1) // tgt_len
        n = self.n_segments * tgt_len
        self.tokens = tokens[:n].astype(np.int32)
        self.segments = [
            (tokens[i : i + tgt_len][None, :], tokens[i + 1 : i + tgt_len + 1][None, :])
            for i in range(0, n, tgt_len)
        ]  # S of (tokens, targets), each (1, T)
        self._probs: dict[int, list[np.ndarray]] = {}
        self._norms: dict[tuple, dict[str, np.ndarray]] = {}
        self._exact: TransformerXL | None = None  # the model in float64

    @property
    def longest_memory(self) -> int:
        """Characters before the last segment."""
        return (self.n_segments - 1) * self.tgt_len

    def mem_lens(self) -> list[int]:
        """Memory lengths worth a slider's stop: none, parts of a segment, whole segments."""
        t = self.tgt_len
        parts = {0, t // 4, t // 2, *range(t, self.longest_memory + 1, t)}
        return sorted(parts)

    def _with(self, mem_len: int):
        return self.model.with_options(mem_len=mem_len, tgt_len=self.tgt_len)

    def attention(self, mem_len: int) -> list[np.ndarray]:
        """Attention probabilities of the last segment: per layer (H, T, K), K = M + T."""
        if mem_len not in self._probs:
            model, mems = self._with(mem_len), None
            seen = Inspection()
            with one_blas_thread():  # one row of text: a second thread costs more than it brings
                for tokens, _ in self.segments[:-1]:
                    _, mems = model.predict(tokens, mems)
                model.predict(self.segments[-1][0], mems, inspect=seen)
            self._probs[mem_len] = [model.backend.to_numpy(p)[0] for p in seen.probs]
        return self._probs[mem_len]

    def gradient(self, mem_len: int, *, through_memory: bool, loss: str = LOSSES[0]) -> np.ndarray:
        """Norm of d loss / d h_n by layer and position: (N+1, S*T), in float64.

        loss: one of LOSSES.
        """
        self.loss_positions(loss)  # an error for a loss that is unknown
        key = (mem_len, through_memory)
        if key not in self._norms:
            self._norms[key] = self._gradients(*key)
        return self._norms[key][loss]

    def _gradients(self, mem_len: int, through_memory: bool) -> dict[str, np.ndarray]:
        """What `gradient` returns, for all LOSSES in one pass: half of what one by one takes."""
        if self._exact is None:  # where 0 is the point, no number may be too small for its type
            self._exact = TransformerXL(self.model.config, device="cpu", dtype="float64")
            load_params(self._exact, params_of(self.model))
        model = self._exact.with_options(mem_len=mem_len, tgt_len=self.tgt_len)
        rows = [[np.repeat(ids, len(LOSSES), axis=0) for ids in s] for s in self.segments]
        upstream = np.concatenate([self._upstream(name) for name in LOSSES])  # (3, T)
        with one_blas_thread():
            found = hidden_gradients(model, rows, through_memory=through_memory, dnll=upstream)
        return {
            name: gradient_norms([[g[row : row + 1] for g in s] for s in found])
            for row, name in enumerate(LOSSES)
        }

    def loss_positions(self, loss: str) -> list[int]:
        """Positions 0 ... T-1 whose loss is taken."""
        if loss not in LOSSES:
            raise MinitxlError(f"no loss on {loss!r}; choose one of {', '.join(LOSSES)}")
        t = self.tgt_len
        return {LOSSES[0]: list(range(t)), LOSSES[1]: [0], LOSSES[2]: [t - 1]}[loss]

    def _upstream(self, loss: str) -> np.ndarray:
        """d loss / d nll (1, T): the mean over the positions that count."""
        positions = self.loss_positions(loss)
        dnll = np.zeros((1, self.tgt_len))
        dnll[0, positions] = 1.0 / len(positions)
        return dnll


def memory_share(probs) -> np.ndarray:
    """Share of the weight that crosses the memory's edge, by layer and head, mean of the queries.

    `probs`: per layer (H, T, K), K = M + T. Returns (N, H), 0 ... 1.
    """
    m = probs[0].shape[2] - probs[0].shape[1]
    return np.stack([p[:, :, :m].sum(axis=2).mean(axis=1) for p in probs])
