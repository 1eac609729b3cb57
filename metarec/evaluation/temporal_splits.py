"""Rolling global cuts in time and their top-N episodes (PROTOCOLS.md, P5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
        found = []
        for user, rows in _by_user(self.test):
            if user in known:
                continue
            target_Q = self._taken(rows, shots, rows.item_N[:shots])
            if len(target_Q) >= MIN_TARGETS:
                found.append(
                    TopNEpisode(
                        user=user,
                        support_S=rows.item_N[:shots].astype(np.int64),
                        label_S=rows.label_N[:shots],
                        timestamp_S=rows.timestamp_N[:shots],
                        target_Q=target_Q,
                        taken_from=self.train.taken_from,
                    )
                )
        return found

    def _taken(self, rows: "Interactions", first: int, met_S: NDArray[np.int32]) -> NDArray[np.int64]:
        """The items of what was taken from row `first` on, without those that the user had met before."""
        taken_N = rows.label_N[first:] >= self.train.taken_from
        return np.setdiff1d(rows.item_N[first:][taken_N], met_S).astype(np.int64)

    def warm(self) -> list[TopNEpisode]:
        """Users with training interactions, which are their support; items they had before are no targets."""
        before = dict(_by_user(self.train.interactions))
        found = []
        for user, rows in _by_user(self.test):
            if user not in before:
                continue
            had = before[user]
            target_Q = self._taken(rows, 0, had.item_N)
            if len(target_Q) >= MIN_TARGETS:
                found.append(
                    TopNEpisode(
                        user=user,
                        support_S=had.item_N.astype(np.int64),
                        label_S=had.label_N,
                        timestamp_S=had.timestamp_N,
                        target_Q=target_Q,
                        taken_from=self.train.taken_from,
                    )
                )
        return found


def temporal_splits(dataset: "Dataset", cuts: Sequence[float] = CUTS) -> list[TemporalSplit]:
    """One split per cut, a share of all interactions in time order; interactions at the very time of a cut are test.

    FailedPreconditionError without timestamps, InvalidInputError when the cuts do not rise within (0, 1).
    """
    if not dataset.has_timestamps:
        raise FailedPreconditionError("temporal protocols need timestamps and the dataset has none; evaluate on episodes instead")
    if not cuts or not all(low < high for low, high in zip((0.0, *cuts), (*cuts, 1.0), strict=True)):
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


def _by_user(rows: "Interactions") -> "list[tuple[int, Interactions]]":
    """Interactions per user in time order, in input order among equal times."""
    order = np.lexsort((rows.timestamp_N, rows.user_N))
    bounds = np.flatnonzero(np.diff(rows.user_N[order])) + 1
    return [(int(rows.user_N[part[0]]), rows.select(part)) for part in np.split(order, bounds) if len(part)]
