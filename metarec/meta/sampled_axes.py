"""Axes of how rows are graded, from a Bayesian factorisation of the labels, from which the vectors of rows are built.

The label of task t on row i is mu + b_i + u_t' v_i + o_t plus noise, with (u_t, o_t) and (v_i, b_i) Gaussian about means and with
precisions that are drawn too (Bayesian probabilistic matrix factorisation: Salakhutdinov & Mnih 2008); some tasks grade more
erratically than others. Gibbs sampling draws one side given the other. A single best vector of a row with few labels is mostly
what its penalty makes of it; a posterior knows how little it knows, and its mean over samples is not drawn to what one of them
has learned by heart. What outer training needs of it is which rows go together: with z_i = (v_i, 1) and P the precision of tasks,

    k(i, j) = mean over samples of z_i' P^-1 z_j,

the covariance of what a task says of i and of j. No sample's coordinates are another's, but all agree on this; its leading
eigenvectors, each as long as it has variance, are the axes.

Shapes: C + 1 id codes of rows, T tasks, N labels, E entities of one side or of a batch of them, W their labels at most, K = D + 1
factors, the last one of a task its offset, of a row its bias; A axes, R of them found; M columns of all kept samples.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import wishart
from torch import Tensor
from torch.nn.functional import embedding

from metarec.meta.row_axes import axes_for
from metarec.tasks.batch import EntityTable
from metarec.tasks.stats import LabelStats

FACTORS = 24
"""D: factors of the labels. 16 to 64 give axes that are worth the same."""

SWEEPS, UNUSED, EVERY = 40, 10, 2
"""Draws of both sides; the first of them that only lead to where samples come from; of the others, one in EVERY is kept."""

NOISE_SHAPE = 8.0
"""Labels of prior evidence on a task's noise level, as of `alpaca`."""

STEPS = 64
"""Labels are rounded to this part of their deviation: a chain of draws makes the last bit of a label grow to what can be seen,
and what that bit is depends on the unit the labels come in (tests/unit/training/test_label_scale.py)."""

LABELS_AT_ONCE = 32_768
"""Padded labels of a batch of entities; one of fewer labels than factors counts as if it had as many."""

LABELS_PER_ROW = 100
"""Labels of a row on average from which on there are axes. With 220 (MovieLens-1M) they help; with 50 (MovieLens-100K) they tell
mostly what the labels were of which training asks, and held-out tasks are predicted worse."""

MOST_TASKS, MOST_ROWS = 50_000, 100_000
"""More tasks than these are drawn from; of more rows, those of most labels have axes."""

ROWS_AT_ONCE = 65_536
"""Rows that are taken to double precision at a time."""

SMALLEST_NOISE = 1e-3
"""Noise variance, in units of that of the labels."""


def sampled_axes(stats: LabelStats, rows: EntityTable, dim: int, generator: torch.Generator) -> Tensor:
    """Axes (C + 1, `dim`) by id code, of root mean square length 1 over rows with labels; 0 for others and code 0.

    The last ones are 0 where there are fewer rows than it takes (metarec.meta.row_axes.ROWS_PER_AXIS) or fewer factors; all are
    where rows have fewer than LABELS_PER_ROW labels on average, or labels do not vary.
    """
    axes_CA = torch.zeros(rows.num_codes + 1, dim)
    layout = stats.layout
    if layout is None or not len(layout.row_N) or layout.label_N.min() == layout.label_N.max():
        return axes_CA
    code_N, task_N = rows.code_N[torch.from_numpy(layout.row_N)], torch.from_numpy(layout.row_tasks)
    here_N = _within_limits(task_N, code_N, (len(layout), rows.num_codes + 1), generator)
    code_N, task_N = code_N[here_N], task_N[here_N]
    held_C = torch.bincount(code_N, minlength=rows.num_codes + 1) > 0
    rank = axes_for(int(held_C.sum()), dim)
    if not rank or len(code_N) < LABELS_PER_ROW * int(held_C.sum()):
        return axes_CA
    label_N = (STEPS * (torch.from_numpy(layout.label_N)[here_N].double() - stats.mean) / stats.std).round().float() / STEPS
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # whose number must not matter to a bit; a chain of draws makes a difference of a rounding grow
    try:
        sampler = _Sampler(task_N, code_N, label_N, (len(layout), rows.num_codes + 1), generator)
        found_CR = _leading(sampler.kept().mul_(held_C[:, None]), rank)  # the others are what the prior drew
    finally:
        torch.set_num_threads(before)
    axes_CA[:, : found_CR.shape[1]] = found_CR / found_CR[held_C].square().sum(1).mean().sqrt().clamp_min(1e-12)
    return axes_CA


