"""One call of the client: the message to send, where to, and how to read the answer."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from metarec.client.channel import ServiceName
from metarec.client.policy import deadlines
from metarec.errors import InvalidInputError

T = TypeVar("T")

PROTO_SERVICES: dict[ServiceName, str] = {
    "gateway": "metarec.v1.GatewayService",
    "recall": "metarec.v1.RecallService",
    "adaptation": "metarec.v1.AdaptationService",
    "training": "metarec.v1.TrainingService",
}


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: where it goes, what it sends, how its answer is read, and how long it may take in seconds."""

    service: ServiceName
    method: str
    message: Message
    parse: Callable[[Any], T]
    timeout: float
    request_id: str


def new_call(service: ServiceName, method: str, message: Message, parse: Callable[[Any], T], timeout: float | None) -> Call[T]:
    """A call with a new request id where the message has none; `timeout` None takes the policy's."""
    if timeout is not None and not timeout > 0:
        raise InvalidInputError(f"timeout must be above 0 seconds, not {timeout:g}", field="timeout")
    seconds = deadlines()[f"{PROTO_SERVICES[service]}/{method}"] if timeout is None else timeout
    request_id = getattr(message, "request_id", "") or uuid.uuid4().hex
    return Call(service, method, message, parse, seconds, request_id)
