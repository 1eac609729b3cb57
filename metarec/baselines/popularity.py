"""Popularity: of all training time, of its last part, and within groups of users that share a profile field."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarec.baselines.topn import Floats, Ints
from metarec.errors import ConfigError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


NUM_BINS = 6
"""Quantile groups of a numeric profile field."""


class Popularity:
    """Number of training interactions per item."""

    name: ClassVar[str] = "popularity"

    def fit(self, train: "Dataset") -> Self:
        """Count."""
        self.count_I = np.bincount(train.taken.interactions.item_N, minlength=len(train.item_ids)).astype(np.float32)
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """The counts, for everyone."""
        return np.broadcast_to(self.count_I, (len(supports), len(self.count_I)))


class RecentPopularity:
    """Popularity among the last `fraction` of the training interactions; all-time popularity breaks ties."""

    name: ClassVar[str] = "recent_popularity"

    def __init__(self, fraction: float = 0.1) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction {fraction} is outside (0, 1]", field="fraction")
        self.fraction = fraction

    def fit(self, train: "Dataset") -> Self:
        """Count the newest interactions."""
        rows = train.taken.interactions
        newest = np.argsort(rows.timestamp_N, kind="stable")[-max(1, round(self.fraction * len(rows.item_N))) :]
        size = len(train.item_ids)
        all_I = np.bincount(rows.item_N, minlength=size)
        recent_I = np.bincount(rows.item_N[newest], minlength=size)
        self.count_I = (recent_I + all_I / (all_I.max(initial=0) + 1)).astype(np.float32)
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """The counts, for everyone."""
        return np.broadcast_to(self.count_I, (len(supports), len(self.count_I)))


class GroupPopularity:
    """Popularity within the user's group by one profile field, shrunk towards everyone's.

    score = (count in group + shrinkage * share of the item among all) / (size of group + shrinkage). Numeric
    fields are cut at quantiles; users without a value form a group of their own.
    """

    name: ClassVar[str] = "group_popularity"

    def __init__(self, field: str, shrinkage: float = 1000.0) -> None:
        if shrinkage < 0:
            raise ConfigError(f"shrinkage {shrinkage} is negative", field="shrinkage")
        self.field = field
        self.shrinkage = shrinkage

    def fit(self, train: "Dataset") -> Self:
        """Count per group."""
        if self.field not in train.users.columns:
            raise ConfigError(f"users have no field '{self.field}'; choose one of {sorted(train.users.columns)}", field="field")
        rows = train.taken.interactions
        self.group_U, groups = _groups(train.users[self.field], np.unique(rows.user_N))
        size = len(train.item_ids)
        cell_N = self.group_U[rows.user_N].astype(np.int64) * size + rows.item_N
        count_GI = np.bincount(cell_N, minlength=groups * size).reshape(groups, size).astype(np.float64)
        share_I = count_GI.sum(0) / max(1.0, count_GI.sum())
        self.score_GI = ((count_GI + self.shrinkage * share_I) / (count_GI.sum(1, keepdims=True) + self.shrinkage + 1e-9)).astype(
            np.float32
        )
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """The row of each user's group."""
        scores: Floats = self.score_GI[self.group_U[user_U]]
        return scores


def _groups(column: pd.Series, known_U: Ints) -> tuple[NDArray[np.int64], int]:
    """Group of every user and the number of groups; bin edges come from the known users alone."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() == column.notna().sum() and numbers.nunique() > NUM_BINS:
        edges = np.unique(np.nanquantile(numbers.iloc[known_U].to_numpy(float), np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
        group = np.where(numbers.isna(), len(edges) + 1, np.searchsorted(edges, numbers.to_numpy(float), side="right"))
        return group.astype(np.int64), len(edges) + 2
    codes, values = pd.factorize(column.map(str))
    return codes.astype(np.int64), len(values)
