"""The blend of both heads is chosen on validation users, by the quality of whole-catalogue rankings."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from metarec.meta.prior import Head, Prior
from metarec.training.blending import best_blend
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.types import Target

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@pytest.fixture(scope="module")
def inputs(tiny_dataset: "Dataset", small_recipe: Recipe, small_prior: Prior) -> Inputs:
    return prepare(tiny_dataset, small_prior.encoder, small_recipe, 0)


@pytest.fixture(scope="module")
def recipes(small_recipe: Recipe) -> dict[Target, HeadRecipe]:
    return {head.target: head for head in small_recipe.heads}


def with_rows(head: Head, **rows: torch.Tensor) -> Head:
    """The head with these values about rows and zeros for all others: an opinion of its own making."""
    theta = {name: torch.zeros_like(value) if name.startswith("row.") else value for name, value in head.theta.items()}
    return replace(head, theta={**theta, **{f"row.{name}": value for name, value in rows.items()}})


def test_ratings_get_weight_where_the_implicit_head_only_guesses(
    inputs: Inputs, recipes: dict[Target, HeadRecipe], small_prior: Prior
) -> None:
    implicit, explicit = small_prior.heads["implicit"], small_prior.heads["explicit"]
    guess = torch.randn(implicit.theta["row.id_bias"].shape, generator=torch.Generator().manual_seed(0))
    heads: dict[Target, Head] = {"implicit": with_rows(implicit, id_bias=guess), "explicit": explicit}
    assert best_blend(inputs, recipes, heads, 0) > 0


def test_ratings_without_an_opinion_get_none(inputs: Inputs, recipes: dict[Target, HeadRecipe], small_prior: Prior) -> None:
    heads = {**small_prior.heads, "explicit": with_rows(small_prior.heads["explicit"])}
    assert best_blend(inputs, recipes, heads, 0) == 0.0


def test_the_prior_carries_it_and_the_seed_decides_it(
    inputs: Inputs, recipes: dict[Target, HeadRecipe], small_prior: Prior
) -> None:
    assert best_blend(inputs, recipes, small_prior.heads, 0) == best_blend(inputs, recipes, small_prior.heads, 0)
    assert small_prior.blend == best_blend(inputs, recipes, small_prior.heads, 0)


def test_a_large_catalogue_is_asked_with_fewer_episodes(
    inputs: Inputs, recipes: dict[Target, HeadRecipe], small_prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def choose(heads: object, supports: list[object], quality: object) -> float:
        asked.append(sum(support.num_tasks for support in supports))  # type: ignore[attr-defined]  # batches
        return 0.0

    monkeypatch.setattr("metarec.training.blending.choose_blend", choose)
    best_blend(inputs, recipes, small_prior.heads, 0)
    monkeypatch.setattr("metarec.training.blending.MAX_SCORES", 3 * len(inputs.items))
    best_blend(inputs, recipes, small_prior.heads, 0)
    assert asked == [4 * int(inputs.validation_user_U.sum()), 3]


def test_one_head_or_no_validation_users_need_none(inputs: Inputs, recipes: dict[Target, HeadRecipe], small_prior: Prior) -> None:
    alone: dict[Target, Head] = {"implicit": small_prior.heads["implicit"]}
    assert best_blend(inputs, {"implicit": recipes["implicit"]}, alone, 0) == 0.0
    nobody = replace(inputs, validation_user_U=inputs.validation_user_U & False)
    assert best_blend(nobody, recipes, small_prior.heads, 0) == 0.0
