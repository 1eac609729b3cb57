"""A trained prior has been refitted: doing it again changes nothing, undoing it does."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from metarec.meta.prior import Prior
from metarec.models.content_process import has_process
from metarec.training.inputs import prepare
from metarec.training.recipe import Recipe
from metarec.training.refit import refitted, with_content_process

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def test_a_trained_prior_says_of_unknown_items_what_known_ones_taught(
    tiny_dataset: "Dataset", small_prior: Prior, small_recipe: Recipe
) -> None:
    inputs = prepare(tiny_dataset, small_prior.encoder, small_recipe, 0)
    head = small_prior.heads["explicit"]
    again = refitted(head, inputs)
    for name, value in head.theta.items():
        torch.testing.assert_close(again.theta[name], value, atol=1e-4, rtol=1e-4)
    assert float(head.theta["row.content"].abs().max()) > 1e-3
    idle = {**head.theta, "row.content": torch.zeros_like(head.theta["row.content"])}
    assert not torch.allclose(refitted(replace(head, theta=idle), inputs).theta["row.content"], idle["row.content"])


def test_other_heads_stay_as_they_are(tiny_dataset: "Dataset", small_prior: Prior, small_recipe: Recipe) -> None:
    inputs = prepare(tiny_dataset, small_prior.encoder, small_recipe, 0)
    assert refitted(small_prior.heads["implicit"], inputs) is small_prior.heads["implicit"]


def test_without_an_item_side_unknown_items_keep_the_content_map(
    tiny_dataset: "Dataset", small_prior: Prior, small_recipe: Recipe
) -> None:
    inputs = prepare(tiny_dataset, small_prior.encoder, small_recipe, 0)
    head = small_prior.heads["explicit"]
    assert with_content_process(head, inputs, None) is head
    assert has_process(head.theta) == (small_prior.item_side is not None)
