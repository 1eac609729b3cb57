"""A Bayesian factorisation of labels, drawn from its posterior by Gibbs sampling.

The label of task t on row i is mu + b_i + u_t' v_i + o_t plus noise, with (u_t, o_t) and (v_i, b_i) Gaussian about means and with
precisions that are drawn too (Bayesian probabilistic matrix factorisation: Salakhutdinov & Mnih 2008); some tasks grade more
erratically than others. Each side is drawn given the other.

Shapes: C + 1 id codes of rows, T tasks, N labels, E entities of one side or of a batch of them, W their labels at most, K = D + 1
factors, the last one of a task its offset, of a row its bias; M columns of all kept samples.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import wishart
from torch import Tensor
from torch.nn.functional import embedding

FACTORS = 24
"""D: factors of the labels. 16 to 64 give axes that are worth the same."""

SWEEPS, UNUSED, EVERY = 40, 10, 2
"""Draws of both sides; the first of them that only lead to where samples come from; of the others, one in EVERY is kept."""

NOISE_SHAPE = 8.0
"""Labels of prior evidence on a task's noise level, as of `alpaca`."""

LABELS_AT_ONCE = 32_768
"""Padded labels of a batch of entities; one of fewer labels than factors counts as if it had as many."""

SMALLEST_NOISE = 1e-3
"""Noise variance, in units of that of the labels."""


