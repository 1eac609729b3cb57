"""Intervals as wide as held-out users show: nothing else moves, and nothing without need."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Head, Prior
from metarec.training import calibrating
from metarec.training.asking import episodes
from metarec.training.calibrating import MIN_USERS, MOST, NAME, Asked, calibrated, mean_level, variance_ratio, whole_grades
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipe import Recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def asked(z_N: np.ndarray) -> Asked:  # type: ignore[type-arg]  # any dtype will do
    """Errors of these predictive deviations."""
    return Asked(label_N=z_N, mean_N=np.zeros(len(z_N)), sd_N=np.ones(len(z_N)))


def errors(deviation: float, users: int = 60, rows: int = 20) -> list[Asked]:
    return [asked(z_N) for z_N in np.random.default_rng(4).normal(scale=deviation, size=(users, rows))]


def test_the_ratio_is_that_of_variances_whatever_a_few_wild_errors_say() -> None:
    assert variance_ratio(errors(0.5)) == pytest.approx(0.25, rel=0.15)
    assert variance_ratio(errors(3.0)) == pytest.approx(9.0, rel=0.15)
    wild = [asked(np.append(one.label_N, 50.0)) if user % 10 == 0 else one for user, one in enumerate(errors(0.5))]
    assert variance_ratio(wild) == pytest.approx(0.25, rel=0.2)
    assert variance_ratio([asked(np.zeros(5))] * 20) == 1 / MOST
    assert variance_ratio([asked(np.full(5, 1e6))] * 20) == MOST


def test_intervals_that_are_nearly_right_or_not_shown_to_be_wrong_are_left_alone() -> None:
    assert variance_ratio(errors(1.05, users=500)) == 1, "no bit of a good checkpoint moves"
    level_T = np.array([0.1, 0.2, 0.3, 0.9])  # .375 on average, give or take .18
    assert variance_ratio([asked(np.full(3, ndtri((1 + level) / 2))) for level in level_T]) == 1
    assert variance_ratio([asked(np.full(3, ndtri((1 + level) / 2))) for level in np.tile(level_T, 20)]) < 1


@pytest.mark.parametrize(("middle", "sd"), [(3.3, 1.0), (3.3, 0.5), (3.3, 0.3), (4.7, 0.9), (5.2, 1.2)])
def test_whole_grades_whose_intervals_are_right_are_left_alone(middle: float, sd: float) -> None:
    """Rounding and the ends of the range are no errors of the variance."""
    rng = np.random.default_rng(1)
    mean_TN = middle + 0.3 * rng.normal(size=(200, 20))
    label_TN = np.clip(np.round(rng.normal(mean_TN, sd)), 1, 5)
    rows = [
        Asked(label_N=label_N, mean_N=mean_N, sd_N=np.full(20, sd)) for label_N, mean_N in zip(label_TN, mean_TN, strict=True)
    ]
    assert whole_grades(label_TN.ravel()) == (label_TN.min(), 5)
    assert variance_ratio(rows, (1, 5)) == 1
    wide = [replace(one, sd_N=3 * one.sd_N) for one in rows]
    assert variance_ratio(wide, (1, 5)) == pytest.approx(1 / 9, rel=0.3)
    assert whole_grades(np.array([1.0, 2.5])) is None


@pytest.fixture
def inputs(tiny_dataset: "Dataset", small_recipe: Recipe) -> Inputs:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    prepared = prepare(tiny_dataset, encoder, small_recipe, 0)
    return replace(prepared, validation_user_U=np.arange(len(prepared.users)) % 3 == 0)


def off_by(head: Head, factor: float) -> Head:
    return replace(head, theta={**head.theta, NAME: head.theta[NAME] + float(np.log(factor))})


def test_a_head_whose_variances_are_off_gets_them_right_and_keeps_everything_else(
    inputs: Inputs, small_prior: Prior, small_recipe: Recipe
) -> None:
    recipe, head = small_recipe.heads[0], small_prior.head("explicit")
    right = calibrated(inputs, recipe, off_by(head, 30.0), 0)
    assert torch.allclose(right.theta[NAME], calibrated(inputs, recipe, off_by(head, 1 / 30), 0).theta[NAME], atol=1e-4)
    grades = whole_grades(inputs.layout("user", validation=False).label_N)
    levels = [mean_level(one, 1.0, grades) for one in calibrating._asked(right, episodes(inputs, recipe, 0, validation=True))]
    assert np.mean(levels) == pytest.approx(0.5, abs=1e-3)
    assert all(torch.equal(value, head.theta[name]) for name, value in right.theta.items() if name != NAME)
    assert calibrated(inputs, recipe, right, 0) is right


def test_a_handful_of_users_and_heads_without_scales_change_nothing(
    inputs: Inputs, small_prior: Prior, small_recipe: Recipe
) -> None:
    recipe, head = small_recipe.heads[0], off_by(small_prior.head("explicit"), 30.0)
    few = replace(inputs, validation_user_U=np.arange(len(inputs.users)) < MIN_USERS - 1)
    assert calibrated(few, recipe, head, 0) is head
    without = replace(head, theta={name: value for name, value in head.theta.items() if name != NAME})
    assert calibrated(inputs, recipe, without, 0) is without
