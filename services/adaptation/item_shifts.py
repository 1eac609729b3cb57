"""Works out what the first labels of emerging items say, in the background, and publishes it to the online store.

Only items that training has not seen and whose content is known have a shift. A label is visible in the item's score within
seconds, not when the call returns: adapting an item's raters takes longer than adapting the one user who acted.
"""

import logging
import threading
from collections.abc import Iterable

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.shifts import decode_shifts, encode_shifts, item_shift
from metarec.adaptation.view import ItemShift
from metarec.errors import MetarecError
from metarec.interactions.log import InteractionLog
from services.adaptation.background import Background
from services.adaptation.publisher import Publisher
from services.runtime.features import LazyStore
from services.runtime.item_shifts import SHIFTS_KEY
from services.runtime.live import LiveCheckpoint, upsert_each

logger = logging.getLogger(__name__)

MAX_RATERS = 100
"""Labels of an item that its shift is worked out from: the newest ones."""
MAX_ITEMS = 1_000
"""Items that have a shift: those that got a label last."""


class ItemShifts:
    """Keeps the shifts up to date with the log and the live checkpoint. Close it to stop its thread."""

    def __init__(self, log: InteractionLog, store: LazyStore, live: LiveCheckpoint, publisher: Publisher) -> None:
        self._log, self._store, self._live, self._publisher = log, store, live, publisher
        self._shifts: dict[str, ItemShift] = {}
        self._checkpoint: str | None = None
        self._unwritten = False
        self._asked: dict[str, None] = {}
        self._lock = threading.Lock()
        self._background = Background("shifts of emerging items", self._work)

    def start(self) -> None:
        """Begin; what was published before is worked out anew for the live checkpoint."""
        self._live.listen(lambda engine: self._background.wake())
        self._background.wake()
        self._background.start()

    def learn(self, item_ids: Iterable[str]) -> None:
        """These items have labels that are new, or gone. Returns at once."""
        with self._lock:
            self._asked |= dict.fromkeys(item_ids)
        self._background.wake()

    def close(self) -> None:
        """Stop."""
        self._background.close()

    def _work(self) -> None:
        with self._lock:
            asked, self._asked = list(self._asked), {}
        try:
            self._update(asked)
        except Exception:
            self.learn(asked)
            raise

    def _update(self, asked: list[str]) -> None:
        engine = self._live.current
        if engine is None or self._store.schema is None:
            return
        if engine.checkpoint != self._checkpoint:
            asked = list(dict.fromkeys((*self._published(), *self._shifts, *asked)))
            self._shifts = {}
        before = set(self._shifts)
        asked = [item_id for item_id in asked if not _trained(engine, item_id)]
        self._learn_contents(engine, asked)
        for item_id in asked:
            shift = self._shift(engine, item_id)
            self._shifts.pop(item_id, None)
            if shift is not None:
                self._shifts[item_id] = shift
        self._shifts = dict(list(self._shifts.items())[-MAX_ITEMS:])
        changed = not before.isdisjoint(asked) or not self._shifts.keys().isdisjoint(asked)
        # A write that fails is owed until one succeeds: a label that is gone must not stay published.
        self._unwritten = self._unwritten or changed or engine.checkpoint != self._checkpoint
        if self._unwritten:
            data = encode_shifts(engine.checkpoint, self._shifts)
            self._store.write_user_adaptation(SHIFTS_KEY, data, len(self._shifts), engine.checkpoint, 0)
            self._unwritten = False
        self._checkpoint = engine.checkpoint

    def _published(self) -> list[str]:
        """The items in the store: of this service before it was started again."""
        found = self._store.read_user(SHIFTS_KEY)
        if found is None or found.adaptation is None:
            return []
        try:
            return list(decode_shifts(found.adaptation)[1])
        except MetarecError as error:
            logger.warning("shifts of before are left out: %s", error.message)
            return []

    def _learn_contents(self, engine: Engine, item_ids: list[str]) -> None:
        """Items that only the store knows, or knows better."""
        found = self._store.read_items(item_ids) if item_ids else {}
        newer = set(engine.outdated({item_id: item.revision for item_id, item in found.items()}))
        if newer:
            with self._live.lock:
                upsert_each(engine, [found[item_id] for item_id in newer])

    def _shift(self, engine: Engine, item_id: str) -> ItemShift | None:
        raters: list[UserInput] = []
        labels: list[float] = []
        for entry in self._log.item_support(item_id)[-MAX_RATERS:]:
            record = self._log.user(entry.user_id)
            if record is not None:
                raters.append(self._publisher.input(record))
                labels.append(entry.label)
        return item_shift(engine.view, item_id, raters, labels)


def _trained(engine: Engine, item_id: str) -> bool:
    """Whether the checkpoint knows the item by its id: such items have no shift."""
    catalogue = engine.catalogue.snapshot
    row = catalogue.row_of.get(item_id)
    return row is not None and int(catalogue.items.code_N[row]) != 0
