"""The adaptation service over gRPC: real server, real log, real feature store, a small trained prior."""

import asyncio
import contextlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.errors import (
    FailedPreconditionError,
    InvalidInputError,
    MetarecError,
    NoCheckpointError,
    NotFoundError,
    UnavailableError,
)
from metarec.features.store import FeatureStore
from metarec.interactions.log import InteractionLog
from metarec.training.registry import Registry
from metarec.types import Interaction, Item, User
from metarec.v1 import adaptation_pb2, adaptation_pb2_grpc, gateway_pb2, types_pb2
from services.adaptation import backfill
from services.adaptation.publisher import Publisher
from services.adaptation.service import Adaptation, build
from services.runtime import convert
from services.runtime.errors import from_rpc_error
from services.runtime.server import Server
from services.runtime.settings import Settings
from waiting import until_async

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Stub = adaptation_pb2_grpc.AdaptationServiceStub
Record = gateway_pb2.RecordInteractionsRequest
Adapt = adaptation_pb2.AdaptTaskRequest
WAIT_SECONDS = 60.0


def settings(registry: Path, **changes: object) -> Settings:
    plain = {"registry": registry, "features": registry / "features", "state": registry.parent / "state"}
    return Settings(service="adaptation", **{**plain, **changes})  # type: ignore[arg-type]  # by name


@asynccontextmanager
async def serving(configured: Settings) -> AsyncIterator[tuple[Stub, Adaptation]]:
    made: list[Adaptation] = []

    async def building(given: Settings) -> Adaptation:
        made.append(await build(given))
        return made[0]

    server = Server("adaptation", configured, building)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            yield Stub(channel), made[0]
        finally:
            await server.drain()


@pytest.fixture
async def service(trained: Path) -> AsyncIterator[tuple[Stub, Adaptation]]:
    async with serving(settings(trained)) as running:
        yield running


@pytest.fixture
def stub(service: tuple[Stub, Adaptation]) -> Stub:
    return service[0]


def event(event_id: str, user: str = "new", item: str = "i0", label: float = 5.0, seconds: int = 0) -> types_pb2.Interaction:
    made = types_pb2.Interaction(event_id=event_id, user_id=user, item_id=item, label=label)
    if seconds:
        made.event_time.FromSeconds(seconds)
    return made


def fan(user: str, genre: int, count: int = 4) -> Record:
    return Record(interactions=[event(f"{user}-{k}", user, f"i{genre + 4 * k}", 5.0, 2_000_000 + k) for k in range(count)])


async def refused(call: "grpc.aio.UnaryUnaryCall") -> MetarecError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc_error(raised.value)


def read(trained: Path, user: str) -> tuple[UserState, str, int] | None:
    """State, checkpoint and shots in the online store, as another process sees them."""
    store = FeatureStore.open(trained / "features")
    try:
        found = store.read_user(user)
        if found is None or found.adaptation is None:
            return None
        return UserState.decode(found.adaptation), found.checkpoint, found.shots
    finally:
        store.close()


def live_engine(trained: Path) -> Engine:
    return Engine(Registry(trained).load("live"))


async def test_what_is_acknowledged_is_in_the_online_store(stub: Stub, trained: Path) -> None:
    response = await stub.RecordInteractions(fan("new", 1))
    live = Registry(trained).live()
    assert (response.num_recorded, response.num_duplicates, response.checkpoint) == (4, 0, live)
    assert [(user.user_id, user.shots) for user in response.users] == [("new", 4)]
    found = read(trained, "new")
    assert found is not None
    state, checkpoint, shots = found
    assert (checkpoint, shots, state.checkpoint, state.revision) == (live, 4, live, 1)
    assert [entry.item_id for entry in state.support] == ["i1", "i5", "i9", "i13"]
    engine = live_engine(trained)
    expected = engine.adapt(state.support)
    assert engine.restore(state).vector == pytest.approx(expected.vector, abs=1e-5)


