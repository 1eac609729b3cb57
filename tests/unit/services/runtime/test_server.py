import asyncio
import logging
import re
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metarec.errors import InvalidInputError, MetarecError, UnavailableError
from metarec.v1 import gateway_pb2, gateway_pb2_grpc
from services.runtime import interceptors, request
from services.runtime.errors import from_rpc_error
from services.runtime.server import Server
from services.runtime.settings import Settings

NAME = "metarec.v1.GatewayService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
User = gateway_pb2.RecommendRequest


class Echo(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers Recommend; what the user id says happens first."""

    names = (NAME,)

    def __init__(self) -> None:
        self.started, self.entered, self.finish = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.closed = False
        self.remaining, self.user_id = 0.0, ""

    def add_to(self, server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, server)

    async def start(self) -> None:
        await self.started.wait()

    async def close(self) -> None:
        self.closed = True

    async def Recommend(self, message: User, context: grpc.aio.ServicerContext) -> gateway_pb2.RecommendResponse:
        current = request.current()
        assert current is not None
        self.remaining, self.user_id = current.remaining(), message.user_id
        self.entered.set()
        if message.user_id == "wrong":
            raise InvalidInputError("is wrong", field="user_id")
        if message.user_id == "wordy":
            raise InvalidInputError("\U0001f3ac" * 5000, field="features." + "é" * 5000, metadata={"value": "x" * 5000})
        if message.user_id == "broken":
            raise RuntimeError("secret detail")
        if message.user_id == "slow":
            await self.finish.wait()
        return gateway_pb2.RecommendResponse(checkpoint=current.id)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(echo: Echo) -> AsyncIterator[Server]:
    """A server that is starting: `echo.started` lets it become ready."""

    async def build(settings: Settings) -> Echo:
        return echo

    settings = Settings(service="gateway", drain_seconds=10, max_concurrent_requests=1)
    server = Server("gateway", settings, build)
    starting = asyncio.create_task(server.start())
    while server.port == 0:
        await asyncio.sleep(0)
    yield server
    echo.started.set()
    echo.finish.set()
    await starting
    await server.drain()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield channel


@pytest.fixture
async def ready(echo: Echo, channel: grpc.aio.Channel) -> gateway_pb2_grpc.GatewayServiceStub:
    echo.started.set()
    health = health_pb2_grpc.HealthStub(channel)
    async for response in health.Watch(health_pb2.HealthCheckRequest()):
        if response.status == SERVING:
            break
    return gateway_pb2_grpc.GatewayServiceStub(channel)


async def failure(call: object) -> MetarecError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a call of grpc.aio is awaitable
    return from_rpc_error(caught.value)


async def test_health_is_not_serving_until_ready_and_again_while_draining(
    echo: Echo, server: Server, channel: grpc.aio.Channel
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watch.read()).status == NOT_SERVING
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
    refused = await failure(gateway_pb2_grpc.GatewayServiceStub(channel).Recommend(User(user_id="a")))
    assert isinstance(refused, UnavailableError)
    assert "not ready" in refused.message
    echo.started.set()
    assert (await watch.read()).status == SERVING
    assert (await health.Check(health_pb2.HealthCheckRequest(service=NAME))).status == SERVING
    await server.drain()
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    assert echo.closed


async def test_health_knows_the_services_that_are_served(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="metarec.v1.Nothing"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="metarec.v1.Nothing"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_drain_finishes_running_requests_and_refuses_new_ones(
    echo: Echo, server: Server, ready: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    running = asyncio.create_task(_await(ready.Recommend(User(user_id="slow"))))
    await echo.entered.wait()
    drain = asyncio.create_task(server.drain())
    refused = None
    while refused is None:  # the listener closes a moment after the drain has begun
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_retries", 0)]) as late:
            try:
                await gateway_pb2_grpc.GatewayServiceStub(late).Recommend(User(user_id="a"), timeout=5)
            except grpc.aio.AioRpcError as error:
                refused = error if error.code() == grpc.StatusCode.UNAVAILABLE else None
    assert not drain.done()
    assert not echo.closed
    echo.finish.set()
    assert (await running).checkpoint
    await drain
    assert echo.closed


async def test_a_drain_ends_what_outlasts_it(echo: Echo, server: Server, ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    running = asyncio.create_task(_await(ready.Recommend(User(user_id="slow"))))
    await echo.entered.wait()
    drain = asyncio.create_task(server.drain())
    await asyncio.sleep(0)
    await server.abort()
    await drain
    with pytest.raises(grpc.aio.AioRpcError):
        await running
    assert echo.closed


async def test_reflection_lists_the_services(ready: gateway_pb2_grpc.GatewayServiceStub, channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = [service.name async for answer in answers for service in answer.list_services_response.service]
    assert {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == set(names)


async def test_the_id_of_a_request_is_its_own_or_a_new_one(ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    assert (await ready.Recommend(User(), metadata=(("x-request-id", "r-1"),))).checkpoint == "r-1"
    made = (await ready.Recommend(User(), metadata=(("x-request-id", "x" * 200),))).checkpoint
    assert re.fullmatch(r"[0-9a-f]{32}", made)


async def test_texts_of_requests_are_spelled_as_imported_data_is(echo: Echo, ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    await ready.Recommend(User(user_id=" Cafe\u0301 "))
    assert echo.user_id == "Café"


@pytest.mark.parametrize(("service", "spells"), [("gateway", True), ("recall", True), ("adaptation", True), ("training", False)])
def test_paths_and_settings_of_training_stay_as_sent(service: str, spells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}

    class Calls:
        def __init__(self, name: str, **settings: object) -> None:
            made.update(settings)

    monkeypatch.setattr("services.runtime.server.CallInterceptor", Calls)
    monkeypatch.setattr("grpc.aio.server", lambda **_: None)

    async def build(settings: Settings) -> Echo:
        return Echo()

    Server(service, Settings(service=service), build)
    assert made["spells"] is spells


async def test_deadlines_are_the_callers_or_the_default(echo: Echo, ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    await ready.Recommend(User(), timeout=100)
    assert 90 < echo.remaining < 102  # grpc rounds long timeouts up to whole seconds
    await ready.Recommend(User())
    assert interceptors.DEFAULT_DEADLINE_SECONDS - 5 < echo.remaining <= interceptors.DEFAULT_DEADLINE_SECONDS


async def test_a_call_without_deadline_ends_at_the_default_one() -> None:
    handler = grpc.unary_unary_rpc_method_handler(Echo().Recommend)
    calls = interceptors.CallInterceptor("gateway", max_concurrent=1, default_deadline=0.01)
    calls.ready = True

    class Context:
        """The part of a context that the interceptor uses."""

        aborted: tuple[object, ...] = ()

        def time_remaining(self) -> None:
            return None

        def invocation_metadata(self) -> None:
            return None

        async def abort(self, *outcome: object) -> None:
            self.aborted = outcome
            raise grpc.aio.AbortError

    async def continuation(details: object) -> grpc.RpcMethodHandler:
        return handler

    class Details:
        method = f"/{NAME}/Recommend"

    wrapped = await calls.intercept_service(continuation, Details())
    assert wrapped is not None
    context = Context()
    with pytest.raises(grpc.aio.AbortError):
        await wrapped.unary_unary(User(user_id="slow"), context)
    assert context.aborted[0] == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_errors_keep_their_field_and_surprises_keep_their_secrets(
    ready: gateway_pb2_grpc.GatewayServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = await failure(ready.Recommend(User(user_id="wrong")))
    assert isinstance(wrong, InvalidInputError)
    assert wrong.field == "user_id"
    broken = await failure(ready.Recommend(User(user_id="broken"), metadata=(("x-request-id", "r-2"),)))
    assert (type(broken), broken.reason) == (MetarecError, "INTERNAL")
    assert "secret" not in broken.message
    assert "r-2" in broken.message
    assert "secret detail" in caplog.text


async def test_long_messages_are_cut_to_what_fits_into_metadata(ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    wordy = await failure(ready.Recommend(User(user_id="wordy")))
    assert isinstance(wordy, InvalidInputError)
    assert wordy.field.startswith("features.é")
    assert wordy.message.endswith("\U0001f3ac...")
    assert wordy.metadata["value"].endswith("...")


async def test_methods_that_a_service_lacks_are_unimplemented(ready: gateway_pb2_grpc.GatewayServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ready.Explain(gateway_pb2.ExplainRequest())
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_requests_beyond_the_limit_are_shed_and_health_still_answers(
    echo: Echo, ready: gateway_pb2_grpc.GatewayServiceStub, channel: grpc.aio.Channel
) -> None:
    running = asyncio.create_task(_await(ready.Recommend(User(user_id="slow"))))
    await echo.entered.wait()
    shed = await failure(ready.Recommend(User(user_id="a")))
    assert (shed.reason, shed.metadata) == ("RESOURCE_EXHAUSTED", {"limit": "1"})
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    echo.finish.set()
    await running
    await ready.Recommend(User(user_id="a"))


async def test_each_call_is_one_log_line_without_the_user(
    ready: gateway_pb2_grpc.GatewayServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metarec.rpc")
    caplog.clear()
    await ready.Recommend(User(user_id="somebody"), metadata=(("x-request-id", "r-3"),))
    await failure(ready.Recommend(User(user_id="wrong"), metadata=(("x-request-id", "r-4"),)))
    lines = [record.getMessage() for record in caplog.records if record.name == "metarec.rpc"]
    assert len(lines) == 2
    assert re.fullmatch(rf"method=/{NAME}/Recommend code=OK ms=\d+\.\d\d request_id=r-3", lines[0])
    assert re.fullmatch(rf"method=/{NAME}/Recommend code=INVALID_ARGUMENT ms=\d+\.\d\d request_id=r-4", lines[1])


async def test_a_taken_port_is_an_error_not_a_shared_port(server: Server) -> None:
    async def build(settings: Settings) -> Echo:
        return Echo()

    second = Server("gateway", Settings(service="gateway", port=server.port), build)
    with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        await second.start()
    await second.drain()


async def _await(call: object) -> gateway_pb2.RecommendResponse:
    return await call  # type: ignore[misc, no-any-return]  # the stub is untyped
