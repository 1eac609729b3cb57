"""What `metarec advise` may try: every recipe's head for a target, and a few changes of settings that depend on the data.

A candidate is plain data, as recipes are. Which are eligible is decided on the dataset's figures alone; what a training would
cost is measured (trial.probe) and weighed against the budget (tuning_plan).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metarec.data.inspection import Findings
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.training.recipes import RECIPES, TARGETS_RECIPE, get_recipe
from metarec.types import Target

VARIATIONS: Mapping[Target, Sequence[tuple[str, Mapping[str, str]]]] = {
    "explicit": (
        ("alpaca", {"members": "1"}),
        ("alpaca", {"learner.l2_id": "3"}),
        ("fomaml", {"learner.learned_rates": "layer"}),
    ),
    "implicit": (
        ("alpaca", {"model.embedding_dim": "24"}),
        ("alpaca", {"model.embedding_dim": "96"}),
        ("alpaca", {"outer_lr": "0.001"}),
    ),
}
"""Settings worth a trial beside the recipes as they are: how many members or dimensions, and how much regularisation."""
CLICK_VARIATIONS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("fomaml", {"learner.objective": "cross_entropy"}),
    ("neural_process", {"learner.objective": "cross_entropy"}),
)
"""The same for labels of yes and no."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe whose head for `target` is tried, with settings replaced (as for `metarec train --set`, without the target)."""

    recipe: str
    target: Target
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables: the recipe, then what is changed."""
        changes = [f"{path.rpartition('.')[2]}={value}" for path, value in self.settings.items()]
        return " ".join([self.recipe, *changes])

    def head(self, label_kind: str) -> HeadRecipe:
        """Settings of the head that is trained, for labels of this kind."""
        recipe = self._overridden().for_labels(label_kind)
        return next(head for head in recipe.heads if head.target == self.target)

    def overrides(self) -> dict[str, str]:
        """Arguments of `--set` that repeat it."""
        return {f"{self.target}.{path}": value for path, value in self.settings.items()}

    def _overridden(self) -> Recipe:
        return get_recipe(self.recipe).override(self.overrides())


@dataclass(frozen=True, kw_only=True)
class Eligibility:
    """Candidates to try, the recipes as they are first, and why the other recipes are not among them."""

    candidates: tuple[Candidate, ...]
    refused: Mapping[str, str]


def eligible(findings: Findings, target: Target) -> Eligibility:
    """What may be tried on a dataset with these findings."""
    refused: dict[str, str] = {}
    plain = []
    for name, recipe in RECIPES.items():
        if target in {head.target for head in recipe.heads}:
            if name == TARGETS_RECIPE and not findings.further_targets:
                refused[name] = "it is for datasets with further targets beside the label, and this one has none"
            elif target == "explicit" and not findings.varied:
                refused[name] = "it estimates labels, and all labels here are alike: there is nothing to tell apart"
            else:
                plain.append(Candidate(recipe=name, target=target))
        else:
            refused[name] = "it estimates the labels of given items and has no head for what a user will take out of all of them"
    variations = [*VARIATIONS[target], *(CLICK_VARIATIONS if findings.question(target) == "clicks" else ())]
    kept = {candidate.recipe for candidate in plain}
    changed = [Candidate(recipe=name, target=target, settings=settings) for name, settings in variations if name in kept]
    return Eligibility(candidates=(*plain, *changed), refused=refused)
