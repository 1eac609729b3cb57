"""Feedback on an emerging item, from RecordInteractions to the scores of ranking and recall, other processes in production."""

import asyncio
from pathlib import Path

import grpc
import pytest

from metarec.adaptation.engine import Engine
from metarec.training.registry import Registry
from metarec.types import Item
from metarec.v1 import adaptation_pb2_grpc, gateway_pb2, recall_pb2, recall_pb2_grpc
from services.adaptation.service import build as build_adaptation
from services.ranking.ranker import Ranker
from services.ranking.wire import Answer, Request
from services.recall.service import build as build_recall
from services.runtime.features import LazyStore
from services.runtime.item_shifts import LOOK_SECONDS
from services.runtime.server import Server
from services.runtime.settings import Settings
from waiting import until_async

NEW = Item(item_id="new", features={"title": "space story", "genres": ("space",), "year": 1990.0}, revision=1)


class Live:
    def __init__(self, engine: Engine) -> None:
        self.current = engine


async def test_feedback_on_an_emerging_item_moves_its_score_for_everybody(trained: Path, tmp_path: Path) -> None:
    def settings(service: str) -> Settings:
        return Settings(service=service, registry=trained, features=trained / "features", state=tmp_path / service)

    store = LazyStore(trained / "features", "sqlite")
    store.write_items([NEW])
    now = [0.0]
    engine = Engine(Registry(trained).load("live"))
    ranker = Ranker(Live(engine), store, clock=lambda: now[0])

    def score() -> float:
        now[0] += 2 * LOOK_SECONDS
        (found,) = ranker.answer([Request(user_id="nobody", revisions={"new": 1, "i1": 0})])
        assert isinstance(found, Answer)
        return {item.item_id: item.score for item in found.ranked}["new"]

    before = score()
    servers = [Server("adaptation", settings("adaptation"), build_adaptation), Server("recall", settings("recall"), build_recall)]
    for server in servers:
        await server.start()
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{servers[0].port}") as first,
            grpc.aio.insecure_channel(f"127.0.0.1:{servers[1].port}") as second,
        ):
            adaptation = adaptation_pb2_grpc.AdaptationServiceStub(first)
            recall = recall_pb2_grpc.RecallServiceStub(second)
            message = gateway_pb2.UpsertItemsRequest()
            item = message.items.add(item_id="new")
            item.features["title"].text = "space story"
            item.features["genres"].list.values.append("space")
            item.features["year"].number = 1990.0
            await recall.UpsertItems(message)

            async def retrieved() -> float:
                found = await recall.RetrieveCandidates(
                    recall_pb2.RetrieveCandidatesRequest(user_id="nobody", num_candidates=100)
                )
                return next(candidate.score for candidate in found.candidates if candidate.item_id == "new")

            recalled = await retrieved()
            events = gateway_pb2.RecordInteractionsRequest()
            for k in range(8):
                events.interactions.add(event_id=f"e{k}", user_id=f"rater{k}", item_id="new", label=5.0)
            await adaptation.RecordInteractions(events)
            await until_async(lambda: score() > before)
            async with asyncio.timeout(60):
                while not await retrieved() > recalled:
                    await asyncio.sleep(0.05)
            liked = score()
            bad = gateway_pb2.RecordInteractionsRequest()
            for k in range(12):
                bad.interactions.add(event_id=f"b{k}", user_id=f"critic{k}", item_id="new", label=1.0)
            await adaptation.RecordInteractions(bad)
            await until_async(lambda: score() < liked)
    finally:
        for server in servers:
            await server.drain()
    # A process that starts later finds what was published.
    fresh = Ranker(Live(Engine(Registry(trained).load("live"))), store)
    (found,) = fresh.answer([Request(user_id="nobody", revisions={"new": 2, "i1": 0})])
    assert isinstance(found, Answer)
    assert {item.item_id: item.score for item in found.ranked}["new"] == pytest.approx(score(), abs=1e-5)
    store.close()
