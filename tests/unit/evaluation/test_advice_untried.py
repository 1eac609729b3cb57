"""Tests of the recommendation without a trial."""

from metarec.evaluation.advice import Floor, Outcome, Trained
from metarec.evaluation.advice_untried import untried, untried_reasons

FLOOR = Floor(metrics={"bias": {"mae": 0.8}, "popular": {"mae": 0.9}}, value_T={})
TRAINED = Trained(
    rung=1, epochs=1, planned=1, metrics={"mae": 0.7}, value_T=(0.7,), seconds=1.0, adapt_ms=1.0, score_ms=1.0, state_bytes=1.0
)


def outcome(name: str, *, failed: str = "", trainings: tuple[Trained, ...] = ()) -> Outcome:
    return Outcome(name=name, recipe=name, failed=failed, trainings=trainings, out_of_time=not failed)


def test_the_default_is_recommended_where_nothing_was_trained_else_the_first() -> None:
    joint, alpaca = outcome("joint"), outcome("alpaca")
    assert untried([joint, alpaca], "alpaca") == alpaca
    assert untried([joint], "alpaca") == joint
    assert untried([], "alpaca") is None


def test_nothing_is_recommended_untried_beside_a_training_or_after_a_failure() -> None:
    assert untried([outcome("alpaca"), outcome("joint", trainings=(TRAINED,))], "alpaca") is None
    assert untried([outcome("alpaca", failed="failed: no memory"), outcome("joint")], "alpaca") is None


def test_reasons_say_that_nothing_was_compared_and_what_there_is_to_beat() -> None:
    first, floor, more = untried_reasons(FLOOR, "mae", users="60 held-out users", budget=60.0, enough=95.4)
    assert "No trial ended within the budget of 60 s" in first
    assert "bias, reaches mae 0.8000 on 60 held-out users" in floor
    assert "--budget of about 95 s" in more
    assert len(untried_reasons(Floor(metrics={}, value_T={}), "mae", users="", budget=1.0, enough=2.0)) == 2
