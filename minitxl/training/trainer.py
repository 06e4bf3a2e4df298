"""Training: one update at a time, with its whole state in plain arrays and numbers."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any

from minitxl.backend.threads import Workers, threads_for
from minitxl.config import TrainConfig
from minitxl.errors import MinitxlError, MinitxlWarning
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage.model_arrays import (
    array_of,
    load_params,
    memories_of,
    memory_arrays,
    params_of,
)
from minitxl.training.optim import Adam, clip_by_norm, learning_rate
from minitxl.training.parallel import Group


class Trainer:
    """Trains a model on consecutive batches, carrying memory and optimizer from step to step.

    The batch is cut into accumulate * threads pieces of equal size, each with its own memory and
    its own random numbers; the gradients are added in a fixed order, so the result does not
    depend on which thread was faster. Pieces of one round run at the same time, each on one BLAS
    thread: NumPy's elementwise work then uses all cores, which it does not on its own.

    The processes of a group share the pieces out: batch, settings and checkpoint are those of one
    process, and so is the result but for the order in which gradients are added. All of them must
    call the same methods, with the whole batch.

    >>> trainer = Trainer(model, TrainConfig(steps=100, threads=2))
    >>> loss = trainer.step(tokens, targets)      # next batch: row b must continue row b
    """

    def __init__(
        self,
        model: TransformerXL,
        settings: TrainConfig | None = None,
        group: Group | None = None,
    ):
        self.model = model
        self.group = group or Group()
        self.settings = s = _with_threads(settings or TrainConfig(), model, self.group)
        self.n_piece = s.accumulate * s.threads
        self.pieces = self.group.share(self.n_piece)  # those that run here
        self.mems: list = [None] * len(self.pieces)
        back = model.backend
        self.adam = Adam(
            model.params.flat,
            beta1=s.beta1,
            beta2=s.beta2,
            eps=s.eps,
            block=back.cache_block,
            xp=back.xp,
        )
        self.n_step = 0  # updates done
        self._first = True  # the first batch is looked at more closely
        self.grad_norm: Any = None  # of the last step, before clipping; 0-d array
        self._n_thread = s.threads // self.group.size
        self._workers = Workers(self._n_thread)
        # A group adds up its gradients on the host; one process can leave all of it to the device.
        alone = self.group.size == 1
        self._update = back.replayed(self._update_once) if alone else self._update_once

    def step(self, tokens, targets, fresh: bool = False, position_ids=None):
        """Make one update on tokens, targets (B, T); return the batch's mean nll (nats), 0-d.

        targets are the tokens one step later: targets[b, t] follows tokens[b, t] in the text.
        fresh=True forgets the memory first: the batch does not continue the one before.
        position_ids (B, T): places in documents, see `TransformerXL.forward`.
        """
        tokens, targets = (
            self.model.checked_on_host(ids, name)
            for ids, name in ((tokens, "tokens"), (targets, "targets"))
        )
        held = next((_rows(m[0]) for m in self.mems if m), None)
        if not fresh and held is not None and held * self.n_piece != len(tokens):
            raise MinitxlError(
                f"the batch has {len(tokens)} rows, the one before had {held * self.n_piece}: row "
                "b must continue row b; pass fresh=True to start with an empty memory"
            )
        if len(tokens) % self.n_piece:
            raise MinitxlError(
                f"a batch of {len(tokens)} rows cannot be cut into accumulate * threads = "
                f"{self.n_piece} equal pieces; choose a multiple"
            )
        places = self.model.checked_places(position_ids, tokens)
        if self._first:
            _warn_unless_shifted(tokens, targets)
            self._first = False
        before = [None] * len(self.pieces) if fresh else self.mems
        # Random numbers are a function of (seed, step, piece): nothing to save, exact to resume.
        rng_key = self.model.backend.rng_key
        keys = [rng_key(self.settings.seed, self.n_step, i) for i in self.pieces]
        rate = learning_rate(self.n_step, self.settings)
        factors = self.adam.factors(rate, self.n_step + 1)
        inputs = (tokens, targets, places, keys, factors)
        (loss, norm), mems = self._update(inputs, before)
        # Only now, so that a forward or backward pass that fails leaves all as it was.
        self.grad_norm, self.mems = norm, mems
        self.n_step += 1
        self.adam.t = self.n_step
        return loss

    def _update_once(self, inputs, before):
        """Update parameters and moments; return (loss, norm of the gradient), and the memories.

        No number of the model is looked at here: a GPU works through all of it unasked, and
        can record it (`Backend.replayed`).
        """
        *batch, keys, factors = inputs
        rows = len(batch[0]) // self.n_piece
        jobs = [
            (key, held, *(a if a is None else a[i * rows : (i + 1) * rows] for a in batch))
            for i, key, held in zip(self.pieces, keys, before, strict=True)
        ]
        loss, total, mems = 0.0, None, []
        for first in range(0, len(jobs), self._n_thread):  # rounds of one piece a thread
            round_jobs = jobs[first : first + self._n_thread]
            for piece_loss, piece_mems, grads in self._workers.map(self._piece, round_jobs):
                loss = loss + piece_loss / self.n_piece
                mems.append(piece_mems)
                if total is None:
                    total = grads.flat
                else:
                    total += grads.flat  # always in the order of the pieces
            grads = None  # or the last piece's would live through the next round
        loss, total = self._sum_over_group(loss), self._sum_over_group(total)
        total *= 1.0 / self.n_piece
        xp = self.model.backend.xp
        norm = clip_by_norm(total, self.settings.clip, xp=xp)
        self.adam.update(self.model.params.flat, total, factors)
        return (loss, norm), mems

    def _piece(self, job):
        """Run forward and backward on one piece of the batch."""
        key, mems, tokens, targets, places = job
        rng = self.model.backend.rng_of(key)
        if self.settings.loss_on == "half":  # the recent half, whose queries see the most
            targets = targets[:, targets.shape[1] // 2 :]
        nll, mems, cache = self.model.forward(tokens, targets, mems, rng, position_ids=places)
        return self.model.backend.xp.mean(nll), mems, self.model.backward(cache)

    def _sum_over_group(self, a):
        """Add up an array, in place where it can be, over the processes of the group."""
        if self.group.size == 1:
            return a
        back = self.model.backend
        host = back.xp.asarray(a) if back.name == "cpu" else back.to_numpy(a)
        self.group.sum_in_place(host)
        return back.asarray(host)

    # --- state ---

    def state(self) -> tuple[dict, dict]:
        """Return (arrays on the host by name, plain values): all that `load_state` needs.

        In a group rank 0 gets the memories of all, the others none.
        """
        to_numpy = self.model.backend.to_numpy
        arrays = params_of(self.model)
        arrays |= {"adam.m": to_numpy(self.adam.m), "adam.v": to_numpy(self.adam.v)}
        own = [memory_arrays(mems or [], "") for mems in self.mems]
        own = [{name: to_numpy(a) for name, a in piece.items()} for piece in own]
        for i, piece in enumerate(chain.from_iterable(self.group.gather(own))):
            arrays |= {f"mems.{i}{name}": a for name, a in piece.items()}
        return arrays, {"n_step": self.n_step, "n_piece": self.n_piece}

    def load_state(self, arrays: dict, values: dict) -> None:
        """Put back what `state` returned; the next step continues to the same bits."""
        if values.get("n_piece") != self.n_piece:
            raise MinitxlError(
                f"the checkpoint was trained in {values.get('n_piece')} pieces, this trainer has "
                f"{self.n_piece}; use the same accumulate and threads"
            )
        asarray = self.model.backend.asarray
        moments = {"adam.m": self.adam.m, "adam.v": self.adam.v}
        loaded = {name: array_of(arrays, name, tuple(a.shape)) for name, a in moments.items()}
        load_params(self.model, arrays)
        for name, moment in moments.items():
            moment[...] = asarray(loaded[name], dtype=moment.dtype)
        self.n_step = self.adam.t = int(values["n_step"])
        self.mems = [memories_of(self.model, arrays, f"mems.{i}") for i in self.pieces]


def _rows(state) -> int:
    """How many rows of the batch a layer's memory belongs to."""
    return (state[0] if isinstance(state, tuple) else state).shape[0]


