"""Marks: which rules mean an item, read once per item and revision."""

from collections.abc import Sequence

import pytest

from metarec.errors import UnavailableError
from metarec.ranking.marks import UNREAD_SECONDS, Mark, Marks, mark
from metarec.ranking.rule_file import parse_rules
from metarec.types import Item

RULES = parse_rules(
    """
rules:
  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}}
  - {name: push, effect: boost, add: 1, items: {ids: [a]}}
"""
)


class Store:
    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.reads: list[list[str]] = []
        self.down = False
        self.loaded = "one"

    def put(self, item_id: str, genre: str, revision: int = 0) -> None:
        self.items[item_id] = Item(item_id=item_id, features={"genres": (genre,)}, revision=revision)

    def read(self, item_ids: Sequence[str]) -> dict[str, Item]:
        if self.down:
            raise UnavailableError("down")
        self.reads.append(list(item_ids))
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}

    def marks(self, now: Sequence[float] = (0.0,)) -> Marks:
        return Marks(RULES, self.read, lambda: self.loaded, clock=lambda: now[0])


def test_bits_are_those_of_the_rules() -> None:
    assert mark(RULES, "a", {"genres": ("horror",)}) == Mark(hits=0b11, unknown=0)
    assert mark(RULES, "b", {}) == Mark(hits=0, unknown=0)
    assert mark(RULES, "a", None) == Mark(hits=0b10, unknown=0b01)


def test_content_is_read_once_per_revision() -> None:
    store = Store()
    store.put("a", "horror")
    store.put("b", "drama")
    marks = store.marks()
    for _ in range(2):
        found, error = marks.of({"a": 0, "b": 0})
        assert error is None
        assert found == {"a": Mark(0b11, 0), "b": Mark(0, 0)}
    store.put("b", "horror", revision=2)
    assert marks.of({"a": 0, "b": 2})[0]["b"] == Mark(0b01, 0)
    assert store.reads == [["a", "b"], ["b"]]


def test_what_cannot_be_read_is_undecided_and_what_was_read_before_stays() -> None:
    store = Store()
    store.put("a", "drama")
    marks = store.marks()
    marks.of({"a": 0})
    store.down = True
    found, error = marks.of({"a": 0, "b": 0})
    assert error is not None
    assert found == {"a": Mark(0b10, 0), "b": Mark(0, 0b01)}
    assert marks.of({"a": 1})[0]["a"] == Mark(0b10, 0b01), "an older content says nothing about a newer one"
    assert marks.unsettled(["a", "b"]) == ["b"]


@pytest.mark.parametrize("loaded", ["one", ""])
def test_an_absent_item_is_undecided_and_looked_for_again_after_a_while(loaded: str) -> None:
    store, now = Store(), [0.0]
    store.loaded = loaded
    marks = store.marks(now)
    for _ in range(2):
        found, error = marks.of({"b": 0})
        assert found == {"b": Mark(0, 0b01)}
        assert error is not None
    assert store.reads == [["b"]]
    assert marks.unsettled(["b"]) == ["b"]
    store.put("b", "horror", revision=1)
    now[0] = UNREAD_SECONDS + 1
    assert marks.of({"b": 0}) == ({"b": Mark(0b01, 0)}, None)


def test_before_the_load_only_content_that_was_upserted_counts() -> None:
    store = Store()
    store.loaded = ""
    store.put("old", "drama")
    store.put("new", "drama", revision=1)
    marks = store.marks()
    found, error = marks.of({"old": 0, "new": 1})
    assert found == {"old": Mark(0, 0b01), "new": Mark(0, 0)}
    assert error is not None
    assert "'old'" in error.message
    assert marks.of({"new": 1}) == ({"new": Mark(0, 0)}, None), "others' content does not matter"


def test_a_store_that_is_loaded_anew_is_read_anew() -> None:
    store = Store()
    store.put("a", "drama")
    marks = store.marks()
    assert marks.of({"a": 0})[0]["a"] == Mark(0b10, 0)
    assert not marks.outdated()
    store.loaded = ""
    assert marks.outdated()
    assert marks.of({"a": 0})[0]["a"] == Mark(0b10, 0b01)
    store.put("a", "horror")
    store.loaded = "two"
    assert marks.outdated()
    assert marks.of({"a": 0}) == ({"a": Mark(0b11, 0)}, None)
    assert not marks.outdated()


def test_rules_of_ids_alone_read_nothing() -> None:
    store = Store()
    rules = parse_rules("rules:\n  - {name: no-a, effect: filter, items: {ids: [a]}}")
    store.down, store.loaded = True, ""
    marks = Marks(rules, store.read, lambda: store.loaded)
    assert not marks.outdated()
    assert marks.of({"a": 3, "b": 0}) == ({"a": Mark(1, 0), "b": Mark(0, 0)}, None)
