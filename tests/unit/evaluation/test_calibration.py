"""Calibration of models that are as sure as they should be, too sure, or not sure enough."""

import numpy as np
import pytest

from metarec.evaluation.calibration import LEVELS, calibrate
from metarec.evaluation.metrics import LabelScale, Predictions

STARS = LabelScale(minimum=1, maximum=5, integer=True)
REALS = LabelScale(minimum=-9, maximum=9, integer=False)


def said(spread: float, *, grades: bool) -> tuple[np.ndarray, Predictions]:
    """Labels from a Gaussian of deviation 0.9, predicted with this deviation."""
    random = np.random.default_rng(5)
    mean_Q = random.uniform(2, 4, 20_000)
    label_Q = mean_Q + 0.9 * random.normal(size=20_000)
    label_Q = np.clip(np.round(label_Q), 1, 5) if grades else label_Q
    return label_Q, Predictions(score_Q=mean_Q, estimate_Q=mean_Q, variance_Q=np.full(20_000, spread**2))


@pytest.mark.parametrize(("grades", "scale"), [(True, STARS), (False, REALS)])
def test_true_deviations_lie_on_the_diagonal(grades: bool, scale: LabelScale) -> None:
    table = calibrate(*said(0.9, grades=grades), scale)
    assert table is not None
    assert table.error < 0.01
    assert table.observed == pytest.approx(LEVELS, abs=0.02)


@pytest.mark.parametrize(("grades", "scale"), [(True, STARS), (False, REALS)])
def test_intervals_that_are_too_narrow_hold_too_few_labels(grades: bool, scale: LabelScale) -> None:
    table = calibrate(*said(0.45, grades=grades), scale)
    assert table is not None
    assert all(observed < expected - 0.02 for observed, expected in zip(table.observed, table.expected, strict=True))
    assert table.error > 0.1


def test_probabilities_are_compared_bin_by_bin() -> None:
    clicks = LabelScale(minimum=0, maximum=1, integer=True, binary=True)
    probability_Q = np.repeat([0.25, 0.75], 100)
    label_Q = np.concatenate([np.repeat([1.0, 0.0], [40, 60]), np.repeat([1.0, 0.0], [75, 25])])
    table = calibrate(label_Q, Predictions(score_Q=probability_Q, estimate_Q=probability_Q), clicks)
    assert table is not None
    assert table.expected == (0.25, 0.75)
    assert table.observed == (0.4, 0.75)
    assert table.count == (100, 100)
    assert table.error == pytest.approx(0.075)


def test_models_that_say_nothing_about_their_certainty_have_no_table() -> None:
    assert calibrate(np.ones(2), Predictions(score_Q=np.ones(2), estimate_Q=np.ones(2)), STARS) is None
    assert calibrate(np.ones(2), Predictions(score_Q=np.ones(2)), STARS) is None
