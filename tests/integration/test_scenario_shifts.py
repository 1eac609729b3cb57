"""What others do in a scenario, from RecordInteractions to lists, explanations and candidates of users who are new there."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from metarec.adaptation.engine import Engine
from metarec.training.registry import Registry
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

ITEMS = [f"i{k}" for k in range(12)]


class Live:
    def __init__(self, engine: Engine) -> None:
        self.current = engine


class Scores:
    """Ranking in another process: scores of a user nobody knows, looked at a second later each time."""

    def __init__(self, registry: Path, store: LazyStore) -> None:
        self._now = 0.0
        self._ranker = Ranker(Live(Engine(Registry(registry).load("live"))), store, clock=lambda: self._now)

    def answer(self, scenario: str, user: str = "nobody") -> dict[str, float]:
        self._now += 2 * LOOK_SECONDS
        (found,) = self._ranker.answer([Request(user_id=user, revisions=dict.fromkeys(ITEMS, 0), scenario=scenario)])
        assert isinstance(found, Answer)
        return {item.item_id: item.score for item in found.ranked}

    def explained(self, scenario: str, item: str) -> Answer:
        (found,) = self._ranker.answer([Request(user_id="nobody", revisions={item: 0}, explain=True, scenario=scenario)])
        assert isinstance(found, Answer)
        return found


def events(scenario: str, users: range, label: Callable[[int, int], float]) -> gateway_pb2.RecordInteractionsRequest:
    request = gateway_pb2.RecordInteractionsRequest()
    for user in users:
        for item in range(user % 3, 12, 3):
            request.interactions.add(
                event_id=f"{scenario}-{user}-{item}",
                user_id=f"{scenario}-{user}",
                item_id=f"i{item}",
                label=label(user, item),
                scenario=scenario,
            )
    return request


async def test_a_new_user_of_a_scenario_profits_from_others_there_until_they_are_deleted(trained: Path, tmp_path: Path) -> None:
    def settings(service: str) -> Settings:
        return Settings(service=service, registry=trained, features=trained / "features", state=tmp_path / service)

    store = LazyStore(trained / "features", "sqlite")
    scores = Scores(trained, store)
    before = {scenario: scores.answer(scenario) for scenario in ("", "night", "day")}
    assert before[""] == before["night"] == before["day"]
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

            async def retrieved(scenario: str) -> dict[str, float]:
                found = await recall.RetrieveCandidates(
                    recall_pb2.RetrieveCandidatesRequest(user_id="nobody", num_candidates=100, scenario=scenario)
                )
                return {candidate.item_id: candidate.score for candidate in found.candidates if candidate.item_id in ITEMS}

            recalled = {scenario: await retrieved(scenario) for scenario in ("", "night")}
            # At night people love what has genre 0 (i0, i4, i8) and nothing else.
            await adaptation.RecordInteractions(events("night", range(20), lambda user, item: 5.0 if item % 4 == 0 else 1.0))

            async def moved() -> bool:
                return scores.answer("night") != before["night"]

            await until_async(moved)
            night = scores.answer("night")
            gain = {item: night[item] - before[""][item] for item in ITEMS}
            assert min(gain[item] for item in ("i0", "i4", "i8")) > max(gain[item] for item in ("i1", "i2", "i3", "i5"))
            assert scores.answer("") == before[""]
            assert scores.answer("day") == before["day"]

            async def recall_knows() -> bool:
                return await retrieved("night") != recalled["night"]

            await until_async(recall_knows)
            for item, score in (await retrieved("night")).items():
                assert score - recalled["night"][item] == pytest.approx(gain[item], abs=1e-4)
            assert await retrieved("") == recalled[""]
            told = scores.explained("night", "i0")
            assert sum(term.value for term in told.contributions) == pytest.approx(told.ranked[0].score, abs=1e-4)
            assert [term.value for term in told.contributions if term.kind == "scenario"] == pytest.approx([gain["i0"]], abs=1e-4)
            # A process that starts later finds what was published.
            assert Scores(trained, store).answer("night") == pytest.approx(night, abs=1e-6)
            for user in range(20):
                await adaptation.DeleteUser(gateway_pb2.DeleteUserRequest(user_id=f"night-{user}"))

            async def forgotten() -> bool:
                return scores.answer("night") == before["night"]

            await until_async(forgotten)
    finally:
        for server in servers:
            await server.drain()
        store.close()
