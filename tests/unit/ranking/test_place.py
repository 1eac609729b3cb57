"""Lists place by place: pins, minimums and maximums, and as little disturbance as they allow."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.ranking.place import Layout, Plan, QuotaPlan


def members(size: int, *places: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found = np.zeros(size, bool)
    found[list(places)] = True
    return found


def laid_out(size: int, num_places: int, **more: object) -> Layout:
    layout = Layout(Plan(known_C=np.ones(size, bool), num_places=num_places, **more))  # type: ignore[arg-type]  # settings of the case
    assert layout.advance() is None
    return layout


def test_without_rules_the_order_stays() -> None:
    assert laid_out(5, 3).chosen == [0, 1, 2]
    assert laid_out(2, 3).chosen == [0, 1]
    assert laid_out(0, 3).chosen == []


def test_unknown_candidates_come_last() -> None:
    layout = Layout(Plan(known_C=np.array([True, False, True]), num_places=3))
    layout.advance()
    assert layout.chosen == [0, 2, 1]


def test_pins_have_their_place_and_nobody_comes_twice() -> None:
    layout = laid_out(5, 4, pins={0: 3, 2: 0})
    assert layout.chosen == [3, 1, 0, 2]
    assert layout.pinned == {0, 3}
    assert laid_out(5, 2, pins={3: 4}).chosen == [0, 1], "a place that the list does not have"


def test_a_pin_beyond_the_candidates_closes_up() -> None:
    assert laid_out(2, 5, pins={1: 0}).chosen == [1, 0]
    quota = QuotaPlan(member_C=members(4, 1, 2), at_most=1)
    layout = laid_out(4, 4, pins={3: 3}, quotas=[quota])
    assert layout.chosen == [0, 1, 3]
    assert layout.pinned == {3}


def test_a_maximum_passes_over_and_ends_the_list_when_nothing_else_is_left() -> None:
    layout = laid_out(6, 4, quotas=[QuotaPlan(member_C=members(6, 0, 1, 2), at_most=1)])
    assert layout.chosen == [0, 3, 4, 5]
    assert layout.held == {(0, 1)}
    assert laid_out(3, 3, quotas=[QuotaPlan(member_C=members(3, 0, 1, 2), at_most=2)]).chosen == [0, 1]


def test_a_maximum_counts_anew_in_each_block() -> None:
    quota = QuotaPlan(member_C=members(8, 0, 1, 2, 3), at_most=1, per=2)
    assert laid_out(8, 6, quotas=[quota]).chosen == [0, 4, 1, 5, 2, 6]


def test_a_minimum_takes_the_last_places_it_needs() -> None:
    layout = laid_out(8, 4, quotas=[QuotaPlan(member_C=members(8, 5, 6), at_least=2)])
    assert layout.chosen == [0, 1, 5, 6]
    assert layout.raised == {(0, 5), (0, 6)}
    assert layout.missing(0) == 0
    assert laid_out(8, 4, quotas=[QuotaPlan(member_C=members(8, 1, 6), at_least=1)]).raised == set(), "one is there anyway"


def test_a_minimum_that_cannot_be_met_is_counted() -> None:
    layout = laid_out(8, 4, quotas=[QuotaPlan(member_C=members(8, 6), at_least=3)])
    assert layout.chosen == [0, 6, 1, 2]
    assert layout.missing(0) == 2


def test_pins_count_in_quotas() -> None:
    quota = QuotaPlan(member_C=members(6, 0, 1, 5), at_most=1)
    assert laid_out(6, 4, pins={3: 5}, quotas=[quota]).chosen == [2, 3, 4, 5]
    least = QuotaPlan(member_C=members(6, 5), at_least=1)
    assert laid_out(6, 4, pins={0: 5}, quotas=[least]).raised == set()


def test_a_minimum_is_in_proportion_where_the_list_ends_within_a_block() -> None:
    quota = QuotaPlan(member_C=members(30, 27, 28, 29), at_least=2, per=10)
    assert laid_out(30, 15, quotas=[quota]).chosen[-1] == 29
    assert laid_out(30, 4, quotas=[quota]).chosen == [0, 1, 2, 3]


def test_exploration_stops_at_its_slots_unless_the_pool_has_earned_them() -> None:
    layout = Layout(Plan(known_C=np.ones(6, bool), num_places=4, slots=(1, 3), pool_C=members(6, 2, 4, 5)))
    pool = layout.advance()
    assert pool is not None
    assert pool.tolist() == [2, 4, 5]
    layout.explore(5)
    pool = layout.advance()
    assert pool is not None
    assert pool.tolist() == [2, 4]
    layout.explore(4)
    assert layout.advance() is None
    assert layout.chosen == [0, 5, 1, 4]
    assert layout.explored == {5: 1, 4: 3}
    assert laid_out(6, 4, slots=(1, 3), pool_C=members(6, 0, 1, 4)).chosen == [0, 1, 2, 3]
    unknown = Layout(Plan(known_C=~members(3, 2), num_places=2, slots=(1,), pool_C=members(3, 2)))
    assert unknown.advance() is None, "nothing is explored of which nothing is known"


def test_exploration_does_not_take_the_place_that_a_minimum_needs() -> None:
    quota = QuotaPlan(member_C=members(8, 5, 6), at_least=1)
    plan = Plan(known_C=np.ones(8, bool), num_places=4, quotas=[quota], slots=(3,), pool_C=members(8, 6, 7))
    layout = Layout(plan)
    pool = layout.advance()
    assert pool is not None
    assert pool.tolist() == [6], "what serves both"
    alone = Layout(Plan(known_C=np.ones(8, bool), num_places=4, quotas=[quota], slots=(3,), pool_C=members(8, 7)))
    assert alone.advance() is None
    assert alone.chosen == [0, 1, 2, 5]


quota_plans = st.lists(
    st.tuples(
        st.sets(st.integers(0, 11)), st.integers(0, 3), st.one_of(st.none(), st.integers(1, 4)), st.sampled_from([0, 3, 5])
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(quota_plans, st.dictionaries(st.integers(0, 7), st.integers(0, 11), max_size=3), st.integers(1, 12))
def test_whatever_the_rules_a_list_keeps_its_maximums_and_pins_and_repeats_nothing(
    wanted: Sequence[tuple[set[int], int, int | None, int]], pins: dict[int, int], num_places: int
) -> None:
    pins = {place: candidate for place, candidate in pins.items() if list(pins.values()).count(candidate) == 1}
    quotas = [
        QuotaPlan(member_C=members(12, *places), at_least=least, at_most=most, per=per) for places, least, most, per in wanted
    ]
    layout = laid_out(12, num_places, pins=pins, quotas=quotas)
    assert len(set(layout.chosen)) == len(layout.chosen) <= num_places
    complete = len(layout.chosen) == num_places
    if complete:
        assert all(layout.chosen[place] == candidate for place, candidate in pins.items() if place < num_places)
    assert {candidate for place, candidate in pins.items() if place < num_places} <= set(layout.chosen)
    for quota in quotas:
        if quota.at_most is None:
            continue
        size = quota.per or num_places
        for start in range(0, num_places, size):
            block = range(start, min(start + size, num_places))
            pinned = sum(place in block and bool(quota.member_C[candidate]) for place, candidate in pins.items())
            if complete:
                count = sum(bool(quota.member_C[layout.chosen[place]]) for place in block)
                assert count <= max(quota.at_most, pinned)


def test_the_greedy_list_with_one_minimum_is_the_best_there_is() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        member_C = generator.random(8) < 0.4
        least = int(generator.integers(1, 4))
        layout = laid_out(8, 4, quotas=[QuotaPlan(member_C=member_C, at_least=least)])
        value_C = np.arange(8, 0, -1)
        met = [group for group in combinations(range(8), 4) if member_C[list(group)].sum() >= min(least, member_C.sum())]
        best = max(int(value_C[list(group)].sum()) for group in met)
        assert int(value_C[layout.chosen].sum()) == best


def test_a_copy_goes_on_by_itself() -> None:
    plan = Plan(known_C=np.ones(6, bool), num_places=4, slots=(1,), pool_C=members(6, 4, 5))
    layout = Layout(plan)
    layout.advance()
    other = layout.copy()
    layout.explore(4)
    other.explore(5)
    layout.advance()
    other.advance()
    assert (layout.chosen, other.chosen) == ([0, 4, 1, 2], [0, 5, 1, 2])
