"""Bootstrap confidence intervals (Efron 1979) of protocol means, and of how much better the learner is than a baseline.

The unit drawn is a user, with all their episodes in all seeds: episodes of one user are not independent. A comparison draws the
same users for both models, so that what they share cancels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarec.evaluation.metrics import LOWER_IS_BETTER, Floats

NUM_RESAMPLES = 1000
LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Resampler:
    """Fixed draws of users for the T episodes of one protocol: `weight_RU` counts how often resample R holds user U."""

    seed_T: NDArray[np.int64]
    user_T: NDArray[np.int64]
    weight_RU: Floats

    @classmethod
    def of(cls, seed_T: NDArray[np.generic], user_T: NDArray[np.generic], *, seed: int = 0) -> "Resampler":
        """Draws that depend on `seed` and the number of users alone."""
        _, seeds = np.unique(seed_T, return_inverse=True)
        names, users = np.unique(user_T, return_inverse=True)
        count = len(names)
        weight = np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1 / max(count, 1)), NUM_RESAMPLES)
        return cls(seed_T=seeds.astype(np.int64), user_T=users.astype(np.int64), weight_RU=weight.astype(np.float64))

    def means(self, value_T: Floats) -> Floats:
        """The protocol mean of every resample (R,): over the episodes of each seed, then over seeds; nan episodes left out."""
        defined_T = ~np.isnan(value_T)
        if not defined_T.any():
            return np.full(NUM_RESAMPLES, np.nan)
        seed_T, user_T = self.seed_T[defined_T], self.user_T[defined_T]
        shape = (self.weight_RU.shape[1], int(self.seed_T.max()) + 1)
        total_UK, count_UK = np.zeros(shape), np.zeros(shape)
        np.add.at(total_UK, (user_T, seed_T), value_T[defined_T])
        np.add.at(count_UK, (user_T, seed_T), 1.0)
        used_K = count_UK.sum(0) > 0
        count_RK = (self.weight_RU @ count_UK)[:, used_K]
        mean_RK = np.divide((self.weight_RU @ total_UK)[:, used_K], count_RK, out=np.zeros_like(count_RK), where=count_RK > 0)
        has_RK = count_RK > 0
        means: Floats = mean_RK.sum(1) / np.maximum(has_RK.sum(1), 1)
        return means


def interval(mean_R: Floats, level: float = LEVEL) -> Interval:
    """The central interval of resampled means."""
    if np.all(np.isnan(mean_R)):
        return float("nan"), float("nan")
    low, high = np.nanquantile(mean_R, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """How much better the learner is than `baseline`, as a share of the baseline's value (positive: the learner is better)."""

    baseline: str
    value: float
    interval: Interval

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"baseline": self.baseline, "value": self.value, "interval": list(self.interval)}


def delta(metric: str, baseline: str, learner: tuple[float, Floats], plain: tuple[float, Floats], resampler: Resampler) -> Delta:
    """(plain - learner) / plain for losses, (learner - plain) / plain for gains; each side is its mean and values per episode."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    mine_R, plain_R = resampler.means(learner[1]), resampler.means(plain[1])
    value = sign * (plain[0] - learner[0]) / plain[0] if plain[0] else float("nan")
    change_R = sign * (plain_R - mine_R) / np.where(plain_R == 0, np.nan, plain_R)
    return Delta(baseline=baseline, value=float(value), interval=interval(change_R))
