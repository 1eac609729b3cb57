"""Exploration within a budget: Thompson sampling and upper confidence bounds, with the probability of what was shown.

A user with few interactions and an item without a history of its own have uncertain scores, and whoever only ever shows the best
guess never learns better. With a share b of places as the budget, every place ceil(k / b) of a list is left to a policy: Thompson
sampling (Thompson 1933; Chapelle & Li 2011) takes the best by one draw of the scores from their posterior, UCB (Auer et al. 2002)
the best by mean + width * standard deviation. Scores are Gaussian: the user's vector has a posterior covariance F F', an item
without an id of its own a variance of its own, so

    score(i) = mean(i) + phi(i)' F z + own(i) e_i        z, e_i ~ N(0, 1)

A list's z and e_i are drawn once, by a generator seeded with the request's id: who asks again gets the same list. The propensity
of an item at its place has no closed form; it is the share of `num_draws` further draws that put it there, the one shown counted.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from metarec.errors import ConfigError
from metarec.ranking.place import Layout

Floats = NDArray[np.float32]
PolicyName = Literal["thompson", "ucb"]
POLICIES: tuple[PolicyName, ...] = ("ucb", "thompson")
WIDTH = 1.0
"""Standard deviations that UCB adds: the 84th percentile of a score."""
STEPS = 2000
"""Draws times places that propensities of one list may cost: 200 draws for ten places, a few milliseconds."""
MIN_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Settings of exploration.

    share: the most places of a list that may be explored, 0 to 1; floor(share * places) are
    policy: "ucb" or "thompson"
    cold_shots: users with fewer interactions than this explore among all candidates; 0: emerging items alone are explored
    """

    share: float = 0.1
    policy: PolicyName = "ucb"
    cold_shots: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"exploration must be 0 to 1, not {self.share:g}", field="exploration")
        if self.policy not in POLICIES:
            raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, not '{self.policy}'", field="exploration_policy")
        if self.cold_shots < 0:
            raise ConfigError(f"cold_shots must be 0 or more, not {self.cold_shots}", field="exploration_cold_shots")

    def slots(self, num_places: int) -> tuple[int, ...]:
        """Places (0: the first) that the budget leaves to the policy: the last of every 1 / share."""
        # A share such as 0.1 has no exact binary form: 0.1 * 30 must be 3.
        count = math.floor(self.share * num_places + 1e-9)
        return tuple(math.ceil(place / self.share - 1e-9) - 1 for place in range(1, count + 1))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How uncertain scores are: through the user's vector (`user_CK` = phi F) and, item by item, by `own_C`."""

    user_CK: Floats
    own_C: Floats

    @property
    def std_C(self) -> Floats:  # noqa: N802  # shape suffix
        """Standard deviation of each score."""
        return cast(Floats, np.sqrt(np.square(self.user_CK).sum(1) + np.square(self.own_C)))

    def draw(self, generator: np.random.Generator, mean_C: Floats, num: int) -> Floats:
        """`num` draws of the scores (num, C); the first is the same however many follow."""
        parts = []
        for rows in (1, num - 1):
            shared_MC = generator.standard_normal((rows, self.user_CK.shape[1]), np.float32) @ self.user_CK.T
            parts.append(shared_MC + generator.standard_normal((rows, len(self.own_C)), np.float32) * self.own_C)
        return cast(Floats, mean_C + np.concatenate(parts))


def seed_of(request_id: str) -> np.random.Generator:
    """The generator of a request: the same for the same id."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def num_draws(num_places: int) -> int:
    """Draws that estimate propensities of a list."""
    return max(MIN_DRAWS, STEPS // max(num_places, 1))


def explored(
    start: Layout, policy: PolicyName, mean_C: Floats, spread: Spread, generator: np.random.Generator, draws: int
) -> tuple[Layout, Sequence[float]]:
    """The list that `start` becomes under the policy, and the propensity of each of its places' candidates.

    `draws` further draws estimate propensities; UCB draws nothing, so all of its propensities are 1.
    """
    if policy == "ucb":
        done = start.copy()
        value_C = mean_C + WIDTH * spread.std_C
        while (pool := done.advance()) is not None:
            done.explore(int(pool[np.argmax(value_C[pool])]))
        return done, [1.0] * len(done.chosen)
    score_MC = spread.draw(generator, mean_C, draws + 1)
    shown: list[Layout] = []
    places: list[tuple[Sequence[int], int]] = []

    def follow(layout: Layout, draw_M: NDArray[np.int64]) -> None:
        """Follow all draws that agree so far as one; they part where their best candidates differ."""
        pool = layout.advance()
        if pool is None:
            places.append((layout.chosen, len(draw_M)))
            if draw_M[0] == 0:
                shown.append(layout)
            return
        best_M = pool[np.argmax(score_MC[np.ix_(draw_M, pool)], 1)]
        for candidate in np.unique(best_M).tolist():
            branch = layout.copy()
            branch.explore(candidate)
            follow(branch, draw_M[best_M == candidate])

    follow(start.copy(), np.arange(draws + 1))
    (done,) = shown
    counts = [
        sum(count for chosen, count in places if place < len(chosen) and chosen[place] == candidate)
        for place, candidate in enumerate(done.chosen)
    ]
    return done, [count / (draws + 1) for count in counts]
