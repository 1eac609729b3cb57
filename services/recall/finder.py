"""Finds candidates for a user by their state in the feature store, among the checkpoint's items and those upserted since."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from metarec.adaptation.adapted import Adapted, score
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.adaptation.view import EngineView, ItemShift
from metarec.adaptation.weighing import NOT_LEARNED, left_out, weigh
from metarec.errors import InvalidInputError, MetarecError, NoCheckpointError, UnavailableError
from metarec.ranking.account import RuleReport
from metarec.recall.contract import ItemView, RecallUser
from metarec.recall.recaller import Recaller
from metarec.types import Candidate, Features, Item
from services.recall.filters import CatalogueFilters, Forbidden
from services.recall.shelf import ItemShelf
from services.runtime.features import LazyStore
from services.runtime.item_shifts import ItemShiftReader
from services.runtime.live import LiveCheckpoint, upsert_each
from services.runtime.rules import UNDECIDED, RuleBook
from services.runtime.scenario_shifts import ScenarioReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The engine of one checkpoint and the recaller over its items: they change together."""

    engine: Engine
    recaller: Recaller


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """Something that could not be read: why, and what was done instead."""

    reason: str
    fallback: str
    stage: str = "features"


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """Candidates, what they were found with, and what rules kept out of them."""

    candidates: Sequence[Candidate]
    checkpoint: str
    shots: int
    degraded: Sequence[Degraded] = field(default=())
    rules: Sequence[RuleReport] = ()
    rules_version: str = ""


