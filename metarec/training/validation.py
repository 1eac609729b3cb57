"""Validation of one head on held-out users: fixed episodes, the same in every epoch and for every worker."""

import math

import numpy as np
import torch
from torch import Tensor

from metarec.meta.alpaca_terms import bounded_squares
from metarec.meta.prior import Head
from metarec.models.linear_targets import units
from metarec.tasks.batch import Tables, TaskBatch
from metarec.tasks.layout import TaskLayout
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.training.batches import tasks_on

TOP = 10


def validation_sampler(layout: TaskLayout, tables: Tables, config: EpisodeConfig, seed: int, max_tasks: int) -> EpisodeSampler:
    """The episodes of validation: at most `max_tasks` tasks, drawn once from the seed."""
    tasks = np.flatnonzero(layout.counts >= config.min_query)
    chosen = np.random.default_rng([seed, len(tasks)]).permutation(tasks)[:max_tasks]
    return EpisodeSampler(layout.select(np.sort(chosen)), tables, config, seed)


def validate(head: Head, sampler: EpisodeSampler, tables: Tables) -> dict[str, Tensor]:
    """`loss` (what early stopping watches: lower is better) and what people read, of each task (float64, on the CPU).

    Explicit heads: the mean error of the task as training counts it (squared, or linear beyond the learner's `huber`), and `mae`;
    of several targets the errors are added in units of their variance as training does, and `mae` is the label's. Implicit heads:
    `ndcg@10` of the query items among all items that are not in the support, and loss = 1 - ndcg. Empty without validation tasks.
    """
    if sampler.num_tasks == 0:
        return {}
    head = head.prepared(tables.rows)
    score = _ranking if head.target == "implicit" else _errors
    parts = [score(head, tasks_on(tasks, tables)) for tasks in sampler.epoch(0)]
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def as_good(loss_T: Tensor, lowest_T: Tensor) -> bool:
    """Whether an epoch with these losses is not shown, by two standard errors over tasks, to be worse than the lowest one.

    Where steps become smaller towards the end, the later of two epochs that the tasks cannot tell apart is the better bet: a few
    hundred of them always find some epoch in the middle the best by luck: the lowest of two dozen is lower than a typical one by
    more than a standard error as a rule.
    """
    worse_T = loss_T - lowest_T
    error = float(worse_T.std()) / math.sqrt(len(worse_T)) if len(worse_T) > 1 else 0.0
    return float(worse_T.mean()) <= 2 * error


def _errors(head: Head, tasks: TaskBatch) -> dict[str, Tensor]:
    fast = head.learner.adapt(head.model, head.theta, tasks.support)
    mean_TQ = head.learner.predict(head.model, head.theta, fast, tasks.query).mean_TQ.detach()
    mask_TQ = tasks.query.mask_TN.to(mean_TQ.dtype)
    error_TQ = (mean_TQ - tasks.query.label_TN) * mask_TQ
    several = tasks.query.target_TN is not None
    unit_TQ = units(head.theta)[tasks.query.targets_TN] if several else torch.ones_like(error_TQ)
    loss_TQ = bounded_squares(error_TQ, unit_TQ, getattr(head.learner, "huber", 0.0))
    if several:
        std_K = head.theta["range.std"]
        loss_TQ = loss_TQ * (std_K[0] / std_K)[tasks.query.targets_TN].square()
        mask_TQ = mask_TQ * (tasks.query.targets_TN == 0)
    count_T = mask_TQ.sum(1).clamp_min(1.0)
    return {"loss": loss_TQ.sum(1) / count_T, "mae": (error_TQ * mask_TQ).abs().sum(1) / count_T}


def _ranking(head: Head, tasks: TaskBatch) -> dict[str, Tensor]:
    learner, rows = head.learner, tasks.query.tables.rows
    fast = learner.adapt(head.model, head.theta, tasks.support)
    phi_ID, bias_I = learner.row_vectors(head.model, head.theta, rows)  # type: ignore[attr-defined]  # implicit heads are linear
    score_TI = (bias_I + learner.task_vector(fast) @ phi_ID.T).detach()  # type: ignore[attr-defined]  # as above
    ndcg_T = ranking_ndcg(score_TI, tasks)
    return {"loss": 1 - ndcg_T, "ndcg@10": ndcg_T}


def ranking_ndcg(score_TI: Tensor, tasks: TaskBatch) -> Tensor:
    """nDCG@10 (T, float64) of the query items when all items but those of the support are ranked by `score_TI`."""
    num_rows = score_TI.shape[1]
    score_TI = score_TI.masked_fill(_members(tasks.support.row_TN, tasks.support.mask_TN, num_rows), -math.inf)
    relevant_TI = _members(tasks.query.row_TN, tasks.query.mask_TN, num_rows)
    top = min(TOP, num_rows)
    gain_K = 1 / torch.log2(torch.arange(2, top + 2, device=score_TI.device, dtype=torch.float64))
    hit_TK = relevant_TI.gather(1, score_TI.topk(top, dim=1).indices).double()
    best_T = torch.cumsum(gain_K, 0)[relevant_TI.sum(1).clamp(1, top) - 1]
    return (hit_TK * gain_K).sum(1) / best_T


def _members(row_TN: Tensor, mask_TN: Tensor, num_rows: int) -> Tensor:
    """Which rows (T, I) occur among the unmasked entries."""
    found_TI = torch.zeros(len(row_TN), num_rows + 1, dtype=torch.bool, device=row_TN.device)
    found_TI.scatter_(1, torch.where(mask_TN, row_TN, num_rows), True)
    return found_TI[:, :num_rows]
