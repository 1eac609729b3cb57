"""Quotas that a greedy list breaks although they can be kept: against every list there is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from metarec.ranking.place import Layout, Plan, QuotaPlan
from metarec.ranking.shares import shares_for

NUM, PLACES = 7, 4


def members(*places: int, size: int = NUM) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found = np.zeros(size, bool)
    found[list(places)] = True
    return found


def planned(quotas: Sequence[QuotaPlan], pins: Mapping[int, int] | None = None) -> Plan:
    return Plan(known_C=np.ones(NUM, bool), num_places=PLACES, quotas=quotas, pins=pins or {})


def finished(plan: Plan) -> Layout:
    layout = Layout(plan)
    layout.advance()
    return layout


def missing(layout: Layout, quotas: Sequence[QuotaPlan]) -> int:
    return sum(layout.missing(number) for number in range(len(quotas)))


def least_missing(quotas: Sequence[QuotaPlan], pins: Mapping[int, int]) -> int | None:
    """Of all full lists; None where every one exceeds a maximum."""
    best = None
    for listed in permutations(range(NUM), PLACES):
        if any(listed[place] != candidate for place, candidate in pins.items()):
            continue
        counts = [
            (quota, block, int(quota.member_C[list(listed[block.start : block.stop])].sum()))
            for quota in quotas
            for block in quota.blocks(PLACES)
        ]
        if all(quota.at_most is None or count <= quota.at_most for quota, _, count in counts):
            lack = sum(max(0, quota.least(block) - count) for quota, block, count in counts)
            best = lack if best is None else min(best, lack)
    return best


def test_a_list_misses_no_more_than_the_best_of_all_lists() -> None:
    generator = np.random.default_rng(8)
    mended = 0
    for _ in range(250):
        quotas = []
        for _ in range(int(generator.integers(1, 4))):
            per, least = int(generator.choice([0, 0, 2, 3])), int(generator.integers(0, 3))
            most = None if generator.random() < 0.5 else int(generator.integers(max(least, 1), 4))
            member_C = generator.random(NUM) < generator.choice([0.2, 0.4, 0.6])
            quotas.append(QuotaPlan(member_C=member_C, at_least=min(least, per or least), at_most=most, per=per))
        pins = {int(generator.integers(PLACES)): int(generator.integers(NUM))} if generator.random() < 0.3 else {}
        plan, best = planned(quotas, pins), least_missing(quotas, pins)
        greedy = finished(plan)
        shares = shares_for(plan, greedy)
        if best is None:
            assert shares is None, "no list is full, so the greedy one stands"
            continue
        mended += shares is not None
        layout = greedy if shares is None else finished(replace(plan, shares=shares))
        assert len(set(layout.chosen)) == PLACES
        assert missing(layout, quotas) == best
        assert all(layout.chosen[place] == candidate for place, candidate in pins.items())
        for quota in quotas:
            counts = [int(quota.member_C[layout.chosen[block.start : block.stop]].sum()) for block in quota.blocks(PLACES)]
            assert quota.at_most is None or max(counts) <= quota.at_most
    assert mended > 5, "the greedy list alone breaks some"


def test_what_serves_the_tighter_stretch_comes_first_and_the_account_says_so() -> None:
    quotas = [QuotaPlan(member_C=members(1, 6), at_least=2, per=3), QuotaPlan(member_C=members(4), at_least=1)]
    quotas.append(QuotaPlan(member_C=members(2, 3, 5), at_least=1, per=3))
    plan = planned(quotas)
    greedy = finished(plan)
    assert missing(greedy, quotas) == 1
    shares = shares_for(plan, greedy)
    assert shares is not None
    layout = finished(replace(plan, shares=shares))
    assert layout.chosen == [1, 2, 6, 4]
    assert layout.raised == {(0, 1), (2, 2), (0, 6), (1, 4)}
    assert greedy.held == layout.held == set()


def test_quotas_that_are_kept_or_cannot_be_are_left_to_the_greedy_list() -> None:
    kept = planned([QuotaPlan(member_C=members(5), at_least=1), QuotaPlan(member_C=members(0, 1), at_most=1)])
    assert shares_for(kept, finished(kept)) is None
    scarce = planned([QuotaPlan(member_C=members(5), at_least=2)])
    assert shares_for(scarce, finished(scarce)) is None
    full = planned([QuotaPlan(member_C=np.ones(NUM, bool), at_most=2)])
    assert shares_for(full, finished(full)) is None


def test_exploration_takes_what_the_shares_leave_to_its_place() -> None:
    quotas = [QuotaPlan(member_C=members(1, 6), at_least=2, per=3), QuotaPlan(member_C=members(4), at_least=1)]
    quotas.append(QuotaPlan(member_C=members(2, 3, 5), at_least=1, per=3))
    plan = replace(planned(quotas), slots=(1, 3), pool_C=members(0, 3, 5))
    shares = shares_for(plan, finished(replace(plan, slots=())))
    layout = Layout(replace(plan, shares=shares))
    pool = layout.advance()
    assert pool is not None
    assert pool.tolist() == [3, 5], "not 0, which no share allows"
    other = layout.copy()
    layout.explore(5)
    assert layout.advance() is None
    assert layout.chosen == [1, 5, 6, 4]
    other.explore(3)
    assert other.advance() is None
    assert other.chosen == [1, 3, 6, 4]
    assert missing(layout, quotas) == missing(other, quotas) == 0
