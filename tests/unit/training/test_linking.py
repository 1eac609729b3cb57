"""The link of binary labels: fitted where there are enough held-out tasks, and never on a handful of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from metarec.features.encoder import FeatureEncoder
from metarec.meta.alpaca import Alpaca
from metarec.meta.link import MIN_TASKS
from metarec.meta.prior import Prior
from metarec.training.inputs import Inputs, prepare
from metarec.training.linking import best_link
from metarec.training.recipe import Recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def inputs(dataset: "Dataset", recipe: Recipe) -> Inputs:
    encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items)
    return prepare(dataset, encoder, recipe, 0)


def test_a_few_held_out_users_do_not_set_the_level_for_everybody(
    tiny_dataset: "Dataset", small_prior: Prior, small_recipe: Recipe
) -> None:
    events, explicit = tiny_dataset.interactions, small_prior.head("explicit")
    # Its scores are grades from 1 to 5; those of a head for likes are from 0 to 1.
    quarter = cast(Alpaca, explicit.learner).rescaled(explicit.theta, 0.25)
    explicit = replace(explicit, theta={**quarter, "mu": quarter["mu"] - 0.25})
    liked = tiny_dataset.with_interactions(replace(events, label_N=(events.label_N >= 4).astype(np.float32)))
    few = inputs(liked, small_recipe)
    assert 0 < few.validation_user_U.sum() < MIN_TASKS
    found = best_link(few, small_recipe.heads[0], explicit, 0)
    assert found.num_tasks == 0
    other_labels = tiny_dataset.with_interactions(replace(events, label_N=(events.label_N < 4).astype(np.float32)))
    assert best_link(inputs(other_labels, small_recipe), small_recipe.heads[0], explicit, 0).num_tasks == 0
    middle = np.array([0.3, 0.5, 0.7])
    assert found.probability(middle) == pytest.approx(middle, abs=0.2)
    many = replace(few, validation_user_U=np.arange(len(few.users)) % 2 == 0)
    fitted = best_link(many, small_recipe.heads[0], explicit, 0)
    assert fitted.slope != pytest.approx(found.slope, rel=1e-3)
    assert fitted.num_tasks == 40
