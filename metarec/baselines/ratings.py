"""Plain rating predictors that need no vectors: means and biases.

Every one is fitted once on the training ratings and then predicts any task from its support set, so known and brand-new
users go through the same door. Fitted baselines are plain objects: they live for one evaluation and are never saved.
"""

from typing import ClassVar, Protocol, Self

import numpy as np

from metarec.baselines.rating_tasks import Floats, Ints, RatingData, RatingTasks
from metarec.errors import ConfigError


class RatingBaseline(Protocol):
    """A plain rating predictor."""

    name: ClassVar[str]

    def fit(self, train: RatingData) -> Self:
        """Learn from all ratings of `train`; returns the object itself."""
        ...

    def predict(self, tasks: RatingTasks) -> Floats:
        """Predicted label (Q,) of every query row, not clipped to the range of labels."""
        ...


class SupportMean:
    """The mean of the support labels; the training mean without support."""

    name: ClassVar[str] = "support_mean"

    def fit(self, train: RatingData) -> Self:
        """Remember the training mean."""
        self.mean = _mean(train)
        return self

    def predict(self, tasks: RatingTasks) -> Floats:
        """One value per task."""
        total_T = np.bincount(tasks.support_task_S, tasks.support_label_S, minlength=len(tasks))
        value_T = np.where(tasks.shots_T > 0, total_T / np.maximum(tasks.shots_T, 1), self.mean)
        picked: Floats = value_T[tasks.query_task_Q]
        return picked


class ItemMean:
    """The item's mean training label, shrunk towards the mean of all: popularity, as ratings know it."""

    name: ClassVar[str] = "item_mean"

    def __init__(self, shrinkage: float = 5.0) -> None:
        _check_shrinkage(shrinkage)
        self.shrinkage = shrinkage

    def fit(self, train: RatingData) -> Self:
        """Shrunken means; items without ratings get the mean of all."""
        self.mean = _mean(train)
        self.offset_I = _shrunken(train.item_N, train.label_N - self.mean, train.num_items, self.shrinkage)
        return self

    def predict(self, tasks: RatingTasks) -> Floats:
        """The same for everyone."""
        predicted: Floats = self.mean + self.offset_I[tasks.query_item_Q]
        return predicted


class Bias:
    """mu + b_item + b_user; a task's own b_user is the shrunken mean of its support residuals (Koren 2008, eq. 1-2)."""

    name: ClassVar[str] = "bias"

    def __init__(self, item_shrinkage: float = 5.0, user_shrinkage: float = 4.0, sweeps: int = 4) -> None:
        _check_shrinkage(item_shrinkage)
        _check_shrinkage(user_shrinkage)
        self.item_shrinkage, self.user_shrinkage, self.sweeps = item_shrinkage, user_shrinkage, sweeps

    def fit(self, train: RatingData) -> Self:
        """Backfitting: alternate the two shrunken means."""
        self.mean = _mean(train)
        rest_N = train.label_N - self.mean
        self.offset_I = np.zeros(train.num_items)
        self.offset_U = np.zeros(train.num_users)
        for _ in range(self.sweeps):
            self.offset_U = _shrunken(train.user_N, rest_N - self.offset_I[train.item_N], train.num_users, self.user_shrinkage)
            self.offset_I = _shrunken(train.item_N, rest_N - self.offset_U[train.user_N], train.num_items, self.item_shrinkage)
        return self

    def residual(self, train: RatingData) -> Floats:
        """What the biases leave of the training labels (N,)."""
        rest: Floats = train.label_N - self.mean - self.offset_I[train.item_N] - self.offset_U[train.user_N]
        return rest

    def predict(self, tasks: RatingTasks) -> Floats:
        """From the support alone: what training knew of the user is not used."""
        rest_S = tasks.support_label_S - self.mean - self.offset_I[tasks.support_item_S]
        offset_T = _shrunken(tasks.support_task_S, rest_S, len(tasks), self.user_shrinkage)
        predicted: Floats = self.mean + self.offset_I[tasks.query_item_Q] + offset_T[tasks.query_task_Q]
        return predicted


def _mean(train: RatingData) -> float:
    return float(train.label_N.mean()) if len(train.label_N) else 0.5 * (train.minimum + train.maximum)


def _shrunken(group_N: Ints, value_N: Floats, size: int, shrinkage: float) -> Floats:
    """Sum over each group divided by (count + shrinkage); 0 for empty groups."""
    total = np.bincount(group_N, value_N, minlength=size)
    divided: Floats = total / np.maximum(np.bincount(group_N, minlength=size) + shrinkage, 1e-9)
    return divided


def _check_shrinkage(shrinkage: float) -> None:
    if shrinkage < 0:
        raise ConfigError(f"shrinkage {shrinkage:g} is negative", field="shrinkage")
