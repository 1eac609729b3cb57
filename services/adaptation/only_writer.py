"""One adaptation service for a state directory: its log has one writer, whose locks keep a user's states in order."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarec.errors import FailedPreconditionError, UnavailableError

FILE = "adaptation.lock"


@contextmanager
def only_writer(state: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel lets go of it however this process ends.

    FailedPreconditionError when another process holds it, UnavailableError when the file system has no locks.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = (state / FILE).read_text() or "unknown"
            raise FailedPreconditionError(
                f"another adaptation service (process {process}) writes the interaction log in '{state}'; stop it, or give this "
                "one another directory with METAREC_STATE",
                metadata={"state": str(state)},
            ) from None
        except OSError as error:
            raise UnavailableError(f"state directory '{state}' cannot be locked: {error.strerror}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
