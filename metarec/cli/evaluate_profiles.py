"""`metarec evaluate --profiles`: completed profiles against held-out users, audiences against items new to training."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from metarec.cli.evaluate_inputs import Loaded
from metarec.cli.output import print_table
from metarec.data.dataset import Dataset
from metarec.evaluation.audiences import MIN_RATINGS, AudienceScores, evaluate_audience
from metarec.evaluation.hidden_items import hide_items
from metarec.evaluation.profiles import FieldScores, evaluate_profiles
from metarec.training.loop import fit

SHOTS: tuple[int | None, ...] = (0, 5, 20, None)

Json = dict[str, object]


def profiles_report(checkpoint: Path, data: Path, shots: Sequence[int], *, seed: int, watch: Callable[[str], None]) -> Json:
    """The figures of a checkpoint, JSON-able. FailedPreconditionError when it knows nothing of profiles, or was trained on other
    data, so that nobody knows whom it held out."""
    dataset = Dataset.open(data)
    loaded = Loaded.open(checkpoint, dataset)
    train, held_out = loaded.split(dataset)
    scores = evaluate_profiles(loaded.prior, train, held_out, (*shots, None) if shots else SHOTS, seed=seed, watch=watch)
    audience, hidden = [], 0
    if "explicit" in loaded.prior.heads:  # without one, there is no label to compare with
        watch("training anew without a fifth of the items")
        recipe = replace(loaded.recipe, heads=tuple(head for head in loaded.recipe.heads if head.target == "explicit"))
        visible, hidden_I = hide_items(dataset, seed)
        prior = fit(visible, recipe, seed=seed, encoder=loaded.prior.encoder, with_profiles=True)
        audience = evaluate_audience(prior, dataset, hidden_I)
        hidden = int(hidden_I.sum())
    facts = {**loaded.facts, "data": str(data)}
    return {
        "checkpoint": facts,
        "settings": {"seed": seed},
        "profiles": [asdict(score) for score in scores],
        "audience": [asdict(score) for score in audience],
        "hidden_items": hidden,
    }


def show_profiles(report: Json) -> None:
    """A table for each field, and one of the audiences."""
    scores = [FieldScores(**entry) for entry in report["profiles"]]  # type: ignore[attr-defined]  # a list: profiles_report made it
    for name in dict.fromkeys(score.field for score in scores):
        rows: list[Json] = [
            {
                "interactions": "all" if score.shots is None else score.shots,
                "model": score.model,
                "accuracy": score.accuracy,
                "log loss": score.log_loss,
                "calibration error": score.calibration_error,
                "gain": score.gain,
                "+-": score.gain_error,
            }
            for score in scores
            if score.field == name
        ]
        users = next(score.users for score in scores if score.field == name)
        print_table(rows, title=f"field '{name}' of {users} held-out users (gain: log loss below that of the frequencies)")
    audience = [AudienceScores(**entry) for entry in report["audience"]]  # type: ignore[attr-defined]  # written by profiles_report
    rows = [
        {
            "field": score.field,
            "value": score.value,
            "items": score.items,
            "mean": score.mean,
            "lift": score.lift,
            "mean (plain)": score.plain_mean,
            "lift (plain)": score.plain_lift,
        }
        for score in audience
    ]
    if not rows:
        return
    title = (
        f"rank correlation of predicted and true label per segment, over those of {report['hidden_items']} unseen items with "
        f"{MIN_RATINGS} labels or more; plain: means by category of item"
    )
    print_table(rows, title=title)
