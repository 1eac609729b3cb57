"""Rolling global cuts in time and their top-N episodes (PROTOCOLS.md, P5)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import FailedPreconditionError, InvalidInputError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.data.interactions import Interactions


CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)
MIN_TARGETS = 5
"""Users need this many interactions after the support set."""

VALIDATION_CUT = 0.85
"""Share of a training part before the cut at which baselines are tuned."""


@dataclass(frozen=True, kw_only=True)
class TopNEpisode:
    """One user's test: support items (rows, oldest first) with labels and times, and the items to find.

    Events with a label below `taken_from` are known to learners but were not taken: no items to find, and nothing to baselines.
    """

    user: int
    support_S: NDArray[np.int64]
    label_S: NDArray[np.float32]
    timestamp_S: NDArray[np.float64]
    target_Q: NDArray[np.int64]
    taken_from: float = -math.inf

    @property
    def taken_S(self) -> NDArray[np.int64]:  # noqa: N802  # shape suffix
        """The support items that were taken."""
        return self.support_S[self.label_S >= self.taken_from]


@dataclass(frozen=True, kw_only=True)
class TemporalSplit:
    """`train` holds the interactions before the time `cut`; `test` those from it until the next cut (or the end)."""

    cut: float
    train: "Dataset"
    test: "Interactions"

    def cold(self, shots: int) -> list[TopNEpisode]:
        """Users without training interactions: the first `shots` test interactions are the support, the rest the targets."""
        known = set(np.unique(self.train.interactions.user_N).tolist())
        by_user = ((user, rows, np.arange(len(rows.item_N)) < shots) for user, rows in _by_user(self.test) if user not in known)
        return self._enough(self._episode(user, rows.select(first_N), rows.select(~first_N)) for user, rows, first_N in by_user)

    def warm(self) -> list[TopNEpisode]:
        """Users with training interactions, which are their support; items they had before are no targets."""
        before = dict(_by_user(self.train.interactions))
        return self._enough(self._episode(user, before[user], rows) for user, rows in _by_user(self.test) if user in before)

    def _episode(self, user: int, met: "Interactions", later: "Interactions") -> TopNEpisode:
        """Asks for what the user takes `later`, after all that they have `met`."""
        taken_N = later.label_N >= self.train.taken_from
        return TopNEpisode(
            user=user,
            support_S=met.item_N.astype(np.int64),
            label_S=met.label_N,
            timestamp_S=met.timestamp_N,
            target_Q=np.setdiff1d(later.item_N[taken_N], met.item_N).astype(np.int64),
            taken_from=self.train.taken_from,
        )

    @staticmethod
    def _enough(episodes: Iterable[TopNEpisode]) -> list[TopNEpisode]:
        return [episode for episode in episodes if len(episode.target_Q) >= MIN_TARGETS]


def temporal_splits(dataset: "Dataset", cuts: Sequence[float] = CUTS) -> list[TemporalSplit]:
    """One split per cut, a share of all interactions in time order; interactions at the very time of a cut are test.

    FailedPreconditionError without timestamps, InvalidInputError when the cuts do not rise within (0, 1).
    """
    if not dataset.has_timestamps:
        raise FailedPreconditionError("temporal protocols need timestamps and the dataset has none; evaluate on episodes instead")
    if not cuts or not rising(cuts):
        raise InvalidInputError(f"cuts {tuple(cuts)} must rise strictly within (0, 1)", field="cuts")
    rows = dataset.interactions
    ordered_N = np.sort(rows.timestamp_N)
    times = [*(float(ordered_N[int(cut * len(ordered_N))]) for cut in cuts), np.inf]
    return [
        TemporalSplit(
            cut=cut,
            train=dataset.with_interactions(rows.select(rows.timestamp_N < start)),
            test=rows.select((rows.timestamp_N >= start) & (rows.timestamp_N < end)),
        )
        for cut, start, end in zip(cuts, times, times[1:], strict=False)
    ]


def rising(cuts: Sequence[float]) -> bool:
    """Whether each cut is later than the one before, all of them within (0, 1)."""
    return all(low < high for low, high in pairwise((0.0, *cuts, 1.0)))


def _by_user(rows: "Interactions") -> "list[tuple[int, Interactions]]":
    """Interactions per user in time order, in input order among equal times."""
    order = np.lexsort((rows.timestamp_N, rows.user_N))
    bounds = np.flatnonzero(np.diff(rows.user_N[order])) + 1
    return [(int(rows.user_N[part[0]]), rows.select(part)) for part in np.split(order, bounds) if len(part)]
