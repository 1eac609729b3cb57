"""Stopping a run on request: a file that every worker looks for, made by the first Ctrl-C or SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class StopFile:
    """The request to stop one run. Workers on other machines see it through the shared directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stop"

    def clear(self) -> None:
        """Forget an earlier request."""
        self.path.unlink(missing_ok=True)

    def request(self) -> None:
        """Ask the run to stop at its next step."""
        self.path.touch()

    def requested(self) -> bool:
        """Whether it was asked to."""
        return self.path.exists()

    @contextmanager
    def on_signals(self, requested: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within the block the first SIGINT or SIGTERM requests a stop (and calls `requested`), the second raises
        KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(signum: int, frame: FrameType | None) -> None:
            if self.requested():
                raise KeyboardInterrupt
            self.request()
            requested()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
