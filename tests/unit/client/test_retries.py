"""The retry policy beside the protos, as gRPC carries it out: against a server that fails a number of times."""

from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest

from metarec.client import Client, ClientSettings
from metarec.errors import (
    FailedPreconditionError,
    MetarecError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from metarec.types import Interaction
from metarec.v1 import gateway_pb2, gateway_pb2_grpc, training_pb2, training_pb2_grpc
from services.runtime.errors import describe


class Flaky(gateway_pb2_grpc.GatewayServiceServicer, training_pb2_grpc.TrainingServiceServicer):
    """Fails the first `failures` calls with `error`, then answers."""

    def __init__(self) -> None:
        self.failures, self.error = 0, MetarecError("none")
        self.request_ids: list[str] = []
        self.event_ids: list[str] = []

    def _answer(self, context: grpc.ServicerContext, answer: Callable[[], object]) -> object:
        self.request_ids.append(dict(context.invocation_metadata())["x-request-id"])
        if len(self.request_ids) <= self.failures:
            code, message, metadata = describe(self.error)
            context.set_trailing_metadata(metadata)
            context.abort(code, message)
        return answer()

    def Recommend(self, request: object, context: grpc.ServicerContext) -> object:
        return self._answer(context, gateway_pb2.RecommendResponse)

    def RecordInteractions(self, request: gateway_pb2.RecordInteractionsRequest, context: grpc.ServicerContext) -> object:
        self.event_ids.append(request.interactions[0].event_id)
        return self._answer(context, gateway_pb2.RecordInteractionsResponse)

    def DeleteUser(self, request: object, context: grpc.ServicerContext) -> object:
        return self._answer(context, gateway_pb2.DeleteUserResponse)

    def CreateTrainingJob(self, request: object, context: grpc.ServicerContext) -> object:
        return self._answer(context, training_pb2.TrainingJob)

    def RollbackCheckpoint(self, request: object, context: grpc.ServicerContext) -> object:
        return self._answer(context, training_pb2.Checkpoint)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def client(flaky: Flaky) -> Iterator[Client]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(flaky, server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(flaky, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with Client(ClientSettings(gateway_address=address, training_address=address)) as client:
        yield client
    server.stop(None).wait()


def test_a_read_is_retried_while_the_service_is_unavailable(client: Client, flaky: Flaky) -> None:
    flaky.failures, flaky.error = 3, UnavailableError("starting")
    client.recommend("u1")
    assert len(flaky.request_ids) == 4
    assert len(set(flaky.request_ids)) == 1


def test_a_read_is_given_up_in_the_end(client: Client, flaky: Flaky) -> None:
    flaky.failures, flaky.error = 100, UnavailableError("starting")
    with pytest.raises(UnavailableError, match="starting"):
        client.recommend("u1")
    assert len(flaky.request_ids) == 4


def test_recording_is_retried_with_the_same_event_id(client: Client, flaky: Flaky) -> None:
    flaky.failures, flaky.error = 2, UnavailableError("restarting")
    recorded = client.record_interactions([Interaction(user_id="u", item_id="i", label=1)])
    assert flaky.event_ids == [recorded.event_ids[0]] * 3


@pytest.mark.parametrize(
    "call", [lambda c: c.delete_user("u1"), lambda c: c.create_training_job(data="d"), lambda c: c.rollback_checkpoint()]
)
def test_writes_that_a_second_time_would_do_something_else_are_not_retried(
    client: Client, flaky: Flaky, call: Callable[[Client], object]
) -> None:
    flaky.failures, flaky.error = 1, UnavailableError("restarting")
    with pytest.raises(UnavailableError):
        call(client)
    assert len(flaky.request_ids) == 1


@pytest.mark.parametrize("error", [ResourceExhaustedError("later"), NotFoundError("no"), FailedPreconditionError("no")])
def test_only_unavailable_is_retried(client: Client, flaky: Flaky, error: MetarecError) -> None:
    flaky.failures, flaky.error = 1, error
    with pytest.raises(type(error)):
        client.recommend("u1")
    assert len(flaky.request_ids) == 1