def _within_limits(task_N: Tensor, code_N: Tensor, sizes: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Which labels (N,) count: those of known rows, of MOST_TASKS tasks at most, of the MOST_ROWS rows with most of these."""
    here_N = code_N > 0
    if len(held_T := torch.bincount(task_N[here_N], minlength=sizes[0]).nonzero()[:, 0]) > MOST_TASKS:
        drawn_T = torch.zeros(sizes[0], dtype=torch.bool)
        drawn_T[held_T[torch.randperm(len(held_T), generator=generator)[:MOST_TASKS]]] = True
        here_N = here_N & drawn_T[task_N]
    count_C = torch.bincount(code_N[here_N], minlength=sizes[1])
    if int((count_C > 0).sum()) > MOST_ROWS:
        most_C = torch.zeros(sizes[1], dtype=torch.bool)
        most_C[torch.argsort(count_C, descending=True, stable=True)[:MOST_ROWS]] = True
        here_N = here_N & most_C[code_N]
    return here_N


def _leading(part_CM: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors (C, rank) of part part', each times the root of its eigenvalue, the largest entry positive."""
    gram_MM = torch.zeros(part_CM.shape[1], part_CM.shape[1], dtype=torch.float64)
    for some_CM in torch.split(part_CM, ROWS_AT_ONCE):
        gram_MM += some_CM.double().mT @ some_CM.double()
    vector_MR = torch.linalg.eigh(gram_MM)[1].flip(1)[:, :rank]
    axes_CR: Tensor = torch.cat([some_CM.double() @ vector_MR for some_CM in torch.split(part_CM, ROWS_AT_ONCE)])
    sign_R = axes_CR.gather(0, axes_CR.abs().argmax(0, keepdim=True)).sign()
    return (axes_CR * sign_R).float()


class _Batch(NamedTuple):
    """Entities of one side with about as many labels: who they are, whom of the other side each label is of, 0 where padded."""

    entity_E: Tensor
    other_EW: Tensor
    label_EW: Tensor
    here_EW: Tensor


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One side of the table: `size` entities, how many labels each has (`count_E`), and those with labels in batches."""

    size: int
    count_E: Tensor
    batches: tuple[_Batch, ...]

    @classmethod
    def of(cls, entity_N: Tensor, other_N: Tensor, label_N: Tensor, size: int) -> "_Side":
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
        self, other: "_Factors", precision_E: Tensor, prior: tuple[Tensor, Tensor], noise_EK: Tensor
    ) -> tuple["_Factors", Tensor]:
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
        return _Factors(factor_EK, precision_E), error_E


@dataclass(frozen=True)
class _Factors:
    """Factors (E, K) of one side's entities, and the precision (E,) that their labels have beside that of the other's."""

    factor_EK: Tensor
    precision_E: Tensor

    @property
    def with_one(self) -> Tensor:
        """What the other side is regressed on: 1 in place of the last factor."""
        return torch.cat([self.factor_EK[:, :-1], torch.ones(len(self.factor_EK), 1)], 1)


class _Sampler:
    """Gibbs sampling of both sides' factors, of their means and precisions and of the noise."""

    def __init__(
        self, task_N: Tensor, code_N: Tensor, label_N: Tensor, sizes: tuple[int, int], generator: torch.Generator
    ) -> None:
        self.generator = generator
        self.tasks = _Side.of(task_N, code_N, label_N, sizes[0])
        self.rows = _Side.of(code_N, task_N, label_N, sizes[1])
        # What is not Gaussian is drawn by numpy.
        self.random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def kept(self) -> Tensor:
        """Of each kept sample z_i' P^(-1/2), side by side (C + 1, samples K): the kernel is this times its transpose."""
        width = FACTORS + 1
        prior = torch.zeros(width), 4 * torch.eye(width)
        task_prior, row_prior = prior, prior
        rows = _Factors(0.1 * self._normal(self.rows.size, width), torch.ones(self.rows.size))
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
