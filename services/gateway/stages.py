"""The services behind the gateway: one long-lived channel each, calls with the request's id and a share of its deadline."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from metarec.errors import DeadlineExceededError, MetarecError, ResourceExhaustedError, UnavailableError
from metarec.v1 import adaptation_pb2_grpc, ranking_pb2_grpc, recall_pb2_grpc
from services.runtime import request as requests
from services.runtime.errors import from_rpc_error, is_ours
from services.runtime.server import MAX_MESSAGE_BYTES
from services.runtime.settings import Settings

Request = TypeVar("Request")
Response = TypeVar("Response")
Method = Callable[..., Awaitable[Response]]

OPTIONS = (
    # A stage that was restarted is back within about a second, and one that cannot be reached fails fast.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Dead connections are noticed: pings, and (through TCP's user timeout) bytes that nobody acknowledges.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # The gateway degrades instead of retrying; its clients retry.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Stages are on the same machine or network; a proxy of the environment is for elsewhere.
    ("grpc.enable_http_proxy", 0),
)


class Stage:
    """A service behind the gateway. Failures come out as MetarecError: the stage's own, or one that says it cannot be reached."""

    def __init__(self, name: str, address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.name = name
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._address, self._metadata = address, metadata

    def connect(self) -> None:
        """Begin to connect, so that the first request finds a connection."""
        self.channel.get_state(try_to_connect=True)

    async def call(self, method: "Method[Response]", message: object, share: float = 1.0) -> Response:
        """Call `method` of a stub with `share` of the time that the request has left."""
        request = requests.current()
        assert request is not None, "stages are called while answering a request"
        timeout = share * request.remaining()
        metadata = ((requests.REQUEST_ID_KEY, request.id), *self._metadata)
        try:
            return await method(message, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._error(error, timeout) from error

    def _error(self, error: grpc.aio.AioRpcError, timeout: float) -> MetarecError:
        code = error.code()
        metadata = {"stage": self.name, "grpc_code": code.name}
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(f"the {self.name} service gave no answer within {timeout:.3f} s", metadata=metadata)
        if is_ours(error):
            found = from_rpc_error(error)
            found.metadata = {"stage": self.name, **found.metadata}
            return found
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhaustedError(f"the {self.name} service is overloaded; retry later", metadata=metadata)
        # The transport, or Ray Serve without a replica: whatever it calls it, the caller can only retry.
        return UnavailableError(f"the {self.name} service at {self._address} failed: {error.details()}; retry", metadata=metadata)


class Stages:
    """The stages and their stubs."""

    def __init__(self, settings: Settings) -> None:
        self.recall = Stage("recall", settings.recall_address)
        self.adaptation = Stage("adaptation", settings.adaptation_address)
        # Ray Serve routes by this metadata.
        self.ranking = Stage("ranking", settings.ranking_address, metadata=(("application", "ranking"),))
        self.recall_stub = recall_pb2_grpc.RecallServiceStub(self.recall.channel)
        self.adaptation_stub = adaptation_pb2_grpc.AdaptationServiceStub(self.adaptation.channel)
        self.ranking_stub = ranking_pb2_grpc.RankingServiceStub(self.ranking.channel)

    def connect(self) -> None:
        """Begin to connect to every stage."""
        for stage in (self.recall, self.adaptation, self.ranking):
            stage.connect()

    async def close(self) -> None:
        """Close the channels."""
        for stage in (self.recall, self.adaptation, self.ranking):
            await stage.channel.close()
