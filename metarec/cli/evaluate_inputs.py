"""What `metarec evaluate` loads: a checkpoint with what its manifest says, checked against the dataset it is evaluated on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from metarec.adaptation.view import score_weights
from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError, SchemaMismatchError
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint
from metarec.training.inputs import hold_out_users, split
from metarec.training.manifest import read_manifest
from metarec.training.recipe import Recipe
from metarec.training.registry import locate


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint; `same_data` says whether it was trained on the dataset at hand, `facts` are for reports."""

    prior: Prior
    recipe: Recipe
    seed: int
    same_data: bool
    facts: dict[str, object]

    @staticmethod
    def open(path: Path, dataset: Dataset) -> "Loaded":
        """The checkpoint at `path`, or a registry's live, else newest one. SchemaMismatchError when its schema is another."""
        directory = locate(path)
        manifest = read_manifest(directory)
        if manifest["schema_hash"] != dataset.schema.hash:
            raise SchemaMismatchError(
                f"checkpoint '{manifest['id']}' was trained with schema '{manifest['schema_hash']}', dataset '{dataset.path}' "
                f"has '{dataset.schema.hash}'; evaluate it on data of its own schema"
            )
        recipe = Recipe.from_dict(cast(dict[str, object], manifest["recipe"]))
        facts = {name: manifest[name] for name in ("id", "created", "seed", "data_fingerprint", "train_seconds")}
        return Loaded(
            prior=load_checkpoint(directory),
            recipe=recipe,
            seed=int(cast(int, manifest["seed"])),
            same_data=manifest["data_fingerprint"] == dataset.fingerprint,
            facts={**facts, "recipe": recipe.name, "path": str(directory)},
        )

    @property
    def ranking_recipe(self) -> Recipe:
        """The recipe with the heads that count in this checkpoint's ranking score alone: what protocols of lists train anew."""
        return replace(self.recipe, heads=tuple(head for head in self.recipe.heads if head.target in score_weights(self.prior)))

    def split(self, dataset: Dataset) -> tuple[Dataset, Dataset]:
        """What this checkpoint was trained on, and the users it held out."""
        if not self.same_data:
            raise FailedPreconditionError(
                f"checkpoint '{self.facts['id']}' was trained on data '{self.facts['data_fingerprint']}', this dataset is "
                f"'{dataset.fingerprint}': it is not known which users it held out; give --episodes"
            )
        return split(dataset, hold_out_users(dataset.interactions, len(dataset.user_ids), self.recipe, self.seed))
