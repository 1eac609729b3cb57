"""The gateway before fake stages: the read path and its degradation, the write path, limits."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from metarec.client import AsyncClient, Client, ClientSettings, Degradation, Recommendations
from metarec.errors import (
    DeadlineExceededError,
    InvalidInputError,
    MetarecError,
    NoCheckpointError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from metarec.training.files import canonical, sha256, write_atomically
from metarec.types import Interaction, Item, User
from metarec.v1 import gateway_pb2, types_pb2
from services.runtime.server import Server


def ids(answer: Recommendations) -> list[str]:
    return [item.item_id for item in answer.items]


def reasons(answer: Recommendations) -> list[tuple[str, str]]:
    assert answer.degraded == bool(answer.degradations)
    return [(part.stage, part.reason) for part in answer.degradations]


async def test_items_are_recalled_then_ranked(client: AsyncClient, stages: Any) -> None:
    answer = await client.recommend("u1", num_items=2, scenario="home", exclude=["x"], include_seen=True, features={"age": 30})
    assert [(item.item_id, item.score, item.source) for item in answer.items] == [
        ("i3", 10.0, "fresh"),
        ("i2", 9.0, "personal"),
    ]
    assert (answer.checkpoint, answer.shots, answer.degraded) == ("c-ranking", 2, False)
    asked, ranked = stages.recall.seen[0], stages.ranking.seen[0]
    assert (asked.user_id, asked.scenario, list(asked.exclude_item_ids), asked.include_seen) == ("u1", "home", ["x"], True)
    assert asked.user.features["age"].number == ranked.user.features["age"].number == 30
    assert (ranked.user_id, ranked.scenario, ranked.num_items, len(ranked.candidates)) == ("u1", "home", 2, 3)


async def test_weights_of_targets_reach_both_stages(client: AsyncClient, stages: Any) -> None:
    weights = {"rating": 1.0, "interacted": -0.5}
    await client.recommend("u1", target_weights=weights)
    await client.explain("u1", "i1", target_weights=weights)
    assert [dict(seen.target_weights) for seen in (*stages.recall.seen, *stages.ranking.seen)] == [weights] * 3


@pytest.mark.parametrize(("num_items", "num_candidates"), [(1, 200), (10, 200), (20, 400), (200, 500)])
async def test_the_more_items_are_asked_for_the_more_candidates_are_ranked(
    client: AsyncClient, stages: Any, num_items: int, num_candidates: int
) -> None:
    await client.recommend("u1", num_items=num_items)
    assert stages.recall.seen[0].num_candidates == num_candidates


async def test_stages_get_the_request_id_a_share_of_the_deadline_and_what_ray_serve_routes_by(
    client: AsyncClient, stages: Any
) -> None:
    await client.recommend("u1", timeout=10)
    assert stages.recall.remaining[0] <= 6 < 7 < stages.ranking.remaining[0] <= 10
    assert stages.ranking.metadata[0]["application"] == "ranking"
    assert "application" not in stages.recall.metadata[0]
    assert len({stages.recall.metadata[0]["x-request-id"], stages.ranking.metadata[0]["x-request-id"]}) == 1


async def test_without_recall_popular_items_are_ranked(client: AsyncClient, stages: Any) -> None:
    await stages.recall.down()
    answer = await client.recommend("u1", exclude=["p2"])
    assert [(item.item_id, item.source) for item in answer.items] == [("p3", "popular"), ("p1", "popular")]
    assert reasons(answer) == [("recall", "UNAVAILABLE")]
    assert "popular" in answer.degradations[0].fallback
    assert answer.checkpoint == "c-ranking"


async def test_without_ranking_the_order_is_that_of_recall(client: AsyncClient, stages: Any) -> None:
    await stages.ranking.down()
    answer = await client.recommend("u1", num_items=2)
    assert [(item.item_id, item.source) for item in answer.items] == [("i1", "personal"), ("i2", "personal")]
    assert answer.items[0].score > answer.items[1].score
    assert reasons(answer) == [("ranking", "UNAVAILABLE")]
    assert (answer.checkpoint, answer.shots) == ("c-recall", 1)


async def test_without_recall_and_ranking_the_popular_items_remain(client: AsyncClient, stages: Any) -> None:
    await stages.recall.down()
    await stages.ranking.down()
    answer = await client.recommend("u1", num_items=2)
    assert ids(answer) == ["p1", "p2"]
    assert reasons(answer) == [("recall", "UNAVAILABLE"), ("ranking", "UNAVAILABLE")]
    assert (answer.checkpoint, answer.shots) == ("", 0)


async def test_what_both_stages_could_not_read_is_said_once(client: AsyncClient, stages: Any) -> None:
    unread = types_pb2.Degradation(stage="features", reason="UNAVAILABLE", fallback="the prior")
    stages.recall.degradations = stages.ranking.degradations = [unread]
    answer = await client.recommend("u1")
    assert answer.degradations == (Degradation(stage="features", reason="UNAVAILABLE", fallback="the prior"),)
    assert answer.degraded
    assert ids(answer) == ["i3", "i2", "i1"]


@pytest.mark.parametrize("stage", ["recall", "ranking"])
async def test_a_stage_that_hangs_costs_its_share_of_the_deadline_and_no_more(
    client: AsyncClient, stages: Any, stage: str
) -> None:
    getattr(stages, stage).hold = asyncio.Event()
    answer = await client.recommend("u1", timeout=1)
    assert reasons(answer) == [(stage, "DEADLINE_EXCEEDED")]
    assert ids(answer) == (["p3", "p2", "p1"] if stage == "recall" else ["i1", "i2", "i3"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoCheckpointError("none is live"), "NO_CHECKPOINT"),
        (ResourceExhaustedError("too many"), "RESOURCE_EXHAUSTED"),
        (MetarecError("broken"), "INTERNAL"),
    ],
)
async def test_every_failure_of_a_stage_degrades(client: AsyncClient, stages: Any, error: MetarecError, reason: str) -> None:
    stages.recall.error = stages.ranking.error = error
    answer = await client.recommend("u1")
    assert ids(answer) == ["p1", "p2", "p3"]
    assert reasons(answer) == [("recall", reason), ("ranking", reason)]


@pytest.mark.parametrize("stage", ["recall", "ranking"])
async def test_a_request_that_a_stage_finds_wrong_fails_with_its_field(client: AsyncClient, stages: Any, stage: str) -> None:
    getattr(stages, stage).error = InvalidInputError("unknown feature 'agee'", field="user.features.agee")
    with pytest.raises(InvalidInputError, match="unknown feature 'agee'") as caught:
        await client.recommend("u1", features={"agee": 30})
    assert caught.value.field == "user.features.agee"


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN])
async def test_what_ray_serve_says_without_error_info_is_a_failure_of_ranking(
    client: AsyncClient, stages: Any, code: grpc.StatusCode
) -> None:
    stages.ranking.bare = code
    assert reasons(await client.recommend("u1")) == [("ranking", "UNAVAILABLE")]
    with pytest.raises(UnavailableError) as caught:
        await client.explain("u1", "i1")
    assert caught.value.metadata == {"stage": "ranking", "grpc_code": code.name}


async def test_with_nothing_live_the_answer_says_so(start_gateway: Any, stages: Any, tmp_path: Path) -> None:
    gateway = await start_gateway(registry=tmp_path / "empty")
    stages.recall.error = NoCheckpointError("no checkpoint is live; promote one")
    async with AsyncClient(ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")) as client:
        with pytest.raises(NoCheckpointError, match="promote one"):
            await client.recommend("u1")


async def test_popular_items_follow_the_live_checkpoint_and_outlive_the_registry(
    client: AsyncClient, stages: Any, registry: Path
) -> None:
    await stages.recall.down()
    await stages.ranking.down()
    assert ids(await client.recommend("u1", num_items=1)) == ["p1"]
    first, second = (registry / "checkpoints" / name for name in ("c-1-popular", "c-2-popular"))
    manifest = json.loads((first / "manifest.json").read_text()) | {"popular": ["q1"]}
    del manifest["sha256"]
    second.mkdir()
    (second / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256(canonical(manifest))}))
    write_atomically(registry / "live.json", json.dumps({"live": second.name, "promoted": [first.name, second.name]}).encode())
    assert ids(await client.recommend("u1", num_items=1)) == ["q1"]
    (registry / "live.json").unlink()
    assert ids(await client.recommend("u1", num_items=1)) == ["q1"]


async def test_a_stage_that_was_restarted_is_used_again(client: AsyncClient, stages: Any) -> None:
    await client.recommend("u1")
    await stages.recall.down()
    assert (await client.recommend("u1")).degraded
    await stages.recall.up()
    async with asyncio.timeout(20):
        while (await client.recommend("u1")).degraded:
            await asyncio.sleep(0.01)


async def test_the_log_says_when_a_stage_begins_to_fail_and_when_it_is_back(
    client: AsyncClient, stages: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stages.ranking.error, stages.ranking.failures = MetarecError("out of memory"), 3
    for _ in range(5):
        await client.recommend("u1")
    lines = [record.getMessage() for record in caplog.records if record.name == "services.gateway.recommend"]
    assert lines == ["ranking fails, answers are degraded: out of memory", "ranking is back"]


async def test_a_proxy_in_the_environment_does_not_come_between(
    monkeypatch: pytest.MonkeyPatch, start_gateway: Any, stages: Any
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    gateway = await start_gateway()
    async with AsyncClient(ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")) as client:
        assert not (await client.recommend("u1")).degraded


async def test_explanations_come_from_ranking(client: AsyncClient, stages: Any) -> None:
    found = await client.explain("u1", "i7", scenario="home")
    assert (found.item_id, found.score, found.shots, found.residual) == ("i7", 4.0, 1, 0.0)
    assert [(part.kind, part.value, part.item_id, part.label) for part in found.contributions] == [
        ("global", 3.5, "", 0.0),
        ("support", 0.5, "i9", 5.0),
    ]
    stages.ranking.error = NotFoundError("no item 'i7'", metadata={"item": "i7"})
    with pytest.raises(NotFoundError) as caught:
        await client.explain("u1", "i7")
    assert caught.value.metadata == {"stage": "ranking", "item": "i7"}
    await stages.ranking.down()
    with pytest.raises(UnavailableError) as down:
        await client.explain("u1", "i7", timeout=2)
    assert (down.value.reason, down.value.metadata["stage"]) == ("UNAVAILABLE", "ranking")


async def test_interactions_are_recorded_once_by_event_id(client: AsyncClient, stages: Any) -> None:
    events = [Interaction(user_id="u1", item_id=f"i{n}", label=5, event_id=f"e{n}", timestamp=1.5) for n in range(2)]
    first = await client.record_interactions(events)
    assert (first.num_recorded, first.num_duplicates, first.shots) == (2, 0, {"u1": 2})
    again = await client.record_interactions([*events, Interaction(user_id="u2", item_id="i1", label=1)])
    assert (again.num_recorded, again.num_duplicates, again.shots) == (1, 2, {"u1": 2, "u2": 1})
    assert len(again.event_ids[2]) == 32
    assert stages.adaptation.recorded["e1"].event_time.ToMilliseconds() == 1500
    assert not stages.adaptation.recorded[again.event_ids[2]].HasField("event_time")


async def test_recording_survives_a_stage_that_restarts(client: AsyncClient, stages: Any) -> None:
    stages.adaptation.error, stages.adaptation.failures = UnavailableError("not ready yet"), 2
    recorded = await client.record_interactions([Interaction(user_id="u1", item_id="i1", label=1)])
    assert recorded.num_recorded == 1
    assert [request.interactions[0].event_id for request in stages.adaptation.seen] == [recorded.event_ids[0]] * 3


async def test_items_and_users_go_to_their_owners(client: AsyncClient, stages: Any) -> None:
    stored = await client.upsert_items([Item(item_id="new", features={"title": "New", "tags": ("a", "b"), "vector": (0.5, 1.0)})])
    assert stored == (Item(item_id="new", features={"title": "New", "tags": ("a", "b"), "vector": (0.5, 1.0)}, revision=1),)
    assert await client.upsert_users([User(user_id="u1", features={"age": 30.0, "job": None})]) == 1
    assert set(stages.adaptation.seen[0].users[0].features) == {"age"}
    assert await client.delete_user("u1", allow_missing=True) == 4
    assert stages.adaptation.seen[1].allow_missing
    assert stages.recall.seen[0].request_id == stages.recall.metadata[0]["x-request-id"]


async def test_a_write_fails_while_its_stage_is_down_and_says_which(client: AsyncClient, stages: Any) -> None:
    await stages.adaptation.down()
    with pytest.raises(UnavailableError) as caught:
        await client.delete_user("u1")
    assert caught.value.metadata["stage"] == "adaptation"


async def test_a_write_that_outlasts_its_deadline_says_so(client: AsyncClient, stages: Any) -> None:
    stages.adaptation.hold = asyncio.Event()
    with pytest.raises(DeadlineExceededError):
        await client.record_interactions([Interaction(user_id="u", item_id="i", label=1)], timeout=0.2)


LONG = "x" * 257
WRONG: list[tuple[Any, str]] = [
    (gateway_pb2.RecommendRequest(), "user_id"),
    (gateway_pb2.RecommendRequest(user_id=LONG), "user_id"),
    (gateway_pb2.RecommendRequest(user_id="é" * 129), "user_id"),
    (gateway_pb2.RecommendRequest(user_id="u", num_items=201), "num_items"),
    (gateway_pb2.RecommendRequest(user_id="u", num_items=-1), "num_items"),
    (gateway_pb2.RecommendRequest(user_id="u", exclude_item_ids=["i"] * 1001), "exclude_item_ids"),
    (gateway_pb2.RecommendRequest(user_id="u", user=types_pb2.User(user_id="v")), "user.user_id"),
    (gateway_pb2.RecommendRequest(user_id="u", scenario=LONG), "scenario"),
    (gateway_pb2.RecommendRequest(user_id="u", target_weights={"rating": float("nan")}), "target_weights.rating"),
    (gateway_pb2.RecommendRequest(user_id="u", target_weights={LONG: 1.0}), "target_weights"),
    (gateway_pb2.ExplainRequest(item_id="i"), "user_id"),
    (gateway_pb2.ExplainRequest(user_id="u", item_id="i", target_weights={"rating": float("inf")}), "target_weights.rating"),
    (gateway_pb2.ExplainRequest(user_id="u", item_id="i", scenario=LONG), "scenario"),
    (gateway_pb2.ExplainRequest(user_id="u"), "item_id"),
    (gateway_pb2.DeleteUserRequest(), "user_id"),
    (gateway_pb2.UpsertItemsRequest(), "items"),
    (gateway_pb2.UpsertItemsRequest(items=[types_pb2.Item()]), "items[0].item_id"),
    (gateway_pb2.UpsertItemsRequest(items=[types_pb2.Item(item_id="a"), types_pb2.Item(item_id="a")]), "items[1].item_id"),
    (gateway_pb2.UpsertItemsRequest(items=[types_pb2.Item(item_id=str(n)) for n in range(1001)]), "items"),
    (gateway_pb2.UpsertUsersRequest(), "users"),
    (gateway_pb2.UpsertUsersRequest(users=[types_pb2.User(user_id=LONG)]), "users[0].user_id"),
    (gateway_pb2.RecordInteractionsRequest(), "interactions"),
]


def event(**changes: Any) -> gateway_pb2.RecordInteractionsRequest:
    interaction = types_pb2.Interaction(**{"event_id": "e", "user_id": "u", "item_id": "i", "label": 1.0, **changes})
    return gateway_pb2.RecordInteractionsRequest(interactions=[interaction])


WRONG += [
    (event(event_id=""), "interactions[0].event_id"),
    (event(user_id=""), "interactions[0].user_id"),
    (event(item_id=LONG), "interactions[0].item_id"),
    (event(scenario=LONG), "interactions[0].scenario"),
    (event(label=float("nan")), "interactions[0].label"),
    (event(label=float("inf")), "interactions[0].label"),
    (event(labels={"bought": float("nan")}), "interactions[0].labels.bought"),
    (event(labels={LONG: 1.0}), "interactions[0].labels"),
    (event(labels={str(k): 1.0 for k in range(101)}), "interactions[0].labels"),
    (event(event_time={"seconds": 253_402_300_800}), "interactions[0].event_time"),
    (event(event_time={"nanos": -1}), "interactions[0].event_time"),
]


@pytest.mark.parametrize(("message", "field"), WRONG, ids=[f"{type(m).__name__}-{f}" for m, f in WRONG])
async def test_a_request_out_of_range_is_refused_before_any_stage_sees_it(
    gateway: Server, stages: Any, message: Any, field: str
) -> None:
    from metarec.v1 import gateway_pb2_grpc
    from services.runtime.errors import from_rpc_error

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, type(message).__name__.removesuffix("Request"))(message)
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidInputError)
    assert error.field == field
    assert not any(stage.seen for stage in stages.all)


async def test_load_beyond_the_limit_is_shed(start_gateway: Any, stages: Any) -> None:
    gateway = await start_gateway(max_concurrent_requests=1)
    stages.recall.hold = asyncio.Event()
    async with AsyncClient(ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")) as client:
        running = asyncio.ensure_future(client.recommend("u1"))
        await stages.recall.entered.wait()
        with pytest.raises(ResourceExhaustedError, match="1 requests already"):
            await client.recommend("u2")
        stages.recall.hold.set()
        assert not (await running).degraded


async def test_the_client_for_threads_gives_the_same_answers(client: AsyncClient, stages: Any) -> None:
    with Client(client._connections.settings) as threads:
        one, other = await asyncio.to_thread(threads.recommend, "u1"), await client.recommend("u1")
        assert replace(one, request_id=other.request_id) == other
        assert one.request_id != other.request_id
        assert await asyncio.to_thread(threads.get_item, "i1") == await client.get_item("i1")
        with pytest.raises(InvalidInputError) as caught:
            await asyncio.to_thread(threads.recommend, "", num_items=3)
        assert caught.value.field == "user_id"
