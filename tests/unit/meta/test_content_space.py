"""Places of items: fields count alike, and statistics of categories leave the item itself out."""

import numpy as np
import torch
from torch import Tensor

from metarec.meta.content_space import CLIP, SHRINKAGE, WEIGHT, ContentSpace, learn_space, statistics

BLOCKS = (("kind", 0, 5), ("year", 5, 7), ("words", 7, 17))
KINDS = ("category", "number", "text")
NUM_CATEGORIES = 4


def drawn(seed: int = 0, num_items: int = 60) -> tuple[Tensor, Tensor]:
    """Content of items with one or two categories each, and what each has said."""
    rng = np.random.default_rng(seed)
    dense_NP = rng.normal(size=(num_items, 17))
    dense_NP[:, :5] = 0.0
    for row in range(num_items):
        dense_NP[row, rng.choice(NUM_CATEGORIES, rng.integers(1, 3), replace=False)] = 1.0
    said_N3 = np.column_stack([rng.normal(size=num_items), np.ones(num_items), rng.normal(size=num_items)])
    return torch.from_numpy(dense_NP), torch.from_numpy(said_N3)


def test_statistics_are_those_of_the_other_items_of_the_same_categories() -> None:
    dense_NP, said_N3 = drawn()
    field_F2 = torch.tensor([[0, NUM_CATEGORIES]])
    found_NR = statistics(dense_NP, field_F2, dense_NP.mT @ said_N3, said_N3)
    for item in (0, 7, 59):
        offset, count, popularity = 0.0, 0.0, 0.0
        for category in np.flatnonzero(dense_NP[item, :NUM_CATEGORIES]):
            for other in np.flatnonzero(dense_NP[:, category]):
                if other != item:
                    offset, count, popularity = offset + said_N3[other, 0], count + 1, popularity + said_N3[other, 2]
        expected = [offset / (count + SHRINKAGE), np.log1p(count), popularity / (count + SHRINKAGE)]
        np.testing.assert_allclose(found_NR[item], expected, atol=1e-12)


def test_an_item_nobody_knew_has_the_statistics_of_all() -> None:
    dense_NP, said_N3 = drawn()
    field_F2, sum_P3 = torch.tensor([[0, NUM_CATEGORIES]]), dense_NP[1:].mT @ said_N3[1:]
    with_it_R = statistics(dense_NP, field_F2, dense_NP.mT @ said_N3, said_N3)[0]
    torch.testing.assert_close(statistics(dense_NP[:1], field_F2, sum_P3, None)[0], with_it_R)


def test_every_field_counts_the_same_whatever_its_width_and_unit() -> None:
    dense_NP, said_N3 = drawn()
    space = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    total = len(BLOCKS) + WEIGHT
    column_NQ = torch.cat([dense_NP, statistics(dense_NP, space.field_F2, space.sum_P3, said_N3)], 1)
    scaled_NQ = (column_NQ - space.centre_Q) / space.unit_Q
    for _, start, stop in BLOCKS:
        assert abs(float(scaled_NQ[:, start:stop].square().sum(1).mean()) - 1) < 1e-9
    assert abs(float(scaled_NQ[:, -3:].square().sum(1).mean()) - 3) < 1e-9
    # Nothing was cut and no direction left out: distances from the centre are those of all columns, their mean square 1.
    assert float(scaled_NQ.abs().max()) < CLIP
    place_ND = space.places(dense_NP, said_N3)
    weight_Q = torch.cat([torch.ones(17), torch.full((3,), WEIGHT / 3)]).double() / total
    torch.testing.assert_close(place_ND.square().sum(1), (scaled_NQ.square() * weight_Q).sum(1))
    assert abs(float(place_ND.square().sum(1).mean()) - 1) < 1e-9
    larger = dense_NP.clone()
    larger[:, 7:] *= 1000
    other_ND = learn_space(larger, BLOCKS, KINDS, said_N3).places(larger, said_N3)
    torch.testing.assert_close(torch.cdist(other_ND, other_ND), torch.cdist(place_ND, place_ND), atol=1e-6, rtol=1e-6)


def test_a_field_that_never_varied_says_nothing_of_any_item() -> None:
    dense_NP, said_N3 = drawn()
    dense_NP[:, 5:7] = 3.0
    space = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    strange = dense_NP.clone()
    strange[:, 5:7] = 1e6
    torch.testing.assert_close(space.places(strange), space.places(dense_NP))


def test_without_categories_a_place_is_content_alone() -> None:
    dense_NP, said_N3 = drawn()
    space = learn_space(dense_NP, BLOCKS, ("number", "number", "text"), said_N3)
    assert space.field_F2.shape == (0, 2)
    torch.testing.assert_close(space.places(dense_NP, said_N3), space.places(dense_NP))


def test_it_comes_back_from_its_arrays_as_it_was() -> None:
    dense_NP, said_N3 = drawn()
    space = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    torch.testing.assert_close(ContentSpace(**space.to_arrays()).places(dense_NP), space.places(dense_NP), atol=0, rtol=0)
