"""Appends what was recommended to the impression log, in a thread of its own: no answer waits for the disk.

Lines are handed to the system as they come and forced to the disk once a second: they survive the end of this process in whatever
way, and a power cut costs a second. The file is opened for each batch, so that it may be moved away (logrotate) at any time.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from metarec.errors import ConfigError
from metarec.ranking.impressions import Impression, Shown, user_key
from metarec.v1 import gateway_pb2, types_pb2

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Answers that may wait for the disk; those beyond are not logged, and a warning says how many."""
SYNC_SECONDS = 1.0


class ImpressionLog:
    """The log at `path`. ConfigError when it cannot be written now."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._waiting: queue.Queue[Impression | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, "")
        except OSError as error:
            raise ConfigError(f"METAREC_IMPRESSIONS '{path}' cannot be written: {error}", field="METAREC_IMPRESSIONS") from error
        self._thread = threading.Thread(target=self._write, name="impressions", daemon=True)
        self._thread.start()

    def record(self, request: gateway_pb2.RecommendRequest, response: gateway_pb2.RecommendResponse) -> None:
        """Log an answer. Never waits and never raises."""
        impression = Impression(
            request_id=response.request_id,
            time=round(self._clock(), 3),
            user=user_key(request.user_id),
            scenario=request.scenario,
            checkpoint=response.checkpoint,
            rules_version=response.rules_version,
            degraded=response.degraded,
            items=tuple(
                Shown(
                    item_id=item.item_id,
                    score=item.score,
                    propensity=item.propensity,
                    explored=item.explored,
                    source=types_pb2.CandidateSource.Name(item.source).removeprefix("CANDIDATE_SOURCE_").lower(),
                )
                for item in response.items
            ),
        )
        try:
            self._waiting.put_nowait(impression)
        except queue.Full:
            self._lose(1, "the disk is too slow")

    def close(self) -> None:
        """Write what waits and stop."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        synced, dirty = time.monotonic(), False
        while True:
            try:
                batch: list[Impression | None] = [self._waiting.get(timeout=SYNC_SECONDS if dirty else None)]
            except queue.Empty:
                batch = []
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            lines = [entry.to_line() for entry in batch if entry is not None]
            last = None in batch
            dirty = dirty or bool(lines)
            due = dirty and (last or time.monotonic() - synced >= SYNC_SECONDS)
            try:
                if lines or due:
                    _append(self._path, "".join(lines), sync=due)
            except OSError as error:
                self._lose(len(lines), str(error))
            if due:
                synced, dirty = time.monotonic(), False
            if last:
                return

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        # The first, and then at every doubling: a full disk must not fill the log of the process too.
        if self._lost & (self._lost - 1) == 0 or count > 1:
            logger.warning("%d impressions in all could not be logged in '%s': %s", self._lost, self._path, why)


def _append(path: Path, text: str, *, sync: bool = False) -> None:
    """Append to a file, on a new line where a crash has left half of one."""
    with path.open("a+b") as file:
        if text and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())
        if sync:
            file.flush()
            os.fsync(file.fileno())
