"""What belongs to the request being answered: its id and its deadline. Set by the interceptor, read by whoever calls on."""

import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID = 128


@dataclass(frozen=True, slots=True)
class Request:
    """`deadline` is in seconds of `time.monotonic`."""

    id: str
    deadline: float

    def remaining(self) -> float:
        """Seconds left; 0 when time is up."""
        return max(0.0, self.deadline - time.monotonic())


_current: ContextVar[Request | None] = ContextVar("metarec_request", default=None)


def current() -> Request | None:
    """The request that this task answers; None outside of one."""
    return _current.get()


def enter(request: Request) -> None:
    """Make `request` the one that this task answers."""
    _current.set(request)


def request_id(*candidates: object) -> str:
    """The first usable id among `candidates`, else a new one. Ids end up in log lines, so only short printable ones count."""
    for candidate in candidates:
        if (
            isinstance(candidate, str)
            and 0 < len(candidate) <= MAX_REQUEST_ID
            and candidate.isascii()
            and candidate.isprintable()
        ):
            return candidate
    return uuid.uuid4().hex
