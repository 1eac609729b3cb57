"""The items upserted through this service, kept durably with their revisions: the catalogue is built from them at each start."""

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from metarec.errors import FailedPreconditionError, UnavailableError
from metarec.types import FeatureValue, Item

VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS items (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  item_id TEXT NOT NULL UNIQUE,
  revision INTEGER NOT NULL,
  features TEXT NOT NULL
)
"""


class ItemShelf:
    """Items by id in the SQLite file at `path`; all are held in memory besides. Thread-safe; one process uses it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, VERSION):
            self._connection.close()
            raise FailedPreconditionError(
                f"items in '{path}' have format {found}, this metarec reads {VERSION}; use the metarec that wrote them"
            )
        self._connection.execute(TABLE)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")
        rows = self._connection.execute("SELECT item_id, revision, features FROM items ORDER BY seq")
        self._items = {item_id: Item(item_id=item_id, features=_read(text), revision=rev) for item_id, rev, text in rows}

    @property
    def items(self) -> Mapping[str, Item]:
        """All items, in the order in which they were first upserted."""
        return dict(self._items)

    def get(self, item_id: str) -> Item | None:
        """One item, or None."""
        return self._items.get(item_id)

    def upsert(self, items: Sequence[Item], known: Mapping[str, int]) -> list[Item]:
        """Store the items with their next revisions, all or none, and return them so.

        `known` are revisions known from elsewhere, which the new ones exceed.
        """
        with self._lock:
            stored = [
                Item(item_id=item.item_id, features=item.features, revision=1 + self._revision(item.item_id, known))
                for item in items
            ]
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(
                    "INSERT INTO items (item_id, revision, features) VALUES (?, ?, ?) ON CONFLICT (item_id) DO UPDATE "
                    "SET revision = excluded.revision, features = excluded.features",
                    [(item.item_id, item.revision, json.dumps(dict(item.features), ensure_ascii=False)) for item in stored],
                )
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise UnavailableError(f"items cannot be stored in '{self._path}': {error}") from error
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            # A new mapping, so that readers never see one that changes.
            self._items = {**self._items, **{item.item_id: item for item in stored}}
        return stored

    def _revision(self, item_id: str, known: Mapping[str, int]) -> int:
        own = self._items.get(item_id)
        return max(known.get(item_id, 0), 0 if own is None else own.revision)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _read(text: str) -> dict[str, FeatureValue]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
