"""Works out the shifts of scenarios from what users did in them, in the background, and publishes them to the online store.

All of them anew each time, from the newest users of each: evidence on what a thousand users share is as good as certain, so that
nothing need be remembered between two times, and who is deleted is gone. The time it takes is rationed, a tenth of one processor
at most: with more users and scenarios news takes longer, seconds as a rule. A promotion waits for none of it: what is being
worked out for another checkpoint is dropped.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import takewhile

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.scenarios import as_shift, encode_scenarios, fit_scenarios
from metarec.adaptation.view import ScenarioShift
from metarec.interactions.log import InteractionLog
from services.adaptation.background import Background
from services.adaptation.publisher import Publisher
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint
from services.runtime.scenario_shifts import SCENARIOS_KEY

logger = logging.getLogger(__name__)

MAX_SCENARIOS = 64
"""Scenarios that have a shift: those with most interactions."""
MAX_USERS = 1_000
"""Users of a scenario that its shift is worked out from: those who acted there last."""
IDLE_SHARE = 9.0
"""Seconds of rest for each second of work."""


class ScenarioShifts:
    """Keeps the shifts up to date with the log and the live checkpoint. Close it to stop its thread."""

    def __init__(self, log: InteractionLog, store: LazyStore, live: LiveCheckpoint, publisher: Publisher) -> None:
        self._log, self._store, self._live, self._publisher = log, store, live, publisher
        self._published = False
        self._background = Background("shifts of scenarios", self._work, idle_share=IDLE_SHARE)

    def start(self) -> None:
        """Begin; what was published before is worked out anew for the live checkpoint."""
        self._live.listen(lambda engine: self._background.hurry())
        self.learn()
        self._background.start()

    def learn(self) -> None:
        """There are interactions in scenarios that are new, or gone. Returns at once."""
        self._background.wake()

    def close(self) -> None:
        """Stop."""
        self._background.close()

    def _work(self) -> None:
        engine = self._live.current
        if engine is None or self._store.schema is None:
            return
        shifts = merged(engine, self._fitted(engine))
        if self._outdated(engine):
            return
        engine.use_scenarios(shifts)
        if shifts or self._published or self._holds_something():
            # Written each time: the store may be another than the one that was written to.
            data = encode_scenarios(engine.checkpoint, shifts)
            self._store.write_user_adaptation(SCENARIOS_KEY, data, len(shifts), engine.checkpoint, 0)
            self._published = True

    def _holds_something(self) -> bool:
        """Whether a service before this one published shifts."""
        found = self._store.read_user(SCENARIOS_KEY)
        return found is not None and found.adaptation is not None

    def _fitted(self, engine: Engine) -> dict[str, ScenarioShift]:
        names = list(self._log.scenarios(MAX_SCENARIOS))
        users = dict.fromkeys(user for name in names for user in self._log.scenario_users(name, MAX_USERS))
        stored = stored_users(self._log, self._publisher, list(users))
        found = fit_scenarios(engine.view, takewhile(lambda user: not self._outdated(engine), stored))
        # Users of these may have been in others, too, which fewer are in.
        return {name: as_shift(found[name]) for name in names if name in found}

    def _outdated(self, engine: Engine) -> bool:
        """Whether nobody waits for shifts of this engine's checkpoint any more."""
        return self._background.stopped.is_set() or self._live.current is not engine


def stored_users(log: InteractionLog, publisher: Publisher, user_ids: Sequence[str]) -> Iterator[UserInput]:
    """Support set and profile of the users that the log has, one after another."""
    for user_id in user_ids:
        record = log.user(user_id)
        if record is not None:
            yield publisher.input(record)


def merged(engine: Engine, fitted: dict[str, ScenarioShift]) -> dict[str, ScenarioShift]:
    """Each scenario's shift from the log, or from training where that saw more: never both, for they may be the same people."""
    shifts = dict(engine.own_scenarios)
    for name, shift in fitted.items():
        if name not in shifts or shifts[name].num_rows <= shift.num_rows:
            shifts[name] = shift
    return shifts
