"""Training: one update at a time, with its whole state in plain arrays and numbers."""

from __future__ import annotations

from minitxl.config import TrainConfig
from minitxl.errors import MinitxlError
from minitxl.model import TransformerXL
from minitxl.optim import Adam, clip_by_norm, learning_rate
from minitxl.workers import Workers, threads_for


class Trainer:
    """Trains a model on consecutive batches, carrying memory and optimizer from step to step.

    The batch is cut into accumulate * threads pieces of equal size, each with its own memory and
    its own random numbers; the gradients are added in a fixed order, so the result does not
    depend on which thread was faster. Pieces of one round run at the same time, each on one BLAS
    thread: NumPy's elementwise work then uses all cores, which it does not on its own.

    >>> trainer = Trainer(model, TrainConfig(steps=100, threads=2))
    >>> loss = trainer.step(tokens, targets)      # next batch: row b must continue row b
    """

    def __init__(self, model: TransformerXL, settings: TrainConfig | None = None):
        self.model = model
        s = settings or TrainConfig()
        if s.threads == 0:
            on_cpu = model.backend.name == "cpu"
            s = s.replace(threads=threads_for(s.batch_size // s.accumulate) if on_cpu else 1)
        self.settings = s
        self.n_piece = s.accumulate * s.threads
        self.mems: list = [None] * self.n_piece
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
        self.grad_norm = None  # of the last step, before clipping; 0-d array
        self._workers = Workers(s.threads)

    def step(self, tokens, targets, fresh: bool = False):
        """Make one update on tokens, targets (B, T); return the batch's mean nll (nats), 0-d.

        fresh=True forgets the memory first: the batch does not continue the one before.
        """
        held = next((m[0].shape[0] for m in self.mems if m), None)
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
        before = [None] * self.n_piece if fresh else self.mems
        rows = len(tokens) // self.n_piece
        jobs = [
            (i, before[i], tokens[i * rows : (i + 1) * rows], targets[i * rows : (i + 1) * rows])
            for i in range(self.n_piece)
        ]
        loss, total, mems = 0.0, None, []
        for first in range(0, self.n_piece, self.settings.threads):  # rounds of `threads` pieces
            round_jobs = jobs[first : first + self.settings.threads]
            for piece_loss, piece_mems, grads in self._workers.map(self._piece, round_jobs):
                loss = loss + piece_loss / self.n_piece
                mems.append(piece_mems)
                if total is None:
                    total = grads.flat
                else:
                    total += grads.flat  # always in the order of the pieces
            grads = None  # or the last piece's would live through the next round
        total *= 1.0 / self.n_piece
        xp = self.model.backend.xp
        self.grad_norm = clip_by_norm(total, self.settings.clip, xp=xp)
        self.adam.step(self.model.params.flat, total, learning_rate(self.n_step, self.settings))
        # Only now, so that a forward or backward pass that fails leaves all as it was.
        self.mems = mems
        self.n_step += 1
        return loss

    def _piece(self, job):
        """Run forward and backward on one piece of the batch."""
        i, mems, tokens, targets = job
        # Random numbers are a function of (seed, step, piece): nothing to save, exact to resume.
        rng = self.model.backend.rng(self.settings.seed, self.n_step, i)
        if self.settings.loss_on == "half":  # the recent half, whose queries see the most
            targets = targets[:, targets.shape[1] // 2 :]
        nll, mems, cache = self.model.forward(tokens, targets, mems, rng=rng)
        return self.model.backend.xp.mean(nll), mems, self.model.backward(cache)

    # --- state ---

    def state(self) -> tuple[dict, dict]:
        """Return (arrays on the host by name, plain values): all that `load_state` needs."""
        to_numpy = self.model.backend.to_numpy
        arrays = params_of(self.model)
        arrays |= {"adam.m": to_numpy(self.adam.m), "adam.v": to_numpy(self.adam.v)}
        for i, mems in enumerate(self.mems):
            for n, mem in enumerate(mems or []):
                arrays[f"mems.{i}.{n}"] = to_numpy(mem)
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
        loaded = {name: _get(arrays, name, tuple(a.shape)) for name, a in moments.items()}
        load_params(self.model, arrays)
        for name, moment in moments.items():
            moment[...] = asarray(loaded[name], dtype=moment.dtype)
        self.n_step = self.adam.t = int(values["n_step"])
        for i in range(self.n_piece):
            names = [f"mems.{i}.{n}" for n in range(self.model.config.n_layer)]
            have = [name for name in names if name in arrays]
            self.mems[i] = [asarray(_get(arrays, name)) for name in names] if have else None


def params_of(model: TransformerXL) -> dict:
    """Return parameters and constants as arrays on the host, as `load_params` takes them."""
    params, to_numpy = model.params, model.backend.to_numpy
    arrays = {f"params.{name}": to_numpy(a) for name, a in params.items()}
    return arrays | {f"constants.{name}": to_numpy(a) for name, a in params.constants.items()}


def load_params(model: TransformerXL, arrays: dict) -> None:
    """Copy arrays "params.<name>" into the model; a missing or misshapen one is an error.

    Constants ("constants.<name>") may be missing: then they stay as the configuration has them.
    """
    values, constants = {}, {}
    for name, view in model.params.items():
        values[name] = _get(arrays, f"params.{name}", tuple(view.shape))
    for name, array in model.params.constants.items():
        if f"constants.{name}" in arrays:
            constants[name] = _get(arrays, f"constants.{name}", tuple(array.shape))
    back = model.backend
    for name, value in values.items():  # only now that all of them fit
        model.params[name] = back.asarray(value, dtype=back.dtype)
    for name, value in constants.items():
        model.params.constants[name] = back.asarray(value, dtype=back.dtype)


def _get(arrays: dict, name: str, shape: tuple | None = None):
    if name not in arrays:
        raise MinitxlError(f"the checkpoint lacks {name}; it belongs to another model")
    if shape is not None and tuple(arrays[name].shape) != shape:
        raise MinitxlError(
            f"{name} has shape {tuple(arrays[name].shape)} in the checkpoint, {shape} in the "
            "model; the checkpoint belongs to another model"
        )
    return arrays[name]
