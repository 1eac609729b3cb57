"""An item's vector and offset by its place in a space of content, beside what the item side's own kernels say.

Those kernels weigh fields as the known items teach them; this process weighs all alike (metarec.meta.content_space). The two
err on different items, and both together are better than either (docs/learning.md).

    theta(x) = level + sum_m exp(-|z(x) - z_m|^2 / 2) c_m        z: places

is the posterior mean of a Gaussian process (Rasmussen & Williams 2006, eq. 2.25) given the known items, once more for how often
an item will be met.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarec.meta.content_refit import SHRINKAGE
from metarec.meta.content_space import ContentSpace, closeness
from metarec.meta.space_learning import learn_space
from metarec.tasks.batch import EntityTable

Ints = NDArray[np.int64]

CHUNK_ROWS = 4096
"""Rows compared with all anchors at once."""
NOISE = 0.3
"""Of what is known of an item of many rows, where the process has variance 1."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where N items are, `place_ND`, and how popular: `popularity_N`, the logarithm of their interactions from its mean over
    interactions. Both are float32."""

    place_ND: Tensor
    popularity_N: Tensor

    def __getitem__(self, at_N: Ints | Tensor) -> "Places":
        return Places(place_ND=self.place_ND[at_N], popularity_N=self.popularity_N[at_N])


@dataclass(frozen=True, kw_only=True)
class PlacePrior:
    """The process, with M anchors at `place_MD`, and weights and level of F = E + 1 values: the vector, the offset for a rater of
    mean taste, and the popularity. `known_C` are the places of known items in training, by id code."""

    space: ContentSpace
    place_MD: Tensor
    weight_MF: Tensor
    level_F: Tensor
    known_C: Places

    def mean(self, items: EntityTable) -> Tensor:
        """Vector and offset (N, E) of items by content; ids are not used."""
        parts = [self._at(self.space.places(dense_NP))[:, :-1] for dense_NP in torch.split(items.dense_NP, CHUNK_ROWS)]
        return torch.cat(parts)

    def places(self, items: EntityTable) -> Places:
        """Where the rows of a table are, and how popular: known items where training found them, whatever has been said of their
        content since; others where their content is, as popular as it foretells."""
        found = self.known_C[items.code_N]
        new_N = (items.code_N == 0).nonzero()[:, 0]
        if len(new_N):
            foretold = self.unknown(items.at(new_N))
            found.place_ND[new_N], found.popularity_N[new_N] = foretold.place_ND, foretold.popularity_N
        return found

    def unknown(self, items: EntityTable) -> Places:
        """The same by content alone, as if they had no id; what known ones said is still a part of what their categories did."""
        place_ND = torch.cat([self.space.places(dense_NP).float() for dense_NP in torch.split(items.dense_NP, CHUNK_ROWS)])
        popularity_N = torch.cat([self._at(part_ND.double())[:, -1].float() for part_ND in torch.split(place_ND, CHUNK_ROWS)])
        return Places(place_ND=place_ND, popularity_N=popularity_N)

    def _at(self, place_ND: Tensor) -> Tensor:
        return self.level_F + closeness(place_ND, self.place_MD) @ self.weight_MF

    def to_arrays(self) -> dict[str, Tensor]:
        """As named tensors; `from_arrays` reads them back."""
        space = {f"{SPACE}{name}": value for name, value in self.space.to_arrays().items()}
        known = {"known.place": self.known_C.place_ND, "known.popularity": self.known_C.popularity_N}
        return {name: getattr(self, name) for name in PLAIN} | space | known

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> "PlacePrior":
        """What `to_arrays` gave."""
        space = {name.removeprefix(SPACE): value for name, value in arrays.items() if name.startswith(SPACE)}
        known_C = Places(place_ND=arrays["known.place"], popularity_N=arrays["known.popularity"])
        return cls(**{name: arrays[name] for name in PLAIN}, space=ContentSpace(**space), known_C=known_C)


SPACE = "space."
PLAIN = ("place_MD", "weight_MF", "level_F")


def learn_place_prior(items: EntityTable, kinds: Sequence[str], count_I: Ints, anchor_M: Ints, theta_ME: Tensor) -> PlacePrior:
    """The process given vectors and offsets (for a rater of mean taste) of the known items `anchor_M`.

    `kinds` are those of the items' fields, `count_I` the interactions of all items with the users that training knows.
    """
    log_count_I = np.log(np.maximum(count_I, 1))
    popularity_I = torch.from_numpy(log_count_I - np.average(log_count_I, weights=count_I))
    count_M, popularity_M = torch.from_numpy(count_I[anchor_M]).double(), popularity_I[anchor_M]
    offset_M = theta_ME[:, -1]
    said_M3 = torch.stack([offset_M - offset_M.mean(), torch.ones_like(count_M), popularity_M - popularity_M.mean()], 1)
    space, place_MD = learn_space(items.dense_NP[anchor_M], items.blocks, kinds, said_M3)
    target_MF = torch.cat([theta_ME, popularity_M[:, None]], 1)
    precision_M = count_M / (count_M + SHRINKAGE)
    level_F = precision_M @ target_MF / precision_M.sum()
    matrix_MM = closeness(place_MD, place_MD) + torch.diag(NOISE / precision_M)
    return PlacePrior(
        space=space,
        place_MD=place_MD,
        weight_MF=torch.cholesky_solve(target_MF - level_F, torch.linalg.cholesky(matrix_MM)),
        level_F=level_F,
        known_C=_known(items, space, popularity_I, anchor_M, place_MD),
    )


def _known(items: EntityTable, space: ContentSpace, popularity_I: Tensor, anchor_M: Ints, place_MD: Tensor) -> Places:
    """By id code; 0, which no known item has, is nowhere."""
    known_N = (items.code_N > 0).nonzero()[:, 0]
    place_ID = torch.zeros(len(items), space.map_QD.shape[1])
    for at_N in torch.split(known_N, CHUNK_ROWS):
        place_ID[at_N] = space.places(items.dense_NP[at_N]).float()
    place_ID[anchor_M] = place_MD.float()  # as the process has them: without what they said themselves
    place_CD, popularity_C = torch.zeros(items.num_codes + 1, place_ID.shape[1]), torch.zeros(items.num_codes + 1)
    place_CD[items.code_N[known_N]], popularity_C[items.code_N[known_N]] = place_ID[known_N], popularity_I[known_N].float()
    return Places(place_ND=place_CD, popularity_N=popularity_C)
