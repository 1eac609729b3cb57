"""The lock of a running `metarec up`: one for each state directory, and it says where the services are."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metarec.errors import FailedPreconditionError

FILE = "up.lock"
ATTEMPTS, PAUSE_SECONDS = 5, 0.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A `metarec up` that runs: its process, and the address of each service."""

    process: int
    addresses: Mapping[str, str]


@contextmanager
def only_one(state: Path, addresses: Mapping[str, str]) -> Iterator[None]:
    """Hold the lock; the kernel lets go of it however this process ends. FailedPreconditionError when another run holds it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / FILE).open("a") as lock:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # `running` of another process holds it for a moment only.
                if attempt == ATTEMPTS - 1:
                    process = _read(state).process
                    raise FailedPreconditionError(
                        f"another 'metarec up' (process {process}) runs on '{state}'; stop it, or use another --state"
                    ) from None
                time.sleep(PAUSE_SECONDS)
        lock.truncate(0)
        lock.write(json.dumps({"process": os.getpid(), "addresses": dict(addresses)}))
        lock.flush()
        yield


def running(state: Path) -> Run | None:
    """The run on this state directory, or None."""
    try:
        with (state / FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(state)
    except FileNotFoundError:
        return None
    return None


def _read(state: Path) -> Run:
    return Run(**json.loads((state / FILE).read_bytes()))
