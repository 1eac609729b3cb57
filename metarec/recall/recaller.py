"""Candidates for a user: the sources in order, each with its share of the list, without duplicates (DESIGN 6)."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from metarec.recall.contract import ItemView, RecallUser, Rows, Shelf, Source
from metarec.recall.index import EXACT_LIMIT, make_index
from metarec.recall.registry import SOURCES
from metarec.types import Candidate

FRESH_POPULARITY = 5
"""Training interactions from which on an item is not fresh."""

MAX_FRESH = 1_000
"""Fresh items kept: the newest ones."""


class Recaller:
    """Retrieves from the items of one checkpoint and those upserted since. Thread-safe; readers see one consistent shelf."""

    def __init__(
        self, view: ItemView, *, sources: Sequence[tuple[Source, float]] = SOURCES, exact_limit: int = EXACT_LIMIT
    ) -> None:
        self._sources = sources
        vectors = view.vectors
        index = None if vectors is None else make_index(vectors.phi_IE, vectors.bias_I, exact_limit=exact_limit)
        self._shelf = Shelf(view=view, index=index, popular=_popular(view), fresh=_fresh(view))

    def refresh(self, view: ItemView, *, changed: Collection[str] = ()) -> None:
        """Show the items of a later view of the same checkpoint; vectors of upserted and `changed` ones may be others.

        Calls must not overlap.
        """
        index, vectors = self._shelf.index, view.vectors
        before, now = self._shelf.view.catalogue.upserted, view.catalogue.upserted
        ids = {*changed, *(item_id for item_id, item in now.items() if before.get(item_id) is not item)}
        if index is not None and vectors is not None and ids:
            index = index.updated(vectors.phi_IE, vectors.bias_I, np.sort(view.catalogue.rows(ids)))
        self._shelf = replace(self._shelf, view=view, index=index, fresh=_fresh(view))

    def retrieve(
        self,
        user: RecallUser,
        num_candidates: int,
        *,
        exclude: Collection[str] = (),
        include_seen: bool = False,
        forbidden: Callable[[ItemView], frozenset[int]] | None = None,
    ) -> list[Candidate]:
        """At most `num_candidates` distinct items, those of the first source first, each with the source that proposed it first;
        but what is fresh is called so whoever proposed it, because ranking keeps a place for it.

        Left out are the items of `exclude`, the rows of the view that `forbidden` names and, unless `include_seen`, what the user
        has seen.
        """
        shelf = self._shelf
        catalogue = shelf.view.catalogue
        unwanted = {*exclude, *(() if include_seen else user.seen)}
        left_out = frozenset(catalogue.row_of[item_id] for item_id in unwanted if item_id in catalogue.row_of)
        if forbidden is not None:
            left_out |= forbidden(shelf.view)
        shelf = replace(shelf, left_out=left_out)
        found = [source.find(shelf, user, num_candidates) for source, _ in self._sources]
        taken: set[int] = set()
        chosen: list[list[tuple[int, float]]] = [[] for _ in self._sources]
        quotas = [math.ceil(share * num_candidates) for _, share in self._sources]
        for limits in (quotas, [num_candidates] * len(quotas)):
            for place, limit in enumerate(limits):
                for row, score in found[place]:
                    if len(taken) == num_candidates or len(chosen[place]) >= limit:
                        break
                    if row not in taken:
                        taken.add(row)
                        chosen[place].append((row, score))
        fresh = frozenset(shelf.fresh.tolist())
        return [
            Candidate(
                item_id=catalogue.ids[row],
                score=score,
                source="fresh" if row in fresh else source.name,
                revision=item.revision if (item := catalogue.upserted.get(catalogue.ids[row])) is not None else 0,
            )
            for (source, _), rows in zip(self._sources, chosen, strict=True)
            for row, score in rows
        ]


def _popular(view: ItemView) -> Rows:
    """Rows of the checkpoint's items with any interaction, most popular first, ties by id."""
    ids, popularity_I = view.prior.item_ids, view.prior.popularity_I
    rows = np.flatnonzero(popularity_I > 0)
    return np.array(sorted(rows.tolist(), key=lambda row: (-popularity_I[row], ids[row])), np.int64)


def _fresh(view: ItemView) -> Rows:
    """Rows of upserted items of little popularity, those upserted first last."""
    catalogue, popularity_I = view.catalogue, view.prior.popularity_I
    rows = (catalogue.row_of[item_id] for item_id in reversed(list(catalogue.upserted)))
    return np.array(
        [row for row in rows if row >= len(popularity_I) or popularity_I[row] < FRESH_POPULARITY][:MAX_FRESH], np.int64
    )
