"""Items whose content resembles what the user liked: reaches niches that the vector averages out."""

from typing import ClassVar

import numpy as np

from metarec.recall.contract import Found, RecallUser, Shelf, best
from metarec.types import CandidateSourceName

NUM_LIKED = 20
"""Liked items looked at: the newest ones."""


class Content:
    """Cosine similarity to the nearest of the items liked: label above the middle of its range."""

    name: ClassVar[CandidateSourceName] = "content"

    def find(self, shelf: Shelf, user: RecallUser, limit: int) -> Found:
        """The `limit` items most similar to a liked one; none without a liked one. The score is the cosine."""
        label = shelf.view.prior.schema.label
        middle = (label.minimum + label.maximum) / 2
        row_of = shelf.view.catalogue.row_of
        liked = [row_of[entry.item_id] for entry in user.support if entry.label > middle and entry.item_id in row_of]
        if not liked:
            return []
        content_IE = shelf.view.content_IE
        # The liked items' rows first: the largest of each column is found at once, that of each row is not.
        scores = (content_IE[liked[-NUM_LIKED:]] @ content_IE.T).max(0)
        others_I = np.ones(shelf.num_items, bool)
        others_I[liked] = False
        rows = shelf.allowed(np.flatnonzero(others_I))
        return best(rows, scores[rows], shelf.view.catalogue.ids, limit)
