"""Orders candidates by score, the same way every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from metarec.ranking.contract import ScoringEngine

AdaptedT = TypeVar("AdaptedT")


@dataclass(frozen=True, kw_only=True)
class RankedItem:
    """A scored candidate; `known` is false for one that nobody knows, which has the score of an item without id and content."""

    item_id: str
    score: float
    known: bool = True


def rank(engine: ScoringEngine[AdaptedT], adapted: AdaptedT, item_ids: Sequence[str], num_items: int = 0) -> list[RankedItem]:
    """Distinct candidates, best first, ties by item id, unknown ones last; the first `num_items` of them (0: all)."""
    distinct = list(dict.fromkeys(item_ids))
    if not distinct:
        return []
    found = zip(distinct, engine.scores(adapted, distinct).tolist(), engine.knows(adapted, distinct).tolist(), strict=True)
    ranked = [RankedItem(item_id=item_id, score=score, known=known) for item_id, score, known in found]
    ranked.sort(key=lambda item: (not item.known, -item.score, item.item_id))
    return ranked[:num_items] if num_items else ranked
