"""Items upserted lately that hardly anybody has taken yet: without a place of their own they would never get interactions."""

from typing import ClassVar

from metarec.recall.contract import Found, RecallUser, Shelf, best
from metarec.types import CandidateSourceName


class Fresh:
    """Orders fresh items by the user's ranking score."""

    name: ClassVar[CandidateSourceName] = "fresh"

    def find(self, shelf: Shelf, user: RecallUser, limit: int) -> Found:
        """The `limit` fresh items of the highest ranking score."""
        rows = shelf.allowed(shelf.fresh)
        if not len(rows):
            return []
        return best(rows, user.scores(shelf.view, rows), shelf.view.catalogue.ids, limit)
