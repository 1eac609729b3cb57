"""Items as tasks where the item side knows places: what evaluation predicts is what serving predicts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.adaptation.engine import Engine, UserInput
from metarec.data.dataset import Dataset
from metarec.evaluation.entities import mirrored_entities
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.item_tasks import ItemTasks
from metarec.evaluation.metrics import LabelScale
from metarec.meta.leanings import ROWS, SHARE
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint, save_checkpoint
from metarec.training.loop import fit
from metarec.training.manifest import Manifest
from metarec.training.recipes import get_recipe
from metarec.types import Interaction, Item

SMALL = {"epochs": "6", "batch_size": "16", "model.embedding_dim": "4", "validation_fraction": "0.1", "explicit.members": "1"}
ASKED = ("i4", "i9")


@pytest.fixture(scope="module")
def prior(one_thread: None, tiny_dataset: Dataset) -> Iterator[Prior]:
    """An explicit head whose item side is learned from items of ten rows and more; two items are hidden from it."""
    recipe = get_recipe("alpaca").override(SMALL)
    recipe = replace(recipe, heads=tuple(head for head in recipe.heads if head.target == "explicit"))
    events = tiny_dataset.interactions
    seen = ~np.isin(tiny_dataset.item_ids[events.item_N].astype(str), ASKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarec.meta.item_vectors.MIN_ROWS", 10)
        yield fit(tiny_dataset.with_interactions(events.select(seen)), recipe, seed=0)


def test_serving_and_evaluation_predict_the_same(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    assert prior.item_side is not None
    assert prior.item_side.places is not None
    events, ids = tiny_dataset.interactions, tiny_dataset.user_ids.astype(str)
    by_item = {item: np.flatnonzero(tiny_dataset.item_ids[events.item_N].astype(str) == item) for item in ASKED}
    rows = [
        (item, ids[events.user_N[row]], float(events.label_N[row]), "support" if place < 3 else "query")
        for item, found in by_item.items()
        for place, row in enumerate(found)
    ]
    path = tmp_path / "episodes.parquet"
    pd.DataFrame(rows, columns=["item_id", "user_id", "rating", "role"]).to_parquet(path)
    episodes = read_episodes(path, tiny_dataset.schema, "item")
    tables = mirrored_entities(prior, tiny_dataset, episodes.user_T, episodes.item_N)
    scale = LabelScale(minimum=-10, maximum=10, integer=False)  # wide, so that nothing is cut
    resolved = episodes.resolve(tables)
    found = ItemTasks(prior, tables, tiny_dataset.mirrored(), scale)(resolved)
    users = np.asarray(tables.item_ids, object)[resolved.tasks.query_item_Q]

    engine = Engine(prior)
    without = Engine(replace(prior, item_side=replace(prior.item_side, places=None)))
    first = 0
    for item in ASKED:
        told = [row for row in rows if row[0] == item and row[3] == "support"]
        asked = [str(user) for user in users[first : first + len(by_item[item]) - len(told)]]
        here = slice(first, first + len(asked))
        raters, others = ([history(tiny_dataset, user) for user in part] for part in ([row[1] for row in told], asked))
        content = tiny_dataset.items.iloc[int(item[1:])]
        features = {"title": str(content["title"]), "genres": tuple(content["genres"]), "year": float(content["year"])}
        mean, variance = engine.predict_item(features, raters, [row[2] for row in told], others)
        np.testing.assert_allclose(found.score_Q[here], mean, atol=2e-4)
        np.testing.assert_allclose(found.variance_Q[here], variance, rtol=1e-3)
        plain, _ = without.predict_item(features, raters, [row[2] for row in told], others)
        assert np.abs(mean - plain).max() > 1e-3
        first += len(asked)


def test_a_checkpoint_keeps_places(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    recipe = get_recipe("alpaca").override(SMALL)
    save_checkpoint(prior, tmp_path, Manifest(recipe=recipe, seed=0, data_fingerprint="d", created=0.0))
    users = [history(tiny_dataset, f"u{user}") for user in range(6)]
    content = {"genres": ("space",), "year": 1990.0}
    before = Engine(prior).predict_item(content, users[:3], [5.0, 1.0, 2.0], users)
    after = Engine(load_checkpoint(tmp_path)).predict_item(content, users[:3], [5.0, 1.0, 2.0], users)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_item_that_training_has_not_met_counts_in_a_history_by_its_content(prior: Prior, tiny_dataset: Dataset) -> None:
    engine = Engine(prior)
    engine.upsert([Item(item_id="new", features={"genres": ("horror",), "year": 1990.0}, revision=1)])
    user = history(tiny_dataset, "u3")
    assert prior.item_side is not None
    plain = Engine(replace(prior, item_side=replace(prior.item_side, places=None)))
    plain.upsert([Item(item_id="new", features={"genres": ("horror",), "year": 1990.0}, revision=1)])
    loved = replace(user, support=[*user.support, Interaction(user_id="u3", item_id="new", label=5.0, timestamp=9e6)])
    hated = replace(user, support=[*user.support, Interaction(user_id="u3", item_id="new", label=1.0, timestamp=9e6)])
    high, low = engine.predict_item({"genres": ("horror",)}, [], [], [loved, hated])[0]
    plain_high, plain_low = plain.predict_item({"genres": ("horror",)}, [], [], [loved, hated])[0]
    # The head's own difference counts for less now; what is more is the label of an item at the very place that is asked about.
    share = SHARE * len(loved.support) / (len(loved.support) + ROWS)
    assert high - low > (1 - share) * (plain_high - plain_low) + 0.05


def history(dataset: Dataset, user: str) -> UserInput:
    """What a user did with the items that are not asked about, as a product backend would send it."""
    events = dataset.interactions
    place = int(user[1:])
    mine = [
        Interaction(user_id=user, item_id=str(dataset.item_ids[item]), label=float(label), timestamp=float(time))
        for user_row, item, label, time in zip(events.user_N, events.item_N, events.label_N, events.timestamp_N, strict=True)
        if user_row == place and str(dataset.item_ids[item]) not in ASKED
    ]
    profile = dataset.users.iloc[place]
    return UserInput(support=mine, features={"gender": str(profile["gender"]), "age": float(profile["age"])})
