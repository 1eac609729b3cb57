"""From trials to advice: which training is best, and what of the differences is noise.

Pure functions of figures. A training is compared with another over the same users, by bootstrap (Efron 1979): an interval of the
difference that holds 0 is noise, and among trainings that noise alone tells apart the plainer and the faster is recommended.
Intervals are over users and seeds; what a single training owes to its seed is taken from what was seen elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t

from metarec.evaluation.bootstrap import LEVEL, Delta, Resampler, delta
from metarec.evaluation.metrics import LOWER_IS_BETTER

LEAST = 5e-4
"""Smaller differences, as shares of the figure, are none."""
SEED_SD = 0.0025
"""Deviation over seeds, as a share of the figure, where it was not seen. Of finalists on MovieLens-100K it was .1 to 1.2 %,
mostly .2 to .4 % (ratings, clicks and lists, three seeds each)."""
MANY = 10**6
"""Degrees of freedom of a deviation that is taken as known."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One finished training of a candidate: `epochs` of the `planned` ones of its recipe, in rung `rung`.

    With several `seeds` figures are means over as many trainings, and `seed_sd` is the deciding figure's deviation over them.
    `metrics` has the deciding one first, `value_T` is that one for each user. Costs are those of serving: milliseconds of
    processor time, bytes in the online store.
    """

    rung: int
    epochs: int
    planned: int
    metrics: Mapping[str, float]
    value_T: tuple[float, ...]
    seconds: float
    adapt_ms: float
    score_ms: float
    state_bytes: float
    seeds: int = 1
    seed_sd: float | None = None

    @classmethod
    def mean(cls, repeats: "Sequence[Trained]") -> "Trained":
        """One for trainings alike but for their seeds: the first of them with their mean figures."""
        first = repeats[0]
        if len(repeats) == 1:
            return first
        deciding = next(iter(first.metrics))
        return replace(
            first,
            metrics={name: float(np.mean([one.metrics[name] for one in repeats])) for name in first.metrics},
            value_T=tuple(np.mean([one.value_T for one in repeats], axis=0).tolist()),
            seeds=len(repeats),
            seed_sd=float(np.std([one.metrics[deciding] for one in repeats], ddof=1)),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one candidate: its trainings, or why there are none. `settings` are the arguments of `--set`,
    without the target."""

    name: str
    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)
    trainings: tuple[Trained, ...] = ()
    refused: str = ""
    failed: str = ""
    out_of_time: bool = False


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The plain baselines' figures by name, each with its deciding metric for every user."""

    metrics: Mapping[str, Mapping[str, float]]
    value_T: Mapping[str, tuple[float, ...]]

    def best(self, metric: str) -> str:
        """The best of them; "" without any."""
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
        known = {name: sign * by[metric] for name, by in self.metrics.items() if not math.isnan(by[metric])}
        return min(known, key=lambda name: (known[name], name)) if known else ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One training of one candidate; `shortened` where it is shorter than what finalists were trained for."""

    outcome: Outcome
    trained: Trained
    shortened: bool = False

    @property
    def changes(self) -> int:
        """How many settings differ from the recipe's, a shortened training included."""
        return len(self.outcome.settings) + self.shortened

    @property
    def settings(self) -> dict[str, str]:
        """Arguments of `--set`, without the target, that train it; what the budget alone made short is trained in full."""
        return {**self.outcome.settings, **({"epochs": str(self.trained.epochs)} if self.shortened else {})}


