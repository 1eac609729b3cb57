"""One trial of `metarec advise`: a head trained for so many epochs, judged on the way on users that no trial has seen.

The judge is the same for all learners and comes from outside (metarec.evaluation.advice_judge), as a gate does; nothing here
knows of Ray. A trial always starts anew under a one-cycle rate of its own length: what it reaches is then what `metarec train`
with so many epochs gives, and some learners are better trained briefly (docs/adr/0016-trials-of-whole-cycles.md).
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types

from metarec.errors import InterruptedRunError, MetarecError
from metarec.meta.members import merged
from metarec.meta.prior import Head
from metarec.training.head_run import train_head
from metarec.training.heads import make_head
from metarec.training.inputs import Inputs
from metarec.training.label_scale import in_labels, label_scale
from metarec.training.progress import Progress
from metarec.training.recipe import HeadRecipe
from metarec.training.refit import refitted
from metarec.training.state import HeadState, StateStore
from metarec.training.surroundings import Surroundings

POINTS = 8
"""Times that a trial is judged on its way, about: judging costs, and a curve needs no more."""
PROBE_STEPS = 3


class Judged(Protocol):
    """Figures of one head."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """By name."""
        ...

    @property
    def value_T(self) -> tuple[float, ...]:  # noqa: N802  # shape suffix
        """The first of them for each user, nan where it is not defined."""
        ...


class Judge(Protocol):
    """Judges heads on users held out from all trials."""

    def __call__(self, head: Head, inputs: Inputs) -> Judged:
        """Metrics after adaptation to the first few interactions of each user."""
        ...

    def costs(self, head: Head, inputs: Inputs) -> Mapping[str, float]:
        """What serving the head would cost: `adapt_ms`, `score_ms`, `state_bytes`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a trial is after `epoch` of `epochs`: `seconds` since it started, without judging.

    The last report has `costs` and the metric of each user; a failed trial has only `failed`.
    """

    trial: str
    rung: int = 0
    epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    value_T: tuple[float, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def done(self) -> bool:
        """Whether the trial has come to its end."""
        return bool(self.value_T) and not self.failed

    def to_dict(self) -> dict[str, object]:
        """JSON-able; `Report.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Report":
        """What `to_dict` wrote."""
        return cls(**{**data, "value_T": tuple(data["value_T"])})  # type: ignore[arg-type]  # written by to_dict


class _Judging(StateStore):
    """Keeps nothing: where a run would save the state of an epoch, it is judged; members with those that have ended."""

    def __init__(self, first: Report, inputs: Inputs, recipe: HeadRecipe, judge: Judge, say: Callable[[Report], None]) -> None:
        super().__init__(Path())
        self.first, self.inputs, self.recipe, self.judge, self.say = first, inputs, recipe, judge, say
        self.every = max(1, recipe.epochs * recipe.members // POINTS)
        self.began, self.judging = time.monotonic(), 0.0

    def load(self, target: str) -> HeadState | None:
        """Trials start anew."""
        return None

    def save(self, target: str, state: HeadState) -> None:
        """Judge at the end of every few epochs and of the last one, which counts in full."""
        trained, between = len(state.history), state.step > 0 or state.epoch == 0
        if between or not (state.finished or trained % self.every == 0):
            return
        started = time.monotonic()
        head = make_head(self.recipe, state.best)
        if not state.finished:
            label_N = self.inputs.layout(self.recipe.kind, validation=False).label_N
            # Members together, as they will be at the end: one alone is worse, and has only begun after each of the others.
            theta = merged([*state.members, state.theta]) if state.members else state.theta
            theta = in_labels(head.learner, theta, label_scale(self.recipe, label_N))
            head = replace(head, theta=theta)
        head = refitted(head, self.inputs) if state.finished else head
        judged = self.judge(head, self.inputs)
        costs = self.judge.costs(head, self.inputs) if state.finished else {}
        report = replace(
            self.first,
            # Of each member on average, so that epochs mean the same as in the recipe.
            epoch=-(-trained // self.recipe.members),
            epochs=self.recipe.epochs,
            seconds=started - self.began - self.judging,
            metrics=judged.metrics,
            value_T=judged.value_T if state.finished else (),
            costs=costs,
        )
        self.judging += time.monotonic() - started
        self.say(report)


def run_trial(
    trial: str,
    rung: int,
    inputs: Inputs,
    recipe: HeadRecipe,
    judge: Judge,
    say: Callable[[Report], None],
    *,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Train and judge one head; a learner that fails says so, a stopped one leaves it at what it has said."""
    first = Report(trial=trial, rung=rung)
    try:
        train_head(inputs, recipe, seed, Surroundings(store=_Judging(first, inputs, recipe, judge, say), stopped=stopped))
    except InterruptedRunError:
        return
    except MetarecError as error:
        say(replace(first, failed=error.message))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training of one head costs on one core: `start` seconds and `epoch` for each of `epochs` epochs, `members` times."""

    start: float
    epoch: float
    epochs: int
    members: int = 1

    def seconds(self, epochs: int) -> float:
        """Of a training of so many epochs."""
        return self.members * (self.start + epochs * self.epoch)


def probe(inputs: Inputs, recipe: HeadRecipe, *, seed: int) -> Cost:
    """Measure the start and the first few steps of a training, the first of which counts as warming up."""
    at = [time.monotonic()]
    steps = 0

    def watch(progress: Progress) -> None:
        nonlocal steps
        if progress.stage == "train" and not progress.metrics:
            at.append(time.monotonic())
            steps = progress.steps

    around = Surroundings(watch=watch, stopped=lambda: len(at) > PROBE_STEPS - 1)
    # One thread, as in a trial.
    with contextlib.suppress(InterruptedRunError), threadpool_limits(1):
        # Where an epoch is one step it is not interrupted, so there must not be many of them.
        train_head(inputs, replace(recipe, epochs=PROBE_STEPS, members=1), seed, around)
    step = (at[-1] - at[1]) / (len(at) - 2) if len(at) > 2 else at[1] - at[0]
    start = max(0.0, at[1] - at[0] - step)
    return Cost(start=start, epoch=steps * step, epochs=recipe.epochs, members=recipe.members)
