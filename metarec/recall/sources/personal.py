"""Items of the highest ranking score for the user: the adapted vector against the index."""

from typing import ClassVar

import numpy as np

from metarec.recall.contract import Found, RecallUser, Shelf, best
from metarec.types import CandidateSourceName


class Personal:
    """Searches the index; without item vectors, scores the whole catalogue."""

    name: ClassVar[CandidateSourceName] = "personal"

    def find(self, shelf: Shelf, user: RecallUser, limit: int) -> Found:
        """The best `limit` items, by ranking score."""
        if shelf.index is None or user.vector is None:
            rows = np.arange(shelf.num_items)
            scores = user.scores(shelf.view, rows)
        else:
            rows, scores = shelf.index.search(user.vector, limit + len(shelf.left_out))
        kept = shelf.allows(rows)
        return best(rows[kept], scores[kept], shelf.view.catalogue.ids, limit)
