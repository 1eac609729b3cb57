"""Filters over the whole catalogue, so that candidates are all allowed and lists stay full.

Ranking applies them again, to items that did not come from here. But only here are they applied when ranking is down.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metarec.errors import UnavailableError
from metarec.meta.catalogue import CatalogueSnapshot
from metarec.ranking.account import RuleReport
from metarec.ranking.marks import Marks
from metarec.ranking.rules import Filter, RuleSet
from metarec.types import Features
from services.runtime.features import LazyStore

CHUNK = 1000
"""Items read from the feature store at once."""
RETRY_SECONDS = 2.0
"""After how long items whose content was not there are looked for again."""


@dataclass(frozen=True, kw_only=True)
class Forbidden:
    """Rows that filters keep from a user, what each did, and why content could not be read, if so."""

    rows: frozenset[int] = frozenset()
    reports: tuple[RuleReport, ...] = ()
    unread: UnavailableError | None = None


class CatalogueFilters:
    """The rows that each filter means, worked out once per item, its content and the rules. Thread-safe."""

    def __init__(self, store: LazyStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock, self._lock = store, clock, threading.Lock()
        self._marks = self._new_marks(RuleSet())
        self._known: CatalogueSnapshot | None = None
        self._rows: dict[int, set[int]] = {}
        self._found: dict[tuple[int, ...], Forbidden] = {}
        self._unread: UnavailableError | None = None
        self._retry_at = 0.0

    def forbidden(
        self, rules: RuleSet, catalogue: CatalogueSnapshot, scenario: str, user_id: str, profile: Features | None
    ) -> Forbidden:
        """What the filters keep from this user; `profile` None: it could not be read."""
        active = tuple(place for place in rules.for_request(scenario, user_id, profile) if isinstance(rules.rules[place], Filter))
        if not active:
            return Forbidden()
        with self._lock:
            self._refresh(rules, catalogue)
            if active not in self._found:
                self._found[active] = self._union(rules, active)
            return self._found[active]

    def prepare(self, rules: RuleSet, catalogue: CatalogueSnapshot) -> None:
        """Read what filters ask for now, so that no request has to wait for it."""
        if any(isinstance(rule, Filter) for rule in rules.rules):
            with self._lock:
                self._refresh(rules, catalogue)

    def _new_marks(self, rules: RuleSet) -> Marks:
        return Marks(rules, self._store.read_items, lambda: self._store.loaded_from, clock=self._clock)

    def _union(self, rules: RuleSet, active: tuple[int, ...]) -> Forbidden:
        rows: set[int] = set()
        reports = []
        for place in active:
            own = self._rows[place] - rows
            if own:
                reports.append(RuleReport(rule=rules.rules[place].name, effect="filter", num_removed=len(own)))
                rows |= own
        return Forbidden(rows=frozenset(rows), reports=tuple(reports), unread=self._unread)

    def _refresh(self, rules: RuleSet, catalogue: CatalogueSnapshot) -> None:
        known, retry = self._known, self._retry_at <= self._clock()
        if rules is not self._marks.rules or known is None or _moved(known, catalogue) or self._marks.outdated():
            self._marks = self._new_marks(rules)
            self._rows = {place: set() for place, rule in enumerate(rules.rules) if isinstance(rule, Filter)}
            changed: Sequence[str] = catalogue.ids
        elif known is catalogue and not retry:
            return
        else:
            changed = [item_id for item_id, item in catalogue.upserted.items() if known.upserted.get(item_id) is not item]
        if retry or changed is catalogue.ids:
            changed = list(dict.fromkeys((*changed, *self._marks.unsettled(catalogue.ids))))
            self._unread = None
            self._retry_at = self._clock() + RETRY_SECONDS
        if changed:
            self._mark(catalogue, changed)
        self._known = catalogue

    def _mark(self, catalogue: CatalogueSnapshot, item_ids: Sequence[str]) -> None:
        for start in range(0, len(item_ids), CHUNK):
            part = {item_id: _revision(catalogue, item_id) for item_id in item_ids[start : start + CHUNK]}
            marks, error = self._marks.of(part)
            self._unread = self._unread or error
            for item_id, mark in marks.items():
                bits, row = mark.hits | mark.unknown, catalogue.row_of[item_id]
                for place, rows in self._rows.items():
                    if bits >> place & 1:
                        rows.add(row)
                    else:
                        rows.discard(row)
        self._found = {}


def _moved(known: CatalogueSnapshot, catalogue: CatalogueSnapshot) -> bool:
    """Whether rows mean other items: the catalogue is that of another checkpoint."""
    size = min(len(known.ids), len(catalogue.ids))
    return known is not catalogue and known.ids[:size] != catalogue.ids[:size]


def _revision(catalogue: CatalogueSnapshot, item_id: str) -> int:
    item = catalogue.upserted.get(item_id)
    return 0 if item is None else item.revision
