"""The outer optimiser: Adam (Kingma & Ba 2015, algorithm 1) under a one-cycle rate (Smith & Topin 2019).

Written out because its whole state must be saved, restored bit for bit and compared: moments by name and a step count. The rate
is a function of the step, so there is no scheduler state.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarec.models.contract import MetaParams


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """The rate of each of `num_steps` outer steps: a cosine from peak / 25 up to `peak`, then a cosine down to peak / 1e4."""

    peak: float
    num_steps: int
    warmup_fraction: float

    def rate(self, step: int) -> float:
        """Rate of step 0..num_steps - 1."""
        warmup = self.warmup_fraction * self.num_steps
        if step < warmup:
            return _cosine(self.peak / 25, self.peak, step / warmup)
        return _cosine(self.peak, self.peak / 1e4, (step - warmup) / max(1.0, self.num_steps - 1 - warmup))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, part))) / 2


@dataclass(kw_only=True)
class Adam:
    """First and second moments by parameter name; updates theta in place."""

    mean: MetaParams = field(default_factory=dict)
    square: MetaParams = field(default_factory=dict)
    steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @torch.no_grad()
    def step(self, theta: MetaParams, gradient: MetaParams, rate: float) -> None:
        """One step along `gradient`, which holds the trained parameters of theta by name."""
        self.steps += 1
        names = sorted(gradient)
        for name in names:
            if name not in self.mean:
                self.mean[name] = torch.zeros_like(theta[name])
                self.square[name] = torch.zeros_like(theta[name])
        gradients: list[Tensor] = [gradient[name] for name in names]
        means = [self.mean[name] for name in names]
        squares = [self.square[name] for name in names]
        torch._foreach_lerp_(means, gradients, 1 - self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - self.beta2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, math.sqrt(1 - self.beta2**self.steps))
        torch._foreach_add_(scale, self.epsilon)
        torch._foreach_addcdiv_([theta[name] for name in names], means, scale, -rate / (1 - self.beta1**self.steps))