async def test_items_that_nobody_knows_are_named_and_count_once_they_are_known(stub: Stub, trained: Path) -> None:
    events = [event("e1"), event("e2", item="unheard"), event("e3", item="unheard", user="other"), event("e4", item="secret")]
    response = await stub.RecordInteractions(Record(interactions=events))
    assert list(response.unknown_item_ids) == ["unheard", "secret"]
    assert (response.num_recorded, {user.user_id: user.shots for user in response.users}) == (4, {"new": 1, "other": 0})
    assert list((await stub.RecordInteractions(Record(interactions=events[1:2]))).unknown_item_ids) == ["unheard"], "again"
    store = FeatureStore.open(trained / "features")
    store.write_items([Item(item_id="unheard", features={"genres": ("drama",)}, revision=1)])
    store.close()
    response = await stub.RecordInteractions(Record(interactions=[event("e5", item="unheard"), event("e6", item="secret")]))
    assert list(response.unknown_item_ids) == ["secret"]
    assert response.users[0].shots == 2


async def test_an_event_counts_once_however_often_it_is_sent(stub: Stub, trained: Path) -> None:
    first = await stub.RecordInteractions(Record(interactions=[event("e1"), event("e1"), event("e2", item="i4")]))
    assert (first.num_recorded, first.num_duplicates, first.users[0].shots) == (2, 1, 2)
    again = await stub.RecordInteractions(Record(interactions=[event("e1", label=1.0), event("e2", item="i8")]))
    assert (again.num_recorded, again.num_duplicates, again.users[0].shots) == (0, 2, 2)
    assert again.checkpoint == first.checkpoint
    found = read(trained, "new")
    assert found is not None
    assert [(entry.item_id, entry.label) for entry in found[0].support] == [("i0", 5.0), ("i4", 5.0)]
    assert found[0].revision == 1


async def test_items_nobody_knows_are_kept_but_not_adapted_to(stub: Stub, trained: Path) -> None:
    response = await stub.RecordInteractions(Record(interactions=[event("e1"), event("e2", item="mystery")]))
    assert (response.num_recorded, response.users[0].shots) == (2, 1)
    found = read(trained, "new")
    assert found is not None
    assert found[0].seen_items == {"i0", "mystery"}


async def test_an_item_upserted_elsewhere_is_adapted_to(stub: Stub, trained: Path) -> None:
    store = FeatureStore.open(trained / "features")
    store.write_items([Item(item_id="fresh", features={"genres": ("drama",)}, revision=2)])
    store.close()
    response = await stub.RecordInteractions(Record(interactions=[event("e1", item="fresh")]))
    assert response.users[0].shots == 1
    found = read(trained, "new")
    assert found is not None
    assert found[0].revisions == {"fresh": 2}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": 5.5}, "interactions[1].label"),
        ({"label": float("nan")}, "interactions[1].label"),
        ({"event_id": ""}, "interactions[1].event_id"),
        ({"user_id": ""}, "interactions[1].user_id"),
        ({"item_id": "i" * 257}, "interactions[1].item_id"),
        ({"event_time": {"seconds": 2**37}}, "interactions[1].event_time"),
    ],
)
async def test_one_wrong_interaction_and_none_is_recorded(
    stub: Stub, trained: Path, change: dict[str, object], field: str
) -> None:
    wrong = types_pb2.Interaction(**{"event_id": "e2", "user_id": "new", "item_id": "i1", "label": 3.0, **change})  # type: ignore[arg-type]  # by name
    error = await refused(stub.RecordInteractions(Record(interactions=[event("e1"), wrong])))
    assert isinstance(error, InvalidInputError)
    assert error.field == field
    page = await stub.ListInteractions(adaptation_pb2.ListInteractionsRequest(user_id="new"))
    assert len(page.interactions) == 0
    assert read(trained, "new") is None


async def test_a_request_has_1_to_1000_interactions(stub: Stub) -> None:
    for count in (0, 1001):
        error = await refused(stub.RecordInteractions(Record(interactions=[event(f"e{k}") for k in range(count)])))
        assert isinstance(error, InvalidInputError)
        assert error.field == "interactions"


