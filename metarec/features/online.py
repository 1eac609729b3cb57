"""Rows of the online store by entity id, over Feast's OnlineStore interface (`online_read`, `online_write_batch`).

No Feast import: store.py hands in the store, the views and the message classes.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from metarec.errors import UnavailableError
from metarec.features.wire import KEYS, Kind, Row, Stored, Value, ViewName, fill, parse


class EntityKey(Protocol):
    """The part of feast.types.EntityKey that is used here."""

    @property
    def entity_values(self) -> "Values":
        """One value for each join key."""
        ...


class Values(Protocol):
    """A repeated message field."""

    def add(self) -> Value:
        """Append an empty value."""
        ...

    def __getitem__(self, place: int) -> Value:
        """One of them."""
        ...


Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Key, values, event time and creation time of one row."""


class Write(Protocol):
    """OnlineStore.online_write_batch."""

    def __call__(self, config: object, table: object, data: list[Written], progress: Callable[[int], None] | None) -> None:
        """Write rows in one transaction."""
        ...


class OnlineStore(Protocol):
    """The part of feast.infra.online_stores.online_store.OnlineStore that is used here."""

    def online_read(
        self, config: object, table: object, entity_keys: list[EntityKey], requested_features: list[str] | None
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Rows in the order of the keys."""
        ...

    def online_write_batch(
        self,
        config: object,
        table: object,
        data: list[Written],
        progress: Callable[[int], None] | None,
    ) -> None:
        """Write rows in one transaction."""
        ...


class OnlineRows:
    """Thread-safe reads and writes of whole rows. Values that were never written read as None."""

    def __init__(
        self,
        *,
        store: OnlineStore,
        config: object,
        views: Mapping[ViewName, object],
        kinds: Mapping[ViewName, Mapping[str, Kind]],
        new_key: Callable[[str], EntityKey],
        new_value: Callable[[], Value],
    ) -> None:
        self._store, self._config, self._views, self._kinds = store, config, views, kinds
        self._new_key, self._new_value = new_key, new_value
        # Feast keeps one SQLite connection for all threads; a transaction of one must not swallow another's statements.
        self.lock = threading.RLock()
        self._failures = 0
        self._failure = ""
        self._last = datetime.fromtimestamp(0, UTC)
        self._newer: dict[tuple[str, Stored], datetime] | None = None

    def read(self, view: ViewName, ids: Sequence[str]) -> list[Row]:
        """One row for each id, empty where the store has none. UnavailableError when a call that it waited for has failed."""
        if not ids:
            return []
        failures = self._failures
        keys = [self._key(view, entity_id) for entity_id in ids]
        # A fresh list each time: the Redis store appends to it.
        names = list(self._kinds[view])
        with self._turn(failures):
            found = self._store.online_read(self._config, self._views[view], keys, names)
        # SQLite's store gives all that was ever written, fields of an older schema too.
        known = self._kinds[view]
        return [{name: parse(value) for name, value in (values or {}).items() if name in known} for _, values in found]

    def write(self, view: ViewName, rows: Mapping[str, Row]) -> None:
        """Replace the rows of these ids in one transaction. UnavailableError when a call that it waited for has failed."""
        if not rows:
            return
        failures = self._failures
        kinds = self._kinds[view]
        encoded = [
            (self._key(view, entity_id), {name: self._value(kinds[name], name, row) for name in kinds})
            for entity_id, row in rows.items()
        ]
        with self._turn(failures):
            # The Redis store drops a write that is not later than the one before it.
            self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            batch: list[Written] = [(key, values, self._last, None) for key, values in encoded]
            self._store.online_write_batch(self._config, self._views[view], batch, None)
            if self._newer is not None:
                self._newer |= {(_name(self._views[view]), entity_id): self._last for entity_id in rows}

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While views are loaded through `in_turn`, what is written here is newer than what is loaded, and stays.

        Redis's store drops rows that are older than what it has; SQLite's writes them over it.
        """
        with self.lock:
            self._newer = {}
        try:
            yield
        finally:
            with self.lock:
                self._newer = None

    def in_turn(self, write: Write) -> Write:
        """`write`, another way into the same store, as a call that takes its turn among those made here."""

        def waiting(config: object, table: object, data: list[Written], progress: Callable[[int], None] | None) -> None:
            with self._turn(self._failures):
                write(config, table, [row for row in data if not self._outdated(table, row)], progress)

        return waiting

    def _outdated(self, table: object, row: Written) -> bool:
        if not self._newer:
            return False
        key, _, time, _ = row
        newest = self._newer.get((_name(table), parse(key.entity_values[0])))
        return newest is not None and time.replace(tzinfo=time.tzinfo or UTC) < newest

    @contextmanager
    def _turn(self, failures: int) -> Iterator[None]:
        """The store for one call, which began after so many failures.

        A call that hangs is given up by its driver after a while. Those that waited behind it have waited as long: they fail with
        it, instead of hanging one after another.
        """
        with self.lock:
            if self._failures != failures:
                raise UnavailableError(self._failure)
            try:
                yield
            except Exception as error:
                self._failures += 1
                self._failure = f"{type(error).__name__}: {error}"
                raise

    def _key(self, view: ViewName, entity_id: str) -> EntityKey:
        key = self._new_key(KEYS[view])
        fill(key.entity_values.add(), "categorical", entity_id)
        return key

    def _value(self, kind: Kind, name: str, row: Row) -> Value:
        value = self._new_value()
        fill(value, kind, row.get(name))
        return value


def _name(table: object) -> str:
    """The name of one of Feast's views."""
    return str(getattr(table, "name", ""))
