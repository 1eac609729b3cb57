"""What learners that adapt by gradient steps share: settings, the inner loop and prediction.

All tasks of a batch step at once: fast weights have a leading T dimension and the gradient of the summed task losses with
respect to them holds each task's own gradient, because no task's loss depends on another's weights.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.contract import Metrics
from metarec.meta.objectives import Objective, check_objective, expected_label, start_score, task_loss
from metarec.models.contract import FastWeights, GradientScorer, MetaParams, Prediction, Scorer, ScorerInputs, trainable
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target


@dataclass(frozen=True, kw_only=True)
class GradientLearner:
    """Settings of the family.

    inner_lr, inner_steps: step size and number of steps of the inner loop
    first_order: treat the inner gradients as constants in the outer step
    objective: loss of a row, `squared_error` or `cross_entropy`
    id_dropout: share of row entities whose id is hidden in a step, so that content carries unknown ones
    l2_id: weight of the mean squared id embedding of the rows a batch touches
    """

    target: ClassVar[Target] = "explicit"
    default_model: ClassVar[str] = "melu"

    inner_lr: float = 0.02
    inner_steps: int = 2
    first_order: bool = False
    objective: Objective = "squared_error"
    id_dropout: float = 0.1
    l2_id: float = 0.3

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.inner_lr <= 0:
            raise ConfigError(f"inner_lr is {self.inner_lr}, must be positive", field="inner_lr")
        if self.inner_steps < 1:
            raise ConfigError(f"inner_steps is {self.inner_steps}, must be at least 1", field="inner_steps")
        if not 0 <= self.id_dropout < 1 or self.l2_id < 0:
            raise ConfigError("id_dropout must be in [0, 1) and l2_id not negative", field="id_dropout")

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """The model's parameters, centred on the mean label."""
        theta = model.init(tables, generator)
        return theta if stats is None else gradient_scorer(model).start_at(theta, start_score(self.objective, stats.mean))

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """The fast weights after `inner_steps` steps on the support loss; those of the prior without support."""
        scorer = gradient_scorer(model)
        # Serving calls this without gradients enabled; the inner loop needs them for the fast weights alone.
        with torch.enable_grad():
            fast = self.inner_loop(scorer, scorer.initial(theta, support), scorer.inputs(theta, support), support, outer=False)
        return {name: value.detach() for name, value in fast.items()}

    def inner_loop(
        self, scorer: GradientScorer, fast: FastWeights, inputs: ScorerInputs, support: Batch, *, outer: bool
    ) -> FastWeights:
        """Gradient steps from `fast` on the support loss; `outer` keeps the graph through them (unless first_order)."""
        through = outer and not self.first_order
        if not outer:
            inputs = (inputs[0].detach(), inputs[1].detach())
            fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
        for _ in range(self.inner_steps):
            loss_T = task_loss(self.objective, scorer.forward(fast, inputs), support.label_TN, support.mask_TN)
            names = sorted(fast)
            gradients = torch.autograd.grad(
                loss_T.sum(), [fast[name] for name in names], create_graph=through, retain_graph=outer
            )
            fast = {name: fast[name] - self.inner_lr * step for name, step in zip(names, gradients, strict=True)}
            if not outer:
                fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
        return fast

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """The expected label of each query row; no variance."""
        return Prediction(mean_TQ=expected_label(self.objective, model.score(theta, fast, query)))

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with embedded rows cached."""
        return gradient_scorer(model).prepare(theta, rows)

    def known_rows(self, rows: EntityTable, generator: torch.Generator) -> Tensor:
        """Which row entities keep their id in this step (bool, one per row of the table)."""
        return (torch.rand(len(rows), generator=generator) >= self.id_dropout).to(rows.code_N.device)

    def outer_gradient(self, live: MetaParams, loss_T: Tensor, tasks: TaskBatch) -> tuple[MetaParams, Metrics]:
        """Gradient of the weighted mean of task losses, plus the penalty on touched ids."""
        weight_T = tasks.weight_T.to(loss_T.dtype)
        loss = (weight_T * loss_T).sum() / weight_T.sum()
        objective = loss
        if self.l2_id and "row.id" in live:
            row_N = torch.unique(torch.cat([tasks.support.row_TN, tasks.query.row_TN], 1))
            id_NE = live["row.id"][tasks.query.tables.rows.code_N[row_N]]
            objective = loss + self.l2_id * id_NE.square().sum() / len(row_N)
        names = list(live)
        found = torch.autograd.grad(objective, [live[name] for name in names], allow_unused=True)
        gradient = {
            name: torch.zeros_like(live[name]) if value is None else value for name, value in zip(names, found, strict=True)
        }
        for name in ("row.id", "row.id_bias"):
            if name in gradient:
                gradient[name][0] = 0.0  # code 0 has no id: its row stays 0
        return gradient, {"loss": float(loss.detach()), "objective": float(objective.detach())}


def gradient_scorer(model: Scorer) -> GradientScorer:
    """The model as one that gradient learners can adapt. ConfigError for models that cannot be."""
    if not hasattr(model, "inputs"):
        raise ConfigError(f"model '{model.name}' cannot be adapted by gradient steps; use 'melu'", field="model")
    return cast(GradientScorer, model)


def live_parameters(theta: MetaParams) -> MetaParams:
    """Copies of the trainable parameters that record gradients."""
    return {name: value.detach().requires_grad_() for name, value in trainable(theta).items()}
