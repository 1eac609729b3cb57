"""Items that most people took, for whom nothing better is known."""

from typing import ClassVar

from metarec.recall.contract import Found, RecallUser, Shelf
from metarec.types import CandidateSourceName


class Popular:
    """Orders by the number of training interactions."""

    name: ClassVar[CandidateSourceName] = "popular"

    def find(self, shelf: Shelf, user: RecallUser, limit: int) -> Found:
        """The `limit` most popular items; the score is the number of interactions."""
        rows = shelf.allowed(shelf.popular)[:limit]
        return list(zip(rows.tolist(), shelf.view.prior.popularity_I[rows].tolist(), strict=True))
