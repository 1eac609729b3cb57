"""Follows the registry's live checkpoint: loads it off the request path and swaps engines at once.

A request takes `current` once and works on that engine to its end, so that weights of two checkpoints never mix. A service starts
without a checkpoint and gets one when it is promoted. A checkpoint that cannot be loaded leaves the one before it in place.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from metarec.adaptation.engine import Engine
from metarec.errors import InvalidInputError, MetarecError, NoCheckpointError
from metarec.training.registry import Registry
from metarec.types import Item

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RETRY_SECONDS = 30.0
"""After how long a checkpoint that could not be loaded is tried again; another one is tried at once."""

Hook = Callable[[Engine], None]


def _nothing(engine: Engine) -> None:
    pass


class LiveCheckpoint:
    """The engine of the live checkpoint of the registry at `registry`; the one live now is loaded before this returns.

    `on_load` gets a new engine in the watching thread before anybody else (to prepare what takes time), `on_swap` under `lock`
    right before it becomes `current`. Items upserted to the old engine are upserted to the new one.
    """

    def __init__(
        self, registry: Path, *, on_load: Hook = _nothing, on_swap: Hook = _nothing, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self.lock = threading.RLock()
        """Held while engines are swapped: an upsert under it reaches the engine that stays."""
        self._registry, self._on_load, self._on_swap = Registry(registry), on_load, on_swap
        self._poll_seconds = poll_seconds
        self._current: Engine | None = None
        self._failed: tuple[str, float] = ("", 0.0)
        self._why = self._absent = NoCheckpointError("")
        self._listeners: list[Hook] = []
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="live-checkpoint", daemon=True)
        self._thread.start()

    @property
    def current(self) -> Engine | None:
        """The engine now; None while no checkpoint has been live."""
        return self._current

    def engine(self) -> Engine:
        """The engine now. NoCheckpointError while no checkpoint has been live."""
        if self._current is None:
            raise self.absent()
        return self._current

    def absent(self) -> NoCheckpointError:
        """Why there is no engine: nothing has been promoted, or what has been cannot be loaded; `checkpoint` of the metadata
        names that one. A new error each time, since one that is raised remembers where."""
        absent = self._absent
        return NoCheckpointError(absent.message, metadata=absent.metadata)

    def listen(self, listener: Hook) -> None:
        """Call `listener` in the watching thread after each swap."""
        self._listeners.append(listener)

    def refresh(self) -> bool:
        """Load the live checkpoint if it is another one; whether there was a swap. Never raises for a bad checkpoint."""
        with self._refreshing:
            try:
                live = self._registry.live()
            except MetarecError as error:
                logger.warning("the live checkpoint is unknown: %s", error.message)
                self._absent = NoCheckpointError(f"which checkpoint is live is unknown: {error.message}", metadata=error.metadata)
                return False
            failed, when = self._failed
            if live is None:
                nothing = f"no checkpoint of registry '{self._registry.path}' is live; train one and promote it"
                self._absent = NoCheckpointError(nothing)
            if live is None or (self._current is not None and live == self._current.checkpoint):
                return False
            if live == failed and time.monotonic() < when + RETRY_SECONDS:
                self._absent = self._why
                return False
            try:
                engine = Engine(self._registry.load(live))
                self._on_load(engine)
            # A checkpoint is a file from elsewhere: nothing about it may end the thread that would load the next one.
            except Exception as error:
                self._failed = (live, time.monotonic())
                self._why = self._absent = NoCheckpointError(
                    f"checkpoint '{live}' is live but cannot be loaded: {error}", metadata={"checkpoint": live}
                )
                kept = "nothing" if self._current is None else f"'{self._current.checkpoint}'"
                logger.warning("checkpoint '%s' cannot be loaded, %s stays live here: %s", live, kept, error)
                return False
            with self.lock:
                if self._current is not None:
                    upsert_each(engine, self._current.catalogue.snapshot.upserted.values())
                self._on_swap(engine)
                self._current, self._failed = engine, ("", 0.0)
            logger.info("checkpoint '%s' is live here", live)
        for listener in self._listeners:
            listener(engine)
        return True

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                logger.exception("following the live checkpoint failed")


def upsert_each(engine: Engine, items: Iterable[Item]) -> list[str]:
    """Upsert items made under another schema: those that do not fit this checkpoint's are left out with a warning."""
    items = list(items)
    try:
        return engine.upsert(items)
    except InvalidInputError:
        changed: list[str] = []
        for item in items:
            try:
                changed += engine.upsert([item])
            except InvalidInputError as error:
                logger.warning("item left out of checkpoint '%s': %s", engine.checkpoint, error.message)
        return changed
