"""Brings the shifts of scenarios into the engines that score, from where adaptation publishes them.

They are one value in the online store, under a key that no user can have, looked at once a second at most. What the checkpoint
itself knows of scenarios counts until there is a value for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from metarec.adaptation.engine import Engine
from metarec.adaptation.scenarios import decode_scenarios
from metarec.adaptation.view import ScenarioShift
from metarec.errors import MetarecError, UnavailableError
from metarec.features.records import OnlineUser
from services.runtime.convert import MAX_ID_BYTES
from services.runtime.item_shifts import LOOK_SECONDS

logger = logging.getLogger(__name__)

SCENARIOS_KEY = "scenarios".ljust(MAX_ID_BYTES + 1, ".")
"""The key of the value: longer than a user id may be, so that no user has it."""


class ScenarioReader:
    """Brings scenarios into engines; `read` is the store's `read_user`. Thread-safe."""

    def __init__(self, read: Callable[[str], OnlineUser | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock, self._lock = read, clock, threading.Lock()
        self._look_at = 0.0
        self._data, self._checkpoint = b"", ""
        self._shifts: Mapping[str, ScenarioShift] = {}
        self._seen: tuple[Engine, bytes] | None = None

    def apply(self, engine: Engine) -> None:
        """Give the engine the newest shifts, looked for once a second. Never raises."""
        now = self._clock()
        if now < self._look_at and self._seen is not None and self._seen[0] is engine:
            return
        with self._lock:
            self._look_at = now + LOOK_SECONDS
            try:
                found = self._read(SCENARIOS_KEY)
            except UnavailableError:
                return  # said elsewhere: the user cannot be read either
            data = b"" if found is None or found.adaptation is None else found.adaptation
            if data != self._data:
                self._data, (self._checkpoint, self._shifts) = data, _decoded(data)
            if self._seen != (engine, data):
                self._seen = (engine, data)
                engine.use_scenarios(self._shifts if self._checkpoint == engine.checkpoint else engine.own_scenarios)


def _decoded(data: bytes) -> tuple[str, Mapping[str, ScenarioShift]]:
    if not data:
        return "", {}
    try:
        return decode_scenarios(data)
    except MetarecError as error:
        logger.warning("the shifts of scenarios are left out: %s", error.message)
        return "", {}
