"""Measuring lists in chunks changes nothing."""

import numpy as np
import pytest

from metarec.evaluation.temporal_splits import TopNEpisode
from metarec.evaluation.topn_models import measure

ITEMS = 50
SCORES = np.random.default_rng(0).random((9, ITEMS)).astype(np.float32)


def episode(user: int) -> TopNEpisode:
    return TopNEpisode(
        user=user,
        support_S=np.array([user, user + 1]),
        label_S=np.ones(2, np.float32),
        timestamp_S=np.zeros(2),
        target_Q=np.arange(user + 5, user + 12),
    )


def scorer(episodes: "list[TopNEpisode]") -> np.ndarray:
    return SCORES[[e.user for e in episodes]]


def test_chunks_of_users_give_the_figures_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [episode(user) for user in range(9)]
    whole = measure(scorer, episodes, ITEMS)
    monkeypatch.setattr("metarec.evaluation.topn_models.CHUNK", 4)
    parts = measure(scorer, episodes, ITEMS)
    for name in ("list_UN", "score_UN", "recall_U", "ndcg_U", "coverage"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert not any(set(e.support_S) & set(row) for e, row in zip(episodes, whole.list_UN, strict=True))
    np.testing.assert_array_equal(whole.score_UN, np.take_along_axis(SCORES, whole.list_UN, 1).astype(np.float64))


def test_no_episodes_have_no_figures() -> None:
    found = measure(scorer, [], ITEMS)
    assert len(found.recall_U) == 0
    assert np.isnan(found.coverage)
