"""Exploration: its budget, its draws, and propensities against exact probabilities."""

from itertools import pairwise, permutations
from math import erf, sqrt

import numpy as np
import pytest

from metarec.errors import ConfigError
from metarec.ranking.explore import Exploration, Spread, explored, num_draws, seed_of
from metarec.ranking.place import Layout, Plan


def spread(*own: float) -> Spread:
    return Spread(user_CK=np.zeros((len(own), 0), np.float32), own_C=np.array(own, np.float32))


def start(size: int, num_places: int, slots: tuple[int, ...], *pool: int) -> Layout:
    pool_C = np.isin(np.arange(size), pool)
    return Layout(Plan(known_C=np.ones(size, bool), num_places=num_places, slots=slots, pool_C=pool_C, earned=False))


@pytest.mark.parametrize(
    ("share", "num_places", "slots"),
    [
        (0.1, 9, ()),
        (0.1, 10, (9,)),
        (0.1, 30, (9, 19, 29)),
        (0.3, 10, (3, 6, 9)),
        (0.5, 3, (1,)),
        (1.0, 3, (0, 1, 2)),
        (0.0, 100, ()),
    ],
)
def test_the_budget_is_never_exceeded(share: float, num_places: int, slots: tuple[int, ...]) -> None:
    assert Exploration(share=share).slots(num_places) == slots


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"share": 1.5}, "exploration"),
        ({"policy": "greedy"}, "exploration_policy"),
        ({"cold_shots": -1}, "exploration_cold_shots"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Exploration(**settings)  # type: ignore[arg-type]  # wrong ones are the case
    assert caught.value.field == field


def test_the_same_request_gets_the_same_list_and_others_get_others() -> None:
    mean_C, uncertain = np.zeros(30, np.float32), spread(*[1.0] * 30)
    lists = {}
    for request in ("r1", "r1", "r2", "r3"):
        layout, propensities = explored(start(30, 5, (1, 4), *range(30)), "thompson", mean_C, uncertain, seed_of(request), 50)
        assert lists.setdefault(request, (layout.chosen, propensities)) == (layout.chosen, propensities)
    assert len({tuple(chosen) for chosen, _ in lists.values()}) > 1


def test_propensities_of_two_arms_are_those_of_the_normal_distribution() -> None:
    mean_C, uncertain = np.array([9.0, 0.0, 0.5], np.float32), spread(0, 1.0, 2.0)
    exact = 0.5 * (1 + erf(0.5 / sqrt(5) / sqrt(2)))  # P(arm 2 > arm 1), their difference being N(0.5, 1 + 4)
    layout, propensities = explored(start(3, 2, (1,), 1, 2), "thompson", mean_C, uncertain, seed_of("r"), 20_000)
    assert layout.chosen[0] == 0
    assert propensities[0] == 1.0
    assert propensities[1] == pytest.approx(exact if layout.chosen[1] == 2 else 1 - exact, abs=0.012)


def test_propensities_of_three_places_are_those_of_exact_enumeration() -> None:
    """Scores that move along one shared direction: every outcome can be written down."""
    generator = np.random.default_rng(0)
    draws = 40_000
    user_CK = np.array([[1.0], [-1.0], [0.2]], np.float32)
    mean_C = np.array([0.0, 0.1, 0.15], np.float32)
    layout, propensities = explored(
        start(3, 3, (0, 1, 2), 0, 1, 2),
        "thompson",
        mean_C,
        Spread(user_CK=user_CK, own_C=np.zeros(3, np.float32)),
        generator,
        draws,
    )
    # score = mean + slope z: orders change only where two lines cross, so each order's probability is that of intervals of z.
    slope = user_CK[:, 0].astype(float)
    crossings = sorted((mean_C[b] - mean_C[a]) / (slope[a] - slope[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    edges = [-9.0, *map(float, crossings), 9.0]
    exact = dict.fromkeys(permutations(range(3)), 0.0)
    for low, high in pairwise(edges):
        middle = (low + high) / 2
        order = tuple(np.argsort(-(mean_C + slope * middle)).tolist())
        exact[order] += 0.5 * (erf(high / sqrt(2)) - erf(low / sqrt(2)))
    for place, candidate in enumerate(layout.chosen):
        marginal = sum(share for order, share in exact.items() if order[place] == candidate)
        assert propensities[place] == pytest.approx(marginal, abs=0.01)


def test_what_follows_a_drawn_place_carries_its_probability() -> None:
    # If 1 is drawn for the first place, 0 follows; if 0 is, 1 does.
    layout, propensities = explored(
        start(2, 2, (0,), 0, 1), "thompson", np.zeros(2, np.float32), spread(1.0, 1.0), seed_of("x"), 4000
    )
    assert set(layout.chosen) == {0, 1}
    assert propensities[0] == propensities[1] == pytest.approx(0.5, abs=0.03)


def test_what_was_shown_never_has_probability_zero() -> None:
    for request in range(20):
        _, propensities = explored(
            start(50, 3, (0, 1, 2), *range(50)),
            "thompson",
            np.zeros(50, np.float32),
            spread(*[1.0] * 50),
            seed_of(str(request)),
            10,
        )
        assert min(propensities) >= 1 / 11


def test_upper_confidence_bounds_take_the_uncertain_and_draw_nothing() -> None:
    mean_C, uncertain = np.array([3.0, 1.0, 0.9], np.float32), spread(0, 0.1, 0.5)
    layout, propensities = explored(start(3, 2, (1,), 1, 2), "ucb", mean_C, uncertain, seed_of("r"), 100)
    assert layout.chosen == [0, 2]
    assert propensities == [1.0, 1.0]
    assert layout.explored == {2: 1}


def test_a_long_list_costs_few_draws_and_a_short_one_many() -> None:
    assert num_draws(10) == 200
    assert num_draws(200) == num_draws(2000) == 10


def test_the_shared_part_of_the_spread_moves_scores_together() -> None:
    both = Spread(user_CK=np.array([[2.0], [2.0]], np.float32), own_C=np.array([0.0, 1.0], np.float32))
    score_MC = both.draw(np.random.default_rng(0), np.zeros(2, np.float32), 4000)
    assert both.std_C.tolist() == pytest.approx([2.0, sqrt(5)])
    assert score_MC.std(0).tolist() == pytest.approx([2.0, sqrt(5)], rel=0.05)
    assert (score_MC[:, 1] - score_MC[:, 0]).std() == pytest.approx(1.0, rel=0.05)


def test_what_is_shown_does_not_depend_on_how_many_draws_estimate_its_propensity() -> None:
    spread = Spread(user_CK=np.ones((4, 2), np.float32), own_C=np.arange(4, dtype=np.float32))
    first, more = (spread.draw(seed_of("r"), np.zeros(4, np.float32), num)[0] for num in (1, 200))
    assert first.tolist() == more.tolist()
