"""Finds the items of highest score = bias + phi' w: exactly by one matrix product, or approximately over large catalogues.

The approximate index is a navigable graph under the inner product itself (HNSW, Malkov & Yashunin 2018; ip-NSW, Morozov & Babenko
2018), over [phi, b] with the query [w, 1]; what it finds is scored exactly. Lifting the vectors to one length first (Bachrach et
al. 2014) was measured to find far less: queries are far from every lifted vector. Single vectors can be added and replaced,
which emerging items need.
"""

import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXACT_LIMIT = 100_000
"""Catalogues up to this size are searched exactly: about 5 ms on one core."""

OVERSAMPLING = 2
"""How many neighbours are looked at for each item wanted."""


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
    """A graph over the vectors. `updated` changes the shared graph in place; older views of it skip rows they do not have."""

    def __init__(self, phi_IE: Floats, bias_I: Floats) -> None:
        from usearch.index import Index

        self._phi_IE, self._bias_I = phi_IE, bias_I
        self._graph = Index(
            ndim=phi_IE.shape[1] + 1, metric="ip", dtype="f32", connectivity=32, expansion_add=128, expansion_search=128
        )
        self._lock = threading.Lock()
        self._graph.add(np.arange(len(bias_I)), np.column_stack([phi_IE, bias_I]))

    def search(self, vector_E: Floats, limit: int) -> tuple[Rows, Floats]:
        """Rows near the query, scored exactly."""
        size = len(self._bias_I)
        wanted = min(size, OVERSAMPLING * limit)
        query = np.append(vector_E, np.float32(1.0))
        with self._lock:
            self._graph.expansion_search = max(128, wanted)
            keys = np.asarray(self._graph.search(query, wanted).keys, np.int64)
        rows = keys[keys < size]
        return rows, self._bias_I[rows] + self._phi_IE[rows] @ vector_E

    def updated(self, phi_IE: Floats, bias_I: Floats, changed: Rows) -> "VectorIndex":
        """A view of the same graph with these rows added or replaced."""
        view = object.__new__(ApproximateIndex)
        view._phi_IE, view._bias_I = phi_IE, bias_I
        view._graph, view._lock = self._graph, self._lock
        with self._lock:
            old = changed[changed < len(self._bias_I)]
            if len(old):
                self._graph.remove(old)
            self._graph.add(changed, np.column_stack([phi_IE[changed], bias_I[changed]]))
        return view


def make_index(phi_IE: Floats, bias_I: Floats, *, exact_limit: int = EXACT_LIMIT) -> VectorIndex:
    """The exact index up to `exact_limit` items, the approximate one above."""
    return ExactIndex(phi_IE, bias_I) if len(bias_I) <= exact_limit else ApproximateIndex(phi_IE, bias_I)
