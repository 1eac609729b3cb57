"""What `metarec advise` says beside the recommendation."""

from types import SimpleNamespace
from typing import Any

import pytest

from metarec.cli.advise_report import _reasons
from metarec.evaluation.advice import Floor, Outcome, Trained, advise


def found(recipe: str, further: tuple[str, ...]) -> Any:
    """A run whose only training is of this recipe, on data with these further targets."""
    costs = {"seconds": 1.0, "adapt_ms": 1.0, "score_ms": 0.1, "state_bytes": 100.0}
    only = Trained(rung=1, epochs=8, planned=8, metrics={"ndcg@20": 0.4}, value_T=(0.3, 0.5), **costs)
    outcomes = [Outcome(name=recipe, recipe=recipe, trainings=(only,))]
    return SimpleNamespace(
        advice=advise(outcomes, Floor(metrics={}, value_T={}), "ndcg@20", target="implicit"),
        prepared=SimpleNamespace(
            users=2,
            who="held-out users",
            sampled=1.0,
            findings=SimpleNamespace(shots=(0, 1), further_targets=further),
            judge=SimpleNamespace(question="lists"),
        ),
    )


@pytest.mark.parametrize(
    ("recipe", "further", "told"),
    [("alpaca", ("purchase",), True), ("alpaca_targets", ("purchase",), False), ("alpaca", (), False)],
)
def test_further_targets_that_the_recommended_recipe_leaves_out_are_told(
    recipe: str, further: tuple[str, ...], told: bool
) -> None:
    said = "It does not learn purchase, which was not judged; the recipe 'alpaca_targets' does."
    assert (said in _reasons(found(recipe, further))) is told
