"""Metrics of top-N lists over the whole catalogue: recall, nDCG and coverage.

Recall divides by min(N, number of targets), so a perfect list scores 1 however many targets there are. nDCG has binary
gain and discount log2(rank + 1), normalised by the best list of that length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TopN:
    """Lists of U users (U, N), best first, and their metrics per user; coverage is the share of items in any list."""

    list_UN: Ints
    recall_U: NDArray[np.float64]
    ndcg_U: NDArray[np.float64]
    coverage: float


def top_lists(score_UI: NDArray[np.floating], exclude: Sequence[Ints], num: int) -> Ints:
    """The `num` best items per user, best first, without the excluded ones; equal scores go to the lower row."""
    score_UI = np.array(score_UI, np.float64)
    for row, items in enumerate(exclude):
        score_UI[row, items] = -np.inf
    return np.argsort(-score_UI, axis=1, kind="stable")[:, :num]


def evaluate_lists(list_UN: Ints, targets: Sequence[Ints], num_items: int) -> TopN:
    """Metrics of given lists against each user's target items (at least one each, none of them excluded)."""
    length = list_UN.shape[1]
    hit_UN = np.array([np.isin(row, items) for row, items in zip(list_UN, targets, strict=True)]).reshape(list_UN.shape)
    best_U = np.minimum(length, np.array([len(items) for items in targets], np.int64))
    discount_N = 1 / np.log2(np.arange(length) + 2)
    ideal_U = discount_N.cumsum()[best_U - 1]
    return TopN(
        list_UN=list_UN,
        recall_U=hit_UN.sum(1) / best_U,
        ndcg_U=(hit_UN * discount_N).sum(1) / ideal_U,
        coverage=len(np.unique(list_UN)) / num_items,
    )
