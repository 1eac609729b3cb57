"""The feature store as services use it: opened when it is there, and tried again a moment after it failed.

A store that cannot be reached must cost a request nothing but its features. So a failure is remembered for a second, in which
nobody waits for the store, and a store that does not exist yet (nothing has been trained) is looked for again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from metarec.data.schema import Schema
from metarec.errors import InvalidInputError, MetarecError, NotFoundError, UnavailableError
from metarec.features.manifest import FILE, StoreManifest, store_name
from metarec.features.records import OnlineUser
from metarec.features.store import FeatureStore
from metarec.types import Item, User

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 0.5
"""How long an answer of Redis may take: requests that wait for it must still have time to be answered without it."""
T = TypeVar("T")


class LazyStore:
    """The feature store at `path`. Its calls raise UnavailableError while it cannot be reached. Thread-safe."""

    def __init__(self, path: Path, online: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._online, self._clock = path, online, clock
        self._store: FeatureStore | None = None
        self._lock = threading.Lock()
        self._retry_at = 0.0
        self._failure = ""
        self._manifest: tuple[tuple[int, int, int], StoreManifest] | None = None
        self._loaded_from = ""

    @property
    def schema(self) -> Schema | None:
        """The schema the store was built with; None while there is no store. Opens nothing.

        FailedPreconditionError when the store's manifest is damaged: there is a store, and nothing may act as if there were none.
        """
        try:
            return Schema.from_dict(StoreManifest.read(self._path).schema)
        except NotFoundError:
            return None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset that the opened store was built from."""
        return self._call(lambda store: store.fingerprint)

    @property
    def loaded_from(self) -> str:
        """What is read: fingerprints of the data that the opened store's definitions and the loaded rows are of; "" for nothing.

        Looks at the manifest each time, for others build and load the store; stays while that cannot be read. Opens nothing.
        """
        try:
            stat = (self._path / FILE).stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._manifest is None or self._manifest[0] != stamp:
                self._manifest = (stamp, StoreManifest.read(self._path))
            manifest = self._manifest[1]
        except (OSError, MetarecError) as error:
            logger.debug("what is loaded is unknown: %s", error)
            return self._loaded_from
        store = self._store
        opened = manifest.fingerprint if store is None else store.fingerprint
        if store_name(self._online) in manifest.materialized:
            rows = manifest.fingerprint
        elif opened != manifest.fingerprint and store is not None and (store.loaded or self._loaded_from == f"{opened} {opened}"):
            # Built again since, but nobody has loaded that: the rows of before are still there, and so is what reads them.
            rows = opened
        else:
            rows = ""
        self._loaded_from = f"{opened} {rows}" if rows else ""
        return self._loaded_from

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

    def warm_up(self) -> None:
        """Open the store now where that is possible: importing Feast takes seconds, which no request should wait for."""
        try:
            self._call(lambda store: store.read_user(""))
        except UnavailableError as error:
            logger.debug("not open yet: %s", error.message)

    def materialize(self) -> bool:
        """Load the online store, unless that has been done before and is still there; whether it was done now."""

        def load(store: FeatureStore) -> bool:
            emptied = store.emptied()
            if emptied:
                logger.warning("the online store '%s' has lost its rows; loading it again", store_name(self._online))
            elif store.loaded:
                return False
            store.materialize(restart=emptied)
            return True

        return self._call(load)

    def reopen(self) -> None:
        """Open the store anew at the next call if it was built again since: it may have other fields."""
        store = self._store
        if store is not None:
            try:
                rebuilt = StoreManifest.read(self._path).fingerprint != store.fingerprint
            except MetarecError as error:
                logger.warning("the feature store's manifest cannot be read: %s", error.message)
                return
            if rebuilt:
                self.close()

    def close(self) -> None:
        """Let go of the store; a later call opens it again."""
        with self._lock:
            store, self._store = self._store, None
            self._retry_at = 0.0
        if store is not None:
            store.close()

    def _call(self, call: Callable[[FeatureStore], T]) -> T:
        if self._clock() < self._retry_at:
            raise UnavailableError(self._failure)
        store: FeatureStore | None = None
        try:
            store = self._opened()
            return call(store)
        except InvalidInputError:
            raise
        # Whatever the online store's driver raises: sqlite3.Error, redis.RedisError, OSError, errors of Feast's own.
        except Exception as error:
            if store is not None and self._store is not store:
                # It was closed under this call, to be opened anew.
                return self._call(call)
            # The error of a call that waited for another one is told in the words of that one's.
            said = str(error) if isinstance(error, UnavailableError) else f"{type(error).__name__}: {error}"
            self._failure = f"feature store '{self._path}' cannot be reached: {said}"
            self._retry_at = self._clock() + PAUSE_SECONDS
            if not isinstance(error, MetarecError):
                logger.warning("%s", self._failure)
            raise UnavailableError(self._failure) from error

    def _opened(self) -> FeatureStore:
        with self._lock:
            if self._store is None:
                # Feast tells at INFO of every look at its registry.
                logging.getLogger("feast").setLevel(logging.WARNING)
                self._store = FeatureStore.open(self._path, self._online, patience_seconds=PATIENCE_SECONDS)
            return self._store
