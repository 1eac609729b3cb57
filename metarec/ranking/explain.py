"""Why an item has its score: terms that add up to it (DESIGN 4.1, exact explanations)."""

from typing import TypeVar

from metarec.ranking.contract import ScoringEngine
from metarec.types import Contribution

AdaptedT = TypeVar("AdaptedT")


def explain(engine: ScoringEngine[AdaptedT], adapted: AdaptedT, item_id: str) -> list[Contribution]:
    """Terms of the item's score, largest magnitude first; they add up to `engine.scores` within 1e-4.

    One term for the level of all, one for the item, one for the profile, and one for each support interaction adapted to.
    """
    return sorted(engine.contributions(adapted, item_id), key=lambda term: -abs(term.value))
