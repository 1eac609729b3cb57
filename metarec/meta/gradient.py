"""What learners that adapt by gradient steps share: settings, adaptation, prediction and the outer step.

All tasks of a batch step at once, in the dual form (metarec.meta.dual) where scorer and rates fit it, else elementwise
(metarec.meta.inner). A learner of the family adds its outer loss.

Rates can be learned with everything else (`learned_rates`; Li et al. 2017; Antoniou et al. 2019, section 4): `rate.*` in theta
multiply `inner_lr`, start at 1 and may change sign.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.adversarial import adversarial_loss
from metarec.meta.augmentation import augmented
from metarec.meta.contract import Metrics
from metarec.meta.dual import DualForm
from metarec.meta.inner import ElementwiseForm, Form, Inputs, Rates, last
from metarec.meta.label_unit import inside, outside, rescaled
from metarec.meta.objectives import Objective, check_objective, expected_label, start_score, task_loss
from metarec.models.contract import FastWeights, GradientScorer, LayeredScorer, MetaParams, Prediction, Scorer, trainable
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target

LearnedRates = Literal["none", "one", "layer", "element"]


@dataclass(frozen=True, kw_only=True)
class GradientLearner:
    """Settings of the family.

    inner_lr, inner_steps: step size and number of steps of the inner loop
    learned_rates: `none`; `one` factor on inner_lr is learned, one per `layer` (weight or bias), or one per `element` of them
    objective: loss of a row, `squared_error` or `cross_entropy`
    id_dropout: share of row entities whose id is hidden in a step, so that content carries unknown ones
    label_shift: spread of a random shift of each task's labels; for cross-entropy the share of tasks with labels swapped
    adversarial, adversarial_size: share of perturbed rows in the outer loss; length of a perturbation beside the row's own
    l2_id: weight of the mean squared id embedding of the rows a batch touches
    """

    target: ClassVar[Target] = "explicit"
    default_model: ClassVar[str] = "melu"

    inner_lr: float = 0.02
    inner_steps: int = 2
    learned_rates: LearnedRates = "none"
    objective: Objective = "squared_error"
    id_dropout: float = 0.1
    label_shift: float = 0.0
    adversarial: float = 0.0
    adversarial_size: float = 0.1
    l2_id: float = 0.3

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.inner_lr <= 0:
            raise ConfigError(f"inner_lr is {self.inner_lr}, must be positive", field="inner_lr")
        if self.inner_steps < 1:
            raise ConfigError(f"inner_steps is {self.inner_steps}, must be at least 1", field="inner_steps")
        if self.learned_rates not in get_args(LearnedRates):
            known = ", ".join(get_args(LearnedRates))
            raise ConfigError(f"learned_rates '{self.learned_rates}' is unknown; use one of {known}", field="learned_rates")
        if not 0 <= self.id_dropout < 1:
            raise ConfigError(f"id_dropout is {self.id_dropout}, must be in [0, 1)", field="id_dropout")
        if not 0 <= self.adversarial <= 1:
            raise ConfigError(f"adversarial is {self.adversarial}, must be in [0, 1]", field="adversarial")
        for name in ("label_shift", "adversarial_size", "l2_id"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative", field=name)
        if self.objective == "cross_entropy" and self.label_shift > 1:
            raise ConfigError(f"label_shift is {self.label_shift}, a share of tasks here: at most 1", field="label_shift")

    def form(self, model: Scorer) -> Form:
        """How this learner steps on `model`; inner gradients are constants unless it says otherwise."""
        return self.make_form(model, first_order=True)

    def make_form(self, model: Scorer, *, first_order: bool) -> Form:
        """The dual form where the model and the rates fit it."""
        scorer = gradient_scorer(model)
        if hasattr(model, "layers") and self.learned_rates != "element":
            return DualForm(scorer=cast(LayeredScorer, model), objective=self.objective, first_order=first_order)
        return ElementwiseForm(scorer=scorer, objective=self.objective, first_order=first_order)

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """The model's parameters, centred on the mean label, and factors of 1 for learned rates."""
        scorer = gradient_scorer(model)
        theta = dict(model.init(tables, generator))
        if stats is not None:
            theta = scorer.start_at(theta, start_score(self.objective, stats.mean))
        if self.learned_rates == "one":
            return {**theta, "rate.all": torch.ones(())}
        if self.learned_rates == "none":
            return theta
        shapes = self.form(model).shapes(theta, tables)
        each = {name: shape if self.learned_rates == "element" else torch.Size() for name, shape in shapes.items()}
        return {**theta, **{f"rate.{name}": torch.ones(shape) for name, shape in each.items()}}

    def rates(self, theta: MetaParams) -> Rates:
        """Rate of each weight that adapts."""
        if self.learned_rates in ("none", "one"):
            shared = self.inner_lr * theta["rate.all"] if self.learned_rates == "one" else self.inner_lr
            return defaultdict(lambda: shared)
        return {name.removeprefix("rate."): self.inner_lr * value for name, value in theta.items() if name.startswith("rate.")}

    def adapted(self, form: Form, theta: MetaParams, inputs: Inputs, support: Batch) -> FastWeights:
        """Fast weights after the inner loop."""
        return last(form.path(theta, inputs, support, self.rates(theta), self.inner_steps))

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """The fast weights after `inner_steps` steps on the support loss; those of the prior without support."""
        form, support = self.form(model), inside(theta, support)
        with torch.no_grad():
            return self.adapted(form, theta, form.inputs(theta, support), support)

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """The expected label of each query row; no variance."""
        return outside(theta, Prediction(mean_TQ=expected_label(self.objective, model.score(theta, fast, query))))

    def rescaled(self, theta: MetaParams, scale: float) -> MetaParams:
        """Theta that predicts `scale` times as much from labels `scale` times as large."""
        return rescaled(theta, scale)

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with embedded rows cached."""
        return gradient_scorer(model).prepare(theta, rows)

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Gradient of the weighted mean of the tasks' outer losses, plus the penalty on touched ids."""
        form, live = self.form(model), live_parameters(theta)
        known_I = self.known_rows(tasks.query.tables.rows, generator)
        tasks = augmented(tasks, self.objective, self.label_shift, generator)
        inputs = form.both(live, tasks, known_I)
        if not self.adversarial:
            return self.outer_gradient(live, self.outer_loss(form, live, *inputs, tasks), tasks)
        loss_T = adversarial_loss(
            form,
            live,
            inputs,
            tasks,
            lambda support, query: self.outer_loss(form, live, support, query, tasks),
            lambda theta, support: self.adapted(form, theta, support, tasks.support),
            objective=self.objective,
            share=self.adversarial,
            size=self.adversarial_size,
        )
        return self.outer_gradient(live, loss_T, tasks)

    def outer_loss(self, form: Form, theta: MetaParams, support: Inputs, query: Inputs, tasks: TaskBatch) -> Tensor:
        """What the outer step minimises, for each task (T,): here the query loss after adaptation."""
        fast = self.adapted(form, theta, support, tasks.support)
        return task_loss(self.objective, form.score(theta, fast, query), tasks.query.label_TN, tasks.query.mask_TN)

    def rate_loss(self, form: Form, theta: MetaParams, support: Inputs, query: Inputs, tasks: TaskBatch) -> Tensor | float:
        """For learners whose own outer loss does not depend on the rates: 0 whose gradient is that of the query loss by them."""
        if self.learned_rates == "none":
            return 0.0
        fixed = {name: value if name.startswith("rate.") else value.detach() for name, value in theta.items()}
        still = [tuple(value.detach() for value in part) for part in (support, query)]
        loss_T = GradientLearner.outer_loss(self, form, fixed, still[0], still[1], tasks)
        return loss_T - loss_T.detach()

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
