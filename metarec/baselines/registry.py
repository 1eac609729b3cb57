"""The plain baselines by name, each with the settings among which it is tuned on the training part.

A new top-N baseline is one class and one entry here; the reports and the contract tests pick it up.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from metarec.baselines.ials import ImplicitALS
from metarec.baselines.neighbours import Ease, ItemKNN
from metarec.baselines.popularity import GroupPopularity, Popularity, RecentPopularity
from metarec.baselines.topn import TopNBaseline

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


Candidates = Sequence[Callable[[], TopNBaseline]]

LAST_TENTH = 0.1

TOPN: Mapping[str, Candidates] = {
    "popularity": (Popularity,),
    "recent_popularity": tuple(partial(RecentPopularity, fraction) for fraction in (0.03, 0.05, LAST_TENTH, 0.2, 0.4)),
    "ials": tuple(
        partial(ImplicitALS, embedding_dim, unobserved, regularization)
        for embedding_dim, unobserved, regularization in (
            (32, 0.1, 0.003),
            (16, 0.1, 0.01),
            (16, 0.3, 0.01),
            (8, 0.1, 0.01),
            (32, 0.3, 0.1),
            (16, 0.3, 0.1),
            (32, 0.3, 0.3),
            (32, 1.0, 0.1),
        )
    ),
    "item_knn": tuple(partial(ItemKNN, shrinkage) for shrinkage in (5.0, 20.0, 50.0, 100.0, 200.0, 500.0)),
    "ease": tuple(partial(Ease, regularization) for regularization in (100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)),
}
"""Candidates of every baseline that any data set allows, by name."""

GROUP_SHRINKAGE = (300.0, 1000.0, 3000.0, 10_000.0)
GROUP_FIELDS = ("age", "gender")


PAIRED = ("item_knn", "ease")
MAX_PAIRED_ITEMS = 12_000
"""Items up to which a dense matrix of all pairs is affordable (a gigabyte; EASE inverts it)."""


def too_large(dataset: "Dataset") -> tuple[str, ...]:
    """The baselines that are left out because the catalogue is too large for a matrix of all pairs."""
    return PAIRED if len(dataset.item_ids) > MAX_PAIRED_ITEMS else ()


def topn_candidates(dataset: "Dataset") -> dict[str, Candidates]:
    """The candidates that `dataset` allows: recency needs timestamps, popularity per group the profile field, pairs memory."""
    found = {name: candidates for name, candidates in TOPN.items() if name not in too_large(dataset)}
    if not dataset.has_timestamps:
        del found["recent_popularity"]
    for field in GROUP_FIELDS:
        if field in dataset.users.columns:
            found[f"popularity_by_{field}"] = tuple(partial(GroupPopularity, field, shrinkage) for shrinkage in GROUP_SHRINKAGE)
    return found
