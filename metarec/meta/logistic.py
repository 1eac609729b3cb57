"""Logistic regression on top of base rates, with a penalty on its squares: multinomial, or one for each class. By L-BFGS."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp

Doubles = NDArray[np.float64]

MAX_STEPS = 100
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def fit_logistic(
    x_NF: Doubles, y_NC: Doubles, base_NC: Doubles, penalty: float, *, exclusive: bool, start: Doubles | None = None
) -> Doubles:
    """Weights (F, C) that minimise the mean log loss of the logits base_NC + x W, plus penalty / 2 * their squares.

    `exclusive`: exactly one class of each row holds; else each class is there or not.
    """
    num_rows, num_classes = y_NC.shape
    start_FC = np.zeros((x_NF.shape[1], num_classes)) if start is None else start

    def objective(flat: Doubles) -> tuple[float, Doubles]:
        weight_FC = flat.reshape(start_FC.shape)
        logit_NC = base_NC + x_NF @ weight_FC
        if exclusive:
            total_N1 = logsumexp(logit_NC, axis=1, keepdims=True)
            loss = float((total_N1.sum() - (y_NC * logit_NC).sum()) / num_rows)
            error_NC = (np.exp(logit_NC - total_N1) - y_NC) / num_rows
        else:
            loss = -float((log_expit(logit_NC) - (1 - y_NC) * logit_NC).sum() / num_rows)
            error_NC = (expit(logit_NC) - y_NC) / num_rows
        slope_FC = x_NF.T @ error_NC + penalty * weight_FC
        return loss + penalty / 2 * float(np.square(weight_FC).sum()), slope_FC.ravel()

    found = minimize(objective, start_FC.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS})
    return cast(Doubles, found.x.reshape(start_FC.shape))


def tuned_logistic(
    x_NF: Doubles,
    y_NC: Doubles,
    base_NC: Doubles,
    aside_N: NDArray[np.bool_],
    *,
    exclusive: bool,
    penalties: Sequence[float] = PENALTIES,
) -> Doubles:
    """Weights (F, C) fitted on all rows, with the penalty that predicts the rows `aside_N` best when fitted on the others."""
    if aside_N.all() or not aside_N.any():
        return fit_logistic(x_NF, y_NC, base_NC, penalties[0], exclusive=exclusive)
    best, lowest = penalties[0], np.inf
    weight_FC = None
    for penalty in penalties:
        # From strong to weak, each from the one before.
        weight_FC = fit_logistic(x_NF[~aside_N], y_NC[~aside_N], base_NC[~aside_N], penalty, exclusive=exclusive, start=weight_FC)
        logit_NC = base_NC[aside_N] + x_NF[aside_N] @ weight_FC
        fit_NC = y_NC[aside_N]
        if exclusive:
            loss = float((logsumexp(logit_NC, axis=1) - (fit_NC * logit_NC).sum(1)).mean())
        else:
            loss = -float((log_expit(logit_NC) - (1 - fit_NC) * logit_NC).mean())
        if loss >= lowest:
            break
        best, lowest = penalty, loss
    return fit_logistic(x_NF, y_NC, base_NC, best, exclusive=exclusive, start=weight_FC)


def tuned_in_turn(
    parts: Sequence[Doubles], y_NC: Doubles, base_C: Doubles, aside_N: NDArray[np.bool_], *, exclusive: bool
) -> Doubles:
    """Weights of all columns of `parts` side by side; each has a penalty of its own and explains what those before leave."""
    base_NC, weights = np.broadcast_to(base_C, y_NC.shape), []
    for x_NF in parts:
        weights.append(tuned_logistic(x_NF, y_NC, base_NC, aside_N, exclusive=exclusive))
        base_NC = base_NC + x_NF @ weights[-1]
    return np.concatenate(weights)
