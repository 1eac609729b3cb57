"""Which rows are taken by the same tasks, as axes: two models of neighbours whose scores are inner products.

The covariance that the prior starts from (models/catalogue_start.py) says how tasks differ. Neighbourhood models tell apart
what it does not, alone and beside it, and both here are Gram matrices whose leading axes are singular vectors of a table of
tasks and rows (Eckart & Young 1936):

- the cosine n_ij / sqrt((n_i + beta) (n_j + beta)) counts shares of a row's own tasks, where a covariance is about rows that many
  take: two rows that few take, but the same few, are near (Sarwar et al. 2001);
- ridge regression of every row on all that a task holds, G (G + lambda)^-1 with G = X' X: what EASE (Steck 2019) is but for its
  diagonal, which only concerns rows that are held already. Its scale is that of a share, and grows with what there is to know.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from metarec.models.catalogue_start import Floats, leading_vectors
from metarec.models.contract import MetaParams
from metarec.tasks.layout import TaskLayout

SHRINKAGE = 30.0
"""beta: tasks below which a row is near nothing."""

RIDGE = 1000.0
"""lambda of the regression."""


def cosine_axes(layout: TaskLayout, dim: int) -> Floats:
    """`axes_IN` (I, dim): axes_i' axes_j is the cosine of rows i and j, as far as `dim` axes go; axes beyond the data's are 0."""
    count_I = np.bincount(layout.row_N, minlength=layout.num_rows)
    value_R, right_RI = _axes(layout, 1 / np.sqrt(count_I + SHRINKAGE), dim)
    return _padded(right_RI.T * value_R, dim)


def ridge_axes(layout: TaskLayout, dim: int) -> Floats:
    """`axes_IN` (I, dim): the sum over a task's rows j of axes_i' axes_j is what regression expects of row i, likewise."""
    value_R, right_RI = _axes(layout, np.ones(layout.num_rows), dim)
    return _padded(right_RI.T * (value_R / np.sqrt(value_R**2 + RIDGE)), dim)


def without_neighbours(theta: MetaParams, phi_IE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of rows without their coordinates here, for likeness: every popular row is near every other one."""
    return phi_IE[:, : phi_IE.shape[1] - theta["near.id"].shape[1]] if "near.id" in theta else phi_IE


def _axes(layout: TaskLayout, scale_I: Floats, dim: int) -> tuple[Floats, Floats]:
    """The leading singular values (R,) and right singular vectors (R, I) of the table of tasks and rows, its columns scaled."""
    task_T, task_N = np.unique(layout.row_tasks, return_inverse=True)
    table_TI = sp.csr_matrix((scale_I[layout.row_N], (task_N, layout.row_N)), (len(task_T), layout.num_rows))
    rank = min(dim, min(table_TI.shape) - 1)
    if rank < 1:
        return np.zeros(0), np.zeros((0, layout.num_rows))
    _, value_R, right_RI = leading_vectors(table_TI, np.zeros(layout.num_rows), rank)
    return value_R, right_RI


def _padded(axes_IR: Floats, dim: int) -> Floats:
    return np.pad(axes_IR, ((0, 0), (0, dim - axes_IR.shape[1])))
