"""What the adaptation service does by itself: finishes deletions, imports the dataset's history, publishes users that are not up
to date (after a crash, a failed write, an import, a promotion, or when the online store has been lost, exchanged or loaded anew).

Small histories are done before the service is ready; larger ones in the background, in pieces between which requests have their
turn.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from metarec.adaptation.state import UserState
from metarec.data.dataset import Dataset
from metarec.errors import MetarecError, UnavailableError
from metarec.interactions.history import import_history, rows_left
from metarec.interactions.log import InteractionLog
from services.adaptation.publisher import Publisher
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint

logger = logging.getLogger(__name__)

READY_LIMIT = 200_000
"""Histories up to this many interactions are imported before the service is ready."""

USERS_PER_PIECE = 64
PAUSE_SECONDS = 5.0
"""How long to wait before what failed is tried again."""

LOOK_SECONDS = 30.0
"""How often the online store is looked at: one that lost its rows (a Redis that keeps nothing on disk) says no word of it."""

REPORT_SECONDS = 10.0

STORE_MARK = ""
"""Id, that no user can have, of the online row that says whose states the online store holds."""


class Backfill:
    """Brings log and online store up to date: at `start`, whenever a checkpoint is promoted, and when told to `wake`.

    `on_news` is called when a history was imported, or the online store turned out to be another one.
    """

    def __init__(
        self,
        log: InteractionLog,
        store: LazyStore,
        live: LiveCheckpoint,
        publisher: Publisher,
        data: Path | None,
        *,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._log, self._store, self._live, self._publisher, self._data = log, store, live, publisher, data
        self._on_news = on_news
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="backfill", daemon=True)

    def start(self) -> None:
        """Do what is small now, and leave the rest to a thread. NotFoundError when `data` is no dataset."""
        left = 0 if self._data is None else rows_left(self._log, self._data)
        # Before the work, which a promotion cuts short.
        self._live.listen(lambda engine: self.wake())
        self.wake()
        if left <= READY_LIMIT:
            self._work()
        self._thread.start()

    def wake(self) -> None:
        """Something is not up to date: a write to the online store has failed."""
        self._wake.set()

    def close(self) -> None:
        """Stop after the current piece."""
        self._stop.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            owed = self._wake.wait(LOOK_SECONDS) or self._emptied()
            if owed and not self._stop.is_set() and not self._work():
                self._stop.wait(PAUSE_SECONDS)

    def _emptied(self) -> bool:
        """Whether the mark has gone from the online store, and with it what else was there; false while it cannot be read."""
        try:
            return self._store.schema is not None and self._store.read_user(STORE_MARK) is None
        except MetarecError:
            return False
        # A directory that is being replaced, a disk that fails: the thread goes on, whose failed writes wait for it.
        except Exception:
            logger.exception("the feature store could not be looked at")
            return False

    def _work(self) -> bool:
        """Everything there is to do; false when some of it failed and is to be tried again."""
        self._wake.clear()
        try:
            self._prepare()
            self._import()
            self._publish()
        # The store may be away for a while, the disk full; nothing of this may end the service or the thread.
        except Exception as error:
            if isinstance(error, UnavailableError):
                logger.warning("bringing users up to date is interrupted: %s", error.message)
            else:
                logger.exception("bringing users up to date failed")
            self.wake()
            return False
        return True

    def _prepare(self) -> None:
        """Load the online store if nobody has or it was emptied, and finish deletions."""
        if self._store.schema is None:
            return
        self._store.materialize()
        self._claim_store()
        for user_id in self._log.pending_deletions():
            with self._publisher.locked([user_id]):
                self._store.delete_user(user_id)
                self._log.confirm_deletion(user_id)
                self._log.mark_dirty(user_id)
            # They may have acted again since, and what was acknowledged stays visible.
            self._publisher.publish([user_id])

    def _claim_store(self) -> None:
        """Publish everybody again when the online store is new, was lost, loaded from another dataset or used by another log."""
        mark = f"{self._log.id} {self._store.fingerprint}"
        found = self._store.read_user(STORE_MARK)
        if found is None or found.checkpoint != mark:
            self._log.mark_all_dirty()
            self._on_news()
            self._store.write_user_adaptation(STORE_MARK, UserState().encode(), 0, mark, 0)

    def _import(self) -> None:
        if self._data is None or not rows_left(self._log, self._data):
            return
        reported = time.monotonic()

        def watch(done: int, total: int) -> bool:
            nonlocal reported
            if time.monotonic() > reported + REPORT_SECONDS or done == total:
                reported = time.monotonic()
                logger.info("history: %d of %d interactions imported", done, total)
            return not self._stop.is_set()

        import_history(self._log, Dataset.open(self._data), watch=watch)
        self._on_news()

    def _publish(self) -> None:
        if self._store.schema is None:
            return
        engine, after, count, reported = self._live.current, "", 0, time.monotonic()
        checkpoint = "" if engine is None else engine.checkpoint
        while not self._stop.is_set() and self._live.current is engine:
            users = self._log.users_with_stale(checkpoint, after=after, limit=USERS_PER_PIECE)
            if not users:
                break
            self._publisher.publish(users)
            after, count = users[-1], count + len(users)
            if time.monotonic() > reported + REPORT_SECONDS:
                reported = time.monotonic()
                logger.info("%d users brought up to date for checkpoint '%s'", count, checkpoint)
        if count:
            logger.info("%d users are up to date for checkpoint '%s'", count, checkpoint)
