"""Marks: which rules mean an item, read once per item and revision."""

from collections.abc import Sequence

from metarec.errors import UnavailableError
from metarec.ranking.marks import ABSENT_SECONDS, Mark, Marks, mark
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

    def put(self, item_id: str, genre: str, revision: int = 0) -> None:
        self.items[item_id] = Item(item_id=item_id, features={"genres": (genre,)}, revision=revision)

    def read(self, item_ids: Sequence[str]) -> dict[str, Item]:
        if self.down:
            raise UnavailableError("down")
        self.reads.append(list(item_ids))
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


def test_bits_are_those_of_the_rules() -> None:
    assert mark(RULES, "a", {"genres": ("horror",)}) == Mark(hits=0b11, unknown=0)
    assert mark(RULES, "b", {}) == Mark(hits=0, unknown=0)
    assert mark(RULES, "a", None) == Mark(hits=0b10, unknown=0b01)


def test_content_is_read_once_per_revision() -> None:
    store = Store()
    store.put("a", "horror")
    store.put("b", "drama")
    marks = Marks(RULES, store.read)
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
    marks = Marks(RULES, store.read)
    marks.of({"a": 0})
    store.down = True
    found, error = marks.of({"a": 0, "b": 0})
    assert error is not None
    assert found == {"a": Mark(0b10, 0), "b": Mark(0, 0b01)}
    assert marks.of({"a": 1})[0]["a"] == Mark(0b10, 0b01), "an older content says nothing about a newer one"
    assert marks.unsettled(["a", "b"]) == ["b"]


def test_an_absent_item_has_no_content_for_a_while() -> None:
    store, now = Store(), [0.0]
    marks = Marks(RULES, store.read, clock=lambda: now[0])
    assert marks.of({"b": 0}) == ({"b": Mark(0, 0)}, None)
    store.put("b", "horror")
    assert marks.of({"b": 0})[0]["b"] == Mark(0, 0)
    now[0] = ABSENT_SECONDS + 1
    assert marks.of({"b": 0})[0]["b"] == Mark(0b01, 0)


def test_rules_of_ids_alone_read_nothing() -> None:
    store = Store()
    rules = parse_rules("rules:\n  - {name: no-a, effect: filter, items: {ids: [a]}}")
    store.down = True
    assert Marks(rules, store.read).of({"a": 3, "b": 0}) == ({"a": Mark(1, 0), "b": Mark(0, 0)}, None)
