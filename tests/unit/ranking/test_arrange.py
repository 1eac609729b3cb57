"""Lists: what rules, diversity and exploration do to the order of scores, and what is said of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metarec.ranking.account import RuleReport, Ruling
from metarec.ranking.arrange import Arranged, Wish, arrange
from metarec.ranking.explore import Exploration, Spread
from metarec.ranking.marks import mark
from metarec.ranking.rank import RuleEffect
from metarec.ranking.rule_file import parse_rules
from metarec.types import Contribution

IDS = [f"i{k}" for k in range(10)]


class Ladder:
    """Item k scores 10 - k; even items point one way, odd ones another; nothing is uncertain but what a test says."""

    def __init__(self, own: float = 1.0) -> None:
        self.own = own
        self.asked_cold: list[bool] = []

    def scores(self, adapted: None, item_ids: Sequence[str]) -> NDArray[np.float32]:
        return np.array([10.0 - int(item_id[1:]) if item_id in IDS else 0.5 for item_id in item_ids], np.float32)

    def knows(self, adapted: None, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        return np.array([item_id in IDS for item_id in item_ids], bool)

    def directions(self, adapted: None, item_ids: Sequence[str]) -> NDArray[np.float32]:
        return np.array([np.eye(2)[int(item_id[1:]) % 2] for item_id in item_ids], np.float32)

    def spread(self, adapted: None, item_ids: Sequence[str], *, cold: bool) -> Spread:
        self.asked_cold.append(cold)
        return Spread(user_CK=np.zeros((len(item_ids), 0), np.float32), own_C=np.full(len(item_ids), self.own, np.float32))

    def contributions(self, adapted: None, item_id: str) -> list[Contribution]:
        return []


def ids(found: Arranged) -> list[str]:
    return [item.item_id for item in found.items]


def listed(
    num_items: int = 0, *, rules: str = "", unread: Sequence[str] = (), extra: Sequence[str] = (), **wish: Any
) -> Arranged:
    """The ladder's list under rules given as lines; items have `parity` even or odd, `unread` ones no readable features."""
    text = "rules:\n" + "\n".join(f"  - {{{line}}}" for line in rules.strip().splitlines()) if rules else "rules: []"
    parsed = parse_rules(text)
    names = [*IDS, *extra]
    marks = {
        name: mark(parsed, name, None if name in unread else {"parity": ("even", "odd")[int(name[1:]) % 2]}) for name in names
    }
    ruling = Ruling(rules=parsed, active=parsed.for_request("", "u", {}), marks=marks)
    return arrange(Ladder(), None, names, Wish(num_items=num_items, **wish), ruling)


def test_without_anything_the_list_is_the_order_of_scores() -> None:
    found = listed(3)
    assert ids(found) == ["i0", "i1", "i2"]
    assert [item.rank_before for item in found.items] == [1, 2, 3]
    assert {item.propensity for item in found.items} == {1.0}
    assert (found.rules, found.diversity) == ((), None)
    assert ids(listed()) == IDS
    assert arrange(Ladder(), None, [], Wish(num_items=3)).items == ()


def test_filters_remove_and_say_how_many() -> None:
    found = listed(3, rules="name: no-even, effect: filter, items: {field: parity, equals: even}")
    assert ids(found) == ["i1", "i3", "i5"]
    assert [item.rank_before for item in found.items] == [1, 2, 3]
    assert found.rules == (RuleReport(rule="no-even", effect="filter", num_removed=5),)


def test_a_filter_removes_what_it_cannot_decide_about() -> None:
    rules = "name: no-even, effect: filter, items: {field: parity, equals: even}"
    assert ids(listed(3, rules=rules, unread=["i1", "i2"])) == ["i3", "i5", "i7"]
    everything = listed(3, rules=rules, unread=IDS)
    assert (ids(everything), everything.rules[0].num_removed) == ([], 10)


