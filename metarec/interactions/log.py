"""The interaction log: what users did, kept durably and once (DESIGN 6), with each user's support set beside it.

A call's interactions are appended, deduplicated by event id and folded into the support sets in one transaction: all or nothing.
A user whose support set or profile changed is dirty until the online store is confirmed to have that revision, so that a crash
in between is repaired at the next start. One process writes; any number of threads and processes may read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metarec.interactions.database import Database
from metarec.interactions.folding import as_interaction, digest, fold, insert, support_size
from metarec.interactions.records import (
    Appended,
    Page,
    UserRecord,
    check,
    page_token,
    read_profile,
    read_token,
    write_profile,
)
from metarec.types import Interaction, User

MAX_SUPPORT = 200
"""Interactions of a user that adaptation sees: the newest ones."""

MAX_SEEN = 2_000
"""Older items of a user that are still known to have been seen."""

_MARK = "UPDATE users SET dirty = 1, revision = revision + 1"
"""A new revision, so that a write that is under way now does not confirm what comes after it."""


class InteractionLog:
    """The log in the SQLite file at `path`. Calls are thread-safe."""

    def __init__(self, path: Path, *, max_support: int = MAX_SUPPORT) -> None:
        self.max_support = max_support
        self._database = Database(path)

    @property
    def id(self) -> str:
        """What tells this log from any other: sixteen hex digits, drawn when it was made."""
        return self._database.id

    def append(self, interactions: Sequence[Interaction]) -> Appended:
        """Record interactions and update their users' support sets in one transaction; durable when this returns.

        An event id seen before, in the log or earlier in the call, counts as a duplicate and has no further effect.
        InvalidInputError for an empty or overlong id, or a label or time that is no number; then nothing is recorded.
        """
        for place, interaction in enumerate(interactions):
            check(interaction, f"interactions[{place}]")
        with self._database.transaction() as connection:
            recorded = [entry for entry in interactions if insert(connection, entry)]
            fold(connection, recorded)
            sizes = {
                user: min(self.max_support, support_size(connection, user))
                for user in dict.fromkeys(entry.user_id for entry in interactions)
            }
        return Appended(recorded=len(recorded), duplicates=len(interactions) - len(recorded), support_sizes=sizes)

    def upsert_users(self, users: Sequence[User]) -> None:
        """Add users or replace their profiles, all in one transaction, and mark them dirty."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO users VALUES (?, 1, 1, '', ?) ON CONFLICT (user_id) DO UPDATE "
                "SET revision = revision + 1, dirty = 1, profile = excluded.profile",
                [(user.user_id, write_profile(user.features)) for user in users],
            )

    def user(self, user_id: str) -> UserRecord | None:
        """The user as of one moment; None when the log knows nothing of them."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT revision, dirty, checkpoint, profile FROM users WHERE user_id = ?", (user_id,)
            ).fetchone()
            if found is None:
                return None
            rows = connection.execute(
                "SELECT item_id, label, time, scenario, event_id, labels FROM support WHERE user_id = ? "
                "ORDER BY time DESC, event_id DESC LIMIT ?",
                (user_id, self.max_support + MAX_SEEN),
            ).fetchall()
        revision, dirty, checkpoint, profile = found
        return UserRecord(
            user_id=user_id,
            revision=revision,
            support=tuple(as_interaction(user_id, *row) for row in reversed(rows[: self.max_support])),
            seen=tuple(row[0] for row in rows[self.max_support :]),
            profile=None if profile is None else read_profile(profile),
            dirty=bool(dirty),
            checkpoint=checkpoint,
        )

    def item_support(self, item_id: str) -> tuple[Interaction, ...]:
        """The newest interactions with an item, one per user, oldest first: the support set of the item as a task."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT user_id, label, time, scenario, event_id FROM support WHERE item_id = ? "
                "ORDER BY time DESC, event_id DESC LIMIT ?",
                (item_id, self.max_support),
            ).fetchall()
        return tuple(
            Interaction(user_id=user, item_id=item_id, label=label, timestamp=time, scenario=scenario, event_id=event)
            for user, label, time, scenario, event in reversed(rows)
        )

    def scenarios(self, limit: int) -> dict[str, int]:
        """Number of interactions in support sets by scenario, most first, without the default one; `limit` scenarios at most."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT scenario, COUNT(*) FROM support WHERE scenario <> '' "
                "GROUP BY scenario ORDER BY COUNT(*) DESC, scenario LIMIT ?",
                (limit,),
            )
            return dict(rows.fetchall())

    def scenario_users(self, scenario: str, limit: int) -> list[str]:
        """Users with interactions in a scenario, those who acted there last first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT user_id FROM support WHERE scenario = ? AND scenario <> '' "
                "GROUP BY user_id ORDER BY MAX(time) DESC, user_id LIMIT ?",
                (scenario, limit),
            )
            return [user for (user,) in rows]

    def page(self, user_id: str, size: int, token: str = "") -> Page:
        """Recorded interactions of a user, newest first, of equal times the one recorded last. InvalidInputError: bad token."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT item_id, label, time, scenario, event_id, labels, seq FROM events "
                "WHERE user_id = ? AND (time, seq) < (?, ?) ORDER BY time DESC, seq DESC LIMIT ?",
                (user_id, *read_token(token), size + 1),
            ).fetchall()
        page = rows[:size]
        more = len(rows) > size
        return Page(
            interactions=tuple(as_interaction(user_id, *row[:6]) for row in page),
            next_token=page_token(page[-1][2], page[-1][6]) if more else "",
        )

    def delete_user(self, user_id: str, *, known: bool = False) -> int | None:
        """Delete everything the log holds of a user and return their number of events.

        None, and nothing is noted, when it holds nothing of them and they are not `known` from elsewhere. The deletion stays
        pending (`pending_deletions`) until `confirm_deletion`.
        """
        with self._database.transaction() as connection:
            held = "SELECT 1 FROM users WHERE user_id = ? UNION ALL SELECT 1 FROM deletions WHERE user_id = ?"
            if not known and connection.execute(held, (user_id, user_id)).fetchone() is None:
                return None
            events = connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount
            for table in ("support", "users"):
                connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
            connection.execute("INSERT OR IGNORE INTO deletions VALUES (?)", (user_id,))
            connection.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (digest(user_id),))
        return events

    def pending_deletions(self) -> list[str]:
        """Users deleted from the log but maybe not yet from the online store."""
        with self._database.reading() as connection:
            return [user for (user,) in connection.execute("SELECT user_id FROM deletions")]

    def confirm_deletion(self, user_id: str) -> None:
        """The online store has forgotten the user."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM deletions WHERE user_id = ?", (user_id,))

    def mark_dirty(self, user_id: str) -> None:
        """The online store may have lost the user, if the log has them."""
        with self._database.transaction() as connection:
            connection.execute(f"{_MARK} WHERE user_id = ?", (user_id,))

    def mark_all_dirty(self) -> None:
        """The online store may have lost every user, or have other profiles than the log."""
        with self._database.transaction() as connection:
            connection.execute(_MARK)

    def confirm(self, written: Mapping[str, int], checkpoint: str) -> None:
        """The online store has these users at these revisions, adapted from `checkpoint`; later revisions stay dirty.

        A power cut may undo it, which costs writing the users again.
        """
        with self._database.transaction(durable=False) as connection:
            connection.executemany(
                "UPDATE users SET dirty = 0, checkpoint = ? WHERE user_id = ? AND revision = ?",
                [(checkpoint, user_id, revision) for user_id, revision in written.items()],
            )

    def users_with_stale(self, checkpoint: str, *, after: str = "", limit: int = 500) -> list[str]:
        """Users (by id, after `after`) that are dirty or whose online state is of another checkpoint."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT user_id FROM users WHERE user_id > ? AND (dirty OR checkpoint <> ?) ORDER BY user_id LIMIT ?",
                (after, checkpoint, limit),
            )
            return [user for (user,) in rows]

    def dirty_users(self) -> list[str]:
        """Users whose online state is not confirmed."""
        with self._database.reading() as connection:
            return [user for (user,) in connection.execute("SELECT user_id FROM users WHERE dirty ORDER BY user_id")]

    def count(self) -> int:
        """Number of recorded interactions."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM events").fetchone()[0])

    def import_progress(self, source: str) -> int | None:
        """The next row of a history to import; None when all of it is in the log."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT next, done FROM imports WHERE source = ?", (source,)).fetchone()
        return 0 if found is None else (None if found[1] else int(found[0]))

    def import_chunk(self, source: str, interactions: Sequence[Interaction], *, next_row: int, done: bool) -> int:
        """Record a piece of a history and how far it has come, in one transaction; returns how many were new.

        Users who were deleted are left out. Their users become dirty.
        """
        with self._database.transaction() as connection:
            forgotten = {known for (known,) in connection.execute("SELECT digest FROM forgotten")}
            if forgotten:
                interactions = [entry for entry in interactions if digest(entry.user_id) not in forgotten]
            recorded = [entry for entry in interactions if insert(connection, entry)]
            fold(connection, recorded)
            connection.execute("INSERT OR REPLACE INTO imports VALUES (?, ?, ?)", (source, next_row, int(done)))
        return len(recorded)

    def close(self) -> None:
        """Close the file; no call may be running."""
        self._database.close()
