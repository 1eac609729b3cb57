"""What a run tells people of beside figures: what of the data or the settings it does not use, and what it learned at its end."""

from typing import TYPE_CHECKING

from metarec.meta.alpaca import Alpaca
from metarec.meta.contract import takes_targets
from metarec.meta.decay import NAME, growth
from metarec.meta.prior import Head, Prior
from metarec.meta.scenario import has_scenarios
from metarec.training.decay import MAX_TASKS, MIN_JUDGES, MIN_ROWS
from metarec.training.heads import make_head
from metarec.training.inputs import Inputs
from metarec.training.recipe import Recipe
from metarec.training.scenarios import MAX_SCENARIOS
from metarec.types import GRADES_STD

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def left_out(asked: Recipe, recipe: Recipe, dataset: "Dataset") -> list[str]:
    """What a run will not use of the dataset, and settings that do nothing on it.

    `asked` is the recipe as it was asked for, `recipe` what it has become for labels of this kind.
    """
    notes = []
    used = {head.target for head in recipe.heads}
    for head in asked.heads:
        if head.target not in used:
            notes.append(f"head '{head.target}' is left out: all labels are alike, so there is nothing to tell apart")
        elif dataset.schema.label.kind == "binary" and head.label_std not in (0.0, GRADES_STD):
            notes.append(f"{head.target}.label_std={head.label_std:g} does nothing: binary labels are trained on as they are")
    explicit = next((make_head(head, {}) for head in recipe.heads if head.target == "explicit"), None)
    targets = ", ".join(f"'{target.column}'" for target in dataset.schema.targets)
    if targets and (explicit is None or not takes_targets(explicit.learner)):
        notes.append(
            f"further targets ({targets}) are not learned by recipe '{recipe.name}'; recipe 'alpaca_targets' learns them"
        )
    names = [name for name in dataset.interactions.scenarios if name]
    if names and dataset.schema.label.kind == "binary" and not dataset.has_varied_labels:
        # No recipe has a head for it then.
        notes.append(f"what users of the {len(names)} scenarios have in common is not learned: all labels are alike")
    elif names and (explicit is None or not has_scenarios(explicit)):
        notes.append(
            f"what users of the {len(names)} scenarios have in common is not learned by recipe '{recipe.name}'; recipe 'alpaca' "
            f"learns it{', of the label alone' if targets else ''}"
        )
    elif len(names) > MAX_SCENARIOS:
        notes.append(f"of {len(names)} scenarios, the {MAX_SCENARIOS} with most interactions are learned")
    return notes


def learned(prior: Prior, inputs: Inputs) -> list[str]:
    """What the end of training found out about scenarios and about the age of support rows."""
    notes = []
    if prior.scenarios:
        notes.append(f"learned what users of {len(prior.scenarios)} scenarios have in common")
    explicit = prior.heads.get("explicit")
    if explicit is not None and explicit.learner.name == Alpaca.name and explicit.kind == "user":
        layout = inputs.layout("user", validation=True)
        if inputs.layout("user", validation=False).has_timestamps:
            notes.append(_age(explicit, min(int((layout.counts >= MIN_ROWS).sum()), MAX_TASKS)))
    return notes


def _age(head: Head, num_judges: int) -> str:
    if NAME in head.theta:
        decay_2 = head.theta[NAME]
        month, year = (float(growth(decay_2, decay_2.new_tensor(days))) for days in (30.0, 365.0))
        return (
            f"newer support weighs more: a row 30 days older than the newest has {month:.2g} times the noise, 365 days {year:.2g}"
        )
    if num_judges < MIN_JUDGES:
        return (
            f"support weighs alike whatever its age: {num_judges} held-out users have {MIN_ROWS} interactions, and it takes "
            f"{MIN_JUDGES} to tell"
        )
    return (
        f"support weighs alike whatever its age: weighing newer rows more does not help {num_judges} held-out users for certain"
    )
