"""Regularisation against task overfitting: tasks that cannot be solved without their support set.

A meta-learner can memorise what a task's profile says about its labels and ignore the support. Meta-augmentation (Rajendran,
Irpan & Jang 2020, section 4) adds one random change per task to the labels of support and query alike, so that only the support
tells it: a shift of ratings, or yes and no swapped.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from metarec.meta.objectives import Objective
from metarec.tasks.batch import Batch, TaskBatch


def augmented(tasks: TaskBatch, objective: Objective, amount: float, generator: torch.Generator) -> TaskBatch:
    """Labels shifted by N(0, amount^2) per task; for cross-entropy swapped in a share `amount` of tasks. 0 changes nothing.

    Tasks without support stay as they are: nothing could tell them.
    """
    if not amount:
        return tasks
    label_TN = tasks.query.label_TN
    seen_T1 = tasks.support.mask_TN.any(1, keepdim=True)
    if objective == "cross_entropy":
        chosen_T1 = (torch.rand(len(label_TN), 1, generator=generator) < amount).to(label_TN.device) & seen_T1
        return _with_labels(tasks, lambda batch: torch.where(chosen_T1, 1 - batch.label_TN, batch.label_TN))
    shift_T1 = amount * torch.randn(len(label_TN), 1, generator=generator).to(label_TN.device) * seen_T1
    return _with_labels(tasks, lambda batch: batch.label_TN + shift_T1.to(batch.label_TN.dtype))


def _with_labels(tasks: TaskBatch, change: Callable[[Batch], Tensor]) -> TaskBatch:
    support, query = (replace(part, label_TN=change(part)) for part in (tasks.support, tasks.query))
    return replace(tasks, support=support, query=query)
