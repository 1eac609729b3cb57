"""How events become rows of the log, and rows of support sets; the functions are called within a transaction of log.py."""

import hashlib
import sqlite3
from collections.abc import Iterable

from metarec.interactions.records import read_labels, write_labels
from metarec.types import Interaction


def insert(connection: sqlite3.Connection, entry: Interaction) -> bool:
    """Append an event; false when its id is there already."""
    cursor = connection.execute(
        "INSERT INTO events (event_id, user_id, item_id, label, time, scenario, labels) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (event_id) DO NOTHING",
        (
            *(entry.event_id, entry.user_id, entry.item_id, entry.label, entry.timestamp, entry.scenario),
            write_labels(entry.labels),
        ),
    )
    return cursor.rowcount == 1


def fold(connection: sqlite3.Connection, recorded: Iterable[Interaction]) -> None:
    """Update support sets and users. The latest label stands, of equal times the larger event id: order does not matter."""
    users = set()
    for entry in recorded:
        users.add(entry.user_id)
        connection.execute(
            "INSERT INTO support (user_id, item_id, label, time, event_id, scenario, labels) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (user_id, item_id) DO UPDATE SET label = excluded.label, time = excluded.time, "
            "event_id = excluded.event_id, scenario = excluded.scenario, labels = excluded.labels "
            "WHERE (excluded.time, excluded.event_id) > (support.time, support.event_id)",
            (
                *(entry.user_id, entry.item_id, entry.label, entry.timestamp, entry.event_id, entry.scenario),
                write_labels(entry.labels),
            ),
        )
    connection.executemany(
        "INSERT INTO users VALUES (?, 1, 1, '', NULL) ON CONFLICT (user_id) DO UPDATE SET revision = revision + 1, dirty = 1",
        [(user,) for user in sorted(users)],
    )


def support_size(connection: sqlite3.Connection, user_id: str) -> int:
    """Number of items that the user has met."""
    return int(connection.execute("SELECT COUNT(*) FROM support WHERE user_id = ?", (user_id,)).fetchone()[0])


def as_interaction(
    user_id: str, item_id: str, label: float, time: float, scenario: str, event_id: str, labels: str | None
) -> Interaction:
    """The interaction in columns of `events` or `support`."""
    return Interaction(
        user_id=user_id,
        item_id=item_id,
        label=label,
        timestamp=time,
        scenario=scenario,
        event_id=event_id,
        labels=read_labels(labels),
    )


def digest(user_id: str) -> bytes:
    """What is kept of the id of a user who was deleted."""
    return hashlib.sha256(user_id.encode()).digest()
