"""Filters over the whole catalogue: which rows, for whom, and what is read again when."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from metarec.adaptation.engine import Engine
from metarec.errors import UnavailableError
from metarec.ranking.rule_file import parse_rules
from metarec.training.registry import Registry
from metarec.types import Item
from services.recall.filters import RETRY_SECONDS, CatalogueFilters

RULES = parse_rules(
    """
rules:
  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}}
  - {name: no-old, effect: filter, items: {field: year, range: {to: 1950}}, when: {user: {field: age, range: {to: 17}}}}
  - {name: push, effect: boost, add: 1, items: {field: genres, equals: drama}}
"""
)


class Store:
    """Items i0 to i59 of four genres; counts what is read."""

    def __init__(self) -> None:
        genres = ("space", "drama", "comedy", "horror")
        self.items = {
            f"i{k}": Item(item_id=f"i{k}", features={"genres": (genres[k % 4],), "year": 1940.0 + k}) for k in range(60)
        }
        self.reads = 0
        self.down = False
        self.loaded_from = "one"

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        if self.down:
            raise UnavailableError("down")
        self.reads += len(item_ids)
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


@pytest.fixture
def engine(tiny_registry: Path) -> Engine:
    return Engine(Registry(tiny_registry).load("live"))


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def filters(store: Store, now: list[float]) -> CatalogueFilters:
    return CatalogueFilters(store, clock=lambda: now[0])  # type: ignore[arg-type]  # the part that filters use


def names(engine: Engine, rows: frozenset[int]) -> set[str]:
    return {engine.catalogue.ids[row] for row in rows}


HORROR = {f"i{k}" for k in range(3, 60, 4)}
OLD = {f"i{k}" for k in range(11)}


def test_rows_are_those_of_the_filters_about_the_user(engine: Engine, filters: CatalogueFilters, store: Store) -> None:
    catalogue = engine.catalogue.snapshot
    adult = filters.forbidden(RULES, catalogue, "", "u", {"age": 40.0})
    kid = filters.forbidden(RULES, catalogue, "", "u", {"age": 9.0})
    assert names(engine, adult.rows) == HORROR
    assert names(engine, kid.rows) == HORROR | OLD
    assert {report.rule: report.num_removed for report in kid.reports} == {"no-horror": 15, "no-old": len(OLD - HORROR)}
    assert filters.forbidden(RULES, catalogue, "", "u", None).rows == kid.rows, "an unread profile may be a child's"
    assert store.reads == 60, "each item once"


def test_an_upsert_is_seen_at_once(engine: Engine, filters: CatalogueFilters, store: Store) -> None:
    filters.prepare(RULES, engine.catalogue.snapshot)
    store.items["new"] = Item(item_id="new", features={"genres": ("horror",)}, revision=1)
    store.items["i3"] = Item(item_id="i3", features={"genres": ("drama",)}, revision=1)
    engine.upsert([store.items["new"], store.items["i3"]])
    found = filters.forbidden(RULES, engine.catalogue.snapshot, "", "u", {})
    assert names(engine, found.rows) == HORROR - {"i3"} | {"new"}
    assert store.reads == 62


def test_other_rules_are_other_rows(engine: Engine, filters: CatalogueFilters) -> None:
    filters.prepare(RULES, engine.catalogue.snapshot)
    other = parse_rules("rules:\n  - {name: no-i5, effect: filter, items: {ids: [i5]}}")
    assert names(engine, filters.forbidden(other, engine.catalogue.snapshot, "", "u", {}).rows) == {"i5"}


def test_what_cannot_be_read_is_forbidden_until_it_can(
    engine: Engine, filters: CatalogueFilters, store: Store, now: list[float]
) -> None:
    store.down = True
    catalogue = engine.catalogue.snapshot
    found = filters.forbidden(RULES, catalogue, "", "u", {})
    assert len(found.rows) == 60
    assert found.unread is not None
    store.down = False
    now[0] += RETRY_SECONDS
    found = filters.forbidden(RULES, catalogue, "", "u", {})
    assert names(engine, found.rows) == HORROR
    assert found.unread is None


def test_content_that_comes_into_the_store_later_is_found(
    engine: Engine, filters: CatalogueFilters, store: Store, now: list[float]
) -> None:
    late, store.items = store.items, {}
    catalogue = engine.catalogue.snapshot
    for _ in range(3):
        found = filters.forbidden(RULES, catalogue, "", "u", {})
        assert len(found.rows) == 60, "what is not there cannot be told to be allowed"
        assert found.unread is not None
        now[0] += RETRY_SECONDS
    store.items = late
    now[0] += 60
    found = filters.forbidden(RULES, catalogue, "", "u", {})
    assert names(engine, found.rows) == HORROR
    assert found.unread is None


def test_rows_of_older_data_are_forbidden_until_the_store_is_loaded_and_then_read_anew(
    engine: Engine, filters: CatalogueFilters, store: Store
) -> None:
    store.loaded_from = ""
    catalogue = engine.catalogue.snapshot
    filters.prepare(RULES, catalogue)
    found = filters.forbidden(RULES, catalogue, "", "u", {})
    assert len(found.rows) == 60
    assert found.unread is not None
    store.items["i0"] = Item(item_id="i0", features={"genres": ("horror",), "year": 1940.0})
    store.loaded_from = "two"
    found = filters.forbidden(RULES, catalogue, "", "u", {})
    assert names(engine, found.rows) == HORROR | {"i0"}, "at the next request"
    assert found.unread is None
    assert store.reads == 120
    filters.forbidden(RULES, catalogue, "", "u", {})
    assert store.reads == 120


def test_an_emerging_item_needs_no_load(engine: Engine, filters: CatalogueFilters, store: Store) -> None:
    store.loaded_from = ""
    store.items["new"] = Item(item_id="new", features={"genres": ("drama",)}, revision=1)
    engine.upsert([store.items["new"]])
    found = filters.forbidden(RULES, engine.catalogue.snapshot, "", "u", {})
    assert names(engine, found.rows) == {f"i{k}" for k in range(60)}
