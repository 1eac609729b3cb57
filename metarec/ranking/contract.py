"""What ranking needs of an engine; `metarec.adaptation.engine.Engine` is a `ScoringEngine`."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from metarec.ranking.explore import Spread
from metarec.types import Contribution

AdaptedT = TypeVar("AdaptedT", contravariant=True)


class ScoringEngine(Protocol[AdaptedT]):
    """Scores items for a user it has adapted to."""

    def scores(self, adapted: AdaptedT, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """Ranking scores (N,); unknown ids get the score of an item of which nothing is known."""
        ...

    def knows(self, adapted: AdaptedT, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which ids are known (N,)."""
        ...

    def contributions(self, adapted: AdaptedT, item_id: str) -> Sequence[Contribution]:
        """Terms that add up to the item's score."""
        ...


class ListEngine(ScoringEngine[AdaptedT], Protocol[AdaptedT]):
    """One that can also lay out a list: it knows how alike items are and how uncertain their scores."""

    def directions(self, adapted: AdaptedT, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of the items (N, E), 0 for unknown ones."""
        ...

    def spread(self, adapted: AdaptedT, item_ids: Sequence[str], *, cold: bool) -> Spread:
        """How uncertain the scores are; a user who is not `cold` counts as known."""
        ...