async def test_interactions_without_a_time_keep_the_order_of_the_request(stub: Stub) -> None:
    await stub.RecordInteractions(Record(interactions=[event("b", label=1.0), event("a", label=5.0)]))
    page = await stub.ListInteractions(adaptation_pb2.ListInteractionsRequest(user_id="new"))
    assert [entry.event_id for entry in page.interactions] == ["a", "b"]
    adapted = await stub.AdaptTask(Adapt(task_id="new"))
    assert adapted.shots == 1


async def test_interactions_are_listed_from_new_to_old_by_pages(stub: Stub) -> None:
    await stub.RecordInteractions(Record(interactions=[event(f"e{k}", item=f"i{k}", seconds=1000 + k) for k in range(7)]))
    seen, token = [], ""
    while True:
        page = await stub.ListInteractions(adaptation_pb2.ListInteractionsRequest(user_id="new", page_size=3, page_token=token))
        seen += [(entry.event_id, entry.event_time.seconds, entry.label) for entry in page.interactions]
        token = page.next_page_token
        if not token:
            break
    assert seen == [(f"e{k}", 1000 + k, 5.0) for k in range(6, -1, -1)]
    for request in ({"page_size": 1001}, {"page_size": -1}, {"page_token": "x"}, {"user_id": ""}):
        wrong = adaptation_pb2.ListInteractionsRequest(**{"user_id": "new", **request})  # type: ignore[arg-type]  # by name
        assert isinstance(await refused(stub.ListInteractions(wrong)), InvalidInputError)


async def test_parallel_calls_leave_the_newest_state_of_every_user(stub: Stub, trained: Path) -> None:
    """Forty calls for three users, every event sent by two of them: each counts once, and the store has all of them."""
    requests = [
        Record(interactions=[event(f"e{k}-{user}", f"p{user}", f"i{k}", 4.0, 5000 + k) for user in range(3)])
        for k in range(20)
        for _ in range(2)
    ]
    responses = await asyncio.gather(*(stub.RecordInteractions(request) for request in requests))
    assert sum(response.num_recorded for response in responses) == 60
    assert sum(response.num_duplicates for response in responses) == 60
    for user in range(3):
        found = read(trained, f"p{user}")
        assert found is not None
        assert [entry.item_id for entry in found[0].support] == [f"i{k}" for k in range(20)]
        assert (found[0].revision, found[2]) == (20, 20)


async def test_without_a_checkpoint_interactions_are_durable_and_adapted_to_once_there_is_one(
    trained: Path, tmp_path: Path
) -> None:
    (trained / "live.json").rename(tmp_path / "live.json")
    async with serving(settings(trained)) as (stub, service):
        response = await stub.RecordInteractions(fan("early", 2))
        assert (response.num_recorded, response.checkpoint, response.users[0].shots) == (4, "", 4)
        found = read(trained, "early")
        assert found is not None
        assert (found[1], len(found[0].support), dict(found[0].weights)) == ("", 4, {})
        again = await stub.RecordInteractions(fan("early", 2))
        assert (again.num_duplicates, again.users[0].shots) == (4, 4)
        assert isinstance(await refused(stub.AdaptTask(Adapt(task_id="early"))), NoCheckpointError)
        (tmp_path / "live.json").rename(trained / "live.json")
        live = Registry(trained).live()
        await until_async(lambda: service._log.users_with_stale(live or "") == [])
    found = read(trained, "early")
    assert found is not None
    assert (found[1], found[2], found[0].checkpoint) == (live, 4, live)


async def test_without_anything_trained_interactions_are_kept(tmp_path: Path) -> None:
    async with serving(settings(tmp_path / "trained")) as (stub, _):
        response = await stub.RecordInteractions(Record(interactions=[event("e1", label=77.0)]))
        assert (response.num_recorded, response.users[0].shots, response.checkpoint) == (1, 1, "")
        error = await refused(stub.UpsertUsers(gateway_pb2.UpsertUsersRequest(users=[types_pb2.User(user_id="u")])))
        assert isinstance(error, NoCheckpointError)
        assert f"no checkpoint of registry '{tmp_path / 'trained'}' is live" in error.message
        deleted = await stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="new"))
        assert deleted.num_interactions_deleted == 1


