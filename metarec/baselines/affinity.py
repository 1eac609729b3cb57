"""The plain baseline of emerging items: how users rate, what kinds of item they like, and what the first raters said.

    score = mu + b_row + a_row . g(task) + b_task

for tasks that are items and rows that are users (PROTOCOLS P3: user bias + user-genre + shrunken item bias). g is the task's
membership in a few groups, such as genres, of length 1; every part is a mean of residuals, shrunk towards 0.
"""

from collections.abc import Callable
from itertools import product
from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp

from metarec.baselines.rating_registry import FittedRating, task_means
from metarec.baselines.rating_tasks import Floats, RatingData, RatingTasks, draw_tasks
from metarec.errors import ConfigError

GRID = tuple(product((5.0, 10.0), (5.0, 10.0, 20.0), (3.0, 5.0, 8.0)))
"""Shrinkages of rows, of rows per group, and of tasks."""
HELD_OUT_FRACTION = 0.1
MAX_HELD_OUT = 300


class Affinity:
    """See the module. `group_TG` are the groups of the tasks that `fit` and `predict` number."""

    name: ClassVar[str] = "affinity"

    def __init__(
        self, group_TG: Floats, row_shrinkage: float = 5.0, group_shrinkage: float = 10.0, task_shrinkage: float = 5.0
    ) -> None:
        for name, value in (("row", row_shrinkage), ("group", group_shrinkage), ("task", task_shrinkage)):
            if value <= 0:
                raise ConfigError(f"{name}_shrinkage {value:g} must be positive", field=f"{name}_shrinkage")
        length_T1 = np.linalg.norm(group_TG, axis=1, keepdims=True)
        self.group_TG = group_TG / np.maximum(length_T1, 1e-12)
        self.row_shrinkage, self.group_shrinkage, self.task_shrinkage = row_shrinkage, group_shrinkage, task_shrinkage

    def fit(self, train: RatingData) -> Self:
        """Rows' means, then their means per group of what these leave: quality that a group shares counts as liking it."""
        self.mean = float(train.label_N.mean())
        rest_N = train.label_N - self.mean
        count_R = np.bincount(train.item_N, minlength=train.num_items)
        self.offset_R = np.bincount(train.item_N, rest_N, minlength=train.num_items) / (count_R + self.row_shrinkage)
        rest_N = rest_N - self.offset_R[train.item_N]
        shape = (train.num_items, len(self.group_TG))
        rest_RT = sp.csr_matrix((rest_N, (train.item_N, train.user_N)), shape)
        ones_RT = sp.csr_matrix((np.ones(len(rest_N)), (train.item_N, train.user_N)), shape)
        self.liking_RG = (rest_RT @ self.group_TG) / (ones_RT @ self.group_TG**2 + self.group_shrinkage)
        return self

    def moved(self, group_TG: Floats) -> "Affinity":
        """The fitted baseline for tasks numbered otherwise."""
        other = Affinity(group_TG, self.row_shrinkage, self.group_shrinkage, self.task_shrinkage)
        other.mean, other.offset_R, other.liking_RG = self.mean, self.offset_R, self.liking_RG
        return other

    def predict(self, tasks: RatingTasks) -> Floats:
        """From the rows' own figures, the task's groups and its support."""

        def known(row_N: "np.ndarray", task_N: "np.ndarray") -> Floats:
            group_NG = self.group_TG[tasks.user_T[task_N]]
            found: Floats = self.mean + self.offset_R[row_N] + (self.liking_RG[row_N] * group_NG).sum(1)
            return found

        task_S = tasks.support_task_S
        rest_S = tasks.support_label_S - known(tasks.support_item_S, task_S)
        offset_T = np.bincount(task_S, rest_S, minlength=len(tasks)) / (tasks.shots_T + self.task_shrinkage)
        predicted: Floats = known(tasks.query_item_Q, tasks.query_task_Q) + offset_T[tasks.query_task_Q]
        return predicted


def fit_affinity(
    train: RatingData, train_TG: Floats, asked_TG: Floats, *, seed: int, watch: Callable[[str], None] = lambda _: None
) -> FittedRating:
    """The baseline with shrinkages chosen on held-out training tasks by squared error, for tasks with groups `asked_TG`."""
    watch(Affinity.name)
    rng = np.random.default_rng([seed, 13])
    tasks_T = rng.permutation(np.unique(train.user_N))
    held = tasks_T[: min(MAX_HELD_OUT, round(HELD_OUT_FRACTION * len(tasks_T)))]
    held_N = np.isin(train.user_N, held)
    inner, drawn = train.select(~held_N), draw_tasks(train.select(held_N), seed=seed)
    best, variance = GRID[0], ((train.maximum - train.minimum) / 4) ** 2
    errors = np.inf
    for settings in GRID if len(drawn) else ():
        predicted_Q = Affinity(train_TG, *settings).fit(inner).predict(drawn)
        error = float(task_means((np.clip(predicted_Q, train.minimum, train.maximum) - drawn.query_label_Q) ** 2, drawn).mean())
        if error < errors:
            best, errors, variance = settings, error, error
    names = ("row_shrinkage", "group_shrinkage", "task_shrinkage")
    return FittedRating(
        baseline=Affinity(train_TG, *best).fit(train).moved(asked_TG),
        variance=max(variance, 1e-6),
        settings=dict(zip(names, best, strict=True)),
    )
