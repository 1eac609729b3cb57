"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, algorithm 1), second and first order.

The outer gradient differentiates the query loss through the inner steps; the first-order form (their section 5.2) takes the inner
gradients as constants. For recommendation as in MeLU (Lee et al. 2019): decision layers adapt, embeddings do not.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarec.meta.contract import Metrics
from metarec.meta.gradient import GradientLearner, gradient_scorer, live_parameters
from metarec.meta.objectives import task_loss
from metarec.models.contract import MetaParams, Scorer
from metarec.tasks.batch import TaskBatch


@dataclass(frozen=True, kw_only=True)
class Maml(GradientLearner):
    """MAML; `first_order=True` gives its first-order form."""

    name: ClassVar[str] = "maml"

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Gradient of the mean over tasks of the query loss after adaptation."""
        scorer, live = gradient_scorer(model), live_parameters(theta)
        known_I = self.known_rows(tasks.query.tables.rows, generator)
        inputs = scorer.inputs(live, tasks.support, known_I)
        fast = self.inner_loop(scorer, scorer.initial(live, tasks.support), inputs, tasks.support, outer=True)
        score_TQ = scorer.forward(fast, scorer.inputs(live, tasks.query, known_I))
        loss_T = task_loss(self.objective, score_TQ, tasks.query.label_TN, tasks.query.mask_TN)
        return self.outer_gradient(live, loss_T, tasks)


@dataclass(frozen=True, kw_only=True)
class FirstOrderMaml(Maml):
    """MAML in its first-order form, by its own name."""

    name: ClassVar[str] = "fomaml"

    first_order: bool = True
