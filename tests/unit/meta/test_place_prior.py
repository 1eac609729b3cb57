"""The process over places: its mean against the formula, and how popular an item is taken to be."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metarec.meta.place_prior import NOISE, PlacePrior, learn_place_prior
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import entity_table

BLOCKS = (("kind", 0, 9), ("taste", 9, 11))
KINDS = ("category", "vector")
NUM_ITEMS, ANCHORS = 150, 100


Planted = tuple[EntityTable, NDArray[np.float64], NDArray[np.int64]]
"""Items, what they are like (I, 3), and how often they were met (I,)."""


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Items whose vector follows from content, and whose offset and popularity follow from what kind they are; the last third is
    unknown."""
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 8, NUM_ITEMS)
    taste = rng.normal(size=(NUM_ITEMS, 2))
    dense = np.column_stack([np.eye(8)[kind], np.zeros(NUM_ITEMS), taste]).astype(np.float32)
    level = rng.normal(size=8)
    theta = np.column_stack([np.tanh(taste), level[kind] + 0.1 * rng.normal(size=NUM_ITEMS)])
    count = np.where(np.arange(NUM_ITEMS) < ANCHORS, np.exp(4 + level[kind]).round(), 0).astype(np.int64)
    known = np.arange(NUM_ITEMS) < ANCHORS
    return entity_table(dense, BLOCKS, known), theta, count


def learned(planted: Planted) -> PlacePrior:
    items, theta, count = planted
    return learn_place_prior(items, KINDS, count, np.arange(ANCHORS), torch.from_numpy(theta[:ANCHORS]))


def test_it_foretells_vectors_offsets_and_popularity(planted: Planted) -> None:
    items, theta, count = planted
    prior = learned(planted)
    found = prior.mean(items).numpy()[ANCHORS:]
    for column in range(3):
        assert np.corrcoef(found[:, column], theta[ANCHORS:, column])[0, 1] > 0.9
    popularity = prior.unknown(items).popularity_N.numpy()
    assert np.corrcoef(popularity[ANCHORS:], theta[ANCHORS:, 2])[0, 1] > 0.9
    at = prior.places(items)
    log_count = np.log(count[:ANCHORS])
    np.testing.assert_allclose(at.popularity_N[:ANCHORS], log_count - np.average(log_count, weights=count[:ANCHORS]), atol=1e-5)
    torch.testing.assert_close(at.popularity_N[ANCHORS:], prior.unknown(items).popularity_N[ANCHORS:])
    torch.testing.assert_close(at.place_ND[ANCHORS:], prior.unknown(items).place_ND[ANCHORS:])
    # Known items are where the process has them: without what they have said of their own kind.
    torch.testing.assert_close(at.place_ND[:ANCHORS], prior.place_MD.float())
    assert (at.place_ND - prior.unknown(items).place_ND)[:ANCHORS].abs().max() > 0.01


def test_its_mean_is_that_of_the_process(planted: Planted) -> None:
    """Rasmussen & Williams 2006, eq. 2.25, item by item."""
    items, theta, count = planted
    prior = learned(planted)
    anchor, place = prior.place_MD.numpy(), prior.space.places(items.dense_NP).numpy()
    precision = count[:ANCHORS] / (count[:ANCHORS] + 5.0)
    level = precision @ theta[:ANCHORS] / precision.sum()
    kernel = np.array([[np.exp(-0.5 * np.square(one - two).sum()) for two in anchor] for one in anchor])
    weight = np.linalg.inv(kernel + np.diag(NOISE / precision)) @ (theta[:ANCHORS] - level)
    for item in (0, 120, 149):
        near = np.exp(-0.5 * np.square(place[item] - anchor).sum(1))
        np.testing.assert_allclose(prior.mean(items).numpy()[item], level + near @ weight, atol=1e-10)


@pytest.mark.parametrize("other", [0, 1, 6, 50])
def test_a_field_that_says_nothing_does_little_harm(other: int) -> None:
    """One value of all items, or one but for a few: what sets an item's mean of the others apart there is its own offset, turned
    round, which no new item brings along."""
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 8, 300)
    theta = np.column_stack([np.zeros(300), rng.normal(size=8)[kind] + 0.2 * rng.normal(size=300)])
    empty = np.column_stack([np.ones(300), np.zeros(300)])
    empty[rng.permutation(300)[:other]] = [0, 1]
    dense = np.column_stack([np.eye(8)[kind], np.zeros(300)])
    count, known = np.where(np.arange(300) < 200, 50 + rng.integers(0, 50, 300), 0), np.arange(300) < 200

    def error(dense: NDArray[np.float64], blocks: tuple[tuple[str, int, int], ...]) -> float:
        items = entity_table(dense.astype(np.float32), blocks, known)
        kinds = ("category",) * len(blocks)
        prior = learn_place_prior(items, kinds, count.astype(np.int64), np.arange(200), torch.from_numpy(theta[:200]))
        return float(np.square(prior.mean(items).numpy()[200:, 1] - theta[200:, 1]).mean())

    alone = error(dense, (("kind", 0, 9),))
    beside = error(np.column_stack([dense, empty]), (("kind", 0, 9), ("empty", 9, 11)))
    assert alone < 0.1
    assert beside < 1.5 * alone


def test_it_comes_back_from_its_arrays_as_it_was(planted: Planted) -> None:
    items = planted[0]
    prior = learned(planted)
    again = PlacePrior.from_arrays(prior.to_arrays())
    torch.testing.assert_close(again.mean(items), prior.mean(items), atol=0, rtol=0)
    torch.testing.assert_close(again.places(items).popularity_N, prior.places(items).popularity_N, atol=0, rtol=0)
