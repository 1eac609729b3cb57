"""Places of items: fields count alike, and statistics of categories leave the item itself out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta.content_space import CLIP, SHRINKAGE, ContentSpace, closeness, statistics
from metarec.meta.space_learning import WEIGHT, learn_space

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


def test_an_item_is_left_out_of_its_own_statistics() -> None:
    """Its place is that of an item that the space was learned without, but for centre, scale and directions."""
    dense_NP, said_N3 = drawn()
    space, place_ND = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    for item in (0, 7, 59):
        others = [row for row in range(len(dense_NP)) if row != item]
        sum_PR = torch.zeros_like(space.sum_PR)
        for row in others:
            for category in np.flatnonzero(dense_NP[row, :NUM_CATEGORIES]):
                sum_PR[category] += said_N3[row]
        without = ContentSpace(sum_PR=sum_PR, centre_Q=space.centre_Q, scale_Q=space.scale_Q, map_QD=space.map_QD)
        torch.testing.assert_close(without.places(dense_NP[item : item + 1])[0], place_ND[item])


def test_statistics_are_means_of_what_the_categories_said() -> None:
    dense_NP, said_N3 = drawn()
    space, _ = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    found_NR = statistics(dense_NP @ space.sum_PR)
    for item in (0, 7, 59):
        offset, count, popularity = 0.0, 0.0, 0.0
        for category in np.flatnonzero(dense_NP[item, :NUM_CATEGORIES]):
            for other in np.flatnonzero(dense_NP[:, category]):
                offset, count, popularity = offset + said_N3[other, 0], count + 1, popularity + said_N3[other, 2]
        expected = [offset / (count + SHRINKAGE), np.log1p(count), popularity / (count + SHRINKAGE)]
        np.testing.assert_allclose(found_NR[item], expected, atol=1e-12)


def test_every_field_counts_the_same_whatever_its_width_and_unit() -> None:
    dense_NP, said_N3 = drawn()
    space, place_ND = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    own_N = (dense_NP[:, :NUM_CATEGORIES].square().sum(1))[:, None]
    column_NQ = torch.cat([dense_NP, statistics(dense_NP @ space.sum_PR - own_N * said_N3)], 1)
    scaled_NQ = (column_NQ - space.centre_Q) * space.scale_Q
    for _, start, stop in BLOCKS:
        assert abs(float(scaled_NQ[:, start:stop].square().sum(1).mean()) - 1) < 1e-9
    assert abs(float(scaled_NQ[:, -3:].square().sum(1).mean()) - 3) < 1e-9
    # Nothing was cut and no direction left out: distances from the centre are those of all columns, their mean square 1.
    assert float(scaled_NQ[:, -3:].abs().max()) < CLIP
    weight_Q = torch.cat([torch.ones(17), torch.full((3,), WEIGHT / 3)]).double() / (len(BLOCKS) + WEIGHT)
    torch.testing.assert_close(place_ND.square().sum(1), (scaled_NQ.square() * weight_Q).sum(1))
    assert abs(float(place_ND.square().sum(1).mean()) - 1) < 1e-9
    larger = dense_NP.clone()
    larger[:, 7:] *= 1000
    _, other_ND = learn_space(larger, BLOCKS, KINDS, said_N3)
    torch.testing.assert_close(closeness(other_ND, other_ND), closeness(place_ND, place_ND), atol=1e-6, rtol=1e-6)


def test_statistics_far_from_all_others_are_cut() -> None:
    dense_NP, said_N3 = drawn()
    space, place_ND = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    huge = ContentSpace(sum_PR=space.sum_PR * 1e6, centre_Q=space.centre_Q, scale_Q=space.scale_Q, map_QD=space.map_QD)
    assert float(huge.places(dense_NP).square().sum(1).max()) < 4 * float(place_ND.square().sum(1).max()) + CLIP**2


def test_a_field_that_never_varied_says_nothing_of_any_item() -> None:
    dense_NP, said_N3 = drawn()
    dense_NP[:, 5:7] = 3.0
    space, _ = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    strange = dense_NP.clone()
    strange[:, 5:7] = 1e6
    torch.testing.assert_close(space.places(strange), space.places(dense_NP))


def test_what_does_not_vary_does_not_bring_items_nearer_to_each_other() -> None:
    """The kernel has one length: the mean square of places is 1 whatever part of the fields and statistics says something."""
    dense_NP, said_N3 = drawn()
    still = torch.cat([dense_NP, torch.ones(len(dense_NP), 8)], 1)
    blocks = (*BLOCKS, ("empty", 17, 19), ("also", 19, 22), ("more", 22, 25))
    _, place_ND = learn_space(still, blocks, (*KINDS, "category", "category", "number"), said_N3)
    assert float(place_ND.square().sum(1).mean()) == pytest.approx(1.0)
    _, alone_ND = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    torch.testing.assert_close(closeness(place_ND, place_ND), closeness(alone_ND, alone_ND))
    _, nothing_ND = learn_space(torch.ones(5, 3), (("one", 0, 3),), ("category",), said_N3[:5] * 0)
    assert not nothing_ND.any()


def test_without_categories_a_place_is_content_alone() -> None:
    dense_NP, said_N3 = drawn()
    space, place_ND = learn_space(dense_NP, BLOCKS, ("number", "number", "text"), said_N3)
    assert space.sum_PR.shape == (17, 0)
    torch.testing.assert_close(space.places(dense_NP), place_ND)
    assert space.places(dense_NP[:0]).shape == (0, space.map_QD.shape[1])


def test_it_comes_back_from_its_arrays_as_it_was() -> None:
    dense_NP, said_N3 = drawn()
    space, _ = learn_space(dense_NP, BLOCKS, KINDS, said_N3)
    torch.testing.assert_close(ContentSpace(**space.to_arrays()).places(dense_NP), space.places(dense_NP), atol=0, rtol=0)
