"""Axes of how rows are graded, from a Bayesian factorisation of the labels, from which the vectors of rows are built.

The label of task t on row i is mu + b_i + u_t' v_i + o_t plus noise, with (u_t, o_t) and (v_i, b_i) Gaussian about means and with
precisions that are drawn too (Bayesian probabilistic matrix factorisation: Salakhutdinov & Mnih 2008); some tasks grade more
erratically than others. Gibbs sampling draws one side given the other. A single best vector of a row with few labels is mostly
what its penalty makes of it; a posterior knows how little it knows, and its mean over samples is not drawn to what one of them
has learned by heart. What outer training needs of it is which rows go together: with z_i = (v_i, 1) and P the precision of tasks,

    k(i, j) = mean over samples of z_i' P^-1 z_j,

the covariance of what a task says of i and of j. No sample's coordinates are another's, but all agree on this; its leading
eigenvectors, each as long as it has variance, are the axes.

Shapes: C + 1 id codes of rows, T tasks, N labels, E entities of a batch, W their labels at most, K = D + 1 factors, the last one
of a task its offset, of a row its bias.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import wishart
from torch import Tensor

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
"""Labels are rounded to this part of their deviation: draws make the last bit of a label grow to what can be seen, and which one
that is depends on the unit the labels come in."""

LABELS_AT_ONCE = 131_072
"""Padded labels of a batch of entities."""

ROWS_AT_ONCE = 65_536
"""Rows that are taken to double precision at a time."""

SMALLEST_NOISE = 1e-4
"""Noise variance, in units of that of the labels."""


def sampled_axes(stats: LabelStats, rows: EntityTable, dim: int, generator: torch.Generator) -> Tensor:
    """Axes (C + 1, `dim`) by id code, of root mean square length 1 over known rows; 0 for code 0.

    The last ones are 0 where there are fewer rows than it takes (metarec.meta.row_axes.ROWS_PER_AXIS) or fewer factors; all are
    where labels do not vary.
    """
    axes_CA = torch.zeros(rows.num_codes + 1, dim)
    layout = stats.layout
    if layout is None or not len(layout.row_N) or layout.label_N.min() == layout.label_N.max():
        return axes_CA
    code_N, task_N = rows.code_N[torch.from_numpy(layout.row_N)], torch.from_numpy(layout.row_tasks)
    known_N = code_N > 0
    rank = axes_for(len(np.unique(code_N[known_N].numpy())), dim)
    if not rank:
        return axes_CA
    label_N = (STEPS * (torch.from_numpy(layout.label_N)[known_N].double() - stats.mean) / stats.std).round().float() / STEPS
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # whose number must not matter to a bit; a chain of draws makes a difference of a rounding grow
    try:
        sampler = _Sampler(task_N[known_N], code_N[known_N], label_N, (len(layout), rows.num_codes + 1), generator)
        held_C1 = torch.zeros(rows.num_codes + 1, 1).index_fill_(0, code_N[known_N], 1.0)  # the others are what the prior drew
        found_CR = _leading(sampler.kept() * held_C1, rank)
    finally:
        torch.set_num_threads(before)
    axes_CA[:, : found_CR.shape[1]] = found_CR / found_CR[1:].square().sum(1).mean().sqrt().clamp_min(1e-12)
    return axes_CA


def _leading(part_CM: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors (C, rank) of part part', each times the root of its eigenvalue, the largest entry positive."""
    gram_MM = torch.zeros(part_CM.shape[1], part_CM.shape[1], dtype=torch.float64)
    for some_CM in part_CM.split(ROWS_AT_ONCE):
        gram_MM += some_CM.double().mT @ some_CM.double()
    vector_MR = torch.linalg.eigh(gram_MM)[1].flip(1)[:, :rank]
    axes_CR: Tensor = torch.cat([some_CM.double() @ vector_MR for some_CM in part_CM.split(ROWS_AT_ONCE)])
    sign_R = axes_CR.gather(0, axes_CR.abs().argmax(0, keepdim=True)).sign()
    return (axes_CR * sign_R).float()


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One side of the table: its entities in batches of about as many labels, and where these are.

    `other_N` are the entities of the other side and `order_N` the labels' places, both sorted by entity; of each batch: the
    entities (E,), the places of their labels in that order (E, W), and 1 where there is one (E, W).
    """

    size: int
    order_N: Tensor
    other_N: Tensor
    batches: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @classmethod
    def of(cls, entity_N: Tensor, other_N: Tensor, size: int) -> "_Side":
        order_N = torch.argsort(entity_N, stable=True)
        count_E = torch.bincount(entity_N, minlength=size)
        first_E = count_E.cumsum(0) - count_E
        by_count_E = torch.argsort(count_E, stable=True)[int((count_E == 0).sum()) :]
        batches, start = [], 0
        while start < len(by_count_E):
            # Padded to the largest of them, the last one.
            width_E = count_E[by_count_E[start:]]
            fitting = int((width_E * torch.arange(1, len(width_E) + 1) <= LABELS_AT_ONCE).sum())
            part_E = by_count_E[start : start + max(1, fitting)]
            at_W = torch.arange(int(count_E[part_E].max()))
            here_EW = at_W < count_E[part_E][:, None]
            place_EW = (first_E[part_E][:, None] + at_W) * here_EW
            batches.append((part_E, place_EW, here_EW.float()))
            start += len(part_E)
        return cls(size=size, order_N=order_N, other_N=other_N[order_N], batches=tuple(batches))

    def drawn(
        self, other_MK: Tensor, rest_N: Tensor, precision_N: Tensor, center_K: Tensor, prior_KK: Tensor, noise_EK: Tensor
    ) -> Tensor:
        """Factors (size, K) given those of the other side: regression of `rest_N` (in the labels' own order, of precision
        `precision_N`) on them, about a prior of mean `center_K` and precision `prior_KK`; `noise_EK` are standard normals."""
        rest_N, precision_N = rest_N[self.order_N], precision_N[self.order_N]
        root_KK = torch.linalg.cholesky(prior_KK.double()).float()
        factor_EK: Tensor = center_K + torch.linalg.solve_triangular(root_KK.mT, noise_EK.mT, upper=True).mT  # who has no label
        for part_E, place_EW, here_EW in self.batches:
            z_EWK = other_MK[self.other_N[place_EW]]
            weighted_EKW = (z_EWK * (precision_N[place_EW] * here_EW)[..., None]).mT
            root_EKK = torch.linalg.cholesky((weighted_EKW @ z_EWK).double() + prior_KK.double()).float()
            moment_EK = (weighted_EKW @ rest_N[place_EW][..., None])[..., 0] + prior_KK @ center_K
            half_EK = torch.linalg.solve_triangular(root_EKK, moment_EK[..., None], upper=False) + noise_EK[part_E][..., None]
            factor_EK[part_E] = torch.linalg.solve_triangular(root_EKK.mT, half_EK, upper=True)[..., 0]
        return factor_EK


class _Sampler:
    """Gibbs sampling of both sides' factors, of their means and precisions and of the noise."""

    def __init__(
        self, task_N: Tensor, code_N: Tensor, label_N: Tensor, sizes: tuple[int, int], generator: torch.Generator
    ) -> None:
        self.task_N, self.code_N, self.label_N, self.generator = task_N, code_N, label_N, generator
        self.tasks, self.rows = _Side.of(task_N, code_N, sizes[0]), _Side.of(code_N, task_N, sizes[1])
        # What is not Gaussian is drawn by numpy.
        self.random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def kept(self) -> Tensor:
        """Of each kept sample z_i' P^(-1/2), side by side (C + 1, samples K): the kernel is this times its transpose."""
        width = FACTORS + 1
        row_CK = 0.1 * self._normal(self.rows.size, width)
        task_TK = torch.zeros(self.tasks.size, width)
        eye_KK = torch.eye(width)
        task_prior, row_prior = (torch.zeros(width), 4 * eye_KK), (torch.zeros(width), 4 * eye_KK)
        held_T, held_C = (torch.bincount(at_N, minlength=size) > 0 for at_N, size in self._ends())
        noise, erratic_T = 0.7, torch.ones(self.tasks.size)
        kept = range(UNUSED, SWEEPS, EVERY)
        root_CM = torch.zeros(self.rows.size, len(kept) * width)
        for sweep in range(SWEEPS):
            precision_N = 1 / (noise * erratic_T[self.task_N])
            z_CK = _with_one(row_CK)
            rest_N = self.label_N - row_CK[self.code_N, -1]
            task_TK = self.tasks.drawn(z_CK, rest_N, precision_N, *task_prior, self._normal(self.tasks.size, width))
            rest_N = self.label_N - task_TK[self.task_N, -1]
            row_CK = self.rows.drawn(_with_one(task_TK), rest_N, precision_N, *row_prior, self._normal(self.rows.size, width))
            task_prior, row_prior = self._prior(task_TK[held_T]), self._prior(row_CK[held_C])
            error_N = (rest_N - (_with_one(task_TK)[self.task_N] * row_CK[self.code_N]).sum(1)).square()
            noise, erratic_T = self._noise(error_N, noise)
            if sweep in kept:
                root_KK = torch.linalg.cholesky(len(kept) * task_prior[1].double()).float()
                first = kept.index(sweep) * width
                root_CM[:, first : first + width] = torch.linalg.solve_triangular(root_KK, _with_one(row_CK).mT, upper=False).mT
        return root_CM

    def _ends(self) -> tuple[tuple[Tensor, int], tuple[Tensor, int]]:
        return (self.task_N, self.tasks.size), (self.code_N, self.rows.size)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _prior(self, factor_EK: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (K,) and precision (K, K) of these factors, drawn given them (normal-Wishart: the paper's eq. 14)."""
        number, width = factor_EK.shape
        mean_K = factor_EK.double().mean(0)
        spread_KK = (factor_EK.double() - mean_K).mT @ (factor_EK.double() - mean_K)
        # The prior is worth a few entities, at 0 and of variance .2 for each factor.
        center_K = mean_K * number / (number + 2)
        spread_KK += torch.outer(mean_K, mean_K) * 2 * number / (number + 2) + 0.2 * (width + 2) * torch.eye(width).double()
        scale_KK = torch.linalg.inv(spread_KK)
        drawn = wishart.rvs(number + width + 2, ((scale_KK + scale_KK.mT) / 2).numpy(), random_state=self.random)
        precision_KK = torch.from_numpy(np.asarray(drawn))
        root_KK = torch.linalg.cholesky(precision_KK * (number + 2))
        shift_K = torch.linalg.solve_triangular(root_KK.mT, self._normal(width, 1).double(), upper=True)[:, 0]
        return (center_K + shift_K).float(), precision_KK.float()

    def _noise(self, error_N: Tensor, noise: float) -> tuple[float, Tensor]:
        """The noise variance and what each task's is over it (T,), drawn given the squared errors."""
        error_T = torch.bincount(self.task_N, error_N, minlength=self.tasks.size).numpy() / noise
        count_T = torch.bincount(self.task_N, minlength=self.tasks.size).numpy()
        erratic_T = (NOISE_SHAPE + error_T) / self.random.chisquare(NOISE_SHAPE + count_T)
        erratic_T *= np.mean(1 / erratic_T)
        drawn_T = torch.from_numpy(erratic_T).float()
        total = float((error_N / drawn_T[self.task_N]).sum())
        return max(total / self.random.chisquare(len(error_N)), SMALLEST_NOISE), drawn_T


def _with_one(factor_EK: Tensor) -> Tensor:
    """The factors with 1 in place of the last one."""
    return torch.cat([factor_EK[:, :-1], torch.ones(len(factor_EK), 1)], 1)
