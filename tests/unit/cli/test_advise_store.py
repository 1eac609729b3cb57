"""What `metarec advise` makes of the reports of a candidate's trials."""

from metarec.cli.advise_store import outcome
from metarec.training.candidates import Candidate
from metarec.training.halving import Halving
from metarec.training.trial import Cost, Report
from metarec.training.tuning_plan import Plan

COSTS = {"adapt_ms": 1.0, "score_ms": 1.0, "state_bytes": 100.0}
PLAN = Plan(shares=(0.3, 1.0), admitted=("maml",), left_out={}, seconds=1.0)
COST = Cost(start=0.0, epoch=1.0, epochs=10)


def ended(**reports: float) -> Halving:
    """A search whose rungs (rung1=, rung2=) ended with these errors of `maml`."""
    found = {
        int(name.removeprefix("rung")): {
            "maml": Report(trial="maml", rung=1, epoch=3, epochs=3, metrics={"mae": value}, value_T=(value,), costs=COSTS)
        }
        for name, value in reports.items()
    }
    return Halving(plan=PLAN, costs={"maml": COST}, slots=1, metric="mae", lower_is_better=True, until=0.0, ended=found)


def test_a_training_that_ended_is_one() -> None:
    found = outcome(Candidate(recipe="maml", target="explicit"), COST, PLAN, ended(rung1=0.8))
    assert [one.metrics["mae"] for one in found.trainings] == [0.8]
    assert not found.failed


def test_a_training_whose_figure_is_no_number_is_none() -> None:
    found = outcome(Candidate(recipe="maml", target="explicit"), COST, PLAN, ended(rung1=float("nan")))
    assert found.trainings == ()
    assert found.failed == "failed: its mae is no number"
