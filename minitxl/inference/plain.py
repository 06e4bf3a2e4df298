"""Reading a stream by the model alone: on GPUs, and where no keys can be kept."""

from __future__ import annotations

from minitxl.model.transformer_xl import TransformerXL


class PlainReader:
    """The interface of `CachedReader` around `model.predict` and `model.score`.

    Its calls are alike once the memory is full, so that a GPU records one and replays it. There
    this reader is the faster one too: it projects again, which a GPU does in no time, but is told
    so by one launch instead of some hundred.
    """

    def __init__(self, model: TransformerXL, batch_size: int = 1):
        self.model = model
        self.batch_size = batch_size
        self._score = model.backend.replayed(self._score_once)
        self._read: dict = {}  # by `last`
        self.reset()

    def _score_once(self, inputs, mems):
        tokens, targets, places = inputs
        return self.model.score(tokens, targets, mems, position_ids=places)

    def reset(self) -> None:
        """Go back to a stream's start."""
        self._mems = None

    @property
    def mems(self) -> list:
        """The memory, as the model takes it."""
        return self.model.start_mems(self.batch_size) if self._mems is None else self._mems

    def read(self, tokens, last=None, position_ids=None):
        """As `CachedReader.read`."""
        if last not in self._read:
            self._read[last] = self.model.backend.replayed(
                lambda x, mems: self.model.predict(x[0], mems, last=last, position_ids=x[1])
            )
        tokens = self.model.checked_on_host(tokens, "tokens")
        places = self.model.checked_places(position_ids, tokens)
        log_probs, self._mems = self._read[last]((tokens, places), self._mems)
        return log_probs

    def score(self, tokens, targets, position_ids=None):
        """As `CachedReader.score`."""
        names = ((tokens, "tokens"), (targets, "targets"))
        tokens, targets = (self.model.checked_on_host(ids, name) for ids, name in names)
        places = self.model.checked_places(position_ids, tokens)
        nll, self._mems = self._score((tokens, targets, places), self._mems)
        return nll


class SegmentReader(PlainReader):
    """A `PlainReader` for memory tokens, which are written once a segment, at its end.

    A segment that is not full yet is read again with what comes, after the same memory; so tokens
    that come one by one are read as in training.
    """

    def reset(self) -> None:
        """Go back to a stream's start."""
        super().reset()
        self._begun = None  # (B, < tgt_len): ids of the segment that is not full

    def read(self, tokens, last=None, position_ids=None):
        """As `CachedReader.read`."""
        xp, tgt_len = self.model.backend.xp, self.model.config.tgt_len
        tokens = self.model.checked_ids(tokens, "tokens")
        self.model.checked_places(position_ids, tokens)  # an error
        n_new = tokens.shape[1]
        if self._begun is not None:
            tokens = xp.concat([self._begun, tokens], axis=1)
        parts = []
        for at in range(0, tokens.shape[1], tgt_len):
            ids, before = tokens[:, at : at + tgt_len], self._mems
            parts.append(super().read(ids))
            full = ids.shape[1] == tgt_len
            self._begun = None if full else ids
            if not full:
                self._mems = before
        log_probs = xp.concat(parts, axis=1)
        n = n_new if last is None else min(last, n_new)
        return log_probs[:, log_probs.shape[1] - n :, :]

    def score(self, tokens, targets, position_ids=None):
        """As `CachedReader.score`."""
        if self._begun is None and tokens.shape[1] == self.model.config.tgt_len:
            return super().score(tokens, targets, position_ids)
        tokens = self.model.checked_ids(tokens, "tokens")
        targets = self.model.checked_ids(targets, "targets")
        self.model.check_targets(tokens, targets)
        xp = self.model.backend.xp
        log_probs = self.read(tokens, targets.shape[1], position_ids)  # (B, S, V)
        return -xp.take_along_axis(log_probs, targets[:, :, None], axis=-1)[:, :, 0]
