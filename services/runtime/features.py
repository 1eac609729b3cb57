"""The feature store as services use it: opened when it is there, and tried again a moment after it failed.

A store that cannot be reached must cost a request nothing but its features. So a failure is remembered for a second, in which nobody
waits for the store, and a store that does not exist yet (nothing has been trained) is looked for again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from metarec.data.schema import Schema
from metarec.errors import InvalidInputError, MetarecError, UnavailableError
from metarec.features.manifest import StoreManifest
from metarec.features.store import FeatureStore, OnlineUser
from metarec.types import Item, User

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
T = TypeVar("T")


class LazyStore:
    """The feature store at `path`. Its calls raise UnavailableError while it cannot be reached. Thread-safe."""

    def __init__(self, path: Path, online: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._online, self._clock = path, online, clock
        self._store: FeatureStore | None = None
        self._lock = threading.Lock()
        self._retry_at = 0.0
        self._failure = ""

    @property
    def schema(self) -> Schema | None:
        """The schema the store was built with; None while there is no store. Opens nothing."""
        try:
            return Schema.from_dict(StoreManifest.read(self._path).schema)
        except MetarecError:
            return None

    def read_user(self, user_id: str) -> OnlineUser | None:
        """As FeatureStore.read_user."""
        return self._call(lambda store: store.read_user(user_id))

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        """As FeatureStore.read_items."""
        return self._call(lambda store: store.read_items(item_ids))

    def write_user_profile(self, users: Iterable[User]) -> None:
        """As FeatureStore.write_user_profile."""
        self._call(lambda store: store.write_user_profile(users))

    def write_user_adaptation(self, user_id: str, blob: bytes, shots: int, checkpoint: str, revision: int) -> None:
        """As FeatureStore.write_user_adaptation."""
        self._call(lambda store: store.write_user_adaptation(user_id, blob, shots, checkpoint, revision))

    def write_items(self, items: Iterable[Item]) -> None:
        """As FeatureStore.write_items."""
        self._call(lambda store: store.write_items(items))

    def delete_user(self, user_id: str) -> None:
        """As FeatureStore.delete_user."""
        self._call(lambda store: store.delete_user(user_id))

    def materialize(self) -> None:
        """Load the online store, unless that has been done; a store loaded before is left as it is."""
        if self._online not in StoreManifest.read(self._path).materialized:
            self._call(lambda store: store.materialize())

    def reopen(self) -> None:
        """Open the store anew at the next call: another checkpoint may have come with other features."""
        with self._lock:
            store, self._store = self._store, None
            self._retry_at = 0.0
        if store is not None:
            store.close()

    def close(self) -> None:
        """Let go of the store."""
        self.reopen()

    def _call(self, call: Callable[[FeatureStore], T]) -> T:
        if self._clock() < self._retry_at:
            raise UnavailableError(self._failure)
        try:
            return call(self._opened())
        except InvalidInputError:
            raise
        # Whatever the online store's driver raises: sqlite3.Error, redis.RedisError, OSError, errors of Feast's own.
        except Exception as error:
            self._failure = f"feature store '{self._path}' cannot be reached: {type(error).__name__}: {error}"
            self._retry_at = self._clock() + PAUSE_SECONDS
            if not isinstance(error, MetarecError):
                logger.warning("%s", self._failure)
            raise UnavailableError(self._failure) from error

    def _opened(self) -> FeatureStore:
        with self._lock:
            if self._store is None:
                self._store = FeatureStore.open(self._path, self._online)
            return self._store
