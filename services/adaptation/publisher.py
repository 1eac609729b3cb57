"""Publishes users: from the interaction log to fast weights in the online store, where recall and ranking read them.

Users are locked while they are published, and read from the log under the lock, so that an older state never overwrites a newer
one. A user stays dirty in the log until the write is confirmed; whatever stops this process, the next one publishes them again.
"""

import logging
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from metarec.adaptation.adapted import Adapted, UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.errors import InvalidInputError
from metarec.interactions.log import InteractionLog
from metarec.interactions.records import UserRecord
from metarec.types import Features, User
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint, upsert_each

logger = logging.getLogger(__name__)

STRIPES = 256
BATCH = 64
"""Users adapted to in one batch."""

MAX_UNKNOWN = 50
"""Unknown support items of a user that are looked for in the feature store: the newest ones."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A user's state as published: the size of the support set it was computed from, and the checkpoint ("" for none)."""

    shots: int
    checkpoint: str


class Publisher:
    """Adapts users of the log to the live checkpoint and writes their states. Thread-safe."""

    def __init__(self, log: InteractionLog, store: LazyStore, live: LiveCheckpoint) -> None:
        self._log, self._store, self._live = log, store, live
        self._stripes = [threading.Lock() for _ in range(STRIPES)]

    @contextmanager
    def locked(self, user_ids: Sequence[str]) -> Iterator[None]:
        """Keep others from publishing or deleting these users. Locks are taken in one order, so that nobody waits in a circle."""
        with ExitStack() as stack:
            for stripe in sorted({zlib.crc32(user_id.encode()) % STRIPES for user_id in user_ids}):
                stack.enter_context(self._stripes[stripe])
            yield

    def publish(self, user_ids: Sequence[str], item_ids: Sequence[str] = ()) -> dict[str, Published]:
        """Publish those of the users that are not published yet; their states are visible when this returns.

        `item_ids` are looked up for newer content first. Without a feature store nothing can read a state, so users stay dirty.
        UnavailableError when the store cannot be written: the users stay dirty.
        """
        published: dict[str, Published] = {}
        for start in range(0, len(user_ids), BATCH):
            part = user_ids[start : start + BATCH]
            with self.locked(part):
                records = [record for record in map(self._log.user, part) if record is not None]
                published |= self._publish(records, item_ids)
        return published

    def input(self, record: UserRecord) -> UserInput:
        """What adaptation starts from for a user of the log: their logged profile, else the one in the feature store."""
        features = record.profile
        if features is None:
            online = self._store.read_user(record.user_id)
            features = None if online is None else online.features
        return UserInput(support=record.support, features=features, revision=record.revision, seen=record.seen)

    def _publish(self, records: Sequence[UserRecord], item_ids: Sequence[str]) -> dict[str, Published]:
        engine = self._live.current
        if engine is None or self._store.schema is None:
            if self._store.schema is not None:
                # Readers that get a checkpoint first adapt from the support set in the state.
                self._write("", [(record, _bare(record), len(record.support)) for record in records if record.dirty])
            return {record.user_id: Published(shots=len(record.support), checkpoint="") for record in records}
        self._learn_items(engine, records, item_ids)
        published: dict[str, Published] = {}
        stale = []
        for record in records:
            if record.dirty or record.checkpoint != engine.checkpoint:
                stale.append(record)
            else:
                shots = sum(entry.item_id in engine.catalogue for entry in record.support)
                published[record.user_id] = Published(shots=shots, checkpoint=engine.checkpoint)
        adapted = adapt_each(engine, [self.input(record) for record in stale])
        self._write(engine.checkpoint, [(record, user.state, user.shots) for record, user in zip(stale, adapted, strict=True)])
        for record, user in zip(stale, adapted, strict=True):
            published[record.user_id] = Published(shots=user.shots, checkpoint=engine.checkpoint)
        return published

    def _write(self, checkpoint: str, states: Sequence[tuple[UserRecord, UserState, int]]) -> None:
        for record, state, shots in states:
            if record.profile is not None and record.dirty:
                self._write_profile(record.user_id, record.profile)
            self._store.write_user_adaptation(record.user_id, state.encode(), shots, checkpoint, record.revision)
        if states:
            self._log.confirm({record.user_id: record.revision for record, _, _ in states}, checkpoint)

    def _write_profile(self, user_id: str, profile: Features) -> None:
        """A profile may have been logged under an older schema: what the store's does not have stays in the log alone."""
        schema = self._store.schema
        names = {field.name for field in schema.users} if schema is not None else set()
        try:
            self._store.write_user_profile(
                [User(user_id=user_id, features={name: value for name, value in profile.items() if name in names})]
            )
        except InvalidInputError as error:
            logger.warning("a profile does not fit the feature store's schema and stays in the log alone: %s", error.message)

    def _learn_items(self, engine: Engine, records: Sequence[UserRecord], item_ids: Sequence[str]) -> None:
        """Read the content of `item_ids`, and of support items that the engine does not know, where the store has a newer one."""
        unknown = {
            entry.item_id: None
            for record in records
            for entry in reversed([entry for entry in record.support if entry.item_id not in engine.catalogue][-MAX_UNKNOWN:])
        }
        wanted = list(dict.fromkeys((*item_ids, *unknown)))
        if wanted:
            found = self._store.read_items(wanted)
            newer = set(engine.outdated({item_id: item.revision for item_id, item in found.items()}))
            with self._live.lock:
                upsert_each(engine, [item for item_id, item in found.items() if item_id in newer])


def _bare(record: UserRecord) -> UserState:
    """The state of a user without weights."""
    return UserState(revision=record.revision, support=record.support, seen=record.seen)


def adapt_each(engine: Engine, users: Sequence[UserInput]) -> list[Adapted]:
    """Adapt to several users; profiles that do not fit the checkpoint's schema are left out with a warning."""
    try:
        return engine.adapt_many(users)
    except InvalidInputError:
        adapted = []
        for user in users:
            try:
                adapted += engine.adapt_many([user])
            except InvalidInputError as error:
                logger.warning("a profile does not fit checkpoint '%s' and is left out: %s", engine.checkpoint, error.message)
                adapted.append(engine.adapt(user.support, None, revision=user.revision, seen=user.seen))
        return adapted
