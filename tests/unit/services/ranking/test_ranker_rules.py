"""Ranking under rules: what the store can tell decides, and what it cannot tell is never shown against a filter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarec.adaptation.engine import Engine
from metarec.errors import UnavailableError
from metarec.features.records import OnlineUser
from metarec.ranking.explore import Exploration
from metarec.training.registry import Registry
from metarec.types import Interaction, Item
from metarec.v1 import types_pb2
from services.ranking.lists import ListSettings
from services.ranking.ranker import Ranker
from services.ranking.wire import Answer, Request, explain_response, rank_response
from services.runtime.rules import RuleBook

ITEMS = [f"i{k}" for k in range(60)]
RULES = """
rules:
  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}}
  - name: no-comedy-for-kids
    effect: filter
    items: {field: genres, equals: comedy}
    when: {user: {field: age, range: {to: 17}}}
  - {name: push, effect: boost, add: 0.25, items: {field: genres, equals: drama}, when: {scenario: home}}
  - {name: week, effect: pin, item: new, place: 2, when: {scenario: home}}
"""


@dataclass
class Live:
    current: Engine


@dataclass
class Store:
    """Users and items of the test; `items_down` and `users_down` make a side unreadable."""

    items: dict[str, Item]
    users: dict[str, OnlineUser] = field(default_factory=dict)
    items_down: bool = False
    users_down: bool = False
    loaded_from: str = "one"
    reopened: int = 0

    def reopen(self) -> None:
        self.reopened += 1

    def read_user(self, user_id: str) -> OnlineUser | None:
        if self.users_down:
            raise UnavailableError("users are down")
        return self.users.get(user_id)

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        if self.items_down:
            raise UnavailableError("items are down")
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


def genre(item_id: str) -> str:
    return ("space", "drama", "comedy", "horror")[int(item_id[1:]) % 4]


@pytest.fixture
def engine(tiny_registry: Path) -> Engine:
    return Engine(Registry(tiny_registry).load("live"))


@pytest.fixture
def store() -> Store:
    items = {item_id: Item(item_id=item_id, features={"genres": (genre(item_id),)}) for item_id in ITEMS}
    items["new"] = Item(item_id="new", features={"title": "space", "genres": ("space",)}, revision=1)
    users = {"kid": OnlineUser(features={"age": 12.0}), "adult": OnlineUser(features={"age": 40.0})}
    return Store(items=items, users=users)


@pytest.fixture
def book(tmp_path: Path) -> RuleBook:
    (tmp_path / "rules.yaml").write_text(RULES)
    return RuleBook(tmp_path / "rules.yaml")


def ask(user_id: str, **more: Any) -> Request:
    return Request(user_id=user_id, revisions=dict.fromkeys(more.pop("items", ITEMS), 0), **{"num_items": 10, **more})


def answered(ranker: Ranker, request: Request) -> Answer:
    (found,) = ranker.answer([request])
    assert isinstance(found, Answer), found
    return found


def shown(answer: Answer) -> set[str]:
    return {genre(item.item_id) for item in answer.ranked if item.item_id != "new"}


def test_filters_depend_on_the_user_and_the_content(engine: Engine, store: Store, book: RuleBook) -> None:
    ranker = Ranker(Live(engine), store, book)
    kid, adult = (answered(ranker, ask(user, num_items=0)) for user in ("kid", "adult"))
    assert shown(kid) == {"space", "drama"}
    assert shown(adult) == {"space", "drama", "comedy"}
    removed = {report.rule: report.num_removed for report in kid.rules}
    assert removed == {"no-horror": 15, "no-comedy-for-kids": 15}
    assert kid.rules_version == adult.rules_version == book.current(None).version


def test_a_batch_gives_everybody_their_own_rules(engine: Engine, store: Store, book: RuleBook) -> None:
    ranker = Ranker(Live(engine), store, book)
    requests = [ask("kid"), ask("adult", scenario="home"), ask("nobody"), ask("kid", profile={"age": 50.0})]
    together = ranker.answer(requests)
    for request, found in zip(requests, together, strict=True):
        assert isinstance(found, Answer)
        alone = answered(ranker, request)
        assert [(item.item_id, item.effects) for item in found.ranked] == [(item.item_id, item.effects) for item in alone.ranked]


def test_a_pin_that_a_filter_forbids_is_no_item_removed(engine: Engine, store: Store, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "rules:\n- {name: no-horror, effect: filter, items: {field: genres, equals: horror}}\n"
        "- {name: week, effect: pin, item: i3, place: 1}\n"
    )
    found = answered(Ranker(Live(engine), store, RuleBook(tmp_path / "rules.yaml")), ask("adult", items=["i1", "i2", "i7"]))
    assert {report.rule: (report.num_removed, report.num_missing) for report in found.rules} == {
        "no-horror": (1, 0),
        "week": (0, 1),
    }


def test_an_item_of_another_schema_is_left_out_and_changes_nothing_for_others(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.items["odd"] = Item(item_id="odd", features={"year": ("1999",)}, revision=3)
    ranker = Ranker(Live(engine), store)
    odd = Request(user_id="kid", revisions={"i1": 0, "odd": 3}, num_items=10)
    first, second = ranker.answer([odd, ask("adult")])
    assert isinstance(first, Answer)
    assert [(item.item_id, item.known) for item in first.ranked] == [("i1", True), ("odd", False)]
    assert isinstance(second, Answer)
    assert len(second.ranked) == 10
    monkeypatch.setattr(store, "read_items", lambda item_ids: pytest.fail(f"{item_ids} are looked up again"))
    assert answered(ranker, odd).ranked == first.ranked
    monkeypatch.undo()
    store.items["odd"] = Item(item_id="odd", features={"year": 1999.0}, revision=4)
    again = answered(ranker, Request(user_id="kid", revisions={"i1": 0, "odd": 4}, num_items=10))
    assert all(item.known for item in again.ranked)


def test_boosts_and_pins_of_a_scenario(engine: Engine, store: Store, book: RuleBook) -> None:
    ranker = Ranker(Live(engine), store, book)
    plain, home = answered(ranker, ask("adult", num_items=0)), answered(ranker, ask("adult", num_items=0, scenario="home"))
    before = {item.item_id: item.score for item in plain.ranked}
    for item in home.ranked:
        if item.item_id != "new":
            assert item.score == pytest.approx(before[item.item_id] + 0.25 * (genre(item.item_id) == "drama"), abs=1e-5)
    assert home.ranked[1].item_id == "new", "pinned, and read from the store though recall did not bring it"
    assert [effect.rule for effect in home.ranked[1].effects] == ["week"]


def test_a_pin_brings_in_nothing_that_the_request_excludes_or_the_user_has_seen(
    engine: Engine, store: Store, book: RuleBook
) -> None:
    engine.upsert([store.items["new"]])
    state = engine.adapt([Interaction(user_id="", item_id="new", label=5.0, timestamp=1.0)], {"age": 40.0}).state
    store.users["fan"] = OnlineUser(features={"age": 40.0}, adaptation=state.encode(), shots=1, checkpoint=engine.checkpoint)
    ranker = Ranker(Live(engine), store, book)

    def pinned(request: Request) -> bool:
        return "new" in {item.item_id for item in answered(ranker, request).ranked}

    assert pinned(ask("adult", scenario="home"))
    assert not pinned(ask("adult", scenario="home", excluded=frozenset({"new"})))
    assert not pinned(ask("fan", scenario="home"))
    assert pinned(ask("fan", scenario="home", include_seen=True))
    missing = [report for report in answered(ranker, ask("fan", scenario="home")).rules if report.rule == "week"]
    assert [report.num_missing for report in missing] == [1]


def test_with_an_unreadable_store_filters_keep_more_away_and_the_answer_says_so(
    engine: Engine, store: Store, book: RuleBook
) -> None:
    store.items_down = True
    ranker = Ranker(Live(engine), store, book)
    answer = answered(ranker, ask("adult"))
    assert answer.ranked == ()
    assert [(part.stage, part.reason) for part in answer.degradations] == [("rules", "UNAVAILABLE")]
    store.items_down = False
    again = answered(ranker, ask("adult"))
    assert shown(again) <= {"space", "drama", "comedy"}
    assert len(again.ranked) == 10
    assert not again.degradations


def test_after_a_promotion_with_new_data_old_content_decides_nothing(engine: Engine, store: Store, book: RuleBook) -> None:
    live = Live(engine)
    ranker = Ranker(live, store, book)
    assert len(answered(ranker, ask("adult")).ranked) == 10
    assert store.reopened == 1
    live.current = Engine(engine.prior)
    store.loaded_from = ""
    waiting = answered(ranker, ask("adult"))
    assert store.reopened == 2, "another engine may have other fields"
    assert waiting.ranked == ()
    assert [(part.stage, part.reason) for part in waiting.degradations] == [("rules", "UNAVAILABLE")]
    store.items["i0"] = Item(item_id="i0", features={"genres": ("horror",)})
    store.loaded_from = "two"
    loaded = answered(ranker, ask("adult", num_items=0))
    assert len(loaded.ranked) == 44
    assert "i0" not in {item.item_id for item in loaded.ranked}
    assert not loaded.degradations


def test_a_user_whose_profile_cannot_be_read_gets_what_everybody_may_see(engine: Engine, store: Store, book: RuleBook) -> None:
    store.users_down = True
    answer = answered(Ranker(Live(engine), store, book), ask("adult", num_items=0))
    assert shown(answer) == {"space", "drama"}
    assert {part.stage for part in answer.degradations} == {"features", "rules"}


def test_rules_that_change_hold_from_the_next_request_on(engine: Engine, store: Store, book: RuleBook, tmp_path: Path) -> None:
    ranker = Ranker(Live(engine), store, book)
    assert "horror" not in shown(answered(ranker, ask("adult", num_items=0)))
    (tmp_path / "rules.yaml").write_text(RULES.replace("horror", "space"))
    changed = answered(ranker, ask("adult", num_items=0))
    assert shown(changed) == {"drama", "comedy", "horror"}
    (tmp_path / "rules.yaml").write_text("rules: nonsense")
    kept = answered(ranker, ask("adult", num_items=0))
    assert shown(kept) == {"drama", "comedy", "horror"}
    assert [(part.stage, part.reason) for part in kept.degradations] == [("rules", "INVALID_CONFIG")]
    assert kept.rules_version == changed.rules_version


def test_explanations_add_up_with_boosts_and_name_the_rules(engine: Engine, store: Store, book: RuleBook) -> None:
    ranker = Ranker(Live(engine), store, book)
    explained = answered(ranker, Request(user_id="kid", revisions={"i1": 0}, explain=True, scenario="home"))
    listed = answered(ranker, ask("kid", num_items=0, scenario="home"))
    score = next(item.score for item in listed.ranked if item.item_id == "i1")
    assert explained.ranked[0].score == pytest.approx(score, abs=1e-5)
    assert sum(term.value for term in explained.contributions) == pytest.approx(score, abs=1e-4)
    assert [(term.rule, term.value) for term in explained.contributions if term.kind == "rule"] == [("push", 0.25)]
    message = explain_response(explained)
    assert [(effect.rule, effect.kind, effect.boost) for effect in message.rule_effects] == [
        ("push", types_pb2.RULE_EFFECT_KIND_BOOST, 0.25)
    ]
    forbidden = answered(ranker, Request(user_id="kid", revisions={"i3": 0}, explain=True))
    assert [effect.rule for effect in forbidden.ranked[0].effects] == ["no-horror"]


def test_diversity_is_the_requests_else_the_services(engine: Engine, store: Store) -> None:
    ranker = Ranker(Live(engine), store, settings=ListSettings(diversity=0.7))
    plain, diverse = answered(ranker, ask("adult", diversity=0.0)), answered(ranker, ask("adult"))
    assert plain.diversity is None
    assert diverse.diversity is not None
    assert diverse.diversity.similarity_after < diverse.diversity.similarity_before
    message = rank_response(diverse)
    assert message.diversity.strength == 0.7
    assert [item.rank_before for item in message.items] != list(range(1, 11))
    assert [item.rank_before for item in rank_response(plain).items] == list(range(1, 11))


def test_a_cold_user_explores_within_the_budget_and_a_retry_gets_the_same(engine: Engine, store: Store) -> None:
    settings = ListSettings(exploration=Exploration(share=0.2, policy="thompson", cold_shots=1))
    ranker = Ranker(Live(engine), store, settings=settings)
    greedy = [item.item_id for item in answered(ranker, ask("adult", exploration=0.0, request_id="r")).ranked]
    different = 0
    for k in range(12):
        found = answered(ranker, ask("adult", request_id=f"r{k}"))
        assert found.ranked == answered(ranker, ask("adult", request_id=f"r{k}")).ranked
        assert sum(item.explored for item in found.ranked) == 2
        assert [item.item_id for item in found.ranked[:4]] == greedy[:4]
        assert all(0 < item.propensity <= 1 for item in found.ranked)
        different += [item.item_id for item in found.ranked] != greedy
    assert different > 2
    state = engine.adapt([Interaction(user_id="", item_id="i0", label=5.0, timestamp=1.0)]).state
    store.users["warm"] = OnlineUser(adaptation=state.encode(), shots=1, checkpoint=engine.checkpoint)
    assert not any(item.explored for item in answered(ranker, ask("warm", request_id="r")).ranked)


def test_emerging_items_share_the_place_that_is_theirs(engine: Engine, store: Store) -> None:
    fresh = [Item(item_id=f"n{k}", features={"genres": ("horror",), "title": "horror"}, revision=1) for k in range(3)]
    engine.upsert(fresh)
    ranker = Ranker(Live(engine), store, settings=ListSettings(exploration=Exploration(policy="thompson")))
    requests = [
        Request(
            user_id="adult",
            revisions={**dict.fromkeys(ITEMS, 0), "n0": 1, "n1": 1, "n2": 1},
            emerging=frozenset({"n0", "n1", "n2"}),
            num_items=10,
            request_id=f"r{k}",
        )
        for k in range(30)
    ]
    lists = [answered(ranker, request) for request in requests]
    last = [found.ranked[-1] for found in lists]
    assert {item.item_id for item in last} == {"n0", "n1", "n2"}
    assert np.mean([item.propensity for item in last]) == pytest.approx(1 / 3, abs=0.05)
    assert all(item.explored for item in last)
    best = {answered(Ranker(Live(engine), store), request).ranked[-1].item_id for request in requests[:5]}
    assert len(best) == 1, "unless Thompson sampling is chosen, the same one each time"
