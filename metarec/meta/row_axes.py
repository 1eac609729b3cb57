"""Axes of who has a training row and how it is graded, from which the vectors of rows are built.

A row with few labels has next to nothing to learn its vector from, yet which tasks hold it, and which of them grade it higher
than they grade others, place it among better known rows. Both tables (tasks x rows; each entry over the roots of the sums of its
row and of its column, as in spectral clustering, Dhillon 2001) are cut down to their leading singular vectors (randomised
decomposition: Halko, Martinsson & Tropp 2011). Training then learns a known row's vector as id vector + axes M, with one map M
for all rows and a penalty on the id vector alone; `fold_axes` adds the two up, so that nothing served knows of axes. Joint
factorisation of ratings and co-occurrence (CoFactor: Liang et al. 2016) is after the same; this costs one decomposition.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from metarec.models.contract import MetaParams
from metarec.tasks.batch import EntityTable
from metarec.tasks.stats import LabelStats

Floats = NDArray[np.float64]

NORM = 2.8
"""Root mean square length of a row's axes."""

ROWS_PER_AXIS = 16
"""Known rows for each axis at least: a map of many axes learns the few rows of small data by heart."""

SMALLEST = 1e-6
"""Singular values below this share of the largest are numerical zeros."""


def row_axes(stats: LabelStats, rows: EntityTable, dim: int) -> Tensor:
    """Axes (C + 1, 2 dim) by id code: `dim` of who holds a row, then as many of how it is graded; 0 for code 0.

    Where there are fewer than ROWS_PER_AXIS rows for each, the last ones are 0. So are all those of rows on islands, which tasks
    connect with fewer rows than that: each island has a singular value of 1, and a few dozen would take up all axes.

    Grades are what remains of labels beyond the mean, the task's offset and the row's (`stats.offset_C1`).
    """
    layout, codes = stats.layout, rows.num_codes + 1
    axes_CA = np.zeros((codes, 2 * dim))
    if layout is None or not len(layout.row_N):
        return torch.from_numpy(axes_CA.astype(np.float32))
    code_N, task_N = rows.code_N.numpy()[layout.row_N], layout.row_tasks
    together_N = _off_islands(task_N, code_N, (len(layout), codes))
    rest_N = layout.label_N - stats.mean - stats.offset_C1.numpy()[code_N].astype(np.float64)
    offset_T = np.bincount(task_N, rest_N, minlength=len(layout)) / np.maximum(layout.counts, 1)
    rank = axes_for(len(np.unique(code_N[together_N & (code_N > 0)])), dim)
    for first, value_N in ((0, np.ones(len(code_N))), (dim, rest_N - offset_T[task_N])):
        table_TC = sp.csr_matrix((value_N * together_N, (task_N, code_N)), (len(layout), codes))
        axes_CA[:, first : first + rank] = _leading(table_TC, rank)
    axes_CA[0] = 0.0
    return torch.from_numpy((axes_CA * (NORM / np.sqrt(2 * max(rank, 1)))).astype(np.float32))


def axes_for(known: int, most: int) -> int:
    """How many axes, at most `most`, this many known rows may have."""
    return min(most, known // ROWS_PER_AXIS)


def _off_islands(task_N: NDArray[np.int64], code_N: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which entries of the table are in a connected part of ROWS_PER_AXIS rows or more."""
    both = sum(size)
    edges = sp.csr_matrix((np.ones(len(task_N)), (task_N, size[0] + code_N)), (both, both))
    part_B = connected_components(edges, directed=False)[1]
    rows_of_part = np.bincount(part_B[size[0] :])
    return np.asarray(rows_of_part[part_B[task_N]] >= ROWS_PER_AXIS, bool)


def _leading(table_TC: "sp.csr_matrix", dim: int) -> Floats:
    """Right singular vectors (C, dim) of the table between the roots of its sums, each with entries of mean square 1.

    Vectors beyond the rank of the table are 0.
    """
    size = abs(table_TC)
    root_T = np.sqrt(np.asarray(size.sum(1)).ravel())
    root_C = np.sqrt(np.asarray(size.sum(0)).ravel())
    scaled_TC = sp.diags(_inverse(root_T)) @ table_TC @ sp.diags(_inverse(root_C))
    found_CA = np.zeros((table_TC.shape[1], dim))
    if not dim:
        return found_CA
    _, value_R, right_RC = randomized_svd(scaled_TC, min(dim, *table_TC.shape), n_iter=6, random_state=0)
    kept = right_RC[value_R > SMALLEST * max(float(value_R.max(initial=0.0)), SMALLEST)].T
    found_CA[:, : kept.shape[1]] = kept * _inverse(np.sqrt(np.square(kept).mean(0)))
    return found_CA


def _inverse(value_N: Floats) -> Floats:
    return np.divide(1.0, value_N, out=np.zeros_like(value_N), where=value_N > SMALLEST)


def fold_axes(theta: MetaParams) -> MetaParams:
    """Theta with the part of vectors and biases that comes from axes added to the id's, and without axes; others as they are."""
    folded = {name: value for name, value in theta.items() if not name.startswith("axes.")}
    if "axes.row" in theta:
        axes_CA = theta["axes.row"]
        folded["row.id"] = theta["row.id"] + axes_CA @ theta["axes.map"]
        folded["row.id_bias"] = theta["row.id_bias"] + axes_CA @ theta["axes.bias"]
    return folded
