"""Successive halving within a budget (Jamieson & Talwalkar 2016): who is trained how long, from what trainings were seen to cost.

A rung trains everyone in it for the same share of their recipe's epochs; the best third goes on to three times as many. Costs are
seconds of one core, `slots` trainings run side by side. Plans are pure functions, made anew after every rung.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metarec.training.trial import Cost

FACTOR = 3
"""One in so many goes on, and trains so many times as long."""
RUNGS = 3
FINALISTS = 2
"""At least so many reach the last rung, or nothing could be said of how far the best one is ahead."""
SMALLEST_SHARE = 0.25
"""Of the recipes' epochs in the last rung; sooner than less, the dearest candidates are left out."""
SHORTEST_SHARE = 1e-3
"""The same where a single candidate is all there is time for: one epoch."""
MARGIN = 1.4
"""What trainings cost beside their steps, by the sum of the steps: validating, judging, starting processes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`shares` of the recipes' epochs, rung by rung; `admitted` candidates, and the estimate of those that are not."""

    shares: tuple[float, ...]
    admitted: tuple[str, ...]
    left_out: Mapping[str, float]
    seconds: float

    @staticmethod
    def of_nobody(costs: Mapping[str, Cost]) -> "Plan":
        """No training at all: all of these are left out."""
        in_full = {name: cost.seconds(cost.epochs) for name, cost in costs.items()}
        return Plan(shares=(), admitted=(), left_out=in_full, seconds=0.0)


def epochs_of(epochs: int, share: float) -> int:
    """That share of a recipe's epochs, at least one."""
    return max(1, round(epochs * share))


def survivors(count: int) -> int:
    """How many of `count` go on to the next rung."""
    return min(count, max(FINALISTS, math.ceil(count / FACTOR)))


def plan(costs: Mapping[str, Cost], *, slots: int, seconds: float, default: str = "") -> Plan | None:
    """The longest training of the most candidates that should fit into `seconds`; None when not even one short training does.

    The dearest candidates are left out first, but `default` last of all, for what the others are worth is asked of it: only where
    a quarter of its epochs is too much, several others are tried without it. Where they are, too, one candidate remains, trained
    as briefly as must be.
    """
    by_cost = sorted(costs, key=lambda name: (name != default, costs[name].seconds(costs[name].epochs)))
    others = [name for name in by_cost if name != default]
    tries = [(by_cost[:count], SMALLEST_SHARE) for count in range(len(by_cost), 0, -1)]
    tries += [(others[:count], SMALLEST_SHARE) for count in range(len(others), 1, -1)]
    tries += [([name], SHORTEST_SHARE) for name in by_cost]
    for names, smallest in tries:
        chosen = {name: costs[name] for name in names}
        share = 1.0
        while share >= smallest:
            shares = rungs(share, len(chosen))
            needed = estimate(chosen, shares, slots)
            if needed <= seconds:
                left_out = {name: costs[name].seconds(costs[name].epochs) for name in by_cost if name not in chosen}
                admitted = tuple(name for name in costs if name in chosen)
                return Plan(shares=shares, admitted=admitted, left_out=left_out, seconds=needed)
            share /= 1.5
    return None


def shortest(costs: Mapping[str, Cost], *, slots: int) -> float:
    """Wall seconds of the shortest plan that leaves nobody out."""
    return estimate(costs, rungs(SMALLEST_SHARE, len(costs)), slots)


def rungs(last: float, count: int) -> tuple[float, ...]:
    """Shares of the rungs that end with `last`; fewer where there is no one to leave behind."""
    shares = [last]
    while len(shares) < RUNGS and count > FINALISTS:
        shares.insert(0, shares[0] / FACTOR)
        count = survivors(count)
    return tuple(shares)


def estimate(costs: Mapping[str, Cost], shares: Sequence[float], slots: int) -> float:
    """Wall seconds of the rungs, taking those in the middle of the costs for the ones that go on."""
    left, total = sorted(costs.values(), key=lambda cost: cost.seconds(cost.epochs)), 0.0
    for share in shares:
        total += _wall([cost.seconds(epochs_of(cost.epochs, share)) for cost in left], slots)
        keep = survivors(len(left))
        first = (len(left) - keep) // 2
        left = left[first : first + keep]
    return total


def affordable(costs: Sequence[Cost], share: float, *, slots: int, seconds: float) -> int:
    """How many of these, taken in order, can be trained for that share of their epochs in `seconds`."""
    for count in range(len(costs), 0, -1):
        if _wall([cost.seconds(epochs_of(cost.epochs, share)) for cost in costs[:count]], slots) <= seconds:
            return count
    return 0


def _wall(seconds: Sequence[float], slots: int) -> float:
    """Of trainings one after another in `slots` places: no less than their mean load, nor than the longest."""
    return MARGIN * max(sum(seconds) / slots, max(seconds, default=0.0))
