"""Tables of the interaction log, and its SQLite file.

WAL lets readers, of this and other processes, work beside the one writer; synchronous=FULL makes a commit survive a power cut.
"""

import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarec.errors import FailedPreconditionError, UnavailableError

VERSION = 2
"""2: `labels` of events and support."""

TABLES = """
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL UNIQUE,
  user_id TEXT NOT NULL,
  item_id TEXT NOT NULL,
  label REAL NOT NULL,
  time REAL NOT NULL,
  scenario TEXT NOT NULL,
  labels TEXT
);
CREATE INDEX IF NOT EXISTS events_of_user ON events (user_id, time, seq);
CREATE TABLE IF NOT EXISTS support (
  user_id TEXT NOT NULL,
  item_id TEXT NOT NULL,
  label REAL NOT NULL,
  time REAL NOT NULL,
  event_id TEXT NOT NULL,
  scenario TEXT NOT NULL,
  labels TEXT,
  PRIMARY KEY (user_id, item_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS support_of_item ON support (item_id, time);
CREATE INDEX IF NOT EXISTS support_of_scenario ON support (scenario, user_id, time) WHERE scenario <> '';
CREATE TABLE IF NOT EXISTS users (
  user_id TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  dirty INTEGER NOT NULL,
  checkpoint TEXT NOT NULL,
  profile TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS users_dirty ON users (user_id) WHERE dirty;
CREATE INDEX IF NOT EXISTS users_of_checkpoint ON users (checkpoint, user_id);
CREATE TABLE IF NOT EXISTS deletions (user_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS imports (source TEXT PRIMARY KEY, next INTEGER NOT NULL, done INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL);
INSERT INTO identity SELECT lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT 1 FROM identity);
"""
"""events: what was recorded, once per event id. support: the latest label of each user and item. users: revision and profile, and
whether (dirty) and with which checkpoint the online store has this revision. deletions: users whose online rows are still to
be blanked. forgotten: hashes of deleted users, whom a history import must not bring back. imports: how far a history has come.
identity: one row. labels: those of further targets, as JSON; NULL where there are none."""

MIGRATIONS = {1: "ALTER TABLE events ADD COLUMN labels TEXT; ALTER TABLE support ADD COLUMN labels TEXT;"}
"""What makes a log of each earlier format one of the next."""


def connect(path: Path, *, read_only: bool = False, durable: bool = True) -> sqlite3.Connection:
    """A connection without implicit transactions, usable from any one thread at a time; makes the tables.

    Commits of one that is not `durable` survive the death of the process, but maybe not a power cut.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return connection
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, VERSION, *MIGRATIONS):
            raise FailedPreconditionError(
                f"interaction log '{path}' has format {found}, this metarec reads {VERSION}; use the metarec that wrote it"
            )
        steps = "".join(MIGRATIONS[step] for step in range(found, VERSION)) if found else ""
        connection.executescript(f"BEGIN IMMEDIATE; {steps} {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """The log's SQLite file: one writer at a time, and as many readers as there are. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = connect(path)
        self._notes = connect(path, durable=False)
        self.id: str = self._writer.execute("SELECT id FROM identity").fetchone()[0]
        self._write = threading.Lock()
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction that is durable when the block has ended, and undone when it raises.

        Without `durable` it costs no wait for the disk, and a power cut may undo it.
        """
        connection = self._writer if durable else self._notes
        with self._write, self._explained():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment."""
        with self._explained():
            try:
                connection = self._readers.get_nowait()
            except queue.Empty:
                connection = connect(self.path, read_only=True)
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")
                self._readers.put(connection)

    def close(self) -> None:
        """Close the connections; no call may be running."""
        while not self._readers.empty():
            self._readers.get_nowait().close()
        self._notes.close()
        self._writer.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Troubles of the file (full disk, lock held by another process) as UnavailableError."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"interaction log '{self.path}' cannot be used: {error}") from error
