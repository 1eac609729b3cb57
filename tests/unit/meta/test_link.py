import numpy as np
import pytest
from scipy.special import expit

from metarec.errors import InvalidInputError
from metarec.meta.link import Link, fit_link, word_link


def test_the_curve_that_drew_the_labels_is_found_again() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(0.6, 0.2, 40_000)
    label = (rng.random(len(score)) < expit(-3 + 6 * score)).astype(float)
    found = fit_link(score, label)
    assert (found.offset, found.slope) == (pytest.approx(-3, abs=0.15), pytest.approx(6, abs=0.25))
    assert found.probability(score).mean() == pytest.approx(label.mean(), abs=1e-3)


def test_labels_that_the_score_separates_leave_probabilities_inside_the_unit_interval() -> None:
    score = np.linspace(0, 1, 50)
    found = fit_link(score, (score > 0.5).astype(float))
    probability = found.probability(score)
    assert ((probability > 0) & (probability < 1)).all()
    assert (np.diff(probability) > 0).all()


@pytest.mark.parametrize("score", [np.zeros(40), -np.r_[np.zeros(30), np.ones(10)]])
def test_a_score_that_tells_nothing_or_misleads_gives_the_share_of_ones(score: "np.ndarray") -> None:  # type: ignore[type-arg]  # any dtype will do
    label = np.r_[np.zeros(30), np.ones(10)]
    found = fit_link(score, label)
    assert found.probability(np.array([-5.0, 5.0])) == pytest.approx([11 / 42] * 2, abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(1, 19), (0.5, 9.5), (19, 1), (2, 8), (5, 5)])
def test_scores_that_are_right_are_taken_at_their_word_whatever_the_share_of_ones(a: float, b: float) -> None:
    score = np.random.default_rng(0).beta(a, b, 20_000)

    def logloss(p: "np.ndarray") -> float:  # type: ignore[type-arg]  # any dtype will do
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return float(-(score * np.log(p) + (1 - score) * np.log(1 - p)).mean())  # expected, labels being drawn from the score

    link = word_link(score)
    right, constant = logloss(score), logloss(np.full(len(score), score.mean()))
    assert logloss(link.probability(score)) < right + 0.25 * (constant - right)
    assert link.probability(score).mean() == pytest.approx(score.mean(), abs=5e-3)
    assert link.num_tasks == 0


@pytest.mark.parametrize("score", [np.zeros(0), np.zeros(9), np.ones(9), np.full(9, 0.3), np.array([-4.0, 7.0])])
def test_whatever_the_scores_the_curve_rises_inside_the_unit_interval(score: "np.ndarray") -> None:  # type: ignore[type-arg]  # as above
    probability = word_link(score).probability(np.array([0.0, 0.5, 1.0]))
    assert ((probability > 0) & (probability < 1)).all()
    assert (np.diff(probability) > 0).all()


def test_the_variance_is_that_of_a_binary_label() -> None:
    link = Link(offset=-1.0, slope=2.0)
    assert link.variance(np.array([0.5])) == pytest.approx([0.25])


def test_a_falling_curve_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="slope -1"):
        Link(offset=0.0, slope=-1.0)
