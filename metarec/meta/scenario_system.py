"""Scenarios that share users (metarec.meta.scenario): rows of users by scenario, and what scenarios explain of each other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Others:
    """Blocks of the precision that couple each scenario with others, side by side: `block[k]` (E, n E) for n `names[k]`."""

    names: Mapping[int, list[int]]
    block: Mapping[int, Tensor]

    @classmethod
    def of(cls, precision: Mapping[tuple[int, int], Tensor]) -> "Others":
        """From the blocks (s, t) with s <= t."""
        names: dict[int, list[int]] = {}
        parts: dict[int, list[Tensor]] = {}
        for (one, two), block_EE in precision.items():
            for mine, other, part_EE in ((one, two, block_EE), (two, one, block_EE.T)):
                if one != two:
                    names.setdefault(mine, []).append(other)
                    parts.setdefault(mine, []).append(part_EE)
        return cls(names=names, block={k: torch.cat(found, 1) for k, found in parts.items()})

    def rest(self, k: int, moment_E: Tensor, mean: Mapping[int, Tensor]) -> Tensor:
        """The moment of k less what the means of the others explain."""
        if k not in self.names:
            return moment_E
        return moment_E - self.block[k] @ torch.cat([mean[other] for other in self.names[k]])


def marked(here_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Places (K, M) of the rows that are marked, at the front, and which of these are there."""
    count_K = here_KN.sum(1)
    most = int(count_K.max())
    return torch.argsort(~here_KN, dim=1, stable=True)[:, :most], torch.arange(most) < count_K[:, None]


def by_place(place_KN: Tensor, last: int, *values: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The rows of two arrays (K, N, E) that belong to places 1 to `last`, place by place."""
    place_M = place_KN.flatten()
    count_P = torch.bincount(place_M, minlength=last + 1)[: last + 1].tolist()
    kept_M = torch.argsort(place_M, stable=True)[count_P[0] : sum(count_P)]
    parts = [torch.split(value.flatten(0, 1)[kept_M], count_P[1:]) for value in values]
    for place, (one_ME, two_ME) in enumerate(zip(*parts, strict=True), 1):
        if len(one_ME):
            yield place, one_ME, two_ME
