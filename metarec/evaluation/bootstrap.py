"""Bootstrap confidence intervals (Efron 1979) of protocol means, and of how much better the learner is than a baseline.

The unit drawn is a user, with all their episodes in all seeds: episodes of one user are not independent. A comparison draws the
same users for both models, so that what they share cancels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from metarec.evaluation.metrics import LOWER_IS_BETTER, Floats

NUM_RESAMPLES = 1000
MAX_WEIGHTS = 20_000_000
"""Entries of the matrix of draws: with very many users there are fewer resamples, never fewer than MIN_RESAMPLES."""
MIN_RESAMPLES = 200
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
        resamples = max(MIN_RESAMPLES, min(NUM_RESAMPLES, MAX_WEIGHTS // max(count, 1)))
        weight = np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1 / max(count, 1)), resamples)
        return cls(seed_T=seeds.astype(np.int64), user_T=users.astype(np.int64), weight_RU=weight.astype(np.float64))

    def means(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """The protocol mean of every resample (R,) for each series of values (T,), by its name.

        The mean is over the episodes of each seed, then over seeds; nan episodes are left out. All series share two products.
        """
        if not values or not len(self.seed_T):
            return {name: np.full(len(self.weight_RU), np.nan) for name in values}
        value_TM = np.stack([values[name] for name in values], 1)
        defined_TM = ~np.isnan(value_TM)
        users, seeds = self.weight_RU.shape[1], int(self.seed_T.max()) + 1
        cells = sp.csr_matrix(
            (np.ones(len(self.seed_T)), (self.user_T * seeds + self.seed_T, np.arange(len(self.seed_T)))),
            (users * seeds, len(self.seed_T)),
        )

        def drawn(cell_TM: Floats) -> Floats:
            per_user = np.asarray(cells @ cell_TM).reshape(users, -1)
            return np.asarray((self.weight_RU @ per_user).reshape(len(self.weight_RU), seeds, -1), np.float64)

        total_RKM, count_RKM = drawn(np.where(defined_TM, value_TM, 0.0)), drawn(defined_TM.astype(np.float64))
        mean_RKM = np.divide(total_RKM, count_RKM, out=np.zeros_like(total_RKM), where=count_RKM > 0)
        seeds_RM = (count_RKM > 0).sum(1)
        mean_RM = np.divide(mean_RKM.sum(1), seeds_RM, out=np.full(seeds_RM.shape, np.nan), where=seeds_RM > 0)
        return {name: mean_RM[:, k] for k, name in enumerate(values)}


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
        return {"baseline": self.baseline, "value": _plain(self.value), "interval": [_plain(end) for end in self.interval]}


def delta(metric: str, baseline: str, learner: tuple[float, Floats], plain: tuple[float, Floats]) -> Delta:
    """(plain - learner) / plain for losses, (learner - plain) / plain for gains; a side is its mean and its resampled means."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    value = sign * (plain[0] - learner[0]) / plain[0] if plain[0] else float("nan")
    change_R = sign * (plain[1] - learner[1]) / np.where(plain[1] == 0, np.nan, plain[1])
    return Delta(baseline=baseline, value=float(value), interval=interval(change_R))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
