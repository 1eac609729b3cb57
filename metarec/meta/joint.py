"""Joint training: one model for the pooled rows of all tasks, fine-tuned on a task's support set when it is met.

The simplest form of transfer, and the reference that says what meta-learning itself buys (DESIGN 4.3, Delta_joint).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarec.meta.gradient import GradientLearner
from metarec.meta.inner import Form, Inputs
from metarec.meta.objectives import row_loss
from metarec.models.contract import MetaParams
from metarec.tasks.batch import TaskBatch


@dataclass(frozen=True, kw_only=True)
class Joint(GradientLearner):
    """Pooled training and gradient fine-tuning."""

    name: ClassVar[str] = "joint"

    def outer_loss(self, form: Form, theta: MetaParams, support: Inputs, query: Inputs, tasks: TaskBatch) -> Tensor:
        """Each task's loss on all its rows, without adaptation. Learned rates follow the query loss after fine-tuning."""
        total_T, count_T = torch.zeros((), device=support[0].device), torch.zeros((), device=support[0].device)
        for part, inputs in ((tasks.support, support), (tasks.query, query)):
            score_TN = form.score(theta, form.start(theta, part), inputs)
            mask_TN = part.mask_TN.to(score_TN.dtype)
            total_T = total_T + (row_loss(self.objective, score_TN, part.label_TN) * mask_TN).sum(1)
            count_T = count_T + mask_TN.sum(1)
        return total_T / count_T.clamp_min(1.0) + self.rate_loss(form, theta, support, query, tasks)
