"""A small model, trained here and now: no run folder, and nothing is looked at on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minitxl.config import Config, TrainConfig
from minitxl.data.stream import Stream
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.trainer import Trainer

POINTS = 20  # of a learning curve


def fitted(
    config: Config,
    settings: TrainConfig,
    tokens,
    device: str,
    change: Callable[[TransformerXL], None] | None = None,
) -> tuple[TransformerXL, list[float]]:
    """Return a model trained on tokens (1-D ids), and its loss: means (nats) of POINTS stretches.

    The seed of the settings is that of the first weights too. change: what makes the model another
    one, before it is trained.
    """
    model = TransformerXL(config, device=device, seed=settings.seed)
    if change is not None:
        change(model)
    trainer = Trainer(model, settings.replace(threads=1))
    stream = Stream(tokens, batch_size=settings.batch_size, tgt_len=config.tgt_len)
    losses = [trainer.step(*stream.next()) for _ in range(settings.steps)]
    by_step = np.array([float(loss) for loss in losses])
    means = [part.mean() for part in np.array_split(by_step, min(POINTS, len(by_step)))]
    return model, [round(float(x), 4) for x in means]


def fitted_as(
    s, text, seed: int, device: str, lr: float | None = None, **fields
) -> tuple[TransformerXL, list[float]]:
    """Return what `fitted` does, for the sizes and the training that settings `s` give.

    s: n_layer, d_model, n_head, d_inner; steps, tokens_per_step, warmup; lr, unless one is given.
    fields: others of `Config`. LayerNorm comes before the blocks, nothing is dropped: the text is
    read about once.
    """
    sizes = dict(n_layer=s.n_layer, d_model=s.d_model, n_head=s.n_head, d_inner=s.d_inner)
    sizes["d_head"] = s.d_model // s.n_head
    config = Config(**sizes, **fields, pre_lnorm=True, dropout=0.0)
    rows = s.tokens_per_step // config.tgt_len
    lr = s.lr if lr is None else lr
    how = TrainConfig(steps=s.steps, batch_size=rows, lr=lr, warmup=s.warmup, seed=seed)
    return fitted(config, how, text, device)
