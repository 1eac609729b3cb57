"""Neural process: adaptation amortised into one forward pass of a set encoder.

Conditional neural processes (Garnelo et al. 2018, eqs. 1-3) encode a support set and predict mean and variance of every query
row given the code; attentive ones (Kim et al. 2019) let each query row attend to the support rows. Nothing is solved and nothing
is descended: what adapting should do is learned from episodes. The code of a task is its keys, values and residuals, one per
support row, and one pooled vector (metarec.models.attentive_set).

The mean minimises squared error (or cross-entropy) and the variance maximises the likelihood at that mean; letting the likelihood
move the mean as well would weigh rows by how sure the model is of them. A noise level of its own is kept for unknown rows.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.augmentation import augmented
from metarec.meta.contract import Metrics
from metarec.meta.label_unit import inside, outside, rescaled
from metarec.meta.objectives import Objective, check_objective, expected_label, row_loss, start_score
from metarec.models.attentive_set import AttentiveSet, Features
from metarec.models.contract import FastWeights, MetaParams, Prediction, Scorer, trainable
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target


@dataclass(frozen=True, kw_only=True)
class NeuralProcess:
    """Settings.

    objective: loss of a row, `squared_error` or `cross_entropy`
    id_dropout: share of row entities whose id is hidden in a step, so that content carries unknown ones
    cold_tasks: share of tasks in a step whose rows are all shown without ids
    label_shift: spread of a random shift of each task's labels; for cross-entropy the share of tasks with labels swapped
    l2_id, l2_bias: weights of the mean squared id vector and id bias of the rows a batch touches
    l2_content: weight of the squared content maps
    """

    name: ClassVar[str] = "neural_process"
    target: ClassVar[Target] = "explicit"
    default_model: ClassVar[str] = AttentiveSet.name

    objective: Objective = "squared_error"
    id_dropout: float = 0.1
    cold_tasks: float = 0.1
    label_shift: float = 0.0
    l2_id: float = 0.5
    l2_bias: float = 0.05
    l2_content: float = 0.0

    def __post_init__(self) -> None:
        check_objective(self.objective)
        for name in ("id_dropout", "cold_tasks"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be in [0, 1)", field=name)
        for name in ("label_shift", "l2_id", "l2_bias", "l2_content"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative", field=name)

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """The model's parameters; `stats` sets mu, the row biases and the scale of the noise."""
        theta = dict(model.init(tables, generator))
        if stats is None:
            return theta
        theta["mu"] = torch.tensor(start_score(self.objective, stats.mean))
        if self.objective == "squared_error":
            theta["row.id_bias"] = stats.offset_C1.clone()
            theta["noise.log_var"] = torch.full((2,), math.log(0.7 * stats.std**2 + 1e-6))
        return theta

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """`key`, `value` (T, S, H), `residual`, `mask` (T, S) and `taste` (T, D + 1): one forward pass."""
        with torch.no_grad():
            return self._encode(_encoder(model), theta, inside(theta, support), None)

    def _encode(self, model: AttentiveSet, theta: MetaParams, support: Batch, known_TS: Tensor | None) -> FastWeights:
        features = model.features(theta, support, known_TS)
        expected_TS = expected_label(self.objective, model.prior(theta, features, support))
        return model.encode(theta, features, support, support.label_TN.to(expected_TS.dtype) - expected_TS)

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """Predictive mean and variance of the label; of a yes-or-no label p and p (1 - p)."""
        encoder = _encoder(model)
        unknown_TQ = query.tables.rows.code_N[query.row_TN] == 0
        score_TQ, log_var_TQ = self._decode(encoder, theta, fast, encoder.features(theta, query), query, unknown_TQ)
        mean_TQ = expected_label(self.objective, score_TQ)
        binary = self.objective == "cross_entropy"
        variance_TQ = mean_TQ * (1 - mean_TQ) if binary else torch.exp(log_var_TQ)
        return outside(theta, Prediction(mean_TQ=mean_TQ, variance_TQ=variance_TQ))

    def rescaled(self, theta: MetaParams, scale: float) -> MetaParams:
        """Theta that predicts `scale` times as much from labels `scale` times as large."""
        return rescaled(theta, scale)

    def _decode(
        self, model: AttentiveSet, theta: MetaParams, fast: FastWeights, features: Features, query: Batch, unknown_TQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores and log variances (T, Q), the latter around the noise level of known or unknown rows."""
        score_TQ, log_var_TQ = model.decode(theta, fast, features, query)
        return score_TQ, log_var_TQ + theta["noise.log_var"][unknown_TQ.to(torch.int64)]

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Gradient of the mean over tasks of the mean query loss, the likelihood of the variance and the penalties."""
        encoder, live = _encoder(model), {name: value.detach().requires_grad_() for name, value in trainable(theta).items()}
        rows = tasks.query.tables.rows
        keep_I = (torch.rand(len(rows), generator=generator) >= self.id_dropout).to(rows.code_N.device)
        warm_T = (torch.rand(tasks.query.num_tasks, generator=generator) >= self.cold_tasks).to(rows.code_N.device)
        tasks = augmented(tasks, self.objective, self.label_shift, generator)
        support, query = tasks.support, tasks.query
        known_TS, known_TQ = (keep_I[part.row_TN] & warm_T[:, None] for part in (support, query))
        fast = self._encode(encoder, live, support, known_TS)
        unknown_TQ = (rows.code_N[query.row_TN] == 0) | ~known_TQ
        features = encoder.features(live, query, known_TQ)
        score_TQ, log_var_TQ = self._decode(encoder, live, fast, features, query, unknown_TQ)

        mask_TQ = query.mask_TN.to(score_TQ.dtype)
        weight_TQ = mask_TQ / mask_TQ.sum(1, keepdim=True).clamp_min(1.0)
        weight_TQ = weight_TQ * (tasks.weight_T.to(score_TQ.dtype) / tasks.weight_T.sum())[:, None]
        cost_TQ = row_loss(self.objective, score_TQ, query.label_TN)
        error = (weight_TQ * cost_TQ).sum()
        metrics = {"loss": float(error.detach())}
        loss = error
        if self.objective == "squared_error":
            nll = (weight_TQ * 0.5 * (cost_TQ.detach() * torch.exp(-log_var_TQ) + log_var_TQ)).sum()
            metrics["nll"] = float(nll.detach())
            loss = loss + nll
        row_N = torch.unique(torch.cat([support.row_TN, query.row_TN], 1))
        for name, weight in (("row.id", self.l2_id), ("row.id_bias", self.l2_bias)):
            if weight:
                loss = loss + weight * live[name][rows.code_N[row_N]].square().sum() / len(row_N)
        if self.l2_content:
            loss = loss + self.l2_content * (live["row.content"].square().sum() + live["row.content_bias"].square().sum())
        names = list(live)
        found = torch.autograd.grad(loss, [live[name] for name in names], allow_unused=True)
        gradient = {
            name: torch.zeros_like(live[name]) if value is None else value for name, value in zip(names, found, strict=True)
        }
        for name in ("row.id", "row.id_bias"):
            gradient[name][0] = 0.0  # code 0 has no id: its row stays 0
        return gradient, {**metrics, "objective": float(loss.detach())}

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with the vectors of all `rows` cached."""
        return _encoder(model).prepare(theta, rows)


def _encoder(model: Scorer) -> AttentiveSet:
    if model.name != AttentiveSet.name:
        raise ConfigError(f"learner 'neural_process' needs model 'attentive_set', got '{model.name}'", field="model")
    return cast(AttentiveSet, model)
