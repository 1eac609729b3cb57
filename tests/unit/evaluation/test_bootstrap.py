"""Intervals draw users, and comparisons draw the same users for both sides."""

import numpy as np
import pytest

from metarec.evaluation.bootstrap import Resampler, delta, interval


def test_resampled_means_equal_a_loop_over_drawn_users_and_seeds() -> None:
    random = np.random.default_rng(3)
    user_T, seed_T = np.repeat(np.arange(6), 4), np.tile([0, 0, 1, 1], 6)
    value_T = random.random(24)
    value_T[5] = np.nan
    drawn = Resampler.of(seed_T, user_T, seed=2)
    found = drawn.means({"one": value_T, "other": 2 * value_T})
    for resample in range(5):
        chosen = np.repeat(np.arange(6), drawn.weight_RU[resample].astype(int))
        rows = np.concatenate([np.flatnonzero(user_T == user) for user in chosen])
        by_seed = [np.nanmean(value_T[rows][seed_T[rows] == seed]) for seed in (0, 1)]
        assert found["one"][resample] == pytest.approx(np.mean(by_seed))
        assert found["other"][resample] == pytest.approx(2 * np.mean(by_seed))


def test_draws_depend_on_the_seed_alone() -> None:
    users, seeds = np.arange(9), np.zeros(9)
    assert np.array_equal(Resampler.of(seeds, users, seed=1).weight_RU, Resampler.of(seeds, users, seed=1).weight_RU)
    assert not np.array_equal(Resampler.of(seeds, users, seed=1).weight_RU, Resampler.of(seeds, users, seed=2).weight_RU)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    value_T = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = interval(Resampler.of(np.zeros(400), np.arange(400)).means({"x": value_T})["x"])
    assert low == pytest.approx(value_T.mean() - 1.96 * value_T.std() / 20, abs=0.02)
    assert high == pytest.approx(value_T.mean() + 1.96 * value_T.std() / 20, abs=0.02)


def test_a_constant_advantage_has_a_narrow_interval_however_much_users_differ() -> None:
    plain_T = np.random.default_rng(1).uniform(1, 9, 50)
    means = Resampler.of(np.zeros(50), np.arange(50)).means({"plain": plain_T, "mine": 0.9 * plain_T})
    found = delta("mae", "plain", (0.9 * plain_T.mean(), means["mine"]), (plain_T.mean(), means["plain"]))
    assert found.value == pytest.approx(0.1)
    assert found.interval == (pytest.approx(0.1), pytest.approx(0.1))


def test_delta_is_positive_where_the_learner_is_better_whatever_the_direction() -> None:
    one = np.ones(3)
    assert delta("mae", "b", (0.5, 0.5 * one), (1.0, one)).value == pytest.approx(0.5)
    assert delta("ndcg@20", "b", (1.5, 1.5 * one), (1.0, one)).value == pytest.approx(0.5)


def test_without_any_value_there_is_no_interval() -> None:
    drawn = Resampler.of(np.zeros(2), np.arange(2))
    assert np.isnan(interval(drawn.means({"x": np.full(2, np.nan)})["x"])).all()
