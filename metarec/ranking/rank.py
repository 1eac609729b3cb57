"""Orders candidates by score, the same way every time, with room for emerging items.

What nobody has taken yet is expected to stay so: an emerging item fits a user and still scores below everything established. Cut
to the best ten, no list would ever show it, and it would get no interactions to learn from. So one place in ten is kept for them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from metarec.ranking.contract import ScoringEngine

AdaptedT = TypeVar("AdaptedT")

ITEMS_PER_EMERGING = 10
"""One place in so many is for an emerging item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedItem:
    """A scored candidate; `known` is false for one that nobody knows, which has the score of an item without id and content."""

    item_id: str
    score: float
    known: bool = True


def rank(
    engine: ScoringEngine[AdaptedT],
    adapted: AdaptedT,
    item_ids: Sequence[str],
    num_items: int = 0,
    *,
    emerging: Collection[str] = (),
) -> list[RankedItem]:
    """Distinct candidates, best first, ties by item id, unknown ones last; the first `num_items` of them (0: all).

    Of every ten items one is the best of `emerging`, in place of the last others, unless that many are among them anyway.
    """
    distinct = list(dict.fromkeys(item_ids))
    if not distinct:
        return []
    scores, known = engine.scores(adapted, distinct).tolist(), engine.knows(adapted, distinct).tolist()
    order = sorted(range(len(distinct)), key=lambda place: (not known[place], -scores[place], distinct[place]))
    if num_items and not emerging:
        order = order[:num_items]
    ranked = [RankedItem(item_id=distinct[place], score=scores[place], known=known[place]) for place in order]
    return _cut(ranked, num_items, emerging) if num_items else ranked


def _cut(ranked: Sequence[RankedItem], num_items: int, emerging: Collection[str]) -> list[RankedItem]:
    best, rest = list(ranked[:num_items]), ranked[num_items:]
    others = [item for item in best if item.item_id not in emerging]
    wanted = num_items // ITEMS_PER_EMERGING - (len(best) - len(others))
    added = [item for item in rest if item.known and item.item_id in emerging][: max(wanted, 0)]
    removed = {item.item_id for item in others[len(others) - len(added) :]}
    # What is added scores below all that was there, so the order stays one of scores.
    return [item for item in best if item.item_id not in removed] + added