def test_boosts_change_scores_and_stay_out_of_rank_before() -> None:
    found = listed(4, rules="name: push, effect: boost, add: 1.5, items: {field: parity, equals: odd}")
    assert [(item.item_id, item.score, item.rank_before) for item in found.items] == [
        ("i1", 10.5, 2),
        ("i0", 10.0, 1),
        ("i3", 8.5, 4),
        ("i2", 8.0, 3),
    ]
    assert found.items[0].effects == (RuleEffect(rule="push", effect="boost", boost=1.5),)
    assert found.items[1].effects == ()
    assert found.rules == (RuleReport(rule="push", effect="boost", num_changed=5),)
    undecided = listed(1, rules="name: push, effect: boost, add: 1.5, items: {field: parity, equals: odd}", unread=["i1"])
    assert undecided.items[0].item_id == "i0"


def test_pins_stand_where_they_should_unless_filtered_or_unknown() -> None:
    found = listed(3, rules="name: week, effect: pin, item: i9, place: 2")
    assert ids(found) == ["i0", "i9", "i1"]
    assert found.items[1].effects == (RuleEffect(rule="week", effect="pin"),)
    assert (found.items[1].rank_before, found.items[1].score) == (10, 1.0)
    assert found.rules == (RuleReport(rule="week", effect="pin", num_changed=1),)
    forbidden = listed(
        3,
        rules="""name: no-odd, effect: filter, items: {field: parity, equals: odd}
name: week, effect: pin, item: i9, place: 2""",
    )
    assert ids(forbidden) == ["i0", "i2", "i4"]
    assert forbidden.rules[1] == RuleReport(rule="week", effect="pin", num_missing=1)
    unknown = listed(2, rules="name: week, effect: pin, item: x9, place: 1", extra=["x9"])
    assert (ids(unknown), unknown.rules[0].num_missing) == (["i0", "i1"], 1)
    assert listed(2, rules="name: week, effect: pin, item: i9, place: 3").rules == (), "the list has no such place"


def test_quotas_move_items_and_name_them() -> None:
    found = listed(4, rules="name: few-even, effect: quota, at_most: 1, items: {field: parity, equals: even}")
    assert ids(found) == ["i0", "i1", "i3", "i5"]
    assert found.rules == (RuleReport(rule="few-even", effect="quota", num_changed=1),)
    more = listed(2, rules="name: new, effect: quota, at_least: 1, items: {ids: [i8]}")
    assert ids(more) == ["i0", "i8"]
    assert more.items[1].effects == (RuleEffect(rule="new", effect="quota"),)
    unmet = listed(2, rules="name: new, effect: quota, at_least: 2, items: {ids: [i8]}")
    assert unmet.rules == (RuleReport(rule="new", effect="quota", num_changed=1, num_missing=1),)


def test_quotas_over_different_stretches_are_kept_together() -> None:
    rules = """name: pair, effect: quota, at_least: 2, per: 3, items: {ids: [i1, i6]}
name: one, effect: quota, at_least: 1, per: 3, items: {ids: [i2, i3, i5]}
name: new, effect: quota, at_least: 1, items: {ids: [i4]}"""
    found = listed(4, rules=rules)
    assert ids(found) == ["i1", "i2", "i6", "i4"]
    assert {report.rule: (report.num_changed, report.num_missing) for report in found.rules} == {
        "pair": (2, 0),
        "one": (1, 0),
        "new": (1, 0),
    }
    diverse = listed(4, rules=rules, diversity=0.5)
    assert {report.num_missing for report in diverse.rules} == {0}


def test_a_large_boost_leaves_what_the_other_scores_weigh_against_likeness() -> None:
    no_odd_start = "name: no-odd-start, effect: filter, items: {ids: [i1, i3, i5]}"
    plain = listed(4, rules=no_odd_start, diversity=0.45)
    lifted = listed(4, rules=no_odd_start + "\nname: up, effect: boost, add: 1000, items: {ids: [i0]}", diversity=0.45)
    lowered = listed(4, rules=no_odd_start + "\nname: down, effect: boost, add: -1000, items: {ids: [i9]}", diversity=0.45)
    assert ids(plain) not in (["i0", "i2", "i4", "i6"], ["i0", "i7", "i8", "i9"]), "scores and likeness both count"
    assert ids(lifted) == ids(lowered) == ids(plain)


