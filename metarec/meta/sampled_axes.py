"""Axes of how rows are graded, from a Bayesian factorisation of the labels, from which the vectors of rows are built.

A single best vector of a row with few labels is mostly what its penalty makes of it; a posterior (metarec.meta.label_factors)
knows how little it knows, and its mean over samples is not drawn to what one of them has learned by heart. What outer training
needs of it is which rows go together: with z_i = (v_i, 1) and P the precision of tasks,

    k(i, j) = mean over samples of z_i' P^-1 z_j,

the covariance of what a task says of i and of j. No sample's coordinates are another's, but all agree on this; its leading
eigenvectors, each as long as it has variance, are the axes.

Shapes: C + 1 id codes of rows, T tasks, N labels, A axes, R of them found, M columns of all kept samples.
"""

import torch
from torch import Tensor

from metarec.meta.label_factors import FactorSampler
from metarec.meta.row_axes import axes_for
from metarec.tasks.batch import EntityTable
from metarec.tasks.stats import LabelStats
from metarec.threads import one_core

STEPS = 64
"""Labels are rounded to this part of their deviation: a chain of draws makes the last bit of a label grow to what can be seen,
and what that bit is depends on the unit the labels come in (tests/unit/training/test_label_scale.py)."""

LABELS_PER_ROW = 100
"""Labels of a row on average from which on there are axes. With 220 (MovieLens-1M) they help; with 50 (MovieLens-100K) they tell
mostly what the labels were of which training asks, and held-out tasks are predicted worse."""

MOST_TASKS, MOST_ROWS = 50_000, 100_000
"""More tasks than these are drawn from; of more rows, those of most labels have axes."""

ROWS_AT_ONCE = 65_536
"""Rows that are taken to double precision at a time."""


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
    with one_core():  # a chain of draws makes a difference of a rounding grow
        sampler = FactorSampler(task_N, code_N, label_N, (len(layout), rows.num_codes + 1), generator)
        found_CR = _leading(sampler.kept().mul_(held_C[:, None]), rank)  # the others are what the prior drew
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
