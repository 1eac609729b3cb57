"""Rating metrics against values by hand, scikit-learn and a loop over episodes."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from metarec.errors import InvalidInputError
from metarec.evaluation.metrics import LabelScale, Predictions, best_model, episode_metrics, summarise

STARS = LabelScale(minimum=1, maximum=5, integer=True)
CLICKS = LabelScale(minimum=0, maximum=1, integer=True, binary=True)


def drawn(seed: int = 0, episodes: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 14, episodes)
    start_T1 = np.concatenate([[0], sizes.cumsum()])
    return start_T1, random.integers(1, 6, start_T1[-1]).astype(float), random.normal(3, 1, start_T1[-1])


def parts(start_T1: np.ndarray) -> list[slice]:
    return [slice(first, last) for first, last in pairwise(start_T1)]


def test_errors_are_means_over_each_episodes_rows() -> None:
    start_T1, label_Q, score_Q = drawn()
    found = episode_metrics(start_T1, label_Q, Predictions(score_Q=score_Q, estimate_Q=score_Q), STARS)
    for episode, rows in enumerate(parts(start_T1)):
        error = score_Q[rows] - label_Q[rows]
        assert found["mae"][episode] == pytest.approx(np.abs(error).mean(), abs=1e-12)
        assert found["mse"][episode] == pytest.approx((error**2).mean(), abs=1e-12)
        assert found["rmse"][episode] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-12)


@pytest.mark.parametrize("cutoff", [1, 3, 5, 10])
def test_ndcg_agrees_with_scikit_learn_under_both_gains(cutoff: int) -> None:
    start_T1, label_Q, score_Q = drawn(1)
    found = episode_metrics(start_T1, label_Q, Predictions(score_Q=score_Q), STARS)
    for episode, rows in enumerate(parts(start_T1)):
        if rows.stop - rows.start < 2:
            continue
        for name, gain in (("ndcg", 2 ** label_Q[rows] - 1), ("ndcg_linear", label_Q[rows])):
            expected = ndcg_score([gain], [score_Q[rows]], k=cutoff)
            assert found[f"{name}@{cutoff}"][episode] == pytest.approx(expected, abs=1e-12)


def test_auc_agrees_with_scikit_learn_also_with_ties_and_is_undefined_for_one_class() -> None:
    start_T1, label_Q, score_Q = drawn(2)
    coarse_Q = np.round(score_Q)
    found = episode_metrics(start_T1, label_Q, Predictions(score_Q=coarse_Q), STARS)["auc"]
    undefined = 0
    for episode, rows in enumerate(parts(start_T1)):
        relevant = label_Q[rows] >= 4
        if relevant.all() or not relevant.any():
            undefined += 1
            assert np.isnan(found[episode])
        else:
            assert found[episode] == pytest.approx(roc_auc_score(relevant, coarse_Q[rows]), abs=1e-12)
    assert 0 < undefined < len(found)


def test_precision_recall_and_mrr_by_hand() -> None:
    start_T1, label_Q, score_Q = np.array([0, 4, 6]), np.array([1.0, 5, 4, 2, 1, 2]), np.array([0.9, 0.1, 0.8, 0.2, 1, 2])
    found = episode_metrics(start_T1, label_Q, Predictions(score_Q=score_Q), STARS)
    assert found["precision@1"].tolist() == [0, 0]
    assert found["precision@3"].tolist() == [pytest.approx(1 / 3), 0]
    assert found["precision@10"].tolist() == [0.5, 0]
    assert found["recall@3"][0] == 0.5
    assert found["mrr@1"][0] == 0
    assert found["mrr@3"][0] == 0.5
    assert np.isnan(found["recall@3"][1])
    assert np.isnan(found["mrr@3"][1])


def test_logloss_of_clicks_is_that_of_the_estimate() -> None:
    start_T1, label_Q = np.array([0, 3, 7]), np.array([1.0, 0, 1, 0, 0, 1, 1])
    probability_Q = np.array([0.9, 0.2, 0.6, 0.5, 0.1, 0.3, 0.99])
    found = episode_metrics(start_T1, label_Q, Predictions(score_Q=probability_Q, estimate_Q=probability_Q), CLICKS)["logloss"]
    assert found[0] == pytest.approx(log_loss(label_Q[:3], probability_Q[:3], labels=[0, 1]))
    assert found[1] == pytest.approx(log_loss(label_Q[3:], probability_Q[3:], labels=[0, 1]))


def test_logloss_of_grades_asks_for_the_probability_of_four_or_five_stars() -> None:
    predictions = Predictions(score_Q=np.array([3.7]), estimate_Q=np.array([3.7]), variance_Q=np.array([0.64]))
    found = episode_metrics(np.array([0, 1]), np.array([4.0]), predictions, STARS)["logloss"]
    assert found[0] == pytest.approx(-np.log(ndtr((3.7 - 3.5) / 0.8)))


def test_rankers_without_estimates_have_no_errors_and_no_logloss() -> None:
    found = episode_metrics(np.array([0, 2]), np.array([1.0, 5.0]), Predictions(score_Q=np.array([0.0, 1.0])), STARS)
    assert not {"mae", "rmse", "mse", "logloss"} & set(found)
    assert found["ndcg@1"].tolist() == [1.0]


def test_gains_of_labels_of_any_size_are_finite_and_the_same_for_labels_shifted_alike() -> None:
    start_T1, label_Q = np.array([0, 3, 5]), np.array([4000.0, 3999.0, 3990.0, 2.0, 1.0])
    predictions = Predictions(score_Q=np.array([1.0, 2.0, 3.0, 0.0, 1.0]))
    found = episode_metrics(start_T1, label_Q, predictions, LabelScale(minimum=0, maximum=5000, integer=True))
    gains = 2.0 ** np.array([-10, -1, 0])  # nearly 2^label / 2^4000
    best = gains[::-1] @ (1 / np.log2([2, 3, 4]))
    assert found["ndcg@3"][0] == pytest.approx(gains @ (1 / np.log2([2, 3, 4])) / best)
    assert found["ndcg@3"][1] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))), "small labels beside large ones"


def test_people_are_shown_linear_gains_where_labels_are_no_grades() -> None:
    assert [
        LabelScale(minimum=low, maximum=high, integer=True).steep for low, high in ((1, 5), (0, 10), (0, 480), (-10, 10))
    ] == [
        False,
        False,
        True,
        True,
    ]


def test_ties_keep_the_order_of_the_rows() -> None:
    label_Q = np.array([1.0, 5.0])
    first = episode_metrics(np.array([0, 2]), label_Q, Predictions(score_Q=np.zeros(2)), STARS)
    last = episode_metrics(np.array([0, 2]), label_Q[::-1], Predictions(score_Q=np.zeros(2)), STARS)
    assert first["ndcg@1"][0] < last["ndcg@1"][0] == 1.0


def test_summaries_average_over_episodes_then_over_seeds() -> None:
    summary = summarise(np.array([1.0, 2.0, 3.0, 10.0, np.nan]), np.array(["a", "a", "a", "b", "b"]))
    assert summary.mean == pytest.approx((2.0 + 10.0) / 2)
    assert summary.sd == pytest.approx(np.std([2.0, 10.0], ddof=1))
    assert summary.episodes == 4
    assert summarise(np.array([np.nan]), np.array([0])).to_dict()["episodes"] == 0


def test_the_best_model_depends_on_the_direction_of_the_metric() -> None:
    means = {"a": 0.5, "b": 0.7, "c": float("nan")}
    assert best_model("mae", means) == "a"
    assert best_model("ndcg@5", means) == "b"
    assert best_model("mae", {"c": float("nan")}) == ""


def test_scores_that_do_not_match_the_labels_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 scores for 2 labels"):
        episode_metrics(np.array([0, 2]), np.zeros(2), Predictions(score_Q=np.zeros(1)), STARS)
