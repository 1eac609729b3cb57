"""Places of items in a space of content in which every field counts the same.

Beside the encoded fields a place holds what other items of the same categories were like (target statistics: Micci-Barreca
2001; Prokhorenkova et al. 2018, section 3): of a director's other films, how far their offsets lie from the mean, how many there
are and how often they were met. An item that the space is learned from is left out of its own statistics. All of it is reduced
to its principal directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MAX_DIM = 128
STATISTICS = 3
"""Of each categorical field."""
WEIGHT = 2.0
"""Of the statistics of a field together, where the field itself weighs 1."""
SHRINKAGE = 2.0
"""Other items of the same categories at which their mean counts half."""
CLIP = 5.0
"""Statistics are cut at so many deviations: no category is so large that its items are far from all others."""
SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class ContentSpace:
    """A space of D directions over P columns of content and 3 F statistics of F categorical fields.

    `field_F2` are first and last column (exclusive) of the categories of these fields, `sum_P3` by column the sums of what items
    have `said` (see `learn_space`); `centre` and `unit` bring columns and statistics to their field's unit, `map_QD` takes both
    together, Q = P + 3 F, to places.
    """

    field_F2: Tensor
    sum_P3: Tensor
    centre_Q: Tensor
    unit_Q: Tensor
    map_QD: Tensor

    def places(self, dense_NP: Tensor, said_N3: Tensor | None = None) -> Tensor:
        """Places (N, D) of encoded items, float64. `said_N3` is what they said themselves, which is taken away; None: nothing."""
        return _scaled(self._columns(dense_NP, said_N3), self.centre_Q, self.unit_Q, dense_NP.shape[1]) @ self.map_QD

    def _columns(self, dense_NP: Tensor, said_N3: Tensor | None) -> Tensor:
        return torch.cat([dense_NP.double(), statistics(dense_NP.double(), self.field_F2, self.sum_P3, said_N3)], 1)

    def to_arrays(self) -> dict[str, Tensor]:
        """As named tensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def learn_space(dense_NP: Tensor, blocks: Sequence[tuple[str, int, int]], kinds: Sequence[str], said_N3: Tensor) -> ContentSpace:
    """The space of items with this content.

    `said_N3` are, of each item, the distance of its offset from the mean, 1, and the deviation of the logarithm of its number of
    interactions from the mean; `kinds` (parallel to `blocks`) say which fields are categories.
    """
    dense_NP = dense_NP.double()
    named = [(start, stop - 1) for (_, start, stop), kind in zip(blocks, kinds, strict=True) if kind == "category"]
    field_F2 = torch.tensor(named, dtype=torch.int64).reshape(-1, 2)
    sum_P3 = dense_NP.mT @ said_N3
    column_NQ = torch.cat([dense_NP, statistics(dense_NP, field_F2, sum_P3, said_N3)], 1)
    centre_Q = column_NQ.mean(0)
    square_Q = (column_NQ - centre_Q).square().mean(0)
    unit_Q = square_Q.sqrt()
    weight_Q = torch.full_like(unit_Q, WEIGHT / STATISTICS)
    for _, start, stop in blocks:
        unit_Q[start:stop] = square_Q[start:stop].sum().sqrt()
        weight_Q[start:stop] = 1.0
    unit_Q = torch.where(unit_Q > SMALLEST, unit_Q, torch.inf)
    # The mean square of an item's distance from the centre is 1.
    weight_Q = (weight_Q / (len(blocks) + WEIGHT * len(named))).sqrt()
    scaled_NQ = _scaled(column_NQ, centre_Q, unit_Q, dense_NP.shape[1]) * weight_Q
    return ContentSpace(
        field_F2=field_F2, sum_P3=sum_P3, centre_Q=centre_Q, unit_Q=unit_Q, map_QD=weight_Q[:, None] * _directions(scaled_NQ)
    )


def statistics(dense_NP: Tensor, field_F2: Tensor, sum_P3: Tensor, said_N3: Tensor | None) -> Tensor:
    """Of each field what the items of the same categories said, without the item itself: mean offset, log(1 + count) and mean
    popularity, (N, 3 F)."""
    found = [dense_NP[:, :0]]
    for start, stop in field_F2.tolist():
        here_NC = dense_NP[:, start:stop]
        sum_N3 = here_NC @ sum_P3[start:stop]
        if said_N3 is not None:
            sum_N3 = sum_N3 - here_NC.square().sum(1, keepdim=True) * said_N3
        offset_N, count_N, popularity_N = sum_N3.unbind(1)
        count_N = count_N.clamp_min(0.0)
        shrunken_N = count_N + SHRINKAGE
        found.append(torch.stack([offset_N / shrunken_N, count_N.log1p(), popularity_N / shrunken_N], 1))
    return torch.cat(found, 1)


def _scaled(column_NQ: Tensor, centre_Q: Tensor, unit_Q: Tensor, num_content: int) -> Tensor:
    scaled_NQ = (column_NQ - centre_Q) / unit_Q
    return torch.cat([scaled_NQ[:, :num_content], scaled_NQ[:, num_content:].clamp(-CLIP, CLIP)], 1)


def _directions(scaled_NQ: Tensor) -> Tensor:
    """Leading right singular vectors (Q, D)."""
    # A second to import, and only learning needs it.
    from sklearn.utils.extmath import randomized_svd

    size = min(MAX_DIM, *scaled_NQ.shape)
    _, _, right_DQ = randomized_svd(scaled_NQ.numpy(), n_components=size, n_iter=4, random_state=0)
    return torch.from_numpy(right_DQ.T.copy())
