"""Top-N metrics against values computed by hand."""

import numpy as np
import pytest

from metarec.evaluation.topn_metrics import evaluate_lists, top_lists


def test_lists_leave_out_excluded_items_and_break_ties_by_row() -> None:
    score_UI = np.array([[0.0, 3.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    lists = top_lists(score_UI, [np.array([1]), np.array([], np.int64)], 2)
    assert lists.tolist() == [[2, 3], [0, 1]]


def test_scores_of_the_caller_are_not_changed() -> None:
    score_UI = np.ones((1, 3))
    top_lists(score_UI, [np.array([0])], 2)
    assert score_UI.tolist() == [[1, 1, 1]]


def test_recall_divides_by_what_a_list_can_hold() -> None:
    found = evaluate_lists(np.array([[0, 1], [0, 1], [0, 1]]), [np.array([1]), np.array([0, 5]), np.arange(6)], 10)
    assert found.recall_U.tolist() == [1.0, 0.5, 1.0]


def test_ndcg_equals_the_value_by_hand() -> None:
    found = evaluate_lists(np.array([[4, 1, 2]]), [np.array([1, 2])], 10)
    by_hand = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert found.ndcg_U[0] == pytest.approx(by_hand, abs=1e-15)
    assert found.ndcg_U[0] == pytest.approx(0.6934264036172708, abs=1e-12)


def test_coverage_counts_distinct_items_of_all_lists() -> None:
    found = evaluate_lists(np.array([[0, 1], [1, 2]]), [np.array([0]), np.array([0])], 12)
    assert found.coverage == 0.25
