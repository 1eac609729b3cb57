"""What recall needs of an engine, and the contract of a candidate source.

A source is one file in `metarec/recall/sources` and one line in `metarec/recall/registry.py`. Items are addressed by row.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from metarec.meta.catalogue import CatalogueSnapshot
from metarec.meta.prior import Prior
from metarec.recall.index import VectorIndex
from metarec.types import CandidateSourceName, Interaction

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Vectors(Protocol):
    """score = bias_I + phi_IE @ the user's vector."""

    @property
    def phi_IE(self) -> Floats:  # noqa: N802  # shape suffix
        """Item vectors."""
        ...

    @property
    def bias_I(self) -> Floats:  # noqa: N802  # shape suffix
        """Item offsets."""
        ...


class ItemView(Protocol):
    """One consistent view of the items; `metarec.adaptation.view.EngineView` is one."""

    @property
    def prior(self) -> Prior:
        """The prior whose items these are."""
        ...

    @property
    def catalogue(self) -> CatalogueSnapshot:
        """Ids by row."""
        ...

    @property
    def vectors(self) -> Vectors | None:
        """Item vectors; None when the score is not linear in a vector of the user."""
        ...

    @property
    def content_IE(self) -> Floats:  # noqa: N802  # shape suffix
        """Unit vectors of the items' content."""
        ...


@dataclass(frozen=True, kw_only=True)
class RecallUser:
    """Whom to find items for.

    `vector` goes with `Vectors`, None where there are none; `scores` gives the ranking scores of rows of a view. The items of
    `support` and `seen` are known to the user.
    """

    vector: Floats | None
    scores: Callable[[ItemView, Rows], Floats]
    support: Sequence[Interaction] = ()
    seen: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The items as sources see them: `popular` rows by training popularity, `fresh` rows newest first, the rows `left_out`."""

    view: ItemView
    index: VectorIndex | None
    popular: Rows
    fresh: Rows
    left_out: frozenset[int] = frozenset()

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.view.catalogue.ids)

    def allowed(self, rows: Rows) -> Rows:
        """The rows that are not left out."""
        return rows[self.allows(rows)]

    def allows(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows (N,) are not left out."""
        return ~self._left_out_I[rows]

    @cached_property
    def _left_out_I(self) -> NDArray[np.bool_]:  # noqa: N802  # shape suffix
        """Looked up by row: filters may leave out most of a catalogue."""
        found_I = np.zeros(self.num_items, bool)
        left_out_N = np.fromiter(self.left_out, np.int64, len(self.left_out))
        found_I[left_out_N[left_out_N < self.num_items]] = True  # a filter may know items that came after this shelf
        return found_I


Found = Sequence[tuple[int, float]]
"""Distinct rows with the source's own score, best first."""


class Source(Protocol):
    """Proposes items."""

    name: ClassVar[CandidateSourceName]

    def find(self, shelf: Shelf, user: RecallUser, limit: int) -> Found:
        """At most `limit` rows that are not left out."""
        ...


def best(rows: Rows, scores: Floats, ids: Sequence[str], limit: int) -> Found:
    """The `limit` rows of the highest score, ties by item id."""
    if len(rows) > limit:
        cut = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        rows, scores = rows[scores >= cut], scores[scores >= cut]
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], ids[pair[0]]))[:limit]