@dataclass(frozen=True, kw_only=True)
class Other:
    """A candidate that is not recommended: its best training, by how much the recommended one is better, and the rung after
    which it was left behind (0 for finalists). Those left behind are compared in that rung, trained alike."""

    choice: Choice
    gain: Delta
    left: int = 0


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The recommended training and what it was compared with.

    `floor` says how much better than the best plain baseline it is, None without baselines; `above_floor` names the candidates
    that are better than it beyond noise, `floor_metrics` are all of its figures.
    """

    metric: str
    target: str
    chosen: Choice
    best: Choice
    floor: Delta | None
    above_floor: tuple[str, ...]
    floor_metrics: Mapping[str, float]
    others: Mapping[str, Other]

    @property
    def tied(self) -> list[str]:
        """The other finalists that noise alone tells from the recommended candidate."""
        return [name for name, other in self.others.items() if not other.left and is_noise(other.gain)]


def is_noise(gain: Delta) -> bool:
    """Whether the interval of a difference holds 0, or the difference is too small for anyone to mind."""
    low, high = gain.interval
    return not (low > 0 or high < 0) or abs(gain.value) < LEAST


def advise(outcomes: Sequence[Outcome], floor: Floor, metric: str, *, target: str) -> Advice | None:
    """The recommendation; None when no training has come to its end.

    All trainings take part: each is whole, the short ones too. The best figure wins, unless noise alone tells it from a finalist
    with the same recipe and fewer changed settings, or from one that adapts at least twice as fast.
    """
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    top = max((_reached(outcome) for outcome in outcomes), default=0)
    if not top:
        return None

    def figure(choice: Choice) -> float:
        return sign * choice.trained.metrics[metric]

    everything = [
        Choice(outcome=outcome, trained=trained, shortened=trained.rung < top)
        for outcome in outcomes
        for trained in outcome.trainings
    ]
    best = min(everything, key=figure)
    tied = [
        choice
        for choice in everything
        if choice == best or (_reached(choice.outcome) == top and is_noise(compare(best.trained, choice.trained, metric)))
    ]
    # Changed settings must beat their own recipe beyond noise; other recipes are other learners.
    chosen = min((c for c in tied if c.outcome.recipe == best.outcome.recipe), key=lambda c: (c.changes, figure(c)))
    fast = [choice for choice in tied if 2 * choice.trained.adapt_ms <= chosen.trained.adapt_ms]
    chosen = min(fast, key=lambda c: (c.changes, figure(c)), default=chosen)
    representatives = [
        min((choice for choice in everything if choice.outcome == outcome), key=figure)
        for outcome in outcomes
        if outcome.trainings and outcome != chosen.outcome
    ]
    plain = floor.best(metric)
    over = {
        choice.outcome.name: _over_floor(metric, plain, choice.trained, floor.value_T[plain])
        for choice in ([chosen, *representatives] if plain else ())
    }
    return Advice(
        metric=metric,
        target=target,
        chosen=chosen,
        best=best,
        floor=over.get(chosen.outcome.name),
        above_floor=tuple(name for name, gain in over.items() if gain.interval[0] > 0),
        floor_metrics=floor.metrics.get(plain, {}),
        others={choice.outcome.name: _against(chosen, choice, metric, top) for choice in representatives},
    )


def _against(chosen: Choice, choice: Choice, metric: str, top: int) -> Other:
    reached = _reached(choice.outcome)
    mine = next((trained for trained in chosen.outcome.trainings if trained.rung == reached), chosen.trained)
    if reached == top or mine.rung != reached:
        return Other(choice=choice, gain=compare(chosen.trained, choice.trained, metric))
    theirs = next(trained for trained in choice.outcome.trainings if trained.rung == reached)
    return Other(choice=choice, gain=compare(mine, theirs, metric), left=reached)


def _reached(outcome: Outcome) -> int:
    """The last rung in which the candidate's training came to its end; 0 without any."""
    return max((trained.rung for trained in outcome.trainings), default=0)


def compare(one: Trained, other: Trained, metric: str) -> Delta:
    """How much better `one` is than `other`, as a share of the other's figure, with its interval.

    The interval is over users, widened by what seeds move: as they were seen to (Student's t) where both have several, else by
    SEED_SD.
    """
    gain = _delta(metric, "", one.value_T, other.value_T)
    if one.seed_sd is None or other.seed_sd is None:
        return _widened(gain, SEED_SD * math.sqrt(1 / one.seeds + 1 / other.seeds), MANY)
    squares = ((one.seeds - 1) * one.seed_sd**2 + (other.seeds - 1) * other.seed_sd**2) / (one.seeds + other.seeds - 2)
    error = math.sqrt(squares * (1 / one.seeds + 1 / other.seeds))
    return _widened(gain, error, one.seeds + other.seeds - 2, other.metrics[metric])


def _over_floor(metric: str, name: str, trained: Trained, value_T: Sequence[float]) -> Delta:
    """The same against a plain baseline, which has no seeds."""
    gain = _delta(metric, name, trained.value_T, value_T)
    if trained.seed_sd is None:
        return _widened(gain, SEED_SD, MANY)
    error = trained.seed_sd / math.sqrt(trained.seeds)
    return _widened(gain, error, trained.seeds - 1, float(np.nanmean(value_T)))


def _widened(gain: Delta, error: float, freedom: int, figure: float = 1.0) -> Delta:
    """The interval with an independent error (of this `figure`) added to each side, as squares add up; nan beside a figure 0."""
    more = float(t.ppf(0.5 + LEVEL / 2, freedom)) * (error / abs(figure) if figure else math.nan)
    low, high = (math.hypot(end - gain.value, more) for end in gain.interval)
    return replace(gain, interval=(gain.value - low, gain.value + high))


def _delta(metric: str, name: str, one_T: Sequence[float], other_T: Sequence[float]) -> Delta:
    values = {"one": np.asarray(one_T), "other": np.asarray(other_T)}
    users = np.arange(len(values["one"]))
    drawn = Resampler.of(np.zeros(len(users)), users).means(values)
    one, other = (float(np.nanmean(value_T)) for value_T in values.values())
    return delta(metric, name, (one, drawn["one"]), (other, drawn["other"]))