def _warn_unless_shifted(tokens, targets) -> None:
    """Warn where targets are the tokens themselves, a common mistake: copying is soon learned."""
    if not (hasattr(tokens, "__array_interface__") and hasattr(targets, "__array_interface__")):
        return  # on a device, which would be waited for
    tokens = tokens[:, -targets.shape[1] :]
    same = tokens.shape == targets.shape and bool((tokens[:, :-1] == targets[:, :-1]).all())
    if same and targets.shape[1] > 1 and bool((tokens != tokens[:, :1]).any()):
        warnings.warn(
            "targets equal tokens: the model learns to copy; targets are the tokens one step "
            "later, tokens = ids[:, :-1] and targets = ids[:, 1:]",
            MinitxlWarning,
            stacklevel=3,
        )


def _with_threads(settings: TrainConfig, model: TransformerXL, group: Group) -> TrainConfig:
    """Return the settings with a number of threads, of all processes together, that fits them."""
    s, size = settings, group.size
    rows = s.batch_size // s.accumulate
    if rows % size:
        raise MinitxlError(
            f"batch_size / accumulate = {rows} rows cannot be shared equally by {size} processes; "
            f"choose a multiple of {size}"
        )
    if s.threads == 0:
        on_cpu = model.backend.name == "cpu"
        each = threads_for(rows // size, group.n_local) if on_cpu else 1
        s = s.replace(threads=group.broadcast(size * each))  # machines may differ in their cores
    if s.threads % size:
        raise MinitxlError(
            f"threads={s.threads}, of all processes together, cannot be shared equally by {size} "
            f"processes; choose a multiple of {size}, or for a run that has begun a number of "
            f"processes that divides {s.threads}"
        )
    return s
