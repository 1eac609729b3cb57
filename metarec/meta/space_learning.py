"""The space of content of a set of known items (metarec.meta.content_space)."""

from collections.abc import Sequence

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types
from torch import Tensor

from metarec.meta.content_space import STATISTICS, ContentSpace, in_units, statistics

MAX_DIM = 128
WEIGHT = 2.0
"""Of the statistics of a field together, where the field itself weighs 1."""
SMALLEST_SHARE = 0.1
"""Least unit of a statistic, in deviations of what single items say."""
SMALLEST = 1e-6
"""Deviation below which a column does not vary."""


def learn_space(
    dense_NP: Tensor, blocks: Sequence[tuple[str, int, int]], kinds: Sequence[str], said_N3: Tensor
) -> tuple[ContentSpace, Tensor]:
    """The space of items with this content, and their own places (N, D), for which each is left out of its own statistics.

    `said_N3` are, of each item, the distance of its offset from the mean, 1, and the deviation of the logarithm of its number of
    interactions from the mean; `kinds` (parallel to `blocks`) say which fields are categories.
    """
    dense_NP = dense_NP.double()
    fields = [(start, stop - 1) for (_, start, stop), kind in zip(blocks, kinds, strict=True) if kind == "category"]
    sum_PR, sum_NR = _sums(dense_NP, fields, said_N3)
    column_NQ = torch.cat([dense_NP, statistics(sum_NR)], 1)
    centre_Q = column_NQ.mean(0)
    square_Q = (column_NQ - centre_Q).square().mean(0)
    weight_Q = torch.full_like(square_Q, WEIGHT / STATISTICS)
    for _, start, stop in blocks:
        square_Q[start:stop] = square_Q[start:stop].sum()
        weight_Q[start:stop] = 1.0
    unit_Q, told = square_Q.sqrt(), slice(dense_NP.shape[1], None)
    # Within a large category a mean differs by what each item has not said of itself, the negative of its own target. Such small
    # differences must not become an axis: the unit is no less than a tenth of the deviation of what single items say.
    unit_Q[told] = torch.maximum(unit_Q[told], SMALLEST_SHARE * _deviation(said_N3).repeat(len(fields)))
    varied_Q = unit_Q > SMALLEST
    varied_Q[told] &= _deviation(statistics(dense_NP @ sum_PR)) > SMALLEST
    scale_Q = torch.where(varied_Q, 1 / unit_Q, 0.0)
    scaled_NQ = in_units(column_NQ, centre_Q, scale_Q, dense_NP.shape[1])
    # The mean square of an item's distance from the centre is 1, whatever varies.
    root_Q = (weight_Q / (scaled_NQ.square() @ weight_Q).mean().clamp_min(SMALLEST)).sqrt()
    map_QD = root_Q[:, None] * _directions(scaled_NQ * root_Q)
    space = ContentSpace(sum_PR=sum_PR, centre_Q=centre_Q, scale_Q=scale_Q, map_QD=map_QD)
    return space, space.of_sums(dense_NP, sum_NR)


def _sums(dense_NP: Tensor, fields: Sequence[tuple[int, int]], said_N3: Tensor) -> tuple[Tensor, Tensor]:
    """What the items have said by category and field (P, R), and what their categories said to each without itself (N, R)."""
    sum_PR, own_NR = dense_NP.new_zeros(dense_NP.shape[1], STATISTICS * len(fields)), [dense_NP[:, :0]]
    for place, (start, stop) in enumerate(fields):
        here_NC = dense_NP[:, start:stop]
        sum_PR[start:stop, STATISTICS * place : STATISTICS * (place + 1)] = here_NC.mT @ said_N3
        own_NR.append(here_NC.square().sum(1, keepdim=True) * said_N3)
    return sum_PR, dense_NP @ sum_PR - torch.cat(own_NR, 1)


def _deviation(value_NK: Tensor) -> Tensor:
    return (value_NK - value_NK.mean(0)).square().mean(0).sqrt()


def _directions(scaled_NQ: Tensor) -> Tensor:
    """Leading right singular vectors (Q, D)."""
    # A second to import, and only learning needs it.
    from sklearn.utils.extmath import randomized_svd

    size = min(MAX_DIM, *scaled_NQ.shape)
    with threadpool_limits(1):  # the same bits whatever the number of cores
        _, _, right_DQ = randomized_svd(scaled_NQ.numpy(), n_components=size, n_iter=4, random_state=0)
    return torch.from_numpy(right_DQ.T.copy())
