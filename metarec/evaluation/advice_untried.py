"""What to recommend where the budget ends before any trial does: the default recipe, untried, and said to be so."""

from collections.abc import Sequence

from metarec.evaluation.advice import Floor, Outcome


def untried(outcomes: Sequence[Outcome], default: str) -> Outcome | None:
    """The candidate named `default` (a recipe as it is), else the first; None where a training has come to its end, which is
    then compared, or where that candidate failed, which more time would not mend."""
    if not outcomes or any(outcome.trainings for outcome in outcomes):
        return None
    chosen = next((outcome for outcome in outcomes if outcome.name == default), outcomes[0])
    return None if chosen.failed else chosen


def untried_reasons(floor: Floor, metric: str, *, users: str, budget: float, enough: float) -> list[str]:
    """Why it is recommended, in sentences: what is known, and what is not. `budget` and `enough` are seconds."""
    said = [
        f"No trial ended within the budget of {budget:.0f} s, so nothing was compared: this is the default of `metarec train`, "
        "not a result."
    ]
    if best := floor.best(metric):
        figure = f"{metric} {floor.metrics[best][metric]:.4f}"
        said.append(
            f"What it has to beat: the best plain baseline, {best}, reaches {figure} on {users}. The command below judges the "
            "checkpoint beside plain baselines too."
        )
    said.append(f"To compare the learners, give a --budget of about {enough:.0f} s; more where other work shares the machine.")
    return said
