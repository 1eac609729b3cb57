from types import SimpleNamespace

import numpy as np
import pytest

from metarec.errors import ConfigError, FailedPreconditionError
from metarec.tasks.splits import cold_item_split, cold_user_split, temporal_split

RNG = np.random.default_rng(0)
EVENTS = SimpleNamespace(
    user_N=RNG.integers(0, 20, 200), item_N=RNG.integers(0, 30, 200), timestamp_N=RNG.integers(0, 50, 200).astype(np.float64)
)


def test_the_past_trains_and_the_future_tests() -> None:
    split = temporal_split(EVENTS, 0.7)  # type: ignore[arg-type]  # just the attributes it reads
    assert EVENTS.timestamp_N[split.train_N].max() < EVENTS.timestamp_N[split.test_N].min()
    assert np.all(split.train_N ^ split.test_N)
    assert 100 < split.train_N.sum() <= 140


def test_without_times_there_is_no_temporal_split() -> None:
    flat = SimpleNamespace(timestamp_N=np.zeros(5))
    with pytest.raises(FailedPreconditionError, match="needs timestamps"):
        temporal_split(flat, 0.5)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(("draw", "column"), [(cold_user_split, "user_N"), (cold_item_split, "item_N")])
def test_cold_entities_are_never_trained_on(draw, column: str) -> None:  # type: ignore[no-untyped-def]  # two functions
    split = draw(EVENTS, 0.25, seed=3)
    entity_N = getattr(EVENTS, column)
    train, test = set(entity_N[split.train_N]), set(entity_N[split.test_N])
    assert not train & test
    assert len(test) == round(0.25 * len(train | test))
    assert np.array_equal(draw(EVENTS, 0.25, seed=3).test_N, split.test_N)
    assert not np.array_equal(draw(EVENTS, 0.25, seed=4).test_N, split.test_N)


def test_a_fraction_must_leave_both_sides_something() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        cold_user_split(EVENTS, 1.0, seed=0)  # type: ignore[arg-type]  # as above
