"""Which rules mean which items, worked out once per item and revision of its content.

A rule's items do not depend on who asks, so a request with hundreds of candidates looks up two numbers for each: bit k of `hits`
says that rule k means the item, bit k of `unknown` that its content could not be read.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from metarec.errors import UnavailableError
from metarec.ranking.rules import RuleSet
from metarec.types import Features, Item

MAX_KEPT = 1_000_000
ABSENT_SECONDS = 5.0
"""How long an item that the store does not have counts as one without content, before it is looked for again."""


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
    """Marks of items under one set of rules; `read` gives content by id and raises UnavailableError. For one thread."""

    def __init__(
        self, rules: RuleSet, read: Callable[[Sequence[str]], Mapping[str, Item]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rules = rules
        self._read, self._clock = read, clock
        # Id -> its mark, the revision it is of, and until when it holds.
        self._kept: dict[str, tuple[Mark, int, float]] = {}

    def unsettled(self, item_ids: Iterable[str]) -> list[str]:
        """Those whose content could not be read, or was not there."""
        if not self.rules.reads_items:
            return []
        return [item_id for item_id in item_ids if (have := self._kept.get(item_id)) is None or have[2] < math.inf]

    def of(self, revisions: Mapping[str, int]) -> tuple[dict[str, Mark], UnavailableError | None]:
        """The mark of each id, of its content at this revision or a later one, and why content could not be read, if so."""
        if not self.rules.reads_items:
            return {item_id: mark(self.rules, item_id, {}) for item_id in revisions}, None
        now = self._clock()
        kept = self._kept
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
                    features = {} if item is None else item.features
                    until = now + ABSENT_SECONDS if item is None else math.inf
                    # Nobody can have a later content than the store, whatever revision was seen.
                    revision = max(revisions[item_id], 0 if item is None else item.revision)
                    kept[item_id] = (mark(self.rules, item_id, features), revision, until)
            except UnavailableError as caught:
                error = caught
        marks = {}
        for item_id in revisions:
            have = kept.get(item_id)
            if have is None or (error is not None and have[1] < revisions[item_id]):
                marks[item_id] = mark(self.rules, item_id, None)
            else:
                marks[item_id] = have[0]
        return marks, error
