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
        if x_TSD.shape[1] < dim and (precision_D > 0).all():
            # Fewer rows than dimensions: the equal dual solve, P^-1 X' (X P^-1 X' + I)^-1 y, is the smaller one.
            scaled_TSD = x_TSD / precision_D
            kernel_TSS = np.matmul(scaled_TSD, x_TSD.transpose(0, 2, 1)) + np.eye(x_TSD.shape[1])
            solved_TD[part_T] = np.einsum("ts,tsd->td", np.linalg.solve(kernel_TSS, y_TS[..., None])[..., 0], scaled_TSD)
            continue
        matrix_TDD = np.matmul(x_TSD.transpose(0, 2, 1), x_TSD) + np.diag(precision_D)
        moment_TD = np.matmul(x_TSD.transpose(0, 2, 1), y_TS[..., None])
        solved_TD[part_T] = np.linalg.solve(matrix_TDD, moment_TD)[..., 0]
    return solved_TD