async def test_when_the_store_fails_the_call_fails_and_a_retry_repairs(
    service: tuple[Stub, Adaptation], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, running = service
    await stub.RecordInteractions(fan("new", 0))
    store = running._store
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError("no route to the store")

        patch.setattr(FeatureStore, "write_user_adaptation", fail)
        error = await refused(stub.RecordInteractions(Record(interactions=[event("later", item="i20")])))
        assert isinstance(error, UnavailableError)
        assert "no route" in error.message
    store._retry_at = 0.0
    response = await stub.RecordInteractions(Record(interactions=[event("later", item="i20")]))
    assert (response.num_recorded, response.num_duplicates, response.users[0].shots) == (0, 1, 5)
    found = read(trained, "new")
    assert found is not None
    assert (found[0].revision, found[2]) == (2, 5)


async def test_what_failed_is_repaired_without_the_caller(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that gives up after UNAVAILABLE: the log has the event and the deletion, so the store gets them too."""
    monkeypatch.setattr(backfill, "PAUSE_SECONDS", 0.05)
    async with serving(settings(trained)) as (stub, running):
        await stub.RecordInteractions(fan("gone", 0))
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise OSError("no route to the store")

            patch.setattr(FeatureStore, "write_user_adaptation", fail)
            patch.setattr(FeatureStore, "delete_user", fail)
            assert isinstance(await refused(stub.RecordInteractions(fan("new", 1))), UnavailableError)
            # A call that comes while the store rests is refused before it reaches the log.
            while not running._log.pending_deletions():
                running._store._retry_at = 0.0
                error = await refused(stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="gone")))
                assert isinstance(error, UnavailableError)
        await until_async(lambda: not running._log.dirty_users() and not running._log.pending_deletions())
    assert read(trained, "gone") is None
    found = read(trained, "new")
    assert found is not None
    assert found[2] == 4


async def test_a_user_who_acts_while_their_deletion_is_pending_stays_visible(trained: Path) -> None:
    async with serving(settings(trained)) as (stub, running):
        await stub.RecordInteractions(fan("back", 0))
        running._log.delete_user("back")
        await stub.RecordInteractions(Record(interactions=[event("again", "back", "i1")]))
        running._backfill.wake()
        await until_async(lambda: not running._log.pending_deletions() and not running._log.dirty_users())
    found = read(trained, "back")
    assert found is not None
    assert [entry.item_id for entry in found[0].support] == ["i1"]


async def test_a_store_whose_manifest_is_damaged_is_not_taken_for_no_store(stub: Stub, trained: Path) -> None:
    """Without a store nobody can read a state, so events are acknowledged. With one they must be in it first."""
    manifest = trained / "features" / "store.json"
    whole = manifest.read_text()
    manifest.write_text(whole[:-5])
    error = await refused(stub.RecordInteractions(Record(interactions=[event("e1")])))
    assert isinstance(error, FailedPreconditionError)
    manifest.write_text(whole)
    again = await stub.RecordInteractions(Record(interactions=[event("e1")]))
    assert again.num_duplicates == 1
    assert read(trained, "new") is not None


@pytest.mark.parametrize("cause", ["lost", "another log"])
async def test_everybody_is_written_again_to_an_online_store_that_has_others_or_nobody(trained: Path, cause: str) -> None:
    async with serving(settings(trained)) as (stub, _):
        await stub.RecordInteractions(fan("new", 1))
    if cause == "lost":
        for file in (trained / "features").glob("online.db*"):
            file.unlink()
    else:
        async with serving(settings(trained, state=trained.parent / "other")) as (stub, _):
            await stub.RecordInteractions(fan("new", 2, 1))
    async with serving(settings(trained)):
        found = read(trained, "new")
    assert found is not None
    assert [entry.item_id for entry in found[0].support] == ["i1", "i5", "i9", "i13"]


async def test_a_store_that_loses_its_rows_while_it_is_used_is_filled_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.adaptation.backfill.LOOK_SECONDS", 0.05)
    async with serving(settings(trained)) as (stub, running):
        await stub.RecordInteractions(fan("new", 1))
        with contextlib.closing(sqlite3.connect(trained / "features" / "online.db")) as rows, rows:
            for (table,) in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows.execute(f'DELETE FROM "{table}"')
        # Not read by opening the store: Feast's registry is not whole while the views are loaded.
        await until_async(lambda: running._store.read_user("new") is not None)
        assert running._store.read_items(["i1"])["i1"].features  # what the dataset says, too


async def test_a_profile_changes_what_a_user_is_adapted_to(stub: Stub, trained: Path) -> None:
    await stub.RecordInteractions(fan("new", 0, 1))
    before = read(trained, "new")
    user = types_pb2.User(user_id="new")
    user.features["gender"].text = "M"
    user.features["age"].number = 33
    response = await stub.UpsertUsers(gateway_pb2.UpsertUsersRequest(users=[user, types_pb2.User(user_id="other")]))
    assert response.num_upserted == 2
    after = read(trained, "new")
    assert before is not None
    assert after is not None
    engine = live_engine(trained)
    assert after[0].revision == 2
    assert after[0].weights["implicit"]["vector"] != pytest.approx(before[0].weights["implicit"]["vector"])
    expected = engine.adapt(after[0].support, {"gender": "M", "age": 33.0})
    assert after[0].weights["implicit"]["vector"] == pytest.approx(expected.state.weights["implicit"]["vector"], abs=1e-5)
    other = read(trained, "other")
    assert other is not None
    assert other[2] == 0


async def test_a_wrong_profile_is_refused_with_the_name_of_the_field(stub: Stub, trained: Path) -> None:
    good, unknown, wrong = (types_pb2.User(user_id=name) for name in ("good", "unknown", "wrong"))
    unknown.features["height"].number = 1.8
    wrong.features["age"].text = "old"
    for bad, field in ((unknown, "users[1].features.height"), (wrong, "users[1].features.age"), (good, "users[1].user_id")):
        error = await refused(stub.UpsertUsers(gateway_pb2.UpsertUsersRequest(users=[good, bad])))
        assert isinstance(error, InvalidInputError)
        assert error.field == field
    assert read(trained, "good") is None


async def test_a_deleted_user_is_gone_everywhere(stub: Stub, trained: Path) -> None:
    await stub.RecordInteractions(fan("new", 0))
    response = await stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="new"))
    assert response.num_interactions_deleted == 4
    assert read(trained, "new") is None
    page = await stub.ListInteractions(adaptation_pb2.ListInteractionsRequest(user_id="new"))
    assert len(page.interactions) == 0
    assert isinstance(await refused(stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="new"))), NotFoundError)
    missing = await stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="new", allow_missing=True))
    assert missing.num_interactions_deleted == 0
    again = await stub.RecordInteractions(fan("new", 1))
    assert (again.num_recorded, again.users[0].shots) == (4, 4)
    assert read(trained, "new") is not None


async def test_a_user_of_the_dataset_without_interactions_can_be_deleted(stub: Stub, trained: Path) -> None:
    response = await stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="u3"))
    assert response.num_interactions_deleted == 0
    store = FeatureStore.open(trained / "features")
    assert store.read_user("u3") is None
    store.close()
    assert isinstance(await refused(stub.DeleteUser(gateway_pb2.DeleteUserRequest(user_id="u3"))), NotFoundError)


async def test_a_user_task_adapts_from_an_inline_or_the_stored_support_set(stub: Stub, trained: Path) -> None:
    rows = [adaptation_pb2.SupportRow(id=f"i{4 * k}", label=5.0) for k in range(3)]
    rows += [adaptation_pb2.SupportRow(id="i1", label=1.0), adaptation_pb2.SupportRow(id="mystery", label=1.0)]
    response = await stub.AdaptTask(Adapt(support=rows, query_ids=["i20", "i21", "unheard"]))
    assert (response.shots, list(response.unknown_ids), response.checkpoint) == (4, ["mystery"], Registry(trained).live())
    assert [prediction.id for prediction in response.predictions] == ["i20", "i21", "unheard"]
    loved, other, _ = response.predictions
    assert loved.mean > other.mean + 1
    assert loved.stddev > 0
    await stub.RecordInteractions(fan("new", 1))
    stored = await stub.AdaptTask(Adapt(kind=adaptation_pb2.TASK_KIND_USER, task_id="new", query_ids=["i20", "i21"]))
    assert stored.shots == 4
    assert stored.predictions[1].mean > stored.predictions[0].mean
    inline = await stub.AdaptTask(Adapt(task_id="new", support=rows, query_ids=["i20", "i21"]))
    assert inline.predictions[0].mean > inline.predictions[1].mean
    prior = await stub.AdaptTask(Adapt(task_id="nobody", query_ids=["i20"]))
    assert prior.shots == 0
    assert prior.predictions[0].stddev > loved.stddev


async def test_the_profile_of_a_task_may_come_with_it(stub: Stub) -> None:
    means = set()
    for gender in ("F", "M"):
        request = Adapt(query_ids=["i0"])
        request.features["gender"].text = gender
        means.add((await stub.AdaptTask(request)).predictions[0].mean)
    assert len(means) == 2


async def test_an_item_task_predicts_who_likes_an_emerging_item(stub: Stub) -> None:
    for user in range(12):
        await stub.RecordInteractions(fan(f"p{user}", user % 2, 6))
    request = Adapt(kind=adaptation_pb2.TASK_KIND_ITEM, query_ids=["p0", "p1", "nobody"])
    request.features["genres"].list.values.append("space")
    by_content = await stub.AdaptTask(request)
    assert by_content.predictions[0].mean > by_content.predictions[1].mean
    request.support.extend(adaptation_pb2.SupportRow(id=f"p{user}", label=5.0 if user % 2 else 1.0) for user in range(2, 12))
    request.support.append(adaptation_pb2.SupportRow(id="ghost", label=3.0))
    adapted = await stub.AdaptTask(request)
    assert (adapted.shots, list(adapted.unknown_ids)) == (10, ["ghost"])
    gap = adapted.predictions[0].mean - adapted.predictions[1].mean
    assert gap < by_content.predictions[0].mean - by_content.predictions[1].mean - 0.2
    assert all(row.stddev > 0 for row in adapted.predictions)
    stored = await stub.AdaptTask(Adapt(kind=adaptation_pb2.TASK_KIND_ITEM, task_id="i0", query_ids=["p0"]))
    assert stored.shots == 6
    unknown = await refused(stub.AdaptTask(Adapt(kind=adaptation_pb2.TASK_KIND_ITEM, task_id="nope")))
    assert isinstance(unknown, NotFoundError)


async def test_what_somebody_said_of_the_very_item_is_no_evidence_about_their_taste(stub: Stub) -> None:
    for user, count in (("twin-a", 4), ("twin-b", 5)):
        await stub.RecordInteractions(fan(user, 1, count))  # the fifth is of i17
    raters = [adaptation_pb2.SupportRow(id="twin-a", label=1.0)]
    asked = Adapt(kind=adaptation_pb2.TASK_KIND_ITEM, task_id="i17", support=raters, query_ids=["twin-a", "twin-b"])
    one, two = (row.mean for row in (await stub.AdaptTask(asked)).predictions)
    assert one == pytest.approx(two, abs=1e-6)
    stored = await stub.AdaptTask(Adapt(kind=adaptation_pb2.TASK_KIND_ITEM, task_id="i17", query_ids=["twin-a"]))
    inline = await stub.AdaptTask(
        Adapt(
            kind=adaptation_pb2.TASK_KIND_ITEM,
            task_id="i17",
            support=[adaptation_pb2.SupportRow(id="twin-b", label=5.0)],
            query_ids=["twin-a"],
        )
    )
    assert stored.shots == inline.shots == 1
    assert stored.predictions[0].mean == pytest.approx(inline.predictions[0].mean, abs=1e-6)


async def test_a_wrong_task_is_refused_with_the_name_of_the_field(stub: Stub) -> None:
    row = adaptation_pb2.SupportRow
    too_many = Adapt(query_ids=["i0"] * 1001)
    for request, field in (
        (Adapt(support=[row(id="i0", label=9.0)]), "support[0].label"),
        (Adapt(support=[row(label=3.0)]), "support[0].id"),
        (Adapt(support=[row(id="i0", label=3.0), row(id="i0", label=4.0)]), "support[1].id"),
        (Adapt(query_ids=["i0", ""]), "query_ids[1]"),
        (Adapt(kind=7), "kind"),  # type: ignore[arg-type]  # no kind there is
        (too_many, "query_ids"),
    ):
        error = await refused(stub.AdaptTask(request))
        assert isinstance(error, InvalidInputError)
        assert error.field == field


async def test_the_history_of_the_dataset_is_there_when_the_service_is_ready(trained: Path, tiny_dataset: "Dataset") -> None:
    async with serving(settings(trained, data=tiny_dataset.path)) as (stub, service):
        assert service._log.count() == len(tiny_dataset.interactions)
        adapted = await stub.AdaptTask(Adapt(task_id="u7"))
        assert adapted.shots == 14
    found = read(trained, "u7")
    assert found is not None
    assert found[2] == 14
    async with serving(settings(trained, data=tiny_dataset.path)) as (stub, service):
        assert service._log.count() == len(tiny_dataset.interactions)


async def test_a_large_history_comes_in_the_background(
    trained: Path, tiny_dataset: "Dataset", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "READY_LIMIT", 100)
    opened = threading.Event()
    real = backfill.import_history

    def slow(*args: object, **named: object) -> int:
        assert opened.wait(WAIT_SECONDS)
        return real(*args, **named)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(backfill, "import_history", slow)
    async with serving(settings(trained, data=tiny_dataset.path)) as (stub, service):
        response = await stub.RecordInteractions(fan("u7", 0))
        assert response.users[0].shots == 4
        opened.set()
        live = Registry(trained).live() or ""
        await until_async(lambda: service._log.import_progress(f"dataset:{tiny_dataset.fingerprint}") is None)
        await until_async(lambda: service._log.users_with_stale(live) == [])
    found = read(trained, "u7")
    assert found is not None
    assert len(found[0].support) > 14


async def test_another_dataset_directory_is_refused_at_start(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no dataset"):
        async with serving(settings(trained, data=tmp_path)):
            pass


async def test_a_promotion_readapts_every_user(service: tuple[Stub, Adaptation], trained: Path) -> None:
    stub, running = service
    await stub.RecordInteractions(fan("a", 0))
    await stub.RecordInteractions(fan("b", 1))
    (other,) = (info.id for info in Registry(trained).list() if not info.live)
    Registry(trained).promote(other, force=True)
    await until_async(lambda: running._log.users_with_stale(other) == [])
    for user in ("a", "b"):
        found = read(trained, user)
        assert found is not None
        assert (found[1], found[0].checkpoint) == (other, other)
    assert (await stub.RecordInteractions(fan("c", 2))).checkpoint == other


async def test_a_promotion_in_the_middle_of_the_start_is_not_missed(
    trained: Path, tiny_dataset: "Dataset", monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(trained)
    (other,) = (info.id for info in registry.list() if not info.live)
    real, promoted = Publisher.publish, []

    def publish(self: Publisher, user_ids: list[str], item_ids: tuple[str, ...] = ()) -> object:
        found = real(self, user_ids, item_ids)
        if not promoted:
            promoted.append(registry.promote(other, force=True))
            assert self._live.refresh()
        return found

    monkeypatch.setattr(Publisher, "publish", publish)
    async with serving(settings(trained, data=tiny_dataset.path)) as (_, service):
        await until_async(lambda: service._log.users_with_stale(other) == [])
        assert service._live.engine().checkpoint == other


async def test_users_whose_write_was_cut_off_are_repaired_at_the_next_start(trained: Path) -> None:
    """What a crash between the log's commit and the online write leaves: dirty users, and deletions half done."""
    configured = settings(trained)
    async with serving(configured) as (stub, _):
        await stub.RecordInteractions(fan("gone", 0))
    log = InteractionLog(configured.state / "interactions.db")
    log.append(_library(fan("cut", 3)))
    log.upsert_users([User(user_id="cut", features={"gender": "M", "no such field": 1.0})])
    log.delete_user("gone")
    log.close()
    assert read(trained, "gone") is not None
    async with serving(configured) as (_, service):
        assert service._log.dirty_users() == []
        assert service._log.pending_deletions() == []
    assert read(trained, "gone") is None
    found = read(trained, "cut")
    assert found is not None
    assert found[2] == 4
    store = FeatureStore.open(trained / "features")
    user = store.read_user("cut")
    store.close()
    assert user is not None
    assert user.features == {"gender": "M", "age": None}


def _library(request: Record) -> list[Interaction]:
    return convert.interactions(request.interactions, None, 3_000_000.0)


async def test_kill_9_under_load_loses_no_acknowledged_interaction(trained: Path) -> None:
    state = trained.parent / "state"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("METAREC_")},
        "METAREC_PORT": "0",
        "METAREC_REGISTRY": str(trained),
        "METAREC_STATE": str(state),
        "METAREC_LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.adaptation"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 120)[0], "no ready line"
    port = process.stdout.readline().rsplit(":", 1)[1].strip()
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def load(stub: Stub, client: int) -> None:
        for k in range(100_000):
            request = Record(interactions=[event(f"{client}-{k}", f"p{client}", f"i{k % 60}", 4.0, 5000 + k)])
            try:
                await stub.RecordInteractions(request)
            except grpc.aio.AioRpcError:
                return
            acknowledged.append(request.interactions[0].event_id)
            if len(acknowledged) >= 80:
                enough.set()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        clients = [asyncio.create_task(load(Stub(channel), client)) for client in range(4)]
        await asyncio.wait_for(enough.wait(), WAIT_SECONDS)
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*clients)
    process.wait()
    process.stdout.close()
    async with serving(settings(trained)) as (stub, service):
        for event_id in acknowledged:
            client, _, k = event_id.partition("-")
            again = await stub.RecordInteractions(
                Record(interactions=[event(event_id, f"p{client}", f"i{int(k) % 60}", 4.0, 5000)])
            )
            assert again.num_duplicates == 1, event_id
        assert service._log.dirty_users() == []
        for client in range(4):
            record = service._log.user(f"p{client}")
            found = read(trained, f"p{client}")
            assert record is not None
            assert found is not None
            assert found[0].revision == record.revision


async def test_a_second_service_on_a_state_directory_is_refused_until_the_first_has_ended(trained: Path) -> None:
    async with serving(settings(trained)) as (stub, _):
        second = Server("adaptation", settings(trained), build)
        with pytest.raises(FailedPreconditionError, match=str(trained.parent / "state")):
            await second.start()
        await second.drain()
        # The one that was refused has not let go of what is not its own.
        with pytest.raises(FailedPreconditionError, match=f"process {os.getpid()}"):
            await Server("adaptation", settings(trained), build).start()
        await stub.RecordInteractions(fan("new", 1))
    async with serving(settings(trained)) as (stub, _):
        assert (await stub.RecordInteractions(fan("new", 1))).num_duplicates == 4


async def test_a_copied_registry_is_independent(trained: Path, tiny_registry: Path) -> None:
    """The fixtures themselves: what a test writes must not reach the shared trained."""
    async with serving(settings(trained)) as (stub, _):
        await stub.RecordInteractions(fan("mine", 0))
    assert read(tiny_registry, "mine") is None
    shutil.rmtree(trained)
