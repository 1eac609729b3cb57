"""Maximal marginal relevance against the formula computed anew at each place."""

import numpy as np
import pytest

from metarec.ranking.diversity import Marginal, mean_similarity, unit_rows
from metarec.ranking.place import Layout, Plan


def plain(strength: float, score_C: np.ndarray, unit_CE: np.ndarray, num: int) -> list[int]:  # type: ignore[type-arg]  # any dtype will do
    """The formula as it is written, over everything at every step."""
    relevance_C = (score_C - score_C.min()) / (score_C.max() - score_C.min())
    chosen: list[int] = []
    while len(chosen) < num:
        worth = {}
        for candidate in range(len(score_C)):
            if candidate not in chosen:
                nearest = max((float(unit_CE[candidate] @ unit_CE[other]) for other in chosen), default=0.0)
                worth[candidate] = (1 - strength) * relevance_C[candidate] - strength * nearest
        chosen.append(max(worth, key=lambda candidate: (worth[candidate], -candidate)))
    return chosen


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9, 1.0])
def test_the_greedy_list_is_that_of_the_formula(strength: float) -> None:
    generator = np.random.default_rng(5)
    for _ in range(10):
        score_C = np.sort(generator.normal(size=20))[::-1].astype(np.float32)
        unit_CE = unit_rows(generator.normal(size=(20, 4)).astype(np.float32))
        layout = Layout(Plan(known_C=np.ones(20, bool), num_places=8), Marginal(strength, score_C, unit_CE))
        layout.advance()
        assert layout.chosen == plain(strength, score_C, unit_CE, 8)


def test_the_best_comes_first_and_its_double_not_next() -> None:
    unit_CE = unit_rows(np.array([[1, 0], [1, 0.01], [0, 1], [0.3, 1]], np.float32))
    layout = Layout(
        Plan(known_C=np.ones(4, bool), num_places=4), Marginal(0.6, np.array([1.0, 0.99, 0.5, 0.0], np.float32), unit_CE)
    )
    layout.advance()
    assert layout.chosen[:2] == [0, 2]


def test_mean_similarity_is_that_of_all_pairs() -> None:
    unit_NE = unit_rows(np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32))
    pairs = [float(unit_NE[a] @ unit_NE[b]) for a in range(6) for b in range(6) if a != b]
    assert mean_similarity(unit_NE) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert mean_similarity(unit_NE[:1]) == mean_similarity(unit_NE[:0]) == 0.0


def test_rows_without_a_direction_are_like_nothing() -> None:
    found = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    assert found.ravel().tolist() == pytest.approx([0.6, 0.8, 0, 0])


def test_equal_scores_leave_the_choice_to_diversity() -> None:
    marginal = Marginal(0.5, np.zeros(3, np.float32), unit_rows(np.eye(3, dtype=np.float32)))
    assert marginal.value_C.tolist() == [0, 0, 0]
