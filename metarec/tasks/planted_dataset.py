"""A small dataset drawn from a known truth: tests and tours of the whole road, from dataset to recommendations, without data."""

from pathlib import Path

import numpy as np
import pandas as pd

from metarec.data.dataset import Dataset, Interactions
from metarec.data.schema import Field, Label, Schema

GENRES = ("comedy", "drama", "horror", "romance", "war")


def planted_dataset(
    *, num_users: int = 60, num_items: int = 40, rows_per_user: int = 12, noise: float = 0.3, binary: bool = False, seed: int = 0
) -> Dataset:
    """Users like some genres, partly told by their group; they pick what they like more often and rate it higher.

    Ratings are 1..5 (or all 1 when `binary`), times follow one another by a minute. The dataset lies nowhere until it is saved.
    """
    rng = np.random.default_rng(seed)
    genre_I = rng.integers(0, len(GENRES), num_items)
    quality_I = rng.normal(size=num_items) * 0.4
    group_U = rng.integers(0, 3, num_users)
    taste_UG = rng.normal(size=(3, len(GENRES)))[group_U] * 0.8 + rng.normal(size=(num_users, len(GENRES))) * 0.8
    score_UI = taste_UG[:, genre_I] + quality_I
    # Gumbel noise: sampling without replacement in proportion to exp(score).
    picked_UR = np.argsort(-(score_UI + rng.gumbel(size=score_UI.shape)), 1)[:, :rows_per_user]
    user_N = np.repeat(np.arange(num_users), rows_per_user)
    item_N = picked_UR.reshape(-1)
    rating_N = np.clip(np.round(3 + score_UI[user_N, item_N] + rng.normal(size=len(item_N)) * noise), 1, 5)
    order = rng.permutation(len(item_N))
    label = Label(column="liked", kind="binary") if binary else Label(column="rating", kind="rating", minimum=1, maximum=5)
    schema = Schema(
        user_id="user",
        item_id="item",
        label=label,
        timestamp="time",
        users=(Field(name="group", kind="categorical"),),
        items=(Field(name="title", kind="text"), Field(name="genre", kind="categorical"), Field(name="length", kind="numeric")),
        item_title="title",
    )
    user_ids = np.array([f"u{k}" for k in range(num_users)], object)
    item_ids = np.array([f"i{k}" for k in range(num_items)], object)
    return Dataset(
        path=Path(),
        schema=schema,
        user_ids=user_ids,
        item_ids=item_ids,
        users=pd.DataFrame({"user": user_ids, "group": [f"g{g}" for g in group_U]}),
        items=pd.DataFrame(
            {
                "item": item_ids,
                "title": [f"the {GENRES[g]} number {k}" for k, g in enumerate(genre_I)],
                "genre": [GENRES[g] for g in genre_I],
                "length": 90 + 10 * quality_I,
            }
        ),
        interactions=Interactions(
            user_N=user_N[order].astype(np.int32),
            item_N=item_N[order].astype(np.int32),
            label_N=(np.ones(len(order)) if binary else rating_N[order]).astype(np.float32),
            timestamp_N=1e9 + 60.0 * np.arange(len(order)),
            scenario_N=np.zeros(len(order), np.int16),
        ),
        graph=None,
        fingerprint="",
    )
