from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metarec.features.encoder import FeatureEncoder
from metarec.training.inputs import Inputs, hold_out_users, prepare, split
from metarec.training.recipe import Recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@pytest.fixture(scope="module")
def inputs(tiny_dataset: "Dataset", small_recipe: Recipe) -> Inputs:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    return prepare(tiny_dataset, encoder, small_recipe, 0)


def test_what_workers_read_is_what_the_driver_wrote(inputs: Inputs, tmp_path: Path) -> None:
    inputs.save(tmp_path)
    loaded = Inputs.load(tmp_path)
    for side in ("users", "items"):
        one, two = getattr(inputs, side), getattr(loaded, side)
        assert torch.equal(one.code_N, two.code_N)
        assert torch.equal(one.dense_NP, two.dense_NP)
        assert (one.blocks, one.num_codes) == (two.blocks, two.num_codes)
    np.testing.assert_array_equal(inputs.validation_user_U, loaded.validation_user_U)
    np.testing.assert_array_equal(inputs.validation_item_I, loaded.validation_item_I)
    for name in ("user_N", "item_N", "label_N", "timestamp_N", "scenario_N"):
        np.testing.assert_array_equal(getattr(inputs.interactions, name), getattr(loaded.interactions, name))


def test_held_out_users_are_a_share_drawn_from_the_seed(tiny_dataset: "Dataset", small_recipe: Recipe) -> None:
    def drawn(seed: int, recipe: Recipe = small_recipe) -> "np.ndarray":  # type: ignore[type-arg]  # any dtype will do
        return hold_out_users(tiny_dataset.interactions, len(tiny_dataset.user_ids), recipe, seed)

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert drawn(0).sum() == round(0.1 * len(tiny_dataset.user_ids))
    assert (drawn(0) != drawn(1)).any()
    assert drawn(0, replace(small_recipe, max_validation_users=3)).sum() == 3


def test_someone_stays_to_train_on_and_users_of_one_event_are_not_held_out(tiny_dataset: "Dataset", small_recipe: Recipe) -> None:
    events = tiny_dataset.interactions
    two = events.select(np.isin(events.user_N, [3, 5]))
    assert hold_out_users(two, 80, replace(small_recipe, validation_fraction=0.49), 0).sum() == 1
    single = events.select(np.unique(events.user_N, return_index=True)[1])
    assert hold_out_users(single, 80, small_recipe, 0).sum() == 0


def test_ids_and_popularity_come_from_training_users_alone(tiny_dataset: "Dataset", small_recipe: Recipe) -> None:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    held_out_U = prepare(tiny_dataset, encoder, small_recipe, 0).validation_user_U
    events = tiny_dataset.interactions
    item = int(events.item_N[held_out_U[events.user_N]][0])
    only_held_out = tiny_dataset.with_interactions(events.select((events.item_N != item) | held_out_U[events.user_N]))
    inputs = prepare(only_held_out, encoder, small_recipe, 0)
    np.testing.assert_array_equal(inputs.validation_user_U, held_out_U)
    assert inputs.items.code_N[item] == 0
    assert inputs.popularity_I[item] == 0
    assert (inputs.items.code_N > 0).sum() == len(inputs.items) - 1
    assert inputs.popularity_I.sum() == (~held_out_U[only_held_out.interactions.user_N]).sum()


def test_the_gate_sees_the_same_split_as_training(tiny_dataset: "Dataset", inputs: Inputs) -> None:
    train, validation = split(tiny_dataset, inputs.validation_user_U)
    assert len(train.interactions) + len(validation.interactions) == len(tiny_dataset.interactions)
    assert set(np.unique(validation.interactions.user_N)) == set(np.flatnonzero(inputs.validation_user_U))
    assert len(train.interactions) == len(inputs.layout("user", validation=False).row_N)


def test_heads_whose_tasks_are_items_are_validated_on_items_held_out_from_them(
    tiny_dataset: "Dataset", small_recipe: Recipe
) -> None:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    users, items = small_recipe.heads[1], replace(small_recipe.heads[0], kind="item")
    both = prepare(tiny_dataset, encoder, replace(small_recipe, heads=(items, users)), 0)
    assert both.validation_user_U.any()
    assert both.validation_item_I.sum() == round(0.1 * len(tiny_dataset.item_ids))
    train, asked = both.layout("item", validation=False), both.layout("item", validation=True)
    assert not (train.counts[both.validation_item_I]).any()
    assert not (asked.counts[~both.validation_item_I]).any()
    for layout in (train, asked):
        assert not both.validation_user_U[layout.row_N].any()
    alone = prepare(tiny_dataset, encoder, replace(small_recipe, heads=(items,)), 0)
    assert not alone.validation_user_U.any()
    assert len(alone.layout("item", validation=False).row_N) + len(alone.layout("item", validation=True).row_N) == len(
        tiny_dataset.interactions
    )
