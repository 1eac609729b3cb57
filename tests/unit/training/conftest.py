from typing import TYPE_CHECKING

import pytest

from metarec.meta.prior import Prior
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

SMALL = {
    "epochs": "2",
    "batch_size": "16",
    "model.embedding_dim": "4",
    "explicit.members": "2",
    "validation_fraction": "0.1",
    "patience": "0",
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For every test of training."""


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    return get_recipe("alpaca").override(SMALL)


@pytest.fixture(scope="session")
def small_prior(tiny_dataset: "Dataset", small_recipe: Recipe) -> Prior:
    """Both heads after two epochs on the tiny dataset."""
    from metarec.training.loop import fit

    return fit(tiny_dataset, small_recipe, seed=0)
