"""Which rows are taken by the same tasks, as axes: cosine neighbours (Sarwar et al. 2001) of few dimensions.

The covariance that the prior starts from (models/catalogue_start.py) counts tasks, so it is about rows that many take. The cosine
n_ij / sqrt((n_i + beta) (n_j + beta)) counts shares of a row's own tasks: two rows that few take, but the same few, are near. As
it is a Gram matrix of the scaled table of tasks and rows, its leading axes are that table's singular vectors (Eckart & Young
1936), and what is near a support set is an inner product like every other part of the score.
"""

import numpy as np
import scipy.sparse as sp

from metarec.models.catalogue_start import Floats, leading_vectors
from metarec.tasks.layout import TaskLayout

SHRINKAGE = 30.0
"""beta: tasks below which a row is near nothing."""


def neighbour_axes(layout: TaskLayout, dim: int) -> Floats:
    """`near_IN` (I, dim): near_i' near_j is the cosine of rows i and j, as far as `dim` axes go; axes beyond the data's are 0."""
    near_IN = np.zeros((layout.num_rows, dim))
    if not dim or not len(layout.row_N):
        return near_IN
    task_N = np.unique(layout.row_tasks, return_inverse=True)[1]
    count_I = np.bincount(layout.row_N, minlength=layout.num_rows)
    scaled_N = 1 / np.sqrt(count_I[layout.row_N] + SHRINKAGE)
    scaled_TI = sp.csr_matrix((scaled_N, (task_N, layout.row_N)), (int(task_N.max()) + 1, layout.num_rows))
    rank = min(dim, min(scaled_TI.shape) - 1)
    if rank < 1:
        return near_IN
    _, value_R, right_RI = leading_vectors(scaled_TI, np.zeros(layout.num_rows), rank)
    near_IN[:, : len(value_R)] = right_RI.T * value_R
    return near_IN
