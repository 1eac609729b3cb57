"""Work of the adaptation service that nobody waits for: a thread that is woken, works, and tries again what failed."""

import logging
import threading
import time
from collections.abc import Callable

from metarec.errors import MetarecError

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""After how long it is tried again when the store was away."""


class Background:
    """Does `work` each time it was woken since it last began; `what` names the work in the log.

    After work that took t seconds it rests for `idle_share` t, unless hurried. Nothing that `work` raises ends the thread: it is
    logged, and the work is owed until it succeeds. Close it to stop its thread.
    """

    def __init__(self, what: str, work: Callable[[], None], *, idle_share: float = 0.0) -> None:
        self._what, self._work, self._idle_share = what, work, idle_share
        self._wake, self._rested = threading.Event(), threading.Event()
        self.stopped = threading.Event()
        """Set once the work is no longer wanted; long work looks at it."""
        self._thread = threading.Thread(target=self._run, name=what.replace(" ", "-"), daemon=True)

    def start(self) -> None:
        """Begin to wait for being woken."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do. Returns at once."""
        self._wake.set()

    def hurry(self) -> None:
        """The same, and nothing of a rest is waited for."""
        self._wake.set()
        self._rested.set()

    def close(self) -> None:
        """Stop after the current work."""
        self.stopped.set()
        self.hurry()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self.stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            self._rested.clear()
            if self.stopped.is_set():
                return
            started = time.monotonic()
            try:
                self._work()
            # The store may be away; nothing of this may end the thread.
            except Exception as error:
                if isinstance(error, MetarecError):
                    logger.warning("the %s are not up to date: %s", self._what, error.message)
                else:
                    logger.exception("working out the %s failed", self._what)
                self._wake.set()
                self.stopped.wait(PAUSE_SECONDS)
            else:
                self._rested.wait(self._idle_share * (time.monotonic() - started))
