import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.adaptation.weighing import weigh
from metarec.errors import InvalidInputError, MetarecError, NoCheckpointError, NotFoundError, UnavailableError
from metarec.features.records import OnlineUser
from metarec.training.registry import Registry
from metarec.types import Interaction, Item
from services.ranking.ranker import MISSING_SECONDS, Ranker
from services.ranking.wire import Answer, Request
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint


@dataclass
class Live:
    current: Engine | None


@dataclass
class MemoryStore:
    """A feature store of what a test puts there; `fails` makes it unreadable."""

    users: dict[str, OnlineUser] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    fails: bool = False
    loaded_from: str = "one"
    reads: list[list[str]] = field(default_factory=list)

    def reopen(self) -> None:
        pass

    def read_user(self, user_id: str) -> OnlineUser | None:
        if self.fails:
            raise UnavailableError("the store is down")
        return self.users.get(user_id)

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        if self.fails:
            raise UnavailableError("the store is down")
        self.reads.append(sorted(item_ids))
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


@pytest.fixture(scope="module")
def checkpoints(tiny_registry: Path) -> tuple[str, str]:
    """The live checkpoint and another one."""
    newest, live = (info.id for info in Registry(tiny_registry).list())
    return live, newest


@pytest.fixture
def engine(tiny_registry: Path) -> Engine:
    return Engine(Registry(tiny_registry).load("live"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def ask(user_id: str, *item_ids: str, **more: object) -> Request:
    return Request(user_id=user_id, revisions=dict.fromkeys(item_ids or [f"i{k}" for k in range(60)], 0), **more)  # type: ignore[arg-type]  # settings of the case


def answered(found: Answer | MetarecError) -> Answer:
    assert isinstance(found, Answer), found
    return found


def stored(engine: Engine, labels: dict[str, float], features: dict[str, object] | None = None) -> OnlineUser:
    """A user as the adaptation service stores one."""
    support = [Interaction(user_id="", item_id=item_id, label=label, timestamp=1.0) for item_id, label in labels.items()]
    state = engine.adapt(support, features, revision=3).state  # type: ignore[arg-type]  # values of the case
    return OnlineUser(features=features, adaptation=state.encode(), shots=len(labels), checkpoint=engine.checkpoint)  # type: ignore[arg-type]  # values of the case


LOVES_SPACE = {"i0": 5.0, "i4": 5.0, "i8": 5.0, "i1": 1.0, "i2": 1.0, "i3": 1.0}


def test_without_a_checkpoint_every_request_is_told_so(store: MemoryStore, tmp_path: Path) -> None:
    live = LiveCheckpoint(tmp_path, poll_seconds=3600)
    answers = Ranker(live, store).answer([ask("u1"), ask("u2")])
    live.close()
    assert [type(answer) for answer in answers] == [NoCheckpointError, NoCheckpointError]
    assert str(answers[0]) == f"no checkpoint of registry '{tmp_path}' is live; train one and promote it"


def test_a_live_checkpoint_that_cannot_be_loaded_is_named_and_so_is_why(
    store: MemoryStore, tiny_registry: Path, tmp_path: Path
) -> None:
    registry = Path(shutil.copytree(tiny_registry, tmp_path / "registry"))
    name = str(Registry(registry).live())
    (registry / "checkpoints" / name / "theta.implicit.safetensors").unlink()
    live = LiveCheckpoint(registry, poll_seconds=3600)
    (error,) = Ranker(live, store).answer([ask("u1")])
    live.close()
    assert isinstance(error, NoCheckpointError)
    assert error.message.startswith(f"checkpoint '{name}' is live but cannot be loaded: ")
    assert "theta.implicit.safetensors" in error.message
    assert error.metadata == {"checkpoint": name}


def test_unknown_users_get_the_prior_and_known_ones_their_fast_weights(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE)
    cold, warm = (answered(answer) for answer in Ranker(Live(engine), store).answer([ask("nobody"), ask("u")]))
    assert (cold.shots, warm.shots) == (0, 6)
    assert {item.item_id: item.score for item in cold.ranked} == pytest.approx(
        dict(zip(engine.catalogue.ids, engine.scores(engine.adapt(()), engine.catalogue.ids).tolist(), strict=True)), abs=1e-5
    )
    space = [place for place, item in enumerate(warm.ranked) if int(item.item_id[1:]) % 4 == 0]
    assert np.mean(space) < np.mean([place for place in range(60) if place not in space])
    assert warm.ranked != cold.ranked


def test_a_batch_of_many_users_scores_each_as_if_it_were_alone(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE)
    store.users["v"] = stored(engine, {"i1": 5.0}, {"gender": "F", "age": 30.0})
    requests = [
        ask("u"),
        ask("nobody", "i5", "i6"),
        ask("v", "i7", "i8", "i9", num_items=2),
        ask("u", "i1", profile={"gender": "M"}),
        ask("v", "i1", "unheard-of", "i2"),
    ]
    ranker = Ranker(Live(engine), store)
    together = ranker.answer(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = ranker.answer([request])
        assert [item.item_id for item in answered(answer).ranked] == [item.item_id for item in answered(alone).ranked]
        assert [item.score for item in answered(answer).ranked] == pytest.approx(
            [item.score for item in answered(alone).ranked], abs=1e-5
        )
    assert len(answered(together[2]).ranked) == 2


def test_candidates_nobody_knows_come_last(engine: Engine, store: MemoryStore) -> None:
    (answer,) = Ranker(Live(engine), store).answer([ask("u", "unheard-of", "i1", "i2")])
    assert answered(answer).ranked[-1].item_id == "unheard-of"
    assert not answered(answer).degradations


def test_the_profile_of_the_request_stands_in_for_the_stored_one(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = OnlineUser(features={"gender": "F", "age": 20.0})
    ranker = Ranker(Live(engine), store)
    own, other, same = (
        answered(answer)
        for answer in ranker.answer(
            [ask("u"), ask("u", profile={"gender": "M", "age": 60.0}), ask("x", profile={"gender": "F", "age": 20.0})]
        )
    )
    assert own.ranked == same.ranked
    assert own.ranked != other.ranked


def test_a_wrong_profile_fails_its_own_request_only(engine: Engine, store: MemoryStore) -> None:
    good, wrong = Ranker(Live(engine), store).answer([ask("u"), ask("v", profile={"age": "not a number"})])
    assert isinstance(wrong, InvalidInputError)
    assert wrong.field == "user.features.age"
    assert answered(good).ranked


def test_a_stored_profile_that_does_not_fit_is_left_out_and_said(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = OnlineUser(features={"age": "not a number"})
    (answer,) = Ranker(Live(engine), store).answer([ask("u")])
    (degradation,) = answered(answer).degradations
    assert (degradation.stage, degradation.reason) == ("features", "INVALID_PROFILE")


def test_an_unreadable_store_costs_the_features_and_nothing_else(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE)
    store.fails = True
    ranker = Ranker(Live(engine), store)
    degraded, unheard = (answered(answer) for answer in ranker.answer([ask("u"), ask("u", "i1", "unheard-of")]))
    assert degraded.shots == 0
    assert degraded.ranked == answered(Ranker(Live(engine), MemoryStore()).answer([ask("u")])[0]).ranked, "the prior"
    for answer in (degraded, unheard):
        (degradation,) = answer.degradations
        assert (degradation.stage, degradation.reason) == ("features", "UNAVAILABLE")
    store.fails = False
    assert answered(ranker.answer([ask("u")])[0]).shots == 6


def test_fast_weights_that_cannot_be_read_give_way_to_the_prior(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = OnlineUser(adaptation=b"rubbish", shots=3)
    (answer,) = Ranker(Live(engine), store).answer([ask("u")])
    assert answered(answer).shots == 0
    assert [degradation.reason for degradation in answered(answer).degradations] == ["CORRUPT_STATE"]


def test_weights_of_another_checkpoint_are_never_served(
    tiny_registry: Path, checkpoints: tuple[str, str], engine: Engine, store: MemoryStore
) -> None:
    other = Engine(Registry(tiny_registry).load(checkpoints[1]))
    store.users["u"] = stored(engine, LOVES_SPACE)
    live = Live(engine)
    ranker = Ranker(live, store)
    before = answered(ranker.answer([ask("u")])[0])
    live.current = other
    after = answered(ranker.answer([ask("u")])[0])
    assert (before.checkpoint, after.checkpoint) == checkpoints
    assert after.shots == 6
    support = [Interaction(user_id="", item_id=item, label=label, timestamp=1.0) for item, label in LOVES_SPACE.items()]
    expected = other.scores(other.adapt(support), [item.item_id for item in after.ranked])
    assert [item.score for item in after.ranked] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_newer_revision_is_read_from_the_store_before_it_is_scored(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE)
    ranker = Ranker(Live(engine), store)
    new = {"title": "space story new", "genres": ("space",), "year": 1990.0}
    store.items["new"] = Item(item_id="new", features=new, revision=1)

    def score() -> float:
        request = Request(user_id="u", revisions={"new": store.items["new"].revision, "i1": 0})
        return {item.item_id: item.score for item in answered(ranker.answer([request])[0]).ranked}["new"]

    as_space = score()
    assert score() == as_space
    assert store.reads == [["new"]], "read once"
    store.items["new"] = Item(item_id="new", features={**new, "genres": ("drama",), "title": "drama story new"}, revision=2)
    assert score() < as_space
    assert store.reads == [["new"], ["new"]]


def test_an_item_without_revision_that_the_store_does_not_have_is_looked_for_again_later(
    engine: Engine, store: MemoryStore
) -> None:
    now = 100.0
    ranker = Ranker(Live(engine), store, clock=lambda: now)
    for _ in range(3):
        ranker.answer([ask("u", "i1", "late")])
    assert store.reads == [["late"]]
    store.items["late"] = Item(item_id="late", features={"title": "space"}, revision=1)
    now += MISSING_SECONDS
    ranker.answer([ask("u", "i1", "late")])
    assert store.reads == [["late"], ["late"]]
    assert "late" in engine.catalogue


def test_a_support_item_that_only_the_store_knows_is_read_before_adapting(
    tiny_registry: Path, engine: Engine, store: MemoryStore
) -> None:
    store.items["new"] = Item(item_id="new", features={"title": "space story", "genres": ("space",)}, revision=1)
    writer = Engine(Registry(tiny_registry).load("live"))
    writer.upsert(store.items.values())
    store.users["u"] = stored(writer, {"new": 5.0})
    (answer,) = Ranker(Live(engine), store).answer([ask("u")])
    assert answered(answer).shots == 1


def test_an_explanation_adds_up_to_the_score_that_ranking_gives(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE, {"gender": "F", "age": 30.0})
    ranker = Ranker(Live(engine), store)
    explained, ranked = (answered(answer) for answer in ranker.answer([ask("u", "i12", explain=True), ask("u", "i12", "i13")]))
    (item,) = explained.ranked
    assert item.score == pytest.approx({other.item_id: other.score for other in ranked.ranked}["i12"], abs=1e-5)
    assert sum(term.value for term in explained.contributions) == pytest.approx(item.score, abs=1e-4)
    assert {term.item_id for term in explained.contributions if term.kind == "support"} == set(LOVES_SPACE)


def test_an_item_nobody_knows_cannot_be_explained(engine: Engine, store: MemoryStore) -> None:
    error, fine = Ranker(Live(engine), store).answer([ask("u", "unheard-of", explain=True), ask("u", "i1", explain=True)])
    assert isinstance(error, NotFoundError)
    assert error.metadata == {"item_id": "unheard-of"}
    assert answered(fine).contributions


def test_explaining_looks_for_newer_content_of_the_item(engine: Engine, store: MemoryStore) -> None:
    ranker = Ranker(Live(engine), store)
    before = answered(ranker.answer([ask("u", "i12", explain=True)])[0]).ranked[0].score
    features = {"title": "horror story", "genres": ("horror",), "year": 1970.0}
    store.items["i12"] = Item(item_id="i12", features=features, revision=1)
    after = answered(ranker.answer([ask("u", "i12", explain=True)])[0]).ranked[0].score
    assert before != after


def test_ranking_reads_a_real_store(tiny_registry: Path, engine: Engine, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_registry / "features", tmp_path / "features"))
    real = LazyStore(path, "sqlite")
    try:
        state = engine.adapt(
            [Interaction(user_id="u1", item_id="i1", label=5.0, timestamp=1.0)],
            real.read_user("u1").features,  # type: ignore[union-attr]  # the user is there
        ).state
        real.write_user_adaptation("u1", state.encode(), 1, engine.checkpoint, 1)
        real.write_items([Item(item_id="new", features={"title": "space story"}, revision=1)])
        request = Request(user_id="u1", revisions={"new": 1, "i2": 0})
        answer = answered(Ranker(Live(engine), real).answer([request])[0])
    finally:
        real.close()
    assert answer.shots == 1
    assert {item.item_id: item.known for item in answer.ranked} == {"new": True, "i2": True}


def test_each_request_has_its_own_weights_of_targets(engine: Engine, store: MemoryStore) -> None:
    store.users["u"] = stored(engine, LOVES_SPACE)
    ranker = Ranker(Live(engine), store)
    weights = {"rating": 1.0, "interacted": 0.5}
    plain, weighed, wrong = ranker.answer([ask("u"), ask("u", target_weights=weights), ask("u", target_weights={"clicks": 1.0})])
    (alone,) = ranker.answer([ask("u")])
    assert answered(plain) == answered(alone)
    user = weigh(engine.restore(UserState.decode(store.users["u"].adaptation or b"")), weights)
    expected = engine.scores(user, [item.item_id for item in answered(weighed).ranked])
    assert [item.score for item in answered(weighed).ranked] == pytest.approx(expected.tolist(), abs=1e-5)
    assert isinstance(wrong, InvalidInputError)
    assert wrong.field == "target_weights.clicks"
    assert not answered(weighed).degradations
    (explained,) = ranker.answer([ask("u", "i9", explain=True, target_weights=weights)])
    found = answered(explained)
    assert sum(term.value for term in found.contributions) == pytest.approx(found.ranked[0].score, abs=1e-4)


def test_a_target_that_the_checkpoint_did_not_learn_degrades_the_answer(engine: Engine, store: MemoryStore) -> None:
    lists = Engine(replace(engine.prior, heads={"implicit": engine.prior.heads["implicit"]}))
    ranker = Ranker(Live(lists), store)
    weights = {"rating": 1.0, "interacted": 0.5}
    weighed, explained, known = (
        answered(answer)
        for answer in ranker.answer(
            [
                ask("u", target_weights=weights),
                ask("u", "i9", explain=True, target_weights=weights),
                ask("u", target_weights={"interacted": 0.5}),
            ]
        )
    )
    assert weighed.ranked == known.ranked
    for found in (weighed, explained):
        (degradation,) = found.degradations
        assert (degradation.stage, degradation.reason) == ("targets", "TARGET_NOT_LEARNED")
        assert "without target 'rating'" in degradation.fallback
    assert not known.degradations
