"""Places of items in a space of content in which every field counts the same.

Beside the encoded fields a place holds what other items of the same categories were like (target statistics: Micci-Barreca
2001; Prokhorenkova et al. 2018, section 3): of a director's other films, how far their offsets lie from the mean, how many there
are and how often they were met (an item that shares two categories counts twice). All of it is reduced to its principal
directions. Learned by metarec.meta.space_learning.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

STATISTICS = 3
"""Of each categorical field."""
SHRINKAGE = 2.0
"""Other items of the same categories at which their mean counts half."""
CLIP = 5.0
"""Statistics are cut at so many deviations: no category is so large that its items are far from all others."""


@dataclass(frozen=True, kw_only=True)
class ContentSpace:
    """A space of D directions over P columns of content and R = 3 F statistics of F categorical fields, Q = P + R.

    `sum_PR` are, by category and statistic of its field, sums of what the items it was learned from have said: the distance of
    their offset from the mean, 1, and the deviation of the logarithm of their interactions; 0 for columns of other fields.
    `centre_Q` and `scale_Q` bring content and statistics to their field's unit, `map_QD` takes them to places.
    """

    sum_PR: Tensor
    centre_Q: Tensor
    scale_Q: Tensor
    map_QD: Tensor

    def places(self, dense_NP: Tensor) -> Tensor:
        """Places (N, D) of encoded items that the space was not learned from."""
        dense_NP = dense_NP.to(self.map_QD.dtype)
        return self.of_sums(dense_NP, dense_NP @ self.sum_PR)

    def of_sums(self, dense_NP: Tensor, sum_NR: Tensor) -> Tensor:
        """Places (N, D) of items whose categories have said so much."""
        column_NQ = torch.cat([dense_NP, statistics(sum_NR)], 1)
        return in_units(column_NQ, self.centre_Q, self.scale_Q, dense_NP.shape[1]) @ self.map_QD

    def to_arrays(self) -> dict[str, Tensor]:
        """As named tensors, the arguments of the class."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def statistics(sum_NR: Tensor) -> Tensor:
    """Of each field what the items of the same categories are like: mean offset, log(1 + count), mean popularity (N, R)."""
    offset_NF, count_NF, popularity_NF = sum_NR.reshape(len(sum_NR), sum_NR.shape[1] // STATISTICS, STATISTICS).unbind(2)
    count_NF = count_NF.clamp_min(0.0)
    found_NF3 = torch.stack([offset_NF, count_NF.log1p(), popularity_NF], 2)
    found_NF3[..., 0::2] /= (count_NF + SHRINKAGE)[..., None]
    return found_NF3.flatten(1)


def in_units(column_NQ: Tensor, centre_Q: Tensor, scale_Q: Tensor, num_content: int) -> Tensor:
    """Columns in the units of their fields, those after the first `num_content` cut at CLIP."""
    scaled_NQ = (column_NQ - centre_Q) * scale_Q
    return torch.cat([scaled_NQ[:, :num_content], scaled_NQ[:, num_content:].clamp(-CLIP, CLIP)], 1)


def closeness(left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """exp(-|z - z'|^2 / 2), (N, M)."""
    distance_NM = left_ND.square().sum(1, keepdim=True) + right_MD.square().sum(1) - 2 * left_ND @ right_MD.mT
    return torch.exp(-0.5 * distance_NM.clamp_min(0))
