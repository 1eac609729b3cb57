"""Label statistics of the training tasks, from which a learner may start its parameters (mean, row means)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarec.tasks.batch import EntityTable
from metarec.tasks.layout import TaskLayout

ALIKE = 1.25
"""Deviations less than this factor apart are one scale. Grades from 1 to 5 deviate by .9 to 1.4 nearly everywhere: what settings
fit as it is stays as it is, to the last bit."""


@dataclass(frozen=True, kw_only=True)
class LabelStats:
    """What the labels of the training rows look like.

    `mean` and `std` of the labels (1 where they do not vary: there is no unit then); `offset_C1` (float32, num_codes + 1) the
    shrunken mean deviation of each row entity by id code, 0 for code 0; `count_C1` (float32) its number of rows.
    `layout` holds the rows themselves. `extra` are those of further targets.
    """

    mean: float
    std: float
    offset_C1: Tensor
    count_C1: Tensor
    layout: TaskLayout | None = None
    extra: tuple["LabelStats", ...] = ()


def label_stats(layout: TaskLayout, rows: EntityTable, *, shrinkage: float = 5.0) -> LabelStats:
    """Statistics of `layout`; a row entity with n labels keeps n / (n + shrinkage) of its mean deviation, after each task's own
    shrunken offset (many generous raters do not make an item good)."""
    extra = tuple(_stats(layout.of_target(k), rows, shrinkage) for k in range(layout.num_extra))
    return replace(_stats(layout, rows, shrinkage), extra=extra)


def _stats(layout: TaskLayout, rows: EntityTable, shrinkage: float) -> LabelStats:
    if len(layout.label_N) == 0:
        zero = torch.zeros(rows.num_codes + 1)
        return LabelStats(mean=0.0, std=1.0, offset_C1=zero, count_C1=zero.clone(), layout=layout)
    label_N = layout.label_N.astype(np.float64)
    mean = float(label_N.mean())
    task_N, count_T = layout.row_tasks, layout.counts
    code_N = rows.code_N.numpy()[layout.row_N]
    count_C1 = np.bincount(code_N, minlength=rows.num_codes + 1).astype(np.float64)
    offset_C1 = np.zeros(rows.num_codes + 1)
    # Two sweeps of backfitting are as good as convergence at this shrinkage.
    for _ in range(2):
        rest_N = label_N - mean - offset_C1[code_N]
        offset_T = np.bincount(task_N, rest_N, minlength=len(layout)) / (count_T + shrinkage)
        rest_N = label_N - mean - offset_T[task_N]
        offset_C1 = np.bincount(code_N, rest_N, minlength=rows.num_codes + 1) / (count_C1 + shrinkage)
        offset_C1[0] = 0.0
    return LabelStats(
        mean=mean,
        std=float(label_N.std()) if label_N.min() < label_N.max() else 1.0,
        offset_C1=torch.from_numpy(offset_C1.astype(np.float32)),
        count_C1=torch.from_numpy(count_C1.astype(np.float32)),
        layout=layout,
    )


def scale_over(label_N: NDArray[np.floating], std: float) -> float:
    """The deviation of these labels over `std`; 1 where both are about the same, or labels do not vary."""
    if not len(label_N) or label_N.min() == label_N.max():
        return 1.0
    scale = float(label_N.std(dtype=np.float64)) / std
    return 1.0 if 1 / ALIKE < scale < ALIKE else scale
