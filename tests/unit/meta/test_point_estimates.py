import numpy as np
import pytest

from metarec.errors import InvalidInputError
from metarec.meta.point_estimates import grade_probabilities, median_grade

RNG = np.random.default_rng(0)


def test_probabilities_sum_to_one_and_centre_on_the_mean() -> None:
    share = grade_probabilities(RNG.uniform(0, 6, 50), RNG.uniform(0.1, 2, 50), minimum=1, maximum=5)
    assert share.shape == (50, 5)
    np.testing.assert_allclose(share.sum(1), 1)
    assert grade_probabilities(np.array([3.0]), np.array([0.01]), minimum=1, maximum=5)[0, 2] > 0.999


def test_the_median_minimises_expected_absolute_error() -> None:
    mean, variance = RNG.uniform(0, 6, 200), RNG.uniform(0.2, 2, 200)
    cuts = np.array([1.3, 2.4, 3.4, 4.6])
    for chosen in (None, cuts):
        share = grade_probabilities(mean, variance, minimum=1, maximum=5, cuts_K=chosen)
        cost = np.abs(np.arange(1, 6)[:, None] - np.arange(1, 6)) @ share.T
        best = np.arange(1, 6)[cost.argmin(0)]
        np.testing.assert_array_equal(median_grade(mean, variance, minimum=1, maximum=5, cuts_K=chosen), best)


def test_means_outside_the_scale_give_its_ends() -> None:
    assert median_grade(np.array([-3.0, 9.0]), minimum=1, maximum=5).tolist() == [1, 5]


def test_a_scale_that_is_not_of_integers_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not an integer scale"):
        median_grade(np.zeros(1), minimum=0.5, maximum=5)
    with pytest.raises(InvalidInputError, match="3 cuts"):
        median_grade(np.zeros(1), minimum=1, maximum=5, cuts_K=np.arange(3.0))
