"""`metarec evaluate` on data of several targets: a curve for each, beside plain baselines and, if asked, training on it alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from metarec.evaluation.targets import TargetContest, target_alone
from metarec.meta.contract import takes_targets
from metarec.meta.prior import Prior
from metarec.training.loop import fit
from metarec.training.progress import Progress
from metarec.training.recipe import Recipe
from metarec.training.recipes import EXPLICIT

if TYPE_CHECKING:
    from metarec.cli.evaluate_inputs import Loaded
    from metarec.data.dataset import Dataset
    from metarec.evaluation.evaluate import Evaluation
    from metarec.evaluation.results import ProtocolResult


def has_targets(prior: Prior) -> bool:
    """Whether the checkpoint predicts further targets beside the label."""
    return bool(prior.schema.targets) and "explicit" in prior.heads and takes_targets(prior.heads["explicit"].learner)


def target_results(
    evaluation: "Evaluation", loaded: "Loaded", dataset: "Dataset", shots: Sequence[int], *, alone: bool
) -> "list[ProtocolResult]":
    """For every target a k-shot curve of the users that training held out."""
    train, held_out = loaded.split(dataset)
    trained: dict[str, Prior] = {}
    if alone:
        recipe = alone_recipe(loaded.recipe)
        for number, target in enumerate(dataset.schema.labels):

            def show(progress: Progress, name: str = target.column) -> None:
                if progress.epochs:
                    evaluation.watch(f"training on {name} alone: {progress.where}")

            own = target_alone(train, number)
            # Where every event has the same label there is nothing to learn of it.
            if own.has_varied_labels:
                trained[target.column] = fit(own, recipe, seed=loaded.seed, progress=show)
    contest = TargetContest(
        prior=loaded.prior, alone=trained, seed=evaluation.seed, scores=evaluation.scores, watch=evaluation.watch
    )
    return contest.results(train, held_out, shots)


def not_asked(results: "Sequence[ProtocolResult]", dataset: "Dataset") -> list[str]:
    """What to tell people about targets that `target_results` has no curve of."""
    there = {result.name.rpartition("@")[0] for result in results}
    missing = [target.column for target in dataset.schema.labels if f"held_out_{target.column}" not in there]
    return [f"target '{name}' is left out: no held-out user has enough labels of it after the shots" for name in missing]


def alone_recipe(recipe: Recipe) -> Recipe:
    """The recipe's explicit head as one of a single target, with the same settings otherwise."""
    (head,) = (head for head in recipe.heads if head.target == "explicit")
    kept = {name: value for name, value in head.learner_settings.items() if name not in ("l2_map", "extra_weight")}
    single = replace(
        head,
        learner=EXPLICIT.learner,
        model=EXPLICIT.model,
        learner_settings=kept,
        penalty_std=EXPLICIT.penalty_std,
        label_std=EXPLICIT.label_std,
    )
    return replace(recipe, heads=(single,))