class _Batch(NamedTuple):
    """Entities of one side with about as many labels: who they are, whom of the other side each label is of, 0 where padded."""

    entity_E: Tensor
    other_EW: Tensor
    label_EW: Tensor
    here_EW: Tensor


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the table: `size` entities, how many labels each has (`count_E`), and those with labels in batches."""

    size: int
    count_E: Tensor
    batches: tuple[_Batch, ...]

    @classmethod
    def of(cls, entity_N: Tensor, other_N: Tensor, label_N: Tensor, size: int) -> "Side":
        """The side of labels `label_N` by the entities `entity_N` of it, `other_N` being those of the other side."""
        order_N = torch.argsort(entity_N, stable=True)
        other_N, label_N = other_N[order_N].int(), label_N[order_N]
        count_E = torch.bincount(entity_N, minlength=size)
        first_E = count_E.cumsum(0) - count_E
        by_count_E = torch.argsort(count_E, stable=True)[int((count_E == 0).sum()) :]
        batches, start = [], 0
        while start < len(by_count_E):
            # Padded to the largest of them, the last one.
            width_E = count_E[by_count_E[start : start + LABELS_AT_ONCE]].clamp_min(FACTORS + 1)
            fitting = int((width_E * torch.arange(1, len(width_E) + 1) <= LABELS_AT_ONCE).sum())
            part_E = by_count_E[start : start + max(1, fitting)]
            at_W = torch.arange(int(count_E[part_E].max()))
            here_EW = at_W < count_E[part_E][:, None]
            place_EW = (first_E[part_E][:, None] + at_W) * here_EW
            batches.append(_Batch(part_E, other_N[place_EW], label_N[place_EW], here_EW.float()))
            start += len(part_E)
        return cls(size=size, count_E=count_E, batches=tuple(batches))

    def drawn(
        self, other: "Factors", precision_E: Tensor, prior: tuple[Tensor, Tensor], noise_EK: Tensor
    ) -> tuple["Factors", Tensor]:
        """Factors given those of the other side and the prior's mean (K,) and precision (K, K); `noise_EK` are standard normals.

        A label's precision is that of its entity, `precision_E`, times that of the other's. Also the sum of the squared errors of
        each entity's labels (size,), in units of their precision.
        """
        center_K, prior_KK = prior
        root_KK = torch.linalg.cholesky(prior_KK.double()).float()
        factor_EK: Tensor = center_K + torch.linalg.solve_triangular(root_KK.mT, noise_EK.mT, upper=True).mT  # without labels
        error_E = torch.zeros(self.size)
        z_MK, shift_M = other.with_one, other.factor_EK[:, -1]
        for entity_E, other_EW, label_EW, here_EW in self.batches:
            root_EW = (precision_E[entity_E][:, None] * other.precision_E[other_EW]).sqrt() * here_EW
            rest_EW = (label_EW - shift_M[other_EW]) * root_EW
            z_EWK = embedding(other_EW, z_MK).mul_(root_EW[..., None])
            root_EKK = torch.linalg.cholesky((z_EWK.mT @ z_EWK).double() + prior_KK.double()).float()
            moment_EK = (z_EWK.mT @ rest_EW[..., None])[..., 0] + prior_KK @ center_K
            half_EK = torch.linalg.solve_triangular(root_EKK, moment_EK[..., None], upper=False) + noise_EK[entity_E][..., None]
            drawn_EK1 = torch.linalg.solve_triangular(root_EKK.mT, half_EK, upper=True)
            factor_EK[entity_E] = drawn_EK1[..., 0]
            error_E[entity_E] = (rest_EW - (z_EWK @ drawn_EK1)[..., 0]).square().sum(1)
        return Factors(factor_EK, precision_E), error_E


@dataclass(frozen=True)
class Factors:
    """Factors (E, K) of one side's entities, and the precision (E,) that their labels have beside that of the other's."""

    factor_EK: Tensor
    precision_E: Tensor

    @property
    def with_one(self) -> Tensor:
        """What the other side is regressed on: 1 in place of the last factor."""
        return torch.cat([self.factor_EK[:, :-1], torch.ones(len(self.factor_EK), 1)], 1)


class FactorSampler:
    """Gibbs sampling of both sides' factors, of their means and precisions and of the noise."""

    def __init__(
        self, task_N: Tensor, code_N: Tensor, label_N: Tensor, sizes: tuple[int, int], generator: torch.Generator
    ) -> None:
        self.generator = generator
        self.tasks = Side.of(task_N, code_N, label_N, sizes[0])
        self.rows = Side.of(code_N, task_N, label_N, sizes[1])
        # What is not Gaussian is drawn by numpy.
        self.random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def kept(self) -> Tensor:
        """Of each kept sample z_i' P^(-1/2), side by side (C + 1, samples K): the kernel is this times its transpose."""
        width = FACTORS + 1
        prior = torch.zeros(width), 4 * torch.eye(width)
        task_prior, row_prior = prior, prior
        rows = Factors(0.1 * self._normal(self.rows.size, width), torch.ones(self.rows.size))
        precision_T = torch.full((self.tasks.size,), 1 / 0.7)
        kept = range(UNUSED, SWEEPS, EVERY)
        root_CM = torch.zeros(self.rows.size, len(kept) * width)
        for sweep in range(SWEEPS):
            tasks, error_T = self.tasks.drawn(rows, precision_T, task_prior, self._normal(self.tasks.size, width))
            precision_T = self._precision(error_T / precision_T, precision_T)
            tasks = replace(tasks, precision_E=precision_T)
            rows, _ = self.rows.drawn(tasks, rows.precision_E, row_prior, self._normal(self.rows.size, width))
            task_prior = self._prior(tasks.factor_EK[self.tasks.count_E > 0])
            row_prior = self._prior(rows.factor_EK[self.rows.count_E > 0])
            if sweep in kept:
                root_KK = torch.linalg.cholesky(len(kept) * task_prior[1].double()).float()
                first = kept.index(sweep) * width
                root_CM[:, first : first + width] = torch.linalg.solve_triangular(root_KK, rows.with_one.mT, upper=False).mT
        return root_CM

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _prior(self, factor_EK: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (K,) and precision (K, K) of these factors, drawn given them (normal-Wishart: the paper's eq. 14)."""
        number, width = factor_EK.shape
        mean_K = factor_EK.double().mean(0)
        spread_KK = (factor_EK.double() - mean_K).mT @ (factor_EK.double() - mean_K)
        # The prior is worth two entities about the mean, 0, and K + 2 about the variances, .2 for each factor.
        center_K = mean_K * number / (number + 2)
        spread_KK += torch.outer(mean_K, mean_K) * 2 * number / (number + 2) + 0.2 * (width + 2) * torch.eye(width).double()
        scale_KK = torch.linalg.inv(spread_KK)
        drawn = wishart.rvs(number + width + 2, ((scale_KK + scale_KK.mT) / 2).numpy(), random_state=self.random)
        precision_KK = torch.from_numpy(np.asarray(drawn))
        root_KK = torch.linalg.cholesky(precision_KK * (number + 2))
        shift_K = torch.linalg.solve_triangular(root_KK.mT, self._normal(width, 1).double(), upper=True)[:, 0]
        return (center_K + shift_K).float(), precision_KK.float()

    def _precision(self, square_T: Tensor, precision_T: Tensor) -> Tensor:
        """The precision of each task's labels (T,), drawn given the sums of their squared errors.

        A task's noise is the mean one times what it is over that, which has NOISE_SHAPE labels of prior evidence.
        """
        count_T = self.tasks.count_E.double().numpy()
        square_T64 = square_T.double().numpy()
        mean = 1 / float(precision_T.double().mean())
        over_T = (NOISE_SHAPE + square_T64 / mean) / self.random.chisquare(NOISE_SHAPE + count_T)
        over_T *= np.mean(1 / over_T)
        drawn = max(float((square_T64 / over_T).sum()) / self.random.chisquare(count_T.sum()), SMALLEST_NOISE)
        return torch.from_numpy(1 / (drawn * over_T)).float()
