"""Adam, gradient clipping and learning-rate schedules, each over the flat parameter buffer."""

from __future__ import annotations

import math

from minitxl.backend.twins import has_twin
from minitxl.config import TrainConfig


class Adam:
    """Adam (Kingma & Ba 2015) over one flat buffer.

    m and v are running means of the gradient and of its square; both start at 0 and are divided
    by 1 - beta^t, the share of their weight that real gradients have by step t.
    """

    def __init__(self, flat, *, beta1=0.9, beta2=0.999, eps=1e-8, block=None, xp):
        """flat: the parameters (P,). block: how many are updated at a time; None: all at once.

        On a CPU a block that fits the cache halves the time of the ten passes over it.
        """
        self.m = xp.zeros_like(flat)
        self.v = xp.zeros_like(flat)
        self.t = 0
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self._block = block or flat.shape[0]
        self._xp = xp

    def step(self, flat, grad, lr: float) -> None:
        """Make the next update of `flat` (P,) in place: flat -= lr m^ / (sqrt(v^) + eps)."""
        self.t += 1
        self.update(flat, grad, self.factors(lr, self.t))

    def factors(self, lr: float, t: int) -> tuple[float, float]:
        """Return lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t): what the t-th update, counted from
        1, has of its own."""
        return lr / (1.0 - self.beta1**t), 1.0 / math.sqrt(1.0 - self.beta2**t)

    def update(self, flat, grad, factors) -> None:
        """Update `flat` (P,) in place with `factors`; nothing is counted."""
        settings = dict(beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        for start in range(0, flat.shape[0], self._block):
            part = slice(start, start + self._block)
            moments = (self.m[part], self.v[part])
            adam_update(flat[part], grad[part], *moments, factors, **settings, xp=self._xp)


@has_twin
def adam_update(flat, g, m, v, factors, *, beta1, beta2, eps, xp) -> None:
    """Update flat, m and v (n,) in place for gradient g; factors as of `Adam.factors`."""
    rate, stretch = factors
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    square = g * g
    square *= 1.0 - beta2
    v += square
    denominator = xp.sqrt(v)
    denominator *= stretch
    denominator += eps
    update = m / denominator
    update *= rate
    flat -= update


@has_twin
def clip_by_norm(grad, max_norm: float, *, xp):
    """Scale `grad` (P,) in place to a norm of at most max_norm; return the norm it had, 0-d.

    The factor is computed on the device: a comparison on the host would wait for it every step.
    max_norm 0 means no clipping.
    """
    norm = xp.sqrt(xp.vecdot(grad, grad))
    if max_norm > 0:
        grad *= max_norm / xp.clip(norm, max_norm, None)  # 1 where the norm is below max_norm
    return norm


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Return the rate of update `step`, counted from 0.

    Linear warm-up, then: "cosine" from lr to lr_end * lr at the last step; "inv_sqrt",
    lr sqrt(warmup / (step + 1)); or "constant". The released code sets the rate after each update,
    so its first update uses the full rate in spite of the warm-up, and its cosine ignores the
    warm-up's length; here the first rate is lr / warmup and the cosine starts after the warm-up.
    """
    s = settings
    if step < s.warmup:
        return s.lr * (step + 1) / s.warmup
    if s.schedule == "constant":
        return s.lr
    if s.schedule == "inv_sqrt":
        return s.lr * math.sqrt(max(1, s.warmup) / (step + 1))
    done = min(1.0, (step - s.warmup) / max(1, s.steps - 1 - s.warmup))
    return s.lr * (s.lr_end + (1.0 - s.lr_end) * 0.5 * (1.0 + math.cos(math.pi * done)))
