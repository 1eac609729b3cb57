"""The clients: `Client` for threads, `AsyncClient` for asyncio. Same calls, written once in calls.py; same errors, same retries.

Channels open at the first call to a service and stay open; both clients may be shared freely within their process.
"""

import functools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import grpc

from metarec.client import calls, training_calls
from metarec.client.call import Call
from metarec.client.channel import Channels, ClientSettings, ServiceName, open_channel
from metarec.client.errors import client_error
from metarec.errors import InvalidInputError
from metarec.v1 import adaptation_pb2_grpc, gateway_pb2_grpc, recall_pb2_grpc, training_pb2_grpc
from services.runtime.request import REQUEST_ID_KEY

P = ParamSpec("P")
T = TypeVar("T")

STUBS: dict[ServiceName, Callable[[grpc.Channel], object]] = {
    "gateway": gateway_pb2_grpc.GatewayServiceStub,
    "recall": recall_pb2_grpc.RecallServiceStub,
    "adaptation": adaptation_pb2_grpc.AdaptationServiceStub,
    "training": training_pb2_grpc.TrainingServiceStub,
}


def _built(build: Callable[P, Call[T]], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
    """The call. InvalidInputError for a value that a message cannot hold: a number out of range, text that is no Unicode."""
    try:
        return build(*args, **kwargs)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"cannot be sent: {error}") from error


class _Sync(Generic[P, T]):
    """A method of Client that sends the call which `build` makes."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> "_Sync[P, T]": ...

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...

    def __get__(self, client: "Client | None", owner: type) -> "_Sync[P, T] | Callable[P, T]":
        if client is None:
            return self

        @functools.wraps(self._build)
        def send(*args: P.args, **kwargs: P.kwargs) -> T:
            return client._send(_built(self._build, *args, **kwargs))

        return send


class _Async(Generic[P, T]):
    """A method of AsyncClient that sends the call which `build` makes."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> "_Async[P, T]": ...

    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, client: "AsyncClient | None", owner: type) -> "_Async[P, T] | Callable[P, Awaitable[T]]":
        if client is None:
            return self

        @functools.wraps(self._build)
        async def send(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client._send(_built(self._build, *args, **kwargs))

        return send


class _Connections:
    """Stubs by service, opened when first used."""

    def __init__(self, channels: Channels, settings: ClientSettings | None) -> None:
        self.settings = settings or ClientSettings.from_environment()
        self._channels = channels
        self.open: dict[ServiceName, grpc.Channel] = {}
        self._stubs: dict[ServiceName, object] = {}

    def send(self, call: Call[Any]) -> Any:
        """Begin the call; what comes back is the response or, with grpc.aio, an awaitable of it."""
        service = call.service
        if service not in self._stubs:
            self.open[service] = open_channel(self._channels, self.settings, service)
            self._stubs[service] = STUBS[service](self.open[service])
        metadata = ((REQUEST_ID_KEY, call.request_id), *self.settings.metadata(service))
        return getattr(self._stubs[service], call.method)(call.message, timeout=call.timeout, metadata=metadata)

    def error(self, call: Call[Any], error: grpc.RpcError) -> Exception:
        """The MetarecError of a failed call."""
        address = self.settings.address(call.service)
        return client_error(error, service=call.service, address=address, timeout=call.timeout)


class Client:
    """Calls metarec's services and blocks until they answer. Use it as a context manager, or `close` it.

    Raises the errors of metarec.errors: `UnavailableError` when a service cannot be reached after the retries of the policy,
    `DeadlineExceededError`, `InvalidInputError` with the field, and so on.
    """

    recommend = _Sync(calls.recommend)
    record_interactions = _Sync(calls.record_interactions)
    explain = _Sync(calls.explain)
    upsert_items = _Sync(calls.upsert_items)
    upsert_users = _Sync(calls.upsert_users)
    delete_user = _Sync(calls.delete_user)
    get_item = _Sync(calls.get_item)
    list_items = _Sync(calls.list_items)
    list_interactions = _Sync(calls.list_interactions)
    adapt_task = _Sync(calls.adapt_task)
    infer_profile = _Sync(calls.infer_profile)
    preview_items = _Sync(calls.preview_items)
    create_training_job = _Sync(training_calls.create_training_job)
    get_training_job = _Sync(training_calls.get_training_job)
    list_training_jobs = _Sync(training_calls.list_training_jobs)
    cancel_training_job = _Sync(training_calls.cancel_training_job)
    get_checkpoint = _Sync(training_calls.get_checkpoint)
    list_checkpoints = _Sync(training_calls.list_checkpoints)
    promote_checkpoint = _Sync(training_calls.promote_checkpoint)
    rollback_checkpoint = _Sync(training_calls.rollback_checkpoint)

    def __init__(self, settings: ClientSettings | None = None) -> None:
        """`settings` are those of the environment by default."""
        self._connections = _Connections(cast(Channels, grpc), settings)

    def _send(self, call: Call[T]) -> T:
        try:
            return call.parse(self._connections.send(call))
        except grpc.RpcError as error:
            raise self._connections.error(call, error) from error

    def close(self) -> None:
        """Close the channels."""
        for channel in self._connections.open.values():
            channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """Client for asyncio: the same calls and errors, to be awaited. Use it as an async context manager, or `close` it."""

    recommend = _Async(calls.recommend)
    record_interactions = _Async(calls.record_interactions)
    explain = _Async(calls.explain)
    upsert_items = _Async(calls.upsert_items)
    upsert_users = _Async(calls.upsert_users)
    delete_user = _Async(calls.delete_user)
    get_item = _Async(calls.get_item)
    list_items = _Async(calls.list_items)
    list_interactions = _Async(calls.list_interactions)
    adapt_task = _Async(calls.adapt_task)
    infer_profile = _Async(calls.infer_profile)
    preview_items = _Async(calls.preview_items)
    create_training_job = _Async(training_calls.create_training_job)
    get_training_job = _Async(training_calls.get_training_job)
    list_training_jobs = _Async(training_calls.list_training_jobs)
    cancel_training_job = _Async(training_calls.cancel_training_job)
    get_checkpoint = _Async(training_calls.get_checkpoint)
    list_checkpoints = _Async(training_calls.list_checkpoints)
    promote_checkpoint = _Async(training_calls.promote_checkpoint)
    rollback_checkpoint = _Async(training_calls.rollback_checkpoint)

    def __init__(self, settings: ClientSettings | None = None) -> None:
        """`settings` are those of the environment by default."""
        self._connections = _Connections(cast(Channels, grpc.aio), settings)

    async def _send(self, call: Call[T]) -> T:
        try:
            return call.parse(await self._connections.send(call))
        except grpc.RpcError as error:
            raise self._connections.error(call, error) from error

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._connections.open.values():
            await channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
