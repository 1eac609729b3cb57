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
from metarec.training.calibrating import MIN_USERS, MOST, NAME, calibrated, variance_ratio
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipe import Recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def errors(deviation: float, users: int = 60, rows: int = 20) -> list[np.ndarray]:  # type: ignore[type-arg]  # any dtype will do
    return list(np.random.default_rng(4).normal(scale=deviation, size=(users, rows)))


def test_the_ratio_is_that_of_variances_whatever_a_few_wild_errors_say() -> None:
    assert variance_ratio(errors(0.5)) == pytest.approx(0.25, rel=0.15)
    assert variance_ratio(errors(3.0)) == pytest.approx(9.0, rel=0.15)
    wild = [np.append(z_N, 50.0) if user % 10 == 0 else z_N for user, z_N in enumerate(errors(0.5))]
    assert variance_ratio(wild) == pytest.approx(0.25, rel=0.2)
    assert variance_ratio([np.zeros(5)] * 20) == 1 / MOST
    assert variance_ratio([np.full(5, 1e6)] * 20) == MOST


def test_intervals_that_are_nearly_right_or_not_shown_to_be_wrong_are_left_alone() -> None:
    assert variance_ratio(errors(1.05, users=500)) == 1, "no bit of a good checkpoint moves"
    level_T = np.array([0.1, 0.2, 0.3, 0.9])  # .375 on average, give or take .18
    assert variance_ratio([np.full(3, ndtri((1 + level) / 2)) for level in level_T]) == 1
    assert variance_ratio([np.full(3, ndtri((1 + level) / 2)) for level in np.tile(level_T, 20)]) < 1


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
    levels = [np.abs(2 * calibrating.ndtr(z_N) - 1).mean() for z_N in calibrating._errors(inputs, recipe, right, 0)]
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
