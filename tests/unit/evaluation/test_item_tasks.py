"""Checkpoints whose own tasks are items: trained, kept and evaluated as such, and not served to users."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.adaptation.engine import Engine
from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.evaluate import Evaluation
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint, save_checkpoint
from metarec.training.loop import fit
from metarec.training.manifest import Manifest
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe

SMALL = {"epochs": "6", "batch_size": "16", "model.embedding_dim": "4", "validation_fraction": "0.1", "patience": "0"}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    base = get_recipe("alpaca").override({**SMALL, "explicit.kind": "item"})
    return replace(base, heads=tuple(head for head in base.heads if head.target == "explicit"))


@pytest.fixture(scope="module")
def prior(one_thread: None, tiny_dataset: Dataset, recipe: Recipe) -> Prior:
    return fit(tiny_dataset, recipe, seed=0)


def episodes(directory: Path) -> Path:
    """New items of genres 0 and 1, told by their raters alone."""
    random = np.random.default_rng(3)
    rows = []
    for place, item in enumerate(("new-a", "new-b")):
        for number, user in enumerate(random.permutation(80)[:40]):
            rows.append((item, f"u{user}", 5 if user % 4 == place else 2, "support" if number < 24 else "query"))
    path = directory / "episodes.parquet"
    pd.DataFrame(rows, columns=["item_id", "user_id", "rating", "role"]).to_parquet(path)
    return path


def test_a_checkpoint_says_what_its_tasks_are(prior: Prior, recipe: Recipe, tmp_path: Path) -> None:
    save_checkpoint(prior, tmp_path, Manifest(recipe=recipe, seed=0, data_fingerprint="d", created=0.0))
    assert load_checkpoint(tmp_path).heads["explicit"].kind == "item"


def test_the_first_raters_tell_what_a_new_item_is_like(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    rows = read_episodes(episodes(tmp_path), tiny_dataset.schema, "item")
    results, _ = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True).episodes(rows, [0, 24])
    before, after = (result.mean("alpaca", "mae") for result in results)
    assert after < before


def test_it_is_refused_where_users_are_the_tasks(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="kind 'item' and ranks nothing for users"):
        Engine(prior)
    path = episodes(tmp_path)
    pd.read_parquet(path).assign(role="query").to_parquet(path)
    rows = read_episodes(path, tiny_dataset.schema)
    with pytest.raises(FailedPreconditionError, match="evaluate it on --episodes with --kind item"):
        Evaluation(prior=prior, dataset=tiny_dataset, same_data=True).episodes(rows, [None])
