"""The outer loss of `alpaca_implicit`: a whole catalogue asked for the rows of each task's query set.

Shapes: T tasks, S support rows, Q query rows, I items, C items of the outer loss.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarec.tasks.batch import Batch, TaskBatch

SECONDS_PER_DAY = 86_400.0


def multinomial_loss(score_TC: Tensor, relevant_TC: Tensor, weight_TC: Tensor, softness: float) -> Tensor:
    """Negative log-likelihood (T,) of what is relevant; probabilities are proportional to the smooth positive part of scores.

    `weight_TC` is 0 for support items and above 1 for items that stand for unsampled ones; `softness` is in units of the score.
    """
    positive_TC = relevant_TC.to(score_TC.dtype)
    rate_TC = softness * softplus(score_TC / softness) + 1e-6
    total_T = (weight_TC * rate_TC).sum(1)
    return torch.log(total_T) - (positive_TC * torch.log(rate_TC)).sum(1) / positive_TC.sum(1).clamp_min(1.0)


def squared_loss(score_TC: Tensor, relevant_TC: Tensor, weight_TC: Tensor) -> Tensor:
    """Squared distance (T,) of the scores from 1 where relevant and 0 elsewhere, over the number of relevant items."""
    positive_TC = relevant_TC.to(score_TC.dtype)
    return (weight_TC * (positive_TC - score_TC).square()).sum(1) / positive_TC.sum(1).clamp_min(1.0)


def recency(query: Batch, range_days: Tensor, fraction: float) -> Tensor:
    """Outer weight (T,) of a task by its newest query row: the tasks to come resemble the newest ones.

    `range_days` holds the newest time and the length of the training time; `fraction` of that length divides a weight by e.
    """
    last, span = range_days
    if query.timestamp_TN is None or not fraction or not span > 0:
        return torch.ones(query.num_tasks, dtype=range_days.dtype, device=query.row_TN.device)
    newest_T = torch.where(query.mask_TN, query.timestamp_TN, 0.0).amax(1) / SECONDS_PER_DAY
    return torch.exp(-(last - newest_T).clamp_min(0.0) / (fraction * span)).to(range_days.dtype)


def occurring(batch: Batch, num_rows: int) -> Tensor:
    """Which rows (T, I) occur among the unmasked entries of a batch."""
    found_TI = torch.zeros(batch.num_tasks, num_rows + 1, dtype=torch.bool, device=batch.row_TN.device)
    found_TI.scatter_(1, torch.where(batch.mask_TN, batch.row_TN, num_rows), True)
    return found_TI[:, :num_rows]


def columns(tasks: TaskBatch, num_items: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Items of the outer loss and how many each stands for: all of them, or the batch's own plus a sample of `most`."""
    device = tasks.query.row_TN.device
    if num_items <= most:
        return torch.arange(num_items, device=device), torch.ones(num_items, device=device)
    own_I = (occurring(tasks.query, num_items) | occurring(tasks.support, num_items)).any(0)
    others = torch.nonzero(~own_I)[:, 0]
    order = torch.randperm(len(others), generator=generator)[:most].to(device)
    own = torch.nonzero(own_I)[:, 0]
    scale = len(others) / max(1, len(order))
    return torch.cat([own, others[order]]), torch.cat(
        [torch.ones(len(own), device=device), torch.full((len(order),), scale, device=device)]
    )
