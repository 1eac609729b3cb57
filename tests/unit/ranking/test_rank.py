"""Ranking: a deterministic order, and explanations that add up."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metarec.ranking.explain import explain
from metarec.ranking.rank import RuleEffect, rank
from metarec.types import Contribution


class Fixed:
    """An engine that knows items a to d."""

    def scores(self, adapted: float, item_ids: Sequence[str]) -> NDArray[np.float32]:
        known = {"a": 1.0, "b": 2.0, "c": 1.0, "d": -1.0}
        return np.array([known.get(item_id, 0.5) * adapted for item_id in item_ids], np.float32)

    def knows(self, adapted: float, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        return np.array([item_id in "abcd" for item_id in item_ids])

    def contributions(self, adapted: float, item_id: str) -> list[Contribution]:
        return [
            Contribution(kind="global", value=0.25),
            Contribution(kind="item", value=-1.0),
            Contribution(kind="profile", value=0.5),
        ]


@pytest.mark.parametrize("order", [["a", "b", "c", "d", "x"], ["x", "d", "c", "b", "a"], ["c", "a", "x", "b", "d", "a"]])
def test_the_order_does_not_depend_on_the_order_of_the_candidates(order: list[str]) -> None:
    ranked = rank(Fixed(), 1.0, order)
    assert [item.item_id for item in ranked] == ["b", "a", "c", "d", "x"]
    assert [item.known for item in ranked] == [True] * 4 + [False]


def test_unknown_candidates_come_last_with_their_score() -> None:
    last = rank(Fixed(), 1.0, ["x", "d"])[-1]
    assert (last.item_id, last.score, last.known) == ("x", 0.5, False)


def test_the_list_can_be_cut_and_be_empty() -> None:
    assert [item.item_id for item in rank(Fixed(), 1.0, ["a", "b", "c"], 2)] == ["b", "a"]
    assert rank(Fixed(), 1.0, []) == []


def test_terms_come_largest_first() -> None:
    assert [term.kind for term in explain(Fixed(), 1.0, "a")] == ["item", "profile", "global"]


def test_boosts_are_terms_of_their_own() -> None:
    terms = explain(Fixed(), 1.0, "a", [RuleEffect(rule="push", effect="boost", boost=2.0)])
    assert terms[0] == Contribution(kind="rule", rule="push", value=2.0)
    assert sum(term.value for term in terms) == pytest.approx(1.75)
