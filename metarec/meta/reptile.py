"""Reptile (Nichol, Achiam & Schulman 2018, algorithm 2): move to where gradient steps on a task's own rows lead.

Its outer step is not the gradient of a loss. After k steps from phi to W the pseudo-gradient (phi - W) / (rate k), their section
2, is the mean of the inner gradients along the path, each at its own weights. Here the embeddings do not adapt within a task;
theirs is the same mean along the path, the limit of stepping them at a vanishing rate. A task's rows are support and query
together.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from metarec.meta.gradient import GradientLearner
from metarec.meta.inner import Form, Inputs
from metarec.meta.objectives import task_loss
from metarec.models.contract import FastWeights, MetaParams
from metarec.tasks.batch import TaskBatch


@dataclass(frozen=True, kw_only=True)
class Reptile(GradientLearner):
    """Reptile; one inner step is joint training."""

    name: ClassVar[str] = "reptile"

    inner_steps: int = 3

    def outer_loss(self, form: Form, theta: MetaParams, support: Inputs, query: Inputs, tasks: TaskBatch) -> Tensor:
        """Mean loss of a task's rows along the path, whose gradient is Reptile's. Learned rates follow the query loss instead."""
        rows = replace(
            tasks.support,
            row_TN=torch.cat([tasks.support.row_TN, tasks.query.row_TN], 1),
            label_TN=torch.cat([tasks.support.label_TN, tasks.query.label_TN], 1),
            mask_TN=torch.cat([tasks.support.mask_TN, tasks.query.mask_TN], 1),
            timestamp_TN=None,
        )
        inputs = form.joined(support, query)
        fixed = {name: value.detach() if name.startswith("rate.") else value for name, value in theta.items()}
        weights: list[FastWeights] = [form.start(fixed, rows)]
        # The weights after the last step take part in no inner gradient.
        weights += form.path(fixed, inputs, rows, self.rates(fixed), self.inner_steps - 1)
        total_T = torch.zeros((), device=inputs[0].device)
        for fast in weights:
            total_T = total_T + task_loss(self.objective, form.score(fixed, fast, inputs), rows.label_TN, rows.mask_TN)
        return total_T / self.inner_steps + self.rate_loss(form, theta, support, query, tasks)