class Finder:
    """Retrieves and upserts. Thread-safe; hand its hooks to a LiveCheckpoint, which is `attach`ed afterwards."""

    def __init__(self, shelf: ItemShelf, store: LazyStore, book: RuleBook | None = None) -> None:
        self._shelf, self._store, self._book = shelf, store, book or RuleBook(None)
        self._filters = CatalogueFilters(store)
        self._shifts = ItemShiftReader(store.read_user)
        self._scenarios = ScenarioReader(store.read_user)
        self._loaded: dict[str, Recaller] = {}
        self._serving: Serving | None = None
        self._live: LiveCheckpoint | None = None
        self._shifting = threading.Lock()

    def attach(self, live: LiveCheckpoint) -> None:
        """The checkpoint that is followed: upserts exclude its swaps."""
        self._live = live

    def on_load(self, engine: Engine) -> None:
        """Put the upserted items into a new engine and build its index, before anybody sees it."""
        upsert_each(engine, self._shelf.items.values())
        # The store may have been built again with the data of this checkpoint: filters read it through its new definitions.
        self._store.reopen()
        self._filters.prepare(self._book.current(engine.prior.schema), engine.catalogue.snapshot)
        self._loaded = {engine.checkpoint: Recaller(engine.view)}

    def on_swap(self, engine: Engine) -> None:
        """Serve from a new engine. Called under the live checkpoint's lock."""
        recaller = self._loaded.pop(engine.checkpoint)
        # What was upserted while the index was built.
        upsert_each(engine, self._shelf.items.values())
        recaller.refresh(engine.view)
        serving = Serving(engine=engine, recaller=recaller)
        self._bring_shifts(serving)
        self._serving = serving

    @property
    def serving(self) -> Serving | None:
        """The engine and recaller now; None while no checkpoint has been live."""
        return self._serving

    def absent(self) -> NoCheckpointError:
        """Why nothing is served."""
        assert self._live is not None, "attach a live checkpoint first"
        return self._live.absent()

    def retrieve(
        self,
        user_id: str,
        num_candidates: int,
        *,
        profile: Features | None = None,
        exclude: Sequence[str] = (),
        include_seen: bool = False,
        scenario: str = "",
        target_weights: Mapping[str, float] | None = None,
    ) -> Retrieved:
        """Candidates for a user; `profile` stands in for the stored one, `target_weights` for the trained blend.

        NoCheckpointError while no checkpoint has been live, InvalidInputError for weights of targets that nobody knows.
        """
        serving = self._serving
        if serving is None:
            raise self.absent()
        degraded: list[Degraded] = []
        self._shift(serving)
        adapted, known = self._adapted(serving.engine, user_id, profile, degraded)
        (adapted,) = serving.engine.within([adapted], [scenario])
        if target_weights:
            adapted = weigh(adapted, target_weights)
            if fallback := left_out(serving.engine.prior, target_weights):
                degraded.append(Degraded(reason=NOT_LEARNED, fallback=fallback, stage="targets"))
        user = RecallUser(
            # The index is over vectors of the trained blend; other weights score the whole catalogue.
            vector=adapted.vector if adapted.mix is None else None,
            scores=lambda view, rows: score(cast(EngineView, view), adapted, rows),
            support=adapted.used,
            seen=adapted.seen_items,
        )
        rules = self._book.current(serving.engine.prior.schema)
        kept_out = Forbidden()

        def forbidden(view: ItemView) -> frozenset[int]:
            nonlocal kept_out
            kept_out = self._filters.forbidden(rules, view.catalogue, scenario, user_id, known)
            return kept_out.rows

        candidates = serving.recaller.retrieve(
            user, num_candidates, exclude=exclude, include_seen=include_seen, forbidden=forbidden if rules else None
        )
        broken = self._book.degradation()
        if broken is not None:
            degraded.append(Degraded(reason=broken.reason, fallback=broken.fallback, stage=broken.stage))
        if kept_out.unread is not None:
            degraded.append(Degraded(reason=kept_out.unread.reason, fallback=UNDECIDED, stage="rules"))
        return Retrieved(
            candidates=candidates,
            checkpoint=serving.engine.checkpoint,
            shots=adapted.shots,
            degraded=tuple(degraded),
            rules=kept_out.reports,
            rules_version=rules.version,
        )

    def _shift(self, serving: Serving) -> None:
        """Move users by what their scenario has in common, and look what first labels say of emerging items.

        Nobody waits for the latter: the vectors of a large catalogue are copied for it, and its graphs searched and mended.
        """
        self._scenarios.apply(serving.engine)
        if self._shifts.due(serving.engine) and self._shifting.acquire(blocking=False):
            threading.Thread(target=self._look, args=(serving,), name="item-shifts", daemon=True).start()

    def _look(self, serving: Serving) -> None:
        assert self._live is not None, "attach a live checkpoint first"
        try:
            with self._live.lock:
                if serving is self._serving:  # else it was swapped, with the shifts of the new one
                    self._bring_shifts(serving)
        finally:
            self._shifting.release()

    def _bring_shifts(self, serving: Serving) -> None:
        """Score emerging items with their first labels, in the index too. Under the live checkpoint's lock."""
        before = serving.engine.view.shifts
        if self._shifts.apply(serving.engine):
            now = serving.engine.view.shifts
            changed = {item_id for item_id in before.keys() | now.keys() if not _same(before.get(item_id), now.get(item_id))}
            serving.recaller.refresh(serving.engine.view, changed=changed)

    def _adapted(
        self, engine: Engine, user_id: str, profile: Features | None, degraded: list[Degraded]
    ) -> tuple[Adapted, Features | None]:
        """The user, and what rules may know of them: their profile, None when it cannot be read."""
        try:
            online = self._store.read_user(user_id)
        except UnavailableError as error:
            degraded.append(Degraded(reason=error.reason, fallback="the meta-learned prior"))
            return engine.adapt([], profile), profile
        state = UserState()
        features = profile
        if online is not None:
            features = online.features if profile is None else profile
            if online.adaptation is not None:
                try:
                    state = UserState.decode(online.adaptation)
                except MetarecError as error:
                    logger.warning("the state of a user is left out: %s", error.message)
                    degraded.append(Degraded(reason="CORRUPT_STATE", fallback="the meta-learned prior"))
        try:
            return engine.restore(state, features), features or {}
        except InvalidInputError as error:
            if profile is not None:
                raise
            # A profile stored under another schema than the checkpoint's.
            logger.warning("a stored profile is left out: %s", error.message)
            degraded.append(Degraded(reason="INVALID_PROFILE", fallback="the fast weights without the profile"))
            return engine.restore(state, None), features or {}

    def upsert(self, items: Sequence[Item]) -> list[Item]:
        """Store items durably, in the feature store and in the index; retrievable when this returns."""
        assert self._live is not None, "attach a live checkpoint first"
        ids = [item.item_id for item in items]
        known = {item_id: item.revision for item_id, item in self._store.read_items(ids).items()}
        with self._live.lock:
            stored = self._shelf.upsert(items, known)
            self._store.write_items(stored)
            serving = self._serving
            if serving is not None:
                serving.engine.upsert(stored)
                serving.recaller.refresh(serving.engine.view)
        return stored

    def repair(self) -> None:
        """Write every upserted item to the feature store again: a crash may have come between the two."""
        items = list(self._shelf.items.values())
        if items and self._store.schema is not None:
            self._store.write_items(items)


def _same(one: ItemShift | None, other: ItemShift | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.bias == other.bias and np.array_equal(one.phi_E, other.phi_E)
