"""Successive halving as decisions, without Ray: which training is next, and who goes on when a rung is over.

Synchronous: a rung is judged when all of it has ended. With few candidates that costs little waiting, and no one goes on just
for having been first, as under ASHA. How many go on depends on what is left of the budget. What remains of it after the last rung
goes into further seeds of the finalists, as rungs after the last: one training each says little about a fraction of a percent.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from metarec.training.trial import Cost, Report
from metarec.training.tuning_plan import Plan, affordable, epochs_of, estimate, survivors

REPEATS = 2
"""Further seeds of the finalists at most."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Candidate `trial` trained for `epochs` epochs in rung 1, 2, ...; `repeat` counts the further seeds of the last rung."""

    trial: str
    rung: int
    epochs: int
    repeat: int = 0


@dataclass(kw_only=True)
class Halving:
    """The state of one search. `metric` decides; `until` (seconds since the epoch) nothing new begins any more.

    `first` begins the first rung, where the plan admits it: the default recipe is the one to know about when time runs out.

    `unchanged` names, for candidates with changed settings, the one with the recipe as it is. That of the best candidate goes on
    whatever its place: settings that pay in a short training, as a higher rate does, must show that they do in a long one.

    `ended` holds the last report of every training of each rung (1, 2, ...) by candidate. What is in `known` (the same, from an
    earlier search with the same settings) is taken over instead of being trained again.
    """

    plan: Plan
    costs: Mapping[str, Cost]
    slots: int
    metric: str
    lower_is_better: bool
    until: float
    first: str = ""
    unchanged: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[int, Mapping[str, Report]] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    watch: Callable[[int, list[str]], None] = lambda rung, trials: None
    ended: dict[int, dict[str, Report]] = field(default_factory=dict)
    out_of_time: bool = False
    over: bool = False
    _rung: int = 0
    _waiting: list[str] = field(default_factory=list)
    _running: set[str] = field(default_factory=set)
    _began: float = 0.0

    def next(self) -> Training | None:
        """What to train now, or None while the rung's trainings must be waited for; `over` says that there is nothing more."""
        if not self._rung:
            self._begin(list(self.plan.admitted))
        while not self.over:
            if self._waiting and self.clock() < self.until:
                trial = self._waiting.pop(0)
                self._running.add(trial)
                return Training(trial=trial, rung=self._rung, epochs=self._epochs(trial), repeat=self.repeat)
            if self._waiting:
                self.out_of_time, self._waiting = True, []
            if self._running:
                return None
            self._judge()
        return None

    @property
    def repeat(self) -> int:
        """Which further seed of the last rung the current rung is; 0 for a rung of the plan."""
        return max(0, self._rung - len(self.plan.shares))

    def end(self, trial: str, report: Report | None) -> None:
        """A training of the current rung has ended with this report; None when it never said anything."""
        self._running.discard(trial)
        if report is not None:
            self.ended[self._rung][trial] = report

    def fail(self, training: Training, why: str) -> Report | None:
        """Note why a training broke off, unless it had come to its end before; the note."""
        report = self.ended[training.rung].get(training.trial, Report(trial=training.trial, rung=training.rung))
        if report.done:
            return None
        self.ended[training.rung][training.trial] = replace(report, failed=why)
        return self.ended[training.rung][training.trial]

    def _begin(self, trials: list[str]) -> None:
        self._rung += 1
        self._began = self.clock()
        taken = {name: report for name, report in self.known.get(self._rung, {}).items() if name in trials}
        self.ended[self._rung] = taken
        # The dearest first: short trainings fill the places that are left beside the last long ones.
        rest = [name for name in trials if name not in taken]
        first = self.first if self._rung == 1 else ""
        self._waiting = sorted(rest, key=lambda name: (name != first, -self.costs[name].seconds(self._epochs(name))))
        self.watch(self._rung, trials)

    def _judge(self) -> None:
        """The rung is over: choose who goes on."""
        ranked = self.ranking(self._rung)
        if not ranked or self.out_of_time:
            self.over = True
            return
        last = self._rung >= len(self.plan.shares)
        keep = ranked if last else self._best(ranked)
        share = self._share(self._rung + 1)
        left = (self.until - self.clock()) / self._slowness()
        count = affordable([self.costs[name] for name in keep], share, slots=self.slots, seconds=left)
        if last and (count < len(keep) or len(keep) < 2 or self.repeat >= REPEATS):
            self.over = True
        elif not count:
            self.over = self.out_of_time = True
        else:
            self._begin(keep[:count])

    def _best(self, ranked: list[str]) -> list[str]:
        keep = ranked[: survivors(len(self.ended[self._rung]))]
        recipe = self.unchanged.get(ranked[0], "")
        return [*keep[:-1], recipe] if recipe in ranked and recipe not in keep else keep

    def ranking(self, rung: int) -> list[str]:
        """Those that ended the rung, best first."""
        sign = 1.0 if self.lower_is_better else -1.0
        value = {name: sign * report.metrics[self.metric] for name, report in self.ended.get(rung, {}).items() if report.done}
        return sorted((name for name in value if not math.isnan(value[name])), key=lambda name: value[name])

    def _slowness(self) -> float:
        """What the rung took, by what it was thought to take; at least 1."""
        trained = {name: self.costs[name] for name in self.ended[self._rung] if name not in self.known.get(self._rung, {})}
        if not trained:
            return 1.0
        thought = estimate(trained, (self._share(self._rung),), self.slots)
        return max(1.0, (self.clock() - self._began) / max(thought, 1e-9))

    def _epochs(self, trial: str) -> int:
        return epochs_of(self.costs[trial].epochs, self._share(self._rung))

    def _share(self, rung: int) -> float:
        return self.plan.shares[min(rung, len(self.plan.shares)) - 1]
