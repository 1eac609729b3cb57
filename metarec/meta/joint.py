"""Joint training: one model for the pooled rows of all tasks, fine-tuned on a task's support set when it is met.

The simplest form of transfer, and the reference that says what meta-learning itself buys (DESIGN 4.3, Delta_joint).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarec.meta.contract import Metrics
from metarec.meta.gradient import GradientLearner, gradient_scorer, live_parameters
from metarec.meta.objectives import row_loss
from metarec.models.contract import MetaParams, Scorer
from metarec.tasks.batch import TaskBatch


@dataclass(frozen=True, kw_only=True)
class Joint(GradientLearner):
    """Pooled training and gradient fine-tuning."""

    name: ClassVar[str] = "joint"

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Gradient of the mean over tasks of the loss on all their rows, without adaptation."""
        scorer, live = gradient_scorer(model), live_parameters(theta)
        known_I = self.known_rows(tasks.query.tables.rows, generator)
        total_T = torch.zeros_like(tasks.weight_T)
        count_T = torch.zeros_like(tasks.weight_T)
        for part in (tasks.support, tasks.query):
            score_TN = scorer.forward(scorer.initial(live, part), scorer.inputs(live, part, known_I))
            mask_TN = part.mask_TN.to(score_TN.dtype)
            total_T = total_T + (row_loss(self.objective, score_TN, part.label_TN) * mask_TN).sum(1)
            count_T = count_T + mask_TN.sum(1)
        return self.outer_gradient(live, total_T / count_T.clamp_min(1.0), tasks)
