"""Ridge regression of many tasks at once on shared item vectors: how rating baselines fold in a support set."""

import numpy as np

from metarec.baselines.rating_tasks import Floats, RatingTasks

CHUNK = 512
"""Tasks solved at once: bounds memory to CHUNK x longest support x D."""


def fold_in(vector_ID: Floats, precision_D: Floats, residual_S: Floats, tasks: RatingTasks) -> Floats:
    """Coefficients (T, D) minimising sum over the support (residual - vector . w)^2 + w' diag(precision) w; 0 without support."""
    dim = vector_ID.shape[1]
    solved_TD = np.zeros((len(tasks), dim))
    size_T, first_T = tasks.shots_T, tasks.support_start_T1[:-1]
    # Tasks of like support size share a chunk, so that little is padded.
    order_T = np.argsort(size_T, kind="stable")
    order_T = order_T[size_T[order_T] > 0]
    for begin in range(0, len(order_T), CHUNK):
        part_T = order_T[begin : begin + CHUNK]
        place_TS = np.arange(size_T[part_T[-1]])
        mask_TS = place_TS < size_T[part_T][:, None]
        row_TS = np.where(mask_TS, first_T[part_T][:, None] + place_TS, 0)
        x_TSD = vector_ID[tasks.support_item_S[row_TS]] * mask_TS[..., None]
        y_TS = residual_S[row_TS] * mask_TS
        matrix_TDD = np.matmul(x_TSD.transpose(0, 2, 1), x_TSD) + np.diag(precision_D)
        moment_TD = np.matmul(x_TSD.transpose(0, 2, 1), y_TS[..., None])
        solved_TD[part_T] = np.linalg.solve(matrix_TDD, moment_TD)[..., 0]
    return solved_TD
