"""Answers many ranking requests in one go, without transport: reads users, brings items up to date, adapts and scores."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Protocol

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.adaptation.weighing import NOT_LEARNED, left_out, weigh
from metarec.errors import InvalidInputError, MetarecError, UnavailableError
from metarec.features.records import OnlineUser
from metarec.ranking.marks import Marks
from metarec.ranking.rules import RuleSet
from metarec.types import Item
from services.ranking.lists import ListSettings, Task, answer, choose_rules, rulings
from services.ranking.scores import BatchScores
from services.ranking.wire import Answer, Request
from services.runtime.item_shifts import ItemShiftReader
from services.runtime.live import upsert_each
from services.runtime.rules import RuleBook
from services.runtime.scenario_shifts import ScenarioReader

logger = logging.getLogger(__name__)

NEWEST = 2**63 - 1
MISSING_SECONDS = 5.0
MAX_MISSING = 100_000


class Store(Protocol):
    """The part of the feature store that ranking reads. UnavailableError when it cannot be read."""

    @property
    def loaded_from(self) -> str:
        """What was loaded into what is read; "" for nothing."""
        ...

    def reopen(self) -> None:
        """Open the store anew if it was built again."""
        ...

    def read_user(self, user_id: str) -> OnlineUser | None:
        """What is known of a user."""
        ...

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        """Content of the items that the store knows."""
        ...


class Live(Protocol):
    """The engine of the live checkpoint."""

    @property
    def current(self) -> Engine | None:
        """The engine now; None while no checkpoint has been promoted."""
        ...

    def absent(self) -> MetarecError:
        """Why there is no engine."""
        ...


class Ranker:
    """Ranks with the live engine. Call it from one thread: requests of a batch share its reads and its arithmetic."""

    def __init__(
        self,
        live: Live,
        store: Store,
        rules: RuleBook | None = None,
        settings: ListSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live, self._store, self._clock = live, store, clock
        self._book, self._settings = rules or RuleBook(None), settings or ListSettings()
        self._marks = self._new_marks(RuleSet())
        self._engine: Engine | None = None
        self._shifts = ItemShiftReader(store.read_user, clock=clock)
        self._scenarios = ScenarioReader(store.read_user, clock=clock)
        # Items that nobody has given a revision and that the store does not have either -> until when they are not looked for.
        self._missing: dict[str, float] = {}
        # Items whose content is of another schema than the checkpoint's -> the revision that does not fit.
        self._unfit: dict[str, int] = {}

    def answer(self, requests: Sequence[Request]) -> list[Answer | MetarecError]:
        """An answer, or the error to report, for each request; what one asks for does not change what another gets."""
        logger.debug("answering %d requests at once", len(requests))
        engine = self._live.current
        if engine is None:
            return [self._live.absent() for _ in requests]
        if engine is not self._engine:
            # Before anything is read for it: the store may have been built again with its data.
            self._store.reopen()
            self._engine = engine
            self._unfit.clear()
        tasks = [self._read(request) for request in requests]
        rules = self._book.current(engine.prior.schema)
        if rules is not self._marks.rules:
            self._marks = self._new_marks(rules)
        choose_rules(rules, tasks)
        self._refresh_items(engine, tasks)
        self._shifts.apply(engine)
        self._scenarios.apply(engine)
        _adapt(engine, tasks)
        ruled = rulings(engine, self._marks, self._book, tasks)
        scores = BatchScores(engine, [(task.adapted, list(task.items)) for task in tasks if task.adapted])
        answers: list[Answer | MetarecError] = []
        place = 0
        for task, ruling in zip(tasks, ruled, strict=True):
            if task.adapted is None:
                assert task.error is not None, "a request is adapted to or has an error"
                answers.append(task.error)
            else:
                answers.append(answer(engine, scores, place, task, ruling, self._settings))
                place += 1
        return answers

    def _new_marks(self, rules: RuleSet) -> Marks:
        return Marks(rules, self._store.read_items, lambda: self._store.loaded_from, clock=self._clock)

    def _read(self, request: Request) -> Task:
        task = Task(request=request, items=dict(request.revisions), features=request.profile, profile=request.profile)
        try:
            user = self._store.read_user(request.user_id)
        except UnavailableError as error:
            logger.warning("user features cannot be read: %s", error.message)
            task.degrade(error.reason, "the meta-learned prior")
            return task
        if request.profile is None:
            task.features = None if user is None else user.features
            task.profile = task.features or {}
        if user is None:
            return task
        if user.adaptation is not None:
            try:
                task.state = UserState.decode(user.adaptation)
            except MetarecError as error:
                logger.warning("fast weights of a user are ignored: %s", error.message)
                task.degrade("CORRUPT_STATE", "the meta-learned prior")
        return task

    def _refresh_items(self, engine: Engine, tasks: Sequence[Task]) -> None:
        """Read the content of items that others have seen in a newer revision, candidates and support items alike."""
        wanted: dict[str, int] = {}
        row_of = engine.catalogue.snapshot.row_of
        for task in tasks:
            support = task.state.revisions if task.state is not None else {}
            for item_id, revision in chain(task.items.items(), support.items()):
                # Most items are known and have no other content than the checkpoint's.
                if revision > 0 or (revision == 0 and item_id not in row_of):
                    wanted[item_id] = max(revision, wanted.get(item_id, 0))
            # Of what recall did not bring nobody has said which revision there is, so it is always looked up.
            unsaid = task.items if task.request.explain else task.items.keys() - task.request.revisions.keys()
            wanted |= dict.fromkeys(unsaid, NEWEST)
        if not wanted:
            return
        now = self._clock()
        outdated = [
            item_id
            for item_id in engine.outdated(wanted)
            if (wanted[item_id] > 0 or self._missing.get(item_id, now) <= now) and self._unfit.get(item_id, -1) < wanted[item_id]
        ]
        if not outdated:
            return
        try:
            found = self._store.read_items(outdated)
            upsert_each(engine, found.values())
            self._unfit |= {item_id: found[item_id].revision for item_id in engine.outdated(_revisions(found.values()))}
            if len(self._missing) > MAX_MISSING:
                self._missing.clear()
            self._missing |= dict.fromkeys(set(outdated) - found.keys(), now + MISSING_SECONDS)
        except UnavailableError as error:
            logger.warning("items cannot be read: %s", error.message)
            for task in tasks:
                if any(item_id in task.items for item_id in outdated):
                    task.degrade(error.reason, "items as they were known before")


def _revisions(items: Iterable[Item]) -> dict[str, int]:
    return {item.item_id: item.revision for item in items}


def _adapt(engine: Engine, tasks: Sequence[Task]) -> None:
    """The fast weights of each user: as stored, or the prior of their profile."""
    cold = [task for task in tasks if task.state is None]
    try:
        for task, adapted in zip(cold, engine.adapt_many([UserInput(features=task.features) for task in cold]), strict=True):
            task.adapted = adapted
    except InvalidInputError:
        # Somebody's profile is wrong: it must not fail the others.
        for task in cold:
            _adapt_one(engine, task)
    for task in tasks:
        if task.state is not None:
            _adapt_one(engine, task)
    ready = [task for task in tasks if task.adapted is not None]
    users = [task.adapted for task in ready if task.adapted is not None]
    for task, adapted in zip(ready, engine.within(users, [task.request.scenario for task in ready]), strict=True):
        task.adapted = adapted
    for task in tasks:
        if task.adapted is not None and task.request.target_weights:
            try:
                task.adapted = weigh(task.adapted, task.request.target_weights)
            except InvalidInputError as error:
                task.adapted, task.error = None, error
                continue
            if fallback := left_out(engine.prior, task.request.target_weights):
                task.degrade(NOT_LEARNED, fallback, "targets")


def _adapt_one(engine: Engine, task: Task) -> None:
    state = task.state if task.state is not None else UserState()
    try:
        task.adapted = engine.restore(state, task.features)
    except InvalidInputError as error:
        if task.request.profile is not None:
            task.error = InvalidInputError(error.message, field=f"user.features.{error.field}" if error.field else "user")
            return
        # A profile stored under another schema than the checkpoint's.
        logger.warning("a stored profile is left out: %s", error.message)
        task.degrade("INVALID_PROFILE", "the fast weights without the profile")
        task.adapted = engine.restore(state, None)
