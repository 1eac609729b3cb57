"""What the first labels of emerging items say, from adaptation, which works it out, to recall and ranking, which score with it.

One value in the online store holds the shifts of all emerging items under one checkpoint. Readers look at it once a second.
"""

import logging
import threading
import time
from collections.abc import Callable

from metarec.adaptation.engine import Engine
from metarec.adaptation.shifts import decode_shifts
from metarec.adaptation.view import ItemShift
from metarec.errors import MetarecError, UnavailableError
from metarec.features.records import OnlineUser
from services.runtime.convert import MAX_ID_BYTES

logger = logging.getLogger(__name__)

SHIFTS_KEY = "item-shifts".ljust(MAX_ID_BYTES + 1, ".")
"""The key of the value: longer than a user id may be, so that no user has it."""
LOOK_SECONDS = 1.0


class ItemShiftReader:
    """Brings shifts into engines; `read` is the store's `read_user`. Thread-safe."""

    def __init__(self, read: Callable[[str], OnlineUser | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock, self._lock = read, clock, threading.Lock()
        self._look_at = 0.0
        self._data, self._checkpoint = b"", ""
        self._shifts: dict[str, ItemShift] = {}
        self._seen: tuple[Engine, bytes, int] | None = None

    def due(self, engine: Engine) -> bool:
        """Whether it is time to look for news for this engine."""
        return self._clock() >= self._look_at or self._seen is None or self._seen[0] is not engine

    def apply(self, engine: Engine) -> bool:
        """Shift the engine's items if there is news, looked for once a second; whether there was. Never raises."""
        if not self.due(engine):
            return False
        with self._lock:
            self._look_at = self._clock() + LOOK_SECONDS
            try:
                found = self._read(SHIFTS_KEY)
            except UnavailableError:
                return False  # said elsewhere: the user cannot be read either
            data = b"" if found is None or found.adaptation is None else found.adaptation
            if data != self._data:
                self._data, (self._checkpoint, self._shifts) = data, _decoded(data)
            # An upsert may have brought an item whose shift was there before.
            seen = (engine, data, engine.catalogue.version)
            if self._seen == seen:
                return False
            self._seen = seen
            before = engine.view.shifts
            engine.shift(self._shifts if self._checkpoint == engine.checkpoint else {})
            return engine.view.shifts is not before


def _decoded(data: bytes) -> tuple[str, dict[str, ItemShift]]:
    if not data:
        return "", {}
    try:
        return decode_shifts(data)
    except MetarecError as error:
        logger.warning("the shifts of emerging items are left out: %s", error.message)
        return "", {}
