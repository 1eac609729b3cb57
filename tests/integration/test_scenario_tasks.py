"""AdaptTask for scenarios and for users within them, over gRPC: real log, real feature store, a small trained prior."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from metarec.errors import InvalidInputError, MetarecError
from metarec.v1 import adaptation_pb2, adaptation_pb2_grpc, gateway_pb2
from services.adaptation.service import build
from services.runtime.errors import from_rpc_error
from services.runtime.server import Server
from services.runtime.settings import Settings

Adapt = adaptation_pb2.AdaptTaskRequest
Row = adaptation_pb2.SupportRow
Stub = adaptation_pb2_grpc.AdaptationServiceStub
SCENARIO, INSIDE = adaptation_pb2.TASK_KIND_SCENARIO, adaptation_pb2.TASK_KIND_USER_IN_SCENARIO
ASKED = ["i20", "i21", "i22"]


@pytest.fixture
async def stub(trained: Path) -> AsyncIterator[Stub]:
    configured = Settings(service="adaptation", registry=trained, features=trained / "features", state=trained.parent / "state")
    server = Server("adaptation", configured, build)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Stub(channel)
    finally:
        await server.drain()


def space_night(users: int = 12) -> list[Row]:
    """At night everybody loves what has genre 0 (i0, i4, ...) and nothing else."""
    return [
        Row(user_id=f"p{user}", id=f"i{item}", label=5.0 if item % 4 == 0 else 1.0)
        for user in range(users)
        for item in range(user % 3, 16, 3)
    ]


async def record(stub: Stub, scenario: str, rows: list[Row]) -> None:
    request = gateway_pb2.RecordInteractionsRequest()
    for row in rows:
        request.interactions.add(
            event_id=f"{scenario}-{row.user_id}-{row.id}", user_id=row.user_id, item_id=row.id, label=row.label, scenario=scenario
        )
    await stub.RecordInteractions(request)


def means(response: adaptation_pb2.AdaptTaskResponse) -> list[float]:
    return [prediction.mean for prediction in response.predictions]


async def test_a_scenario_adapts_from_inline_and_from_stored_interactions_alike(stub: Stub) -> None:
    rows = space_night()
    plain = await stub.AdaptTask(Adapt(query_ids=ASKED))
    empty = await stub.AdaptTask(Adapt(kind=SCENARIO, task_id="night", query_ids=ASKED))
    assert means(empty) == means(plain)
    assert (empty.shots, empty.scenario.num_users, empty.scenario.kappa) == (0, 0, 0.0)
    inline = await stub.AdaptTask(
        Adapt(kind=SCENARIO, support=[*rows, Row(user_id="p0", id="ghost", label=1.0)], query_ids=ASKED)
    )
    assert (inline.shots, inline.scenario.num_users, inline.scenario.num_rows) == (len(rows), 12, len(rows))
    assert list(inline.unknown_ids) == ["ghost"]
    assert inline.scenario.kappa > 1e-3
    assert inline.scenario.mean_shift < 0 < inline.scenario.stddev_shift
    gain = [after - before for after, before in zip(means(inline), means(plain), strict=True)]
    assert gain[0] > max(gain[1:]) + 0.2
    await record(stub, "night", rows)
    stored = await stub.AdaptTask(Adapt(kind=SCENARIO, task_id="night", query_ids=ASKED))
    assert means(stored) == pytest.approx(means(inline), abs=1e-4)
    assert stored.scenario.kappa == pytest.approx(inline.scenario.kappa)
    # Elsewhere nothing has changed, nor for users without a scenario.
    assert means(await stub.AdaptTask(Adapt(kind=SCENARIO, task_id="day", query_ids=ASKED))) == means(plain)
    assert means(await stub.AdaptTask(Adapt(task_id="stranger", query_ids=ASKED))) == means(plain)


async def test_the_profile_of_the_new_user_may_come_with_a_scenario(stub: Stub) -> None:
    found = set()
    for gender in ("F", "M"):
        request = Adapt(kind=SCENARIO, support=space_night(), query_ids=["i0"])
        request.features["gender"].text = gender
        found.add(means(await stub.AdaptTask(request))[0])
    assert len(found) == 2


async def test_a_user_within_a_scenario_has_their_own_taste_and_what_others_do_there(stub: Stub) -> None:
    await record(stub, "night", space_night())
    # A lover of genre 1, as the stranger who rated by day is, too.
    mine = [Row(user_id="me", id=f"i{item}", label=5.0 if item % 4 == 1 else 2.0) for item in (1, 5, 2, 3)]
    await record(stub, "", mine)
    by_day = await stub.AdaptTask(Adapt(task_id="me", query_ids=ASKED))
    inside = await stub.AdaptTask(Adapt(kind=INSIDE, task_id="me", scenario="night", query_ids=ASKED))
    anybody = await stub.AdaptTask(Adapt(kind=SCENARIO, task_id="night", query_ids=ASKED))
    assert (inside.shots, inside.scenario.num_users) == (4, 12)
    assert means(inside)[0] > means(by_day)[0] + 0.2
    assert means(inside)[1] > means(anybody)[1] + 0.2
    inline = await stub.AdaptTask(Adapt(kind=INSIDE, task_id="me", scenario="night", support=space_night(), query_ids=ASKED))
    assert means(inline) == pytest.approx(means(inside), abs=1e-4)
    # Rows of their own stand in for what is stored of them, and are of the scenario.
    own = await stub.AdaptTask(
        Adapt(kind=INSIDE, task_id="me", scenario="night", support=[Row(id="i0", label=1.0)], query_ids=ASKED)
    )
    assert (own.shots, own.scenario.num_users) == (1, 13)
    assert own.predictions[0].mean < anybody.predictions[0].mean
    assert own.predictions[0].stddev < anybody.predictions[0].stddev


async def test_what_makes_no_scenario_is_refused_with_the_name_of_the_field(stub: Stub) -> None:
    for request, field in (
        (Adapt(kind=SCENARIO, query_ids=["i0"]), "task_id"),
        (Adapt(kind=INSIDE, task_id="me", query_ids=["i0"]), "scenario"),
        (Adapt(kind=SCENARIO, support=[Row(id="i0", label=3.0)]), "support[0].user_id"),
        (Adapt(kind=SCENARIO, support=[Row(user_id="u", id="i0", label=3.0)] * 2), "support[1].id"),
        (Adapt(support=[Row(user_id="u", id="i0", label=3.0)]), "support[0].user_id"),
        (
            Adapt(kind=INSIDE, task_id="u", scenario="s", support=[Row(user_id=u, id="i0", label=3.0) for u in ("u", "")]),
            "support[1].id",
        ),
        (Adapt(kind=INSIDE, task_id="u", scenario="s" * 257, query_ids=["i0"]), "scenario"),
        (Adapt(task_id="u1", scenario="night"), "scenario"),
        (Adapt(kind=SCENARIO, task_id="night", scenario="night"), "scenario"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AdaptTask(request)
        error: MetarecError = from_rpc_error(caught.value)
        assert isinstance(error, InvalidInputError)
        assert error.field == field
