"""The meta-learner contract (DESIGN 4): what training, evaluation and serving know of a learner.

A learner is a frozen dataclass: the object is its configuration. It holds no tensors;
parameters travel as `MetaParams`.
"""

from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor

from metarec.models.contract import FastWeights, MetaParams, Prediction, Scorer
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target

Metrics = dict[str, float]
"""Scalars of one meta-step by name; always holds `loss` (mean query loss per task, what the outer loop minimises)."""


class MetaLearner(Protocol):
    """Learns theta over tasks and adapts it to one task.

    `adapt` is pure and deterministic, never touches global random state, and ignores padded rows. With an empty support set
    it returns the prior. `meta_gradient` returns the gradient of the outer step (for Reptile: its pseudo-gradient)
    under the names of theta, plus metrics; it may be random through `generator` only.
    """

    name: ClassVar[str]
    target: ClassVar[Target]
    default_model: ClassVar[str]
    """The scorer to use when nothing else is said."""

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """Initial theta for entity tables of these widths.

        `stats` (tasks.stats.label_stats of the training layout) lets means start at the data's; None starts them at 0.
        """
        ...

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """Fast weights of each task of `support`: tensors with a leading T dimension."""
        ...

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """Predictive mean (and variance) of each query row under the adapted weights."""
        ...

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Gradient of the outer objective over the tasks of the batch."""
        ...

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta plus whatever `adapt` and `predict` would otherwise recompute per call (keys `cache.*`); identity by default."""
        ...


class VectorLearner(MetaLearner, Protocol):
    """A learner whose score is linear in a vector of the task: it can drive retrieval and explain itself exactly."""

    def row_vectors(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> tuple[Tensor, Tensor]:
        """Vectors `phi_ID` and offsets `bias_I` of row entities, such that score = bias_I + phi_ID @ w_D."""
        ...

    def task_vector(self, fast: FastWeights) -> Tensor:
        """`w_TD` of adapted tasks, matching `row_vectors`."""
        ...

    def contributions(self, model: Scorer, theta: MetaParams, support: Batch, query: Batch) -> dict[str, Tensor]:
        """Exact terms of the mean: `global`, `item` and `profile` (T, Q), `support` (T, Q, S)."""
        ...


class TargetsLearner(VectorLearner, Protocol):
    """A vector learner of K targets that share the vector: `adapt` and `predict` read `Batch.target_TN`."""

    def target_maps(self, model: Scorer, theta: MetaParams) -> Tensor:
        """L (K, D, D), the identity first: the vector of target t is L_t' w."""
        ...

    def target_offsets(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> Tensor:
        """Offsets (I, K) such that the score of target t = offset + phi @ (L_t' w)."""
        ...


class ScaledLearner(MetaLearner, Protocol):
    """A learner that can be trained on labels of one scale and serve those of another."""

    def rescaled(self, theta: MetaParams, scale: float) -> MetaParams:
        """Theta that predicts `scale` times as much from labels `scale` times as large; to be used, not to be trained on."""
        ...


def takes_scale(learner: MetaLearner) -> TypeGuard[ScaledLearner]:
    """Whether the learner is one that can be rescaled."""
    return hasattr(learner, "rescaled")


def takes_targets(learner: MetaLearner) -> bool:
    """Whether the learner is one of several targets."""
    return hasattr(learner, "target_maps")
