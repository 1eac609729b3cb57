"""Orders candidates by score, the same way every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from metarec.ranking.contract import ScoringEngine
from metarec.ranking.rules import Effect

AdaptedT = TypeVar("AdaptedT")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleEffect:
    """What one rule did to an item; `boost` is what it added to the score."""

    rule: str
    effect: Effect
    boost: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedItem:
    """A scored candidate; `known` is false for one that nobody knows, which has the score of an item without id and content.

    `rank_before` is its place by its score alone (1: the first), before rules, diversity and exploration; 0 where nobody says.
    `propensity` is the probability with which it was shown at its place, `explored` whether a draw put it there.
    """

    item_id: str
    score: float
    known: bool = True
    rank_before: int = 0
    effects: tuple[RuleEffect, ...] = ()
    propensity: float = 1.0
    explored: bool = False


def rank(engine: ScoringEngine[AdaptedT], adapted: AdaptedT, item_ids: Sequence[str], num_items: int = 0) -> list[RankedItem]:
    """Distinct candidates, best first, ties by item id, unknown ones last; the first `num_items` of them (0: all)."""
    distinct = list(dict.fromkeys(item_ids))
    if not distinct:
        return []
    scores, known = engine.scores(adapted, distinct).tolist(), engine.knows(adapted, distinct).tolist()
    order = by_score(distinct, scores, known)[: num_items or None]
    return [
        RankedItem(item_id=distinct[place], score=scores[place], known=known[place], rank_before=number)
        for number, place in enumerate(order, 1)
    ]


def by_score(item_ids: Sequence[str], scores: Sequence[float], known: Sequence[bool]) -> list[int]:
    """Places of the items, best first."""
    return sorted(range(len(item_ids)), key=lambda place: (not known[place], -scores[place], item_ids[place]))
