"""Why an item has its score: terms that add up to it (DESIGN 4.1, exact explanations)."""

from collections.abc import Sequence
from typing import TypeVar

from metarec.ranking.contract import ScoringEngine
from metarec.ranking.rank import RuleEffect
from metarec.types import Contribution

AdaptedT = TypeVar("AdaptedT")


def explain(
    engine: ScoringEngine[AdaptedT], adapted: AdaptedT, item_id: str, boosts: Sequence[RuleEffect] = ()
) -> list[Contribution]:
    """Terms of the item's score, largest magnitude first; they add up to `engine.scores` plus `boosts` within 1e-4.

    One term for the level of all, one for the item, one for the profile, one for each support interaction adapted to, and one for
    each boost.
    """
    rules = [Contribution(kind="rule", rule=effect.rule, value=effect.boost) for effect in boosts]
    return sorted([*engine.contributions(adapted, item_id), *rules], key=lambda term: -abs(term.value))
