"""Answers many ranking requests in one go, without transport: reads users, brings items up to date, adapts and scores."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.adapted import Adapted, UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.errors import InvalidInputError, MetarecError, NoCheckpointError, NotFoundError, UnavailableError
from metarec.features.store import OnlineUser
from metarec.ranking.explain import explain
from metarec.ranking.rank import rank
from metarec.types import Contribution, Features, Item
from metarec.v1 import types_pb2
from services.ranking.wire import Answer, Request

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
NEWEST = 2**63 - 1
MISSING_SECONDS = 5.0
MAX_MISSING = 100_000


class Store(Protocol):
    """The part of the feature store that ranking reads. UnavailableError when it cannot be read."""

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


@dataclass
class _Task:
    """A request on its way: what was read for it, and what could not be."""

    request: Request
    features: Features | None = None
    state: UserState | None = None
    adapted: Adapted | None = None
    error: MetarecError | None = None
    degradations: list[types_pb2.Degradation] = field(default_factory=list)

    def degrade(self, reason: str, fallback: str) -> None:
        """Note once that something could not be read."""
        if not self.degradations:
            self.degradations.append(types_pb2.Degradation(stage="features", reason=reason, fallback=fallback))


class Ranker:
    """Ranks with the live engine. Call it from one thread: requests of a batch share its reads and its arithmetic."""

    def __init__(self, live: Live, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._live, self._store, self._clock = live, store, clock
        # Items that nobody has given a revision and that the store does not have either -> until when they are not looked for.
        self._missing: dict[str, float] = {}

    def answer(self, requests: Sequence[Request]) -> list[Answer | MetarecError]:
        """An answer, or the error to report, for each request; what one asks for does not change what another gets."""
        logger.debug("answering %d requests at once", len(requests))
        engine = self._live.current
        if engine is None:
            return [NoCheckpointError("no checkpoint is live; train one and promote it") for _ in requests]
        tasks = [self._read(request) for request in requests]
        self._refresh_items(engine, tasks)
        _adapt(engine, tasks)
        scores = _BatchScores(engine, [(task.adapted, list(task.request.revisions)) for task in tasks if task.adapted])
        answers: list[Answer | MetarecError] = []
        place = 0
        for task in tasks:
            if task.adapted is None:
                assert task.error is not None, "a request is adapted to or has an error"
                answers.append(task.error)
            else:
                answers.append(_answer(engine, scores, place, task.adapted, task))
                place += 1
        return answers

    def _read(self, request: Request) -> _Task:
        task = _Task(request=request, features=request.profile)
        try:
            user = self._store.read_user(request.user_id)
        except UnavailableError as error:
            logger.warning("user features cannot be read: %s", error.message)
            task.degrade(error.reason, "the meta-learned prior")
            return task
        if user is None:
            return task
        if request.profile is None:
            task.features = user.features
        if user.adaptation is not None:
            try:
                task.state = UserState.decode(user.adaptation)
            except MetarecError as error:
                logger.warning("fast weights of a user are ignored: %s", error.message)
                task.degrade("CORRUPT_STATE", "the meta-learned prior")
        return task

    def _refresh_items(self, engine: Engine, tasks: Sequence[_Task]) -> None:
        """Read the content of items that others have seen in a newer revision, candidates and support items alike."""
        wanted: dict[str, int] = {}
        row_of = engine.catalogue.snapshot.row_of
        for task in tasks:
            support = task.state.revisions if task.state is not None else {}
            for item_id, revision in chain(task.request.revisions.items(), support.items()):
                # Most items are known and have no other content than the checkpoint's.
                if revision > 0 or (revision == 0 and item_id not in row_of):
                    wanted[item_id] = max(revision, wanted.get(item_id, 0))
            if task.request.explain:
                # Nobody has said which revision of the item there is, so it is always looked up.
                wanted |= dict.fromkeys(task.request.revisions, NEWEST)
        if not wanted:
            return
        now = self._clock()
        outdated = [
            item_id for item_id in engine.outdated(wanted) if wanted[item_id] > 0 or self._missing.get(item_id, now) <= now
        ]
        if not outdated:
            return
        try:
            found = self._store.read_items(outdated)
            engine.upsert(found.values())
            if len(self._missing) > MAX_MISSING:
                self._missing.clear()
            self._missing |= dict.fromkeys(set(outdated) - found.keys(), now + MISSING_SECONDS)
        except UnavailableError as error:
            logger.warning("items cannot be read: %s", error.message)
            for task in tasks:
                if any(item_id in task.request.revisions for item_id in outdated):
                    task.degrade(error.reason, "items as they were known before")


def _adapt(engine: Engine, tasks: Sequence[_Task]) -> None:
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


def _adapt_one(engine: Engine, task: _Task) -> None:
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


class _BatchScores:
    """Scores of several users' items, computed together; `metarec.ranking` takes it for an engine whose users are places."""

    def __init__(self, engine: Engine, users: Sequence[tuple[Adapted, Sequence[str]]]) -> None:
        self._engine, self._users = engine, users
        self._scores = _scores(engine, users)

    def scores(self, place: int, item_ids: Sequence[str]) -> Floats:
        """The scores of the items that the user at `place` was given with."""
        assert len(item_ids) == len(self._scores[place])
        return self._scores[place]

    def knows(self, place: int, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the ids the user's view has."""
        return self._engine.knows(self._users[place][0], item_ids)

    def contributions(self, place: int, item_id: str) -> Sequence[Contribution]:
        """Terms of one score."""
        return self._engine.contributions(self._users[place][0], item_id)


def _scores(engine: Engine, users: Sequence[tuple[Adapted, Sequence[str]]]) -> list[Floats]:
    """One gather and one product for all users, where their scores are linear; the engine's own way for the others."""
    views = {id(user.view): user.view for user, _ in users}
    vectors = next(iter(views.values())).vectors if len(views) == 1 else None
    user_vectors = [user.vector for user, _ in users if user.vector is not None]
    if vectors is None or len(user_vectors) < len(users):
        return [engine.scores(user, item_ids) for user, item_ids in users]
    sizes = [len(item_ids) for _, item_ids in users]
    row_N = users[0][0].view.catalogue.rows(chain.from_iterable(item_ids for _, item_ids in users))
    vector_UE = np.stack(user_vectors)
    user_N = np.repeat(np.arange(len(users)), sizes)
    score_N = vectors.bias_I[row_N] + np.einsum("ne,ne->n", vectors.phi_IE[row_N], vector_UE[user_N])
    ends = list(accumulate(sizes))
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [
        score_N[part] if (row_N[part] >= 0).all() else engine.scores(user, item_ids)
        for part, (user, item_ids) in zip(parts, users, strict=True)
    ]


def _answer(engine: Engine, scores: _BatchScores, place: int, adapted: Adapted, task: _Task) -> Answer | MetarecError:
    request = task.request
    ranked = rank(scores, place, list(request.revisions), request.num_items, emerging=request.emerging)
    contributions: Sequence[Contribution] = ()
    if request.explain:
        if not ranked[0].known:
            item_id = ranked[0].item_id
            return NotFoundError(f"checkpoint '{engine.checkpoint}' knows no item '{item_id}'", metadata={"item_id": item_id})
        contributions = explain(scores, place, ranked[0].item_id)
    return Answer(
        checkpoint=engine.checkpoint,
        shots=adapted.shots,
        ranked=ranked,
        contributions=contributions,
        degradations=task.degradations,
    )