def test_diversity_mixes_and_says_what_it_cost() -> None:
    found = listed(4, rules="name: no-odd-start, effect: filter, items: {ids: [i1, i3, i5]}", diversity=0.6)
    assert ids(found)[:2] == ["i0", "i7"]
    assert found.diversity is not None
    assert found.diversity.similarity_after < found.diversity.similarity_before
    plain = listed(4, rules="name: no-odd-start, effect: filter, items: {ids: [i1, i3, i5]}")
    cost = np.mean([item.score for item in plain.items]) - np.mean([item.score for item in found.items])
    assert found.diversity.score_traded == pytest.approx(cost, abs=1e-6)
    assert found.diversity.strength == 0.6
    assert [item.rank_before for item in found.items][:2] == [1, 5]


def test_one_place_in_ten_is_for_an_emerging_item_by_chance() -> None:
    def shown(request_id: str) -> Arranged:
        wish = Wish(
            num_items=5, emerging=["i8", "i9", "x"], exploration=Exploration(share=0.2, policy="thompson"), request_id=request_id
        )
        return arrange(Ladder(), None, [*IDS, "x"], wish)

    lists = [shown(f"r{k}") for k in range(40)]
    assert all(ids(found)[:4] == IDS[:4] for found in lists)
    assert {ids(found)[4] for found in lists} == {"i8", "i9"}, "nobody knows x"
    for found in lists:
        assert [item.explored for item in found.items] == [False] * 4 + [True]
        assert [item.propensity for item in found.items[:4]] == [1.0] * 4
        assert 0 < found.items[4].propensity < 1
    again = shown("r0")
    assert again == lists[0]


def test_by_default_the_place_is_for_the_best_emerging_item_every_time() -> None:
    for request in range(5):
        wish = Wish(num_items=5, emerging=["i8", "i9"], exploration=Exploration(share=0.2), request_id=str(request))
        last = arrange(Ladder(), None, IDS, wish).items[-1]
        assert (last.item_id, last.explored, last.propensity) == ("i8", True, 1.0)


def test_an_emerging_item_that_has_earned_a_place_needs_none() -> None:
    wish = Wish(num_items=5, emerging=["i0", "i9"], exploration=Exploration(share=0.2))
    assert ids(arrange(Ladder(), None, IDS, wish)) == IDS[:5]


def test_a_cold_user_explores_among_all_and_others_do_not() -> None:
    engine = Ladder(own=5.0)
    exploration = Exploration(share=0.5, policy="thompson", cold_shots=3)
    found = {
        tuple(ids(arrange(engine, None, IDS, Wish(num_items=4, exploration=exploration, cold=True, request_id=f"r{k}"))))
        for k in range(20)
    }
    assert len(found) > 5
    assert engine.asked_cold == [True] * 20
    assert ids(arrange(engine, None, IDS, Wish(num_items=4, exploration=exploration))) == IDS[:4]


def test_filters_hold_whatever_else_is_asked_for() -> None:
    for request in range(10):
        found = listed(
            5,
            rules="""name: no-even, effect: filter, items: {field: parity, equals: even}
name: even-please, effect: quota, at_least: 3, items: {field: parity, equals: even}
name: push, effect: boost, add: 100, items: {field: parity, equals: even}
name: week, effect: pin, item: i2, place: 1""",
            diversity=0.5,
            cold=True,
            exploration=Exploration(share=1.0, policy="thompson"),
            request_id=str(request),
        )
        assert sorted(ids(found)) == ["i1", "i3", "i5", "i7", "i9"]
