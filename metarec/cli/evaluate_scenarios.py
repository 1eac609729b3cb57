"""`metarec evaluate --kind scenario`: what the shifts of scenarios bring on users that training held out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from metarec.cli.evaluate_inputs import Loaded
from metarec.cli.output import note, print_table
from metarec.data.dataset import Dataset
from metarec.evaluation.scenarios import SHOTS, SIZES, ScenarioFigures, evaluate_known, leave_out
from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Prior
from metarec.training.loop import fit

Json = dict[str, object]


def scenario_report(
    checkpoint: Path, data: Path, shots: Sequence[int], *, leave: bool, seed: int, watch: Callable[[str], None]
) -> Json:
    """The figures of a checkpoint, JSON-able. FailedPreconditionError when it was trained on other data, so that nobody knows
    whom it held out, or knows no scenario."""
    dataset = Dataset.open(data)
    loaded = Loaded.open(checkpoint, dataset)
    train, held_out = loaded.split(dataset)
    watch("scenarios of training")
    known = evaluate_known(loaded.prior, dataset, held_out, shots=shots or SHOTS, seed=seed)
    left: list[ScenarioFigures] = []
    if leave:
        recipe = replace(loaded.recipe, heads=tuple(head for head in loaded.recipe.heads if head.target == "explicit"))
        note(f"recipe '{recipe.name}' is trained anew without each scenario, and on pieces of each alone; this takes minutes")

        def trained(part: Dataset, encoder: FeatureEncoder) -> Prior:
            return fit(part, recipe, seed=seed, encoder=encoder)

        left = leave_out(dataset, train, held_out, trained, loaded.prior.encoder, sizes=SIZES, seed=seed, watch=watch)
    told = {
        name: {"kappa": scenario.kappa, "users": scenario.num_users, "rows": scenario.num_rows}
        for name, scenario in loaded.prior.scenarios.items()
    }
    return {
        "checkpoint": {**loaded.facts, "data": str(data)},
        "settings": {"seed": seed},
        "scenarios": told,
        "known": [asdict(figures) for figures in known],
        "left_out": [asdict(figures) for figures in left],
    }


def show_scenarios(report: Json) -> None:
    """A table of the scenarios of training, and one of those left out."""
    for part, title in (
        ("known", "held-out users in scenarios of training (gain: loss below that of users alone, 95 % interval over users)"),
        ("left_out", "held-out users in a scenario left out of training, by interactions of others there that are shown"),
    ):
        figures = [ScenarioFigures(**entry) for entry in report[part]]  # type: ignore[attr-defined]  # scenario_report made it
        rows: list[Json] = [
            {
                "scenario": entry.scenario,
                **({"shots": entry.shots} if part == "known" else {"shown": entry.size}),
                "model": entry.model,
                "users": entry.users,
                "rows": entry.rows,
                **entry.metrics,
                "gain": entry.gain,
                "from": entry.gain_interval[0],
                "to": entry.gain_interval[1],
            }
            for entry in figures
        ]
        if rows:
            print_table(rows, title=title)
