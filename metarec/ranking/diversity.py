"""Diversity within a list: maximal marginal relevance (Carbonell & Goldstein 1998).

The next item is the one of highest

    (1 - d) relevance(i) - d max_{j in list} cos(i, j)

with the relevance being the score on a scale on which those without boosts go from 0 to 1. d = 0 is the order of scores, d = 1
takes whatever is least like what is there already.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DiversityReport:
    """What diversity changed: mean cosine of two items of the list, and the mean score given up for it."""

    strength: float
    similarity_before: float
    similarity_after: float
    score_traded: float


class Marginal:
    """Marginal relevance of candidates, kept up to date while a list grows. `unit_CE` are unit vectors, `plain_C` the scores
    without boosts (None: those of `score_C`): one large boost must not make all the others equally relevant."""

    def __init__(self, strength: float, score_C: Floats, unit_CE: Floats, plain_C: Floats | None = None) -> None:
        self._unit_CE, self._strength = unit_CE, np.float32(strength)
        scale_C = score_C if plain_C is None else plain_C
        low, high = (scale_C.min(), scale_C.max()) if len(scale_C) else (0.0, 0.0)
        relevance_C = (score_C - low) / (high - low) if high > low else np.zeros_like(score_C)
        self._relevance_C = cast(Floats, (1 - self._strength) * relevance_C)
        self._nearest_C: Floats | None = None
        # Shared with copies: the lists of many draws hold mostly the same candidates.
        self._cosine_C: dict[int, Floats] = {}

    @property
    def value_C(self) -> Floats:  # noqa: N802  # shape suffix
        """What each candidate is worth next."""
        return self._relevance_C if self._nearest_C is None else self._relevance_C - self._strength * self._nearest_C

    def add(self, place: int) -> None:
        """Candidate `place` is in the list now."""
        cosine_C = self._cosine_C.get(place)
        if cosine_C is None:
            cosine_C = self._cosine_C[place] = self._unit_CE @ self._unit_CE[place]
        self._nearest_C = cosine_C if self._nearest_C is None else np.maximum(self._nearest_C, cosine_C)

    def copy(self) -> "Marginal":
        """One that goes on independently."""
        other = object.__new__(Marginal)
        other._unit_CE, other._strength, other._cosine_C = self._unit_CE, self._strength, self._cosine_C
        other._relevance_C, other._nearest_C = self._relevance_C, self._nearest_C
        return other


def unit_rows(vector_CE: Floats) -> Floats:
    """Rows of length 1; rows of length 0 stay so, and are like nothing."""
    norm_C1 = np.linalg.norm(vector_CE, axis=1, keepdims=True)
    return cast(Floats, (vector_CE / np.maximum(norm_C1, 1e-12)).astype(np.float32))


def mean_similarity(unit_NE: Floats) -> float:
    """Mean cosine of two different rows; 0 for fewer than two."""
    count = len(unit_NE)
    if count < 2:
        return 0.0
    total_E = unit_NE.sum(0)
    return float((total_E @ total_E - np.square(unit_NE).sum()) / (count * (count - 1)))
