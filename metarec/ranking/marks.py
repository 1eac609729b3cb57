"""Which rules mean which items, worked out once per item, revision of its content and load of the store.

A rule's items do not depend on who asks, so a request with hundreds of candidates looks up two numbers for each: bit k of `hits`
says that rule k means the item, bit k of `unknown` that its content could not be read. Content is unread, too, where the store
does not have it, and where the store's data was exchanged but not loaded yet: then its rows are those of the data before. Only
what was upserted (a revision above 0) is there without a load.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from metarec.errors import UnavailableError
from metarec.ranking.rules import RuleSet
from metarec.types import Features, Item

MAX_KEPT = 1_000_000
UNREAD_SECONDS = 5.0
"""How long an item whose content the store does not have counts as unread, before it is looked for again."""


class Mark(NamedTuple):
    """Rules, as bits, that mean an item, and that may mean it."""

    hits: int
    unknown: int


def mark(rules: RuleSet, item_id: str, features: Features | None) -> Mark:
    """The mark of one item; `features` None: they could not be read."""
    hits = unknown = 0
    for place, rule in enumerate(rules.rules):
        found = rule.items.holds(item_id, features)
        if found is None:
            unknown |= 1 << place
        elif found:
            hits |= 1 << place
    return Mark(hits, unknown)


class Marks:
    """Marks of items under one set of rules; for one thread.

    `read` gives content by id and raises UnavailableError; `loaded` says what was loaded into the store that it reads, "" for
    nothing: whenever that changes, everything is read again.
    """

    def __init__(
        self,
        rules: RuleSet,
        read: Callable[[Sequence[str]], Mapping[str, Item]],
        loaded: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self._read, self._loaded, self._clock = read, loaded, clock
        self._of = loaded() if rules.reads_items else ""
        # Id -> its mark, the revision it is of, and until when it holds: for ever, unless the content was unread.
        self._kept: dict[str, tuple[Mark, int, float]] = {}

    def outdated(self) -> bool:
        """Whether other content was loaded since, so that every mark may be another."""
        return self.rules.reads_items and self._loaded() != self._of

    def unsettled(self, item_ids: Iterable[str]) -> list[str]:
        """Those whose content could not be read, or was not there."""
        if not self.rules.reads_items:
            return []
        return [item_id for item_id in item_ids if (have := self._kept.get(item_id)) is None or have[2] < math.inf]

    def of(self, revisions: Mapping[str, int]) -> tuple[dict[str, Mark], UnavailableError | None]:
        """The mark of each id, of its content at this revision or a later one, and why content could not be read, if so."""
        if not self.rules.reads_items:
            return {item_id: mark(self.rules, item_id, {}) for item_id in revisions}, None
        now, loaded, kept = self._clock(), self._loaded(), self._kept
        if loaded != self._of:
            kept.clear()
            self._of = loaded
        missing = [
            item_id
            for item_id, revision in revisions.items()
            if (have := kept.get(item_id)) is None or have[1] < revision or have[2] < now
        ]
        error = None
        if missing:
            if len(kept) > MAX_KEPT:
                kept.clear()
                missing = list(revisions)
            try:
                found = self._read(missing)
                for item_id in missing:
                    item = found.get(item_id)
                    if item is None or (not loaded and item.revision == 0):
                        kept[item_id] = (mark(self.rules, item_id, None), revisions[item_id], now + UNREAD_SECONDS)
                    else:
                        # Nobody can have a later content than the store, whatever revision was seen.
                        revision = max(revisions[item_id], item.revision)
                        kept[item_id] = (mark(self.rules, item_id, item.features), revision, math.inf)
            except UnavailableError as caught:
                error = caught
        marks, unread = {}, []
        for item_id in revisions:
            have = kept.get(item_id)
            if have is None or (error is not None and have[1] < revisions[item_id]):
                marks[item_id] = mark(self.rules, item_id, None)
            else:
                marks[item_id] = have[0]
                if have[2] < math.inf:
                    unread.append(item_id)
        if unread and error is None:
            why = "does not have the content" if loaded else "is not loaded, so that it does not have the content"
            error = UnavailableError(f"the feature store {why} of {len(unread)} items, '{unread[0]}' among them")
        return marks, error
