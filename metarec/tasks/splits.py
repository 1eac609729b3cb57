"""Splits of interactions into what training may see and what it is tested on: by time, by user, by item.

Each returns boolean masks over the interactions, for `Interactions.select`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import ConfigError, FailedPreconditionError

if TYPE_CHECKING:
    from metarec.data.interactions import Interactions

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Disjoint masks over the interactions; entities that occur only under `test_N` are cold."""

    train_N: Mask
    test_N: Mask


def temporal_split(interactions: "Interactions", train_fraction: float) -> Split:
    """One global cut in time: the earliest `train_fraction` of the interactions train; events at the cut's own time all test.

    FailedPreconditionError when events have no distinct times.
    """
    _check(train_fraction, "train_fraction")
    time_N = np.asarray(interactions.timestamp_N)
    if not len(time_N) or np.all(time_N == time_N[0]):
        raise FailedPreconditionError("a temporal split needs timestamps, the interactions have none; split by user or item")
    cut = np.sort(time_N, kind="stable")[int(len(time_N) * train_fraction)]
    return Split(train_N=time_N < cut, test_N=time_N >= cut)


def cold_user_split(interactions: "Interactions", test_fraction: float, seed: int) -> Split:
    """All interactions of a random `test_fraction` of the users test."""
    cold_N = _drawn(np.asarray(interactions.user_N), test_fraction, seed)
    return Split(train_N=~cold_N, test_N=cold_N)


def cold_item_split(interactions: "Interactions", test_fraction: float, seed: int) -> Split:
    """All interactions with a random `test_fraction` of the items test."""
    cold_N = _drawn(np.asarray(interactions.item_N), test_fraction, seed)
    return Split(train_N=~cold_N, test_N=cold_N)


def _drawn(entity_N: NDArray[np.int32], fraction: float, seed: int) -> Mask:
    _check(fraction, "test_fraction")
    entities = np.unique(entity_N)
    count = max(1, round(fraction * len(entities))) if len(entities) else 0
    return np.isin(entity_N, np.random.default_rng(seed).permutation(entities)[:count])


def _check(fraction: float, name: str) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(f"{name} is {fraction:g}, must be between 0 and 1", field=name)
