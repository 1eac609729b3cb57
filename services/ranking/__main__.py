"""`python -m services.ranking`: the ranking service of the METAREC_ settings in the environment."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from metarec.errors import MetarecError
from services.ranking.local import check_node, serving
from services.runtime.command_line import settings_of

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0


class Stop:
    """SIGTERM and SIGINT: the first ends the start or the wait, and the drain begins; the second ends everything at once."""

    def __init__(self) -> None:
        self.waiting = False
        self._asked = threading.Event()
        self.install()

    def install(self) -> None:
        """Take the signals, again after others have."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def wait(self, check: Callable[[], None]) -> None:
        """Return after the first signal; what `check` raises while waiting ends the wait too."""
        self.waiting = True
        while not self._asked.wait(CHECK_SECONDS):
            check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            # Ray's processes are killed by the kernel when this one ends.
            os._exit(1)
        self._asked.set()
        if not self.waiting:
            raise KeyboardInterrupt


def main() -> None:
    """Serve until told to stop. Exits with status 1 and one `error: ...` line when the service cannot start."""
    settings = settings_of("ranking")
    try:
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
        stop = Stop()
        with serving(settings) as port:
            # Ray has put its own handlers in place.
            stop.install()
            print(f"metarec ranking ready on {settings.host}:{port}", flush=True)
            stop.wait(check_node)
            logger.info("draining for up to %g seconds", settings.drain_seconds)
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
    except KeyboardInterrupt:
        logger.info("stopped while starting")


if __name__ == "__main__":
    main()
