"""Ranking: a deterministic order, and explanations that add up."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metarec.ranking.explain import explain
from metarec.ranking.rank import rank
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


def test_one_place_in_ten_is_for_the_best_emerging_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarec.ranking.rank.ITEMS_PER_EMERGING", 2)

    def ids(num_items: int, *emerging: str) -> list[str]:
        return [item.item_id for item in rank(Fixed(), 1.0, ["a", "b", "c", "d", "x"], num_items, emerging=emerging)]

    assert ids(2, "d", "c") == ["b", "c"]
    assert ids(3, "d") == ["b", "a", "d"]
    assert ids(2, "a", "d") == ["b", "a"]  # one has earned its place
    assert ids(4, "b", "c", "d") == ["b", "a", "c", "d"]
    assert ids(3, "b", "d") == ["b", "a", "c"]
    assert ids(2, "x") == ["b", "a"]  # nobody knows it
    assert ids(1, "d") == ["b"]
    assert ids(0, "d") == ["b", "a", "c", "d", "x"]


def test_terms_come_largest_first() -> None:
    assert [term.kind for term in explain(Fixed(), 1.0, "a")] == ["item", "profile", "global"]
