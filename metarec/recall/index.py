"""Finds the items of highest score = bias + phi' w: exactly by one matrix product, or approximately over large catalogues.

The approximate index is two navigable graphs (HNSW, Malkov & Yashunin 2018) over x = [phi, b] with the query [w, 1], and what
either finds is scored exactly. One is under the inner product itself (ip-NSW, Morozov & Babenko 2018), the other under the cosine
of vectors lifted to one length, [x, sqrt(M^2 - |x|^2)], for which nearest neighbours have the largest inner products (Bachrach et
al. 2014).
Neither is enough (docs/adr/0012): among items of like length, as trained ones are, the first falls into pieces and loses half of
the best, and among items of very different lengths the second does. Single vectors can be added and replaced, which emerging
items need.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from usearch.index import Index

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXACT_LIMIT = 500_000
"""Catalogues up to this size are searched exactly, in some 15 ms on one core; graphs need as long for a quarter of it, and take
minutes to build (docs/adr/0012)."""

OVERSAMPLING = 2
"""How many neighbours are looked at for each item wanted."""

PIECE = 8
"""Items that are added or replaced at once: searches wait for no more, about 20 ms."""

YIELD_SECONDS = 0.001

BUILD_PIECE = 5_000

MAX_NEIGHBOURS = 10_000
"""Most neighbours that graphs are asked for: who leaves out thousands of items (filters) is faster with the product."""


class VectorIndex(Protocol):
    """Search over item vectors by row. Thread-safe."""

    def search(self, vector_E: Floats, limit: int) -> tuple[Rows, Floats]:
        """At least `limit` rows (all, where there are fewer) with exact scores, in no order; the best ones, most probably."""
        ...

    def updated(self, phi_IE: Floats, bias_I: Floats, changed: Rows) -> "VectorIndex":
        """The index over a grown catalogue, in which the rows `changed` are new or different."""
        ...


class ExactIndex:
    """Scores everything."""

    def __init__(self, phi_IE: Floats, bias_I: Floats) -> None:
        self._phi_IE, self._bias_I = phi_IE, bias_I

    def search(self, vector_E: Floats, limit: int) -> tuple[Rows, Floats]:
        """All rows and their scores."""
        return np.arange(len(self._bias_I)), self._bias_I + self._phi_IE @ vector_E

    def updated(self, phi_IE: Floats, bias_I: Floats, changed: Rows) -> "VectorIndex":
        """An index over the new vectors."""
        return make_index(phi_IE, bias_I)


class ApproximateIndex:
    """Two graphs over the vectors. `updated` changes the shared graphs in place; older views skip rows they do not have."""

    def __init__(self, phi_IE: Floats, bias_I: Floats, *, watch: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Built in pieces, for it takes minutes for a hundred thousand items: `watch` is told how many of them are in."""
        self._phi_IE, self._bias_I = phi_IE, bias_I
        item_IE = np.column_stack([phi_IE, bias_I])
        # What is added later may be longer: it then counts as no longer than this where directions are compared.
        self._length = float(np.linalg.norm(item_IE, axis=1).max(initial=0.0))
        self._inner, self._lifted = _graph(item_IE.shape[1], "ip"), _graph(item_IE.shape[1] + 1, "cos")
        self._lock = threading.Lock()
        for start in range(0, len(bias_I), BUILD_PIECE):
            rows = np.arange(start, min(start + BUILD_PIECE, len(bias_I)))
            self._add(rows, item_IE[rows])
            watch(int(rows[-1]) + 1, len(bias_I))

    def search(self, vector_E: Floats, limit: int) -> tuple[Rows, Floats]:
        """Rows near the query, scored exactly; all rows where so many are wanted that the product is faster."""
        size = len(self._bias_I)
        wanted = min(size, OVERSAMPLING * limit)
        if wanted > MAX_NEIGHBOURS:
            return np.arange(size), self._bias_I + self._phi_IE @ vector_E
        query = np.append(vector_E, np.float32(1.0))
        with self._lock:
            found = [
                _near(graph, vector, wanted) for graph, vector in ((self._inner, query), (self._lifted, np.append(query, 0)))
            ]
        rows = np.unique(np.concatenate(found))
        rows = rows[rows < size]
        return rows, self._bias_I[rows] + self._phi_IE[rows] @ vector_E

    def updated(self, phi_IE: Floats, bias_I: Floats, changed: Rows) -> "VectorIndex":
        """A view of the same graphs with these rows added or replaced."""
        view = object.__new__(ApproximateIndex)
        view._phi_IE, view._bias_I, view._length = phi_IE, bias_I, self._length
        view._inner, view._lifted, view._lock = self._inner, self._lifted, self._lock
        for start in range(0, len(changed), PIECE):
            rows = changed[start : start + PIECE]
            with self._lock:
                old = rows[rows < len(self._bias_I)]
                for graph in (self._inner, self._lifted) if len(old) else ():
                    graph.remove(old)
                self._add(rows, np.column_stack([phi_IE[rows], bias_I[rows]]))
            # A lock that is taken again at once leaves no turn to those who wait for it.
            time.sleep(YIELD_SECONDS)
        return view

    def _add(self, rows: Rows, item_NE: Floats) -> None:
        rest_N = np.sqrt(np.maximum(self._length**2 - np.square(item_NE).sum(1), 0.0))
        self._inner.add(rows, np.ascontiguousarray(item_NE, np.float32))
        self._lifted.add(rows, np.column_stack([item_NE, rest_N]).astype(np.float32))


def _graph(dim: int, metric: str) -> "Index":
    from usearch.index import Index

    return Index(ndim=dim, metric=metric, dtype="f32", connectivity=32, expansion_add=128, expansion_search=128)


def _near(graph: "Index", query: Floats, wanted: int) -> Rows:
    graph.expansion_search = max(128, wanted)
    return np.asarray(graph.search(np.asarray(query, np.float32), wanted).keys, np.int64)


def make_index(phi_IE: Floats, bias_I: Floats, *, exact_limit: int = EXACT_LIMIT) -> VectorIndex:
    """The exact index up to `exact_limit` items, the approximate one above."""
    return ExactIndex(phi_IE, bias_I) if len(bias_I) <= exact_limit else ApproximateIndex(phi_IE, bias_I)
