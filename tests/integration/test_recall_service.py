"""The recall service over gRPC: real server, real index and feature store, a small trained prior; hot swaps; emerging items."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from metarec.adaptation.engine import Engine
from metarec.adaptation.shifts import encode_shifts
from metarec.adaptation.view import ItemShift
from metarec.adaptation.weighing import weigh
from metarec.errors import InvalidInputError, MetarecError, NoCheckpointError, NotFoundError, UnavailableError
from metarec.features.store import FeatureStore
from metarec.recall.contract import ItemView
from metarec.recall.recaller import Recaller
from metarec.training.manifest import Manifest
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.types import Features, Interaction, Item
from metarec.v1 import gateway_pb2, recall_pb2, recall_pb2_grpc, types_pb2
from services.recall.service import Recall, build
from services.runtime.errors import from_rpc_error
from services.runtime.item_shifts import SHIFTS_KEY
from services.runtime.server import Server
from services.runtime.settings import Settings
from waiting import until_async

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Stub = recall_pb2_grpc.RecallServiceStub
Retrieve = recall_pb2.RetrieveCandidatesRequest
Upsert = gateway_pb2.UpsertItemsRequest
WAIT_SECONDS = 60.0


def settings(registry: Path) -> Settings:
    return Settings(service="recall", registry=registry, features=registry / "features", state=registry.parent / "state")


@asynccontextmanager
async def serving(configured: Settings) -> AsyncIterator[tuple[Stub, Recall]]:
    made: list[Recall] = []

    async def building(given: Settings) -> Recall:
        made.append(await build(given))
        return made[0]

    server = Server("recall", configured, building)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            yield Stub(channel), made[0]
        finally:
            await server.drain()


@pytest.fixture
async def service(trained: Path) -> AsyncIterator[tuple[Stub, Recall]]:
    async with serving(settings(trained)) as running:
        yield running


@pytest.fixture
def stub(service: tuple[Stub, Recall]) -> Stub:
    return service[0]


async def refused(call: "grpc.aio.UnaryUnaryCall") -> MetarecError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc_error(raised.value)


def item(item_id: str, genre: str = "", title: str = "", year: float = 0.0) -> types_pb2.Item:
    made = types_pb2.Item(item_id=item_id)
    if genre:
        made.features["genres"].list.values.append(genre)
    if title:
        made.features["title"].text = title
    if year:
        made.features["year"].number = year
    return made


def write_user(registry: Path, user_id: str, item_ids: Sequence[str], profile: Features | None = None) -> None:
    """What the adaptation service publishes of a user who loves these items."""
    engine = Engine(Registry(registry).load("live"))
    support = [Interaction(user_id=user_id, item_id=item_id, label=5.0, timestamp=1e6 + k) for k, item_id in enumerate(item_ids)]
    adapted = engine.adapt(support, profile, revision=1)
    store = FeatureStore.open(registry / "features")
    store.write_user_adaptation(user_id, adapted.state.encode(), adapted.shots, engine.checkpoint, 1)
    store.close()


def ids(response: recall_pb2.RetrieveCandidatesResponse) -> list[str]:
    return [candidate.item_id for candidate in response.candidates]


async def test_candidates_follow_the_taste_that_adaptation_published(stub: Stub, trained: Path) -> None:
    cold = await stub.RetrieveCandidates(Retrieve(user_id="fan", num_candidates=10))
    assert (cold.shots, len(cold.candidates), cold.checkpoint) == (0, 10, Registry(trained).live())
    for genre in range(4):
        write_user(trained, "fan", [f"i{genre + 4 * k}" for k in range(5)])
        warm = await stub.RetrieveCandidates(Retrieve(user_id="fan", num_candidates=10))
        assert warm.shots == 5
        genres = [int(item_id[1:]) % 4 for item_id in ids(warm)]
        assert genres[:5] == [genre] * 5


async def test_every_candidate_says_its_source_and_seen_ones_stay_away(stub: Stub, trained: Path) -> None:
    write_user(trained, "fan", ["i0", "i4"])
    response = await stub.RetrieveCandidates(Retrieve(user_id="fan", exclude_item_ids=["i8"]))
    assert len(response.candidates) == 57
    assert {"i0", "i4", "i8"}.isdisjoint(ids(response))
    sources = Counter(candidate.source for candidate in response.candidates)
    assert sources[types_pb2.CANDIDATE_SOURCE_PERSONAL] > 40
    assert types_pb2.CANDIDATE_SOURCE_UNSPECIFIED not in sources
    seen = await stub.RetrieveCandidates(Retrieve(user_id="fan", include_seen=True))
    assert len(seen.candidates) == 60


async def test_a_profile_in_the_request_stands_in_for_the_stored_one(stub: Stub) -> None:
    lists = []
    for gender in ("F", "M"):
        request = Retrieve(user_id="somebody new")
        request.user.features["gender"].text = gender
        lists.append([candidate.score for candidate in (await stub.RetrieveCandidates(request)).candidates])
    assert lists[0] != lists[1]


async def test_weights_of_targets_stand_in_for_the_trained_blend(stub: Stub, trained: Path) -> None:
    engine = Engine(Registry(trained).load("live"))
    for weights in ({"rating": 1.0}, {"interacted": 1.0}, {"rating": 1.0, "interacted": 30.0}):
        found = await stub.RetrieveCandidates(Retrieve(user_id="nobody", num_candidates=60, target_weights=weights))
        score = {c.item_id: c.score for c in found.candidates if c.source == types_pb2.CANDIDATE_SOURCE_PERSONAL}
        expected = engine.scores(weigh(engine.adapt([]), weights), list(score))
        assert score
        assert list(score.values()) == pytest.approx(expected.tolist(), abs=1e-5)


async def test_an_upserted_item_is_retrievable_when_the_call_returns(stub: Stub, trained: Path) -> None:
    write_user(trained, "fan", ["i0", "i4", "i8", "i12"])
    response = await stub.UpsertItems(Upsert(items=[item("new", "space", "space story", 1970), item("other", "horror")]))
    assert [(entry.item_id, entry.revision) for entry in response.items] == [("new", 1), ("other", 1)]
    assert response.items[0].features["genres"].list.values == ["space"]
    found = await stub.RetrieveCandidates(Retrieve(user_id="fan", num_candidates=62))
    revisions = {candidate.item_id: candidate.revision for candidate in found.candidates}
    assert (revisions["new"], revisions["other"], revisions["i1"]) == (1, 1, 0)
    assert ids(found).index("new") < ids(found).index("other")
    again = await stub.UpsertItems(Upsert(items=[item("new", "horror"), item("i1", "space")]))
    assert [(entry.item_id, entry.revision) for entry in again.items] == [("new", 2), ("i1", 1)]
    store = FeatureStore.open(trained / "features")
    stored = store.read_items(["new"])["new"]
    store.close()
    assert (stored.revision, stored.features["genres"], stored.features["title"]) == (2, ("horror",), None)


async def test_the_best_of_many_fresh_items_come_with_their_source(stub: Stub) -> None:
    await stub.UpsertItems(Upsert(items=[item(f"n{k}", "drama") for k in range(30)]))
    response = await stub.RetrieveCandidates(Retrieve(user_id="anybody", num_candidates=20))
    fresh = [candidate for candidate in response.candidates if candidate.source == types_pb2.CANDIDATE_SOURCE_FRESH]
    assert len(fresh) >= 2
    assert all(candidate.item_id.startswith("n") for candidate in fresh)


async def test_items_survive_a_restart_and_a_crash_before_the_feature_store(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings(trained)) as (stub, _):
        await stub.UpsertItems(Upsert(items=[item("kept", "space")]))
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise OSError("no route to the store")

            patch.setattr(FeatureStore, "write_items", fail)
            assert isinstance(await refused(stub.UpsertItems(Upsert(items=[item("cut", "drama")]))), UnavailableError)
    async with serving(settings(trained)) as (stub, _):
        got = await stub.GetItem(recall_pb2.GetItemRequest(item_id="cut"))
        assert (got.revision, list(got.features["genres"].list.values)) == (1, ["drama"])
        response = await stub.RetrieveCandidates(Retrieve(user_id="anybody", num_candidates=62))
        assert {"kept", "cut"} <= set(ids(response))
        again = await stub.UpsertItems(Upsert(items=[item("cut", "drama")]))
        assert again.items[0].revision == 2
    store = FeatureStore.open(trained / "features")
    assert set(store.read_items(["kept", "cut"])) == {"kept", "cut"}
    store.close()


async def test_a_lost_state_directory_does_not_turn_revisions_back(trained: Path) -> None:
    async with serving(settings(trained)) as (stub, _):
        for _ in range(3):
            last = await stub.UpsertItems(Upsert(items=[item("new", "space")]))
    (trained.parent / "state" / "items.db").unlink()
    async with serving(settings(trained)) as (stub, _):
        again = await stub.UpsertItems(Upsert(items=[item("new", "drama")]))
    assert again.items[0].revision == last.items[0].revision + 1 == 4


async def test_wrong_requests_are_refused_with_the_name_of_the_field(stub: Stub) -> None:
    unknown, kind = item("a"), item("b")
    unknown.features["colour"].text = "red"
    kind.features["year"].text = "old"
    for upsert, field in (
        (Upsert(), "items"),
        (Upsert(items=[item("a"), item("")]), "items[1].item_id"),
        (Upsert(items=[item("a"), item("a")]), "items[1].item_id"),
        (Upsert(items=[item("ok"), unknown]), "items[1].features.colour"),
        (Upsert(items=[kind]), "items[0].features.year"),
    ):
        error = await refused(stub.UpsertItems(upsert))
        assert isinstance(error, InvalidInputError)
        assert error.field == field
    profile = Retrieve(user_id="u")
    profile.user.features["age"].text = "old"
    for retrieve, field in (
        (Retrieve(), "user_id"),
        (Retrieve(user_id="u", num_candidates=2001), "num_candidates"),
        (Retrieve(user_id="u", num_candidates=-1), "num_candidates"),
        (Retrieve(user_id="u", user=types_pb2.User(user_id="v")), "user.user_id"),
        (profile, "user.features.age"),
        (Retrieve(user_id="u", target_weights={"clicks": 1.0}), "target_weights.clicks"),
    ):
        error = await refused(stub.RetrieveCandidates(retrieve))
        assert isinstance(error, InvalidInputError)
        assert error.field == field
    listed = await stub.ListItems(recall_pb2.ListItemsRequest())
    assert listed.total_size == 60


async def test_items_are_got_and_listed_with_their_content(stub: Stub) -> None:
    await stub.UpsertItems(Upsert(items=[item("a new one", "space"), item("i5", "drama", "renamed")]))
    known = await stub.GetItem(recall_pb2.GetItemRequest(item_id="i6"))
    assert (known.revision, known.features["title"].text, known.features["year"].number) == (0, "comedy story 6", 1966.0)
    renamed = await stub.GetItem(recall_pb2.GetItemRequest(item_id="i5"))
    assert (renamed.revision, renamed.features["title"].text) == (1, "renamed")
    assert isinstance(await refused(stub.GetItem(recall_pb2.GetItemRequest(item_id="nope"))), NotFoundError)
    listed: list[types_pb2.Item] = []
    token = ""
    while True:
        page = await stub.ListItems(recall_pb2.ListItemsRequest(page_size=25, page_token=token))
        listed += page.items
        token = page.next_page_token
        if not token:
            break
    assert page.total_size == 61
    assert [entry.item_id for entry in listed] == sorted([*(f"i{k}" for k in range(60)), "a new one"])
    assert all(entry.features["genres"].list.values for entry in listed)
    for size in (-1, 1001):
        assert isinstance(await refused(stub.ListItems(recall_pb2.ListItemsRequest(page_size=size))), InvalidInputError)


async def test_when_features_cannot_be_read_the_prior_answers_and_says_so(
    service: tuple[Stub, Recall], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, running = service
    write_user(trained, "fan", ["i0", "i4"])

    def fail(*_: object) -> None:
        raise OSError("no route to the store")

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "read_user", fail)
        response = await stub.RetrieveCandidates(Retrieve(user_id="fan"))
    assert (response.shots, len(response.candidates)) == (0, 60)
    assert [(entry.stage, entry.reason) for entry in response.degradations] == [("features", "UNAVAILABLE")]
    running._store._retry_at = 0.0
    assert (await stub.RetrieveCandidates(Retrieve(user_id="fan"))).shots == 2


async def test_a_damaged_state_degrades_to_the_prior(stub: Stub, trained: Path) -> None:
    store = FeatureStore.open(trained / "features")
    store.write_user_adaptation("odd", b"not a state", 3, "c", 1)
    store.close()
    response = await stub.RetrieveCandidates(Retrieve(user_id="odd", num_candidates=5))
    assert response.shots == 0
    assert [entry.reason for entry in response.degradations] == ["CORRUPT_STATE"]


async def test_without_a_checkpoint_there_are_no_candidates_until_one_is_promoted(trained: Path, tmp_path: Path) -> None:
    (trained / "live.json").rename(tmp_path / "live.json")
    async with serving(settings(trained)) as (stub, _):
        assert isinstance(await refused(stub.RetrieveCandidates(Retrieve(user_id="u"))), NoCheckpointError)
        # The schema of the feature store is enough for items.
        await stub.UpsertItems(Upsert(items=[item("early", "space")]))
        assert (await stub.GetItem(recall_pb2.GetItemRequest(item_id="early"))).revision == 1
        (tmp_path / "live.json").rename(trained / "live.json")
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    response = await stub.RetrieveCandidates(Retrieve(user_id="u", num_candidates=61))
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
        assert "early" in ids(response)


async def test_a_promotion_is_followed_without_mixing_weights(service: tuple[Stub, Recall], trained: Path) -> None:
    """Readers run through the swap: every answer is the one checkpoint's or the other's, to the last digit."""
    stub, _ = service
    await stub.UpsertItems(Upsert(items=[item("new", "space", "space story", 1970)]))
    write_user(trained, "fan", ["i0", "i4"], {"gender": "F", "age": 20.0})
    registry = Registry(trained)
    old = registry.live() or ""
    (other,) = (info.id for info in registry.list() if not info.live)
    request = Retrieve(user_id="fan", num_candidates=100)
    answers: dict[str, set[tuple[tuple[str, float], ...]]] = {old: set(), other: set()}
    moved = asyncio.Event()

    async def reading() -> None:
        while not moved.is_set() or not answers[other]:
            response = await stub.RetrieveCandidates(request)
            assert "new" in ids(response)
            found = tuple((candidate.item_id, candidate.score) for candidate in response.candidates)
            answers[response.checkpoint].add(found)
            if response.checkpoint == other:
                moved.set()

    readers = [asyncio.create_task(reading()) for _ in range(4)]
    await until_async(lambda: bool(answers[old]))
    registry.promote(other, force=True)
    await asyncio.wait_for(asyncio.gather(*readers), WAIT_SECONDS)
    assert len(answers[old]) == len(answers[other]) == 1
    assert answers[old] != answers[other]
    revisions = {c.item_id: c.revision for c in (await stub.RetrieveCandidates(Retrieve(user_id="fan"))).candidates}
    assert revisions["new"] == 1


async def test_after_a_promotion_to_fewer_targets_the_same_request_is_answered_and_says_what_was_left_out(
    service: tuple[Stub, Recall], trained: Path
) -> None:
    stub, running = service
    registry = Registry(trained)
    request = Retrieve(user_id="somebody new", num_candidates=20, target_weights={"rating": 1.0, "interacted": 0.5})
    assert not (await stub.RetrieveCandidates(request)).degradations
    prior = registry.load("live")
    lists = replace(prior, heads={"implicit": prior.heads["implicit"]})
    recipe = replace(get_recipe(), heads=tuple(head for head in get_recipe().heads if head.target == "implicit"))
    manifest = Manifest(recipe=recipe, seed=9, data_fingerprint="f", created=1.8e9)
    registry.promote(registry.publish(lists, manifest), force=True)
    await asyncio.to_thread(running._live.refresh)
    found = await stub.RetrieveCandidates(request)
    (degradation,) = found.degradations
    assert (degradation.stage, degradation.reason) == ("targets", "TARGET_NOT_LEARNED")
    assert found.checkpoint in degradation.fallback
    request.target_weights.pop("rating")
    assert found.candidates == (await stub.RetrieveCandidates(request)).candidates


async def test_upserts_during_swaps_reach_the_engine_that_stays(service: tuple[Stub, Recall], trained: Path) -> None:
    stub, running = service
    registry = Registry(trained)
    names = [info.id for info in registry.list()]

    async def swapping() -> None:
        for k in range(6):
            registry.promote(names[k % 2], force=True)
            await asyncio.to_thread(running._live.refresh)

    swaps = asyncio.create_task(swapping())
    for k in range(40):
        await stub.UpsertItems(Upsert(items=[item(f"n{k}", "drama")]))
    await swaps
    response = await stub.RetrieveCandidates(Retrieve(user_id="anybody", num_candidates=200))
    assert {f"n{k}" for k in range(40)} <= set(ids(response))
    assert len(response.candidates) == 100


async def test_an_upsert_while_the_index_is_built_is_in_the_index_that_follows(
    service: tuple[Stub, Recall], trained: Path
) -> None:
    """The moment between `on_load` and the swap, which takes seconds over a large catalogue."""
    stub, running = service
    registry = Registry(trained)
    (other,) = (info.id for info in registry.list() if not info.live)
    load = running._live._on_load

    def slow(engine: Engine) -> None:
        load(engine)
        running._finder.upsert([Item(item_id="meanwhile", features={"genres": ("drama",)})])

    running._live._on_load = slow
    registry.promote(other, force=True)
    await until_async(lambda: running._live.engine().checkpoint == other)
    response = await stub.RetrieveCandidates(Retrieve(user_id="anybody", num_candidates=200))
    assert response.checkpoint == other
    assert "meanwhile" in ids(response)


async def test_filters_keep_items_away_before_ranking_sees_them(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}}\n")
    async with serving(replace(settings(trained), rules=path)) as (stub, _):
        found = await stub.RetrieveCandidates(Retrieve(user_id="u3", num_candidates=60))
        assert len(found.candidates) >= 45 - 14
        assert all(int(candidate.item_id[1:]) % 4 != 3 for candidate in found.candidates)
        assert [(report.rule, report.num_removed) for report in found.rules] == [("no-horror", 15)]
        assert len(found.rules_version) == 16
        await stub.UpsertItems(Upsert(items=[item("new", genre="horror"), item("newer", genre="drama")]))
        ids = {candidate.item_id for candidate in (await stub.RetrieveCandidates(Retrieve(user_id="u3"))).candidates}
        assert "newer" in ids
        assert "new" not in ids
        path.write_text("rules: [")
        kept = await stub.RetrieveCandidates(Retrieve(user_id="u3"))
        assert kept.rules_version == found.rules_version
        assert [(part.stage, part.reason) for part in kept.degradations] == [("rules", "INVALID_CONFIG")]


async def test_after_a_promotion_with_new_data_filters_forbid_until_it_is_loaded(
    trained: Path, tmp_path: Path, tiny_dataset: "Dataset"
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}}\n")
    async with serving(replace(settings(trained), rules=path)) as (stub, _):
        await stub.UpsertItems(Upsert(items=[item("new", "drama")]))

        async def found() -> recall_pb2.RetrieveCandidatesResponse:
            return await stub.RetrieveCandidates(Retrieve(user_id="u", num_candidates=100))

        before = await found()
        assert len(before.candidates) == 46
        genres = tiny_dataset.items["genres"].copy()
        genres[0] = ("horror",)
        changed = replace(tiny_dataset, items=tiny_dataset.items.assign(genres=genres)).save(tmp_path / "changed")
        store = FeatureStore.build(changed, trained / "features")
        assert set(ids(await found())) == set(ids(before)), "the checkpoint and the rows are still those of before"
        registry = Registry(trained)
        registry.promote(registry.list()[0].id, force=True)
        async with asyncio.timeout(WAIT_SECONDS):
            while (waiting := await found()).checkpoint == before.checkpoint:
                await asyncio.sleep(0.02)
        assert ids(waiting) == ["new"]
        assert [(part.stage, part.reason) for part in waiting.degradations] == [("rules", "UNAVAILABLE")]
        store.materialize()
        store.close()
        loaded = await found()
        assert set(ids(loaded)) == set(ids(before)) - {"i0"}
        assert not loaded.degradations


async def test_no_request_waits_while_the_first_labels_of_items_are_brought_into_the_index(
    service: tuple[Stub, Recall], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, running = service
    await stub.UpsertItems(Upsert(items=[item("new", "space"), item("other", "space")]))
    finder = running._finder
    serving_now = finder.serving
    assert serving_now is not None
    engine = serving_now.engine
    assert engine.vectors is not None
    zero_E = engine.vectors.phi_IE[0] * 0
    entered, go, changes = threading.Event(), threading.Event(), []
    refresh = Recaller.refresh

    def slow(recaller: Recaller, view: ItemView, *, changed: Collection[str] = ()) -> None:
        changes.append(set(changed))
        entered.set()
        assert go.wait(WAIT_SECONDS)
        refresh(recaller, view, changed=changed)

    monkeypatch.setattr(Recaller, "refresh", slow)

    def shifts(**biases: float) -> bytes:
        return encode_shifts(
            engine.checkpoint, {name: ItemShift(phi_E=zero_E, bias=bias, left=0.5, shots=3) for name, bias in biases.items()}
        )

    async def score() -> float:
        found = await stub.RetrieveCandidates(Retrieve(user_id="fan", num_candidates=100))
        return next(candidate.score for candidate in found.candidates if candidate.item_id == "new")

    before = await score()
    finder._store.write_user_adaptation(SHIFTS_KEY, shifts(new=1.0, other=1.0), 1, "", 0)
    async with asyncio.timeout(WAIT_SECONDS):
        while not entered.is_set():
            await score()
        assert await score() == before  # answered while the index is worked on
        go.set()
        while not (once := await score()) > before:
            await asyncio.sleep(0.02)
        finder._store.write_user_adaptation(SHIFTS_KEY, shifts(new=2.0, other=1.0), 1, "", 0)
        while not await score() > once:
            await asyncio.sleep(0.02)
    assert changes[:2] == [{"new", "other"}, {"new"}]  # what is as it was is not put into the index again
