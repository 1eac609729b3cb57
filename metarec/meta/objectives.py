"""What a prediction error costs, per row: squared error for ratings, cross-entropy for clicks and other yes-or-no labels."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metarec.errors import ConfigError

Objective = Literal["squared_error", "cross_entropy"]


def check_objective(objective: str) -> None:
    """ConfigError unless `objective` is known."""
    if objective not in get_args(Objective):
        raise ConfigError(f"objective '{objective}' is unknown; use one of {', '.join(get_args(Objective))}", field="objective")


def row_loss(objective: Objective, score_TN: Tensor, label_TN: Tensor) -> Tensor:
    """Loss of each row (T, N). For cross-entropy the scores are logits and the labels 0 or 1."""
    label_TN = label_TN.to(score_TN.dtype)
    if objective == "cross_entropy":
        return binary_cross_entropy_with_logits(score_TN, label_TN, reduction="none")
    return (score_TN - label_TN).square()


def row_slope(objective: Objective, score_TN: Tensor, label_TN: Tensor) -> Tensor:
    """Derivative of `row_loss` by the score (T, N)."""
    label_TN = label_TN.to(score_TN.dtype)
    return torch.sigmoid(score_TN) - label_TN if objective == "cross_entropy" else 2 * (score_TN - label_TN)


def task_loss(objective: Objective, score_TN: Tensor, label_TN: Tensor, mask_TN: Tensor) -> Tensor:
    """Mean loss of each task's rows (T,), 0 for tasks without any; padded rows do not count."""
    mask_TN = mask_TN.to(score_TN.dtype)
    return (row_loss(objective, score_TN, label_TN) * mask_TN).sum(1) / mask_TN.sum(1).clamp_min(1.0)


def expected_label(objective: Objective, score_TN: Tensor) -> Tensor:
    """The mean label that a score stands for: itself, or the probability of a logit."""
    return torch.sigmoid(score_TN) if objective == "cross_entropy" else score_TN


def start_score(objective: Objective, mean: float) -> float:
    """The score whose expected label is `mean`."""
    if objective == "squared_error":
        return mean
    share = min(max(mean, 1e-3), 1 - 1e-3)
    return float(torch.logit(torch.tensor(share, dtype=torch.float64)))
