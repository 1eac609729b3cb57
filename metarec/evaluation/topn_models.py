"""Top-N models as functions from episodes to scores of the catalogue, how lists are measured, and how baselines are tuned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.registry import topn_candidates
from metarec.baselines.topn import TopNBaseline
from metarec.evaluation.temporal_splits import TopNEpisode
from metarec.evaluation.topn_metrics import evaluate_lists, top_lists
from metarec.meta.blend import prior_scores
from metarec.meta.prior import Prior
from metarec.tasks.tables import entity_table

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Floats = NDArray[np.float64]
Scorer = Callable[[Sequence[TopNEpisode]], NDArray[np.float32]]

LIST_LENGTH = 20
CHUNK = 512
"""Users scored at once: bounds memory to CHUNK x items scores."""


def learner_scorer(prior: Prior, train: "Dataset") -> Scorer:
    """The product's ranking score over the whole catalogue: implicit score + blend * explicit mean."""
    assert prior.item_ids == tuple(str(item) for item in train.item_ids), "the prior was trained on another catalogue"

    def score(episodes: Sequence[TopNEpisode]) -> NDArray[np.float32]:
        rows = [episode.user for episode in episodes]
        frame = train.users.iloc[rows]
        users = entity_table(prior.encoder.encode_users(frame), prior.encoder.user_blocks, np.zeros(len(rows), bool))
        return prior_scores(prior, users, [(e.support_S, e.label_S, e.timestamp_S) for e in episodes])

    return score


def baseline_scorer(baseline: TopNBaseline) -> Scorer:
    """A fitted baseline."""

    def score(episodes: Sequence[TopNEpisode]) -> NDArray[np.float32]:
        return baseline.score([e.taken_S for e in episodes], np.array([e.user for e in episodes], np.int64))

    return score


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model on some episodes: its lists with their scores, and what they are worth; `coverage` is nan without episodes."""

    list_UN: NDArray[np.int64]
    score_UN: NDArray[np.float64]
    recall_U: Floats
    ndcg_U: Floats
    coverage: float

    @property
    def quality(self) -> float:
        """Mean recall and mean nDCG, added."""
        return float(self.recall_U.mean() + self.ndcg_U.mean())


def measure(scorer: Scorer, episodes: Sequence[TopNEpisode], num_items: int) -> Measured:
    """Recall and nDCG of every episode, and the coverage of their lists; support items are left out."""
    if not episodes:
        empty = np.zeros((0, min(LIST_LENGTH, num_items)))
        zero = np.zeros(0)
        return Measured(list_UN=empty.astype(np.int64), score_UN=empty, recall_U=zero, ndcg_U=zero, coverage=float("nan"))
    lists, scores = [], []
    for first in range(0, len(episodes), CHUNK):
        part = episodes[first : first + CHUNK]
        score_UI = scorer(part)
        lists.append(top_lists(score_UI, [e.support_S for e in part], LIST_LENGTH))
        scores.append(np.take_along_axis(score_UI, lists[-1], 1).astype(np.float64))
    list_UN = np.concatenate(lists)
    found = evaluate_lists(list_UN, [e.target_Q for e in episodes], num_items)
    return Measured(
        list_UN=list_UN,
        score_UN=np.concatenate(scores),
        recall_U=found.recall_U,
        ndcg_U=found.ndcg_U,
        coverage=found.coverage,
    )


def choose_candidates(
    train: "Dataset", tests: Mapping[str, Sequence[Sequence[TopNEpisode]]], only: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """Per group of users in `tests` and per baseline, the position of the candidate that does best when fitted on `train`."""
    chosen: dict[str, dict[str, int]] = {group: {} for group in tests}
    for name, candidates in topn_candidates(train).items():
        if only and name not in only:
            continue
        qualities: dict[str, list[float]] = {group: [] for group in tests}
        for make in candidates if len(candidates) > 1 else ():
            scorer = baseline_scorer(make().fit(train))
            for group, protocols in tests.items():
                qualities[group].append(_quality(scorer, protocols, len(train.item_ids)))
        for group, reached in qualities.items():
            chosen[group][name] = int(np.argmax(reached)) if reached else 0
    return chosen


def _quality(scorer: Scorer, protocols: Sequence[Sequence[TopNEpisode]], num_items: int) -> float:
    measured = [measure(scorer, episodes, num_items) for episodes in protocols if episodes]
    return float(np.mean([found.quality for found in measured])) if measured else 0.0
