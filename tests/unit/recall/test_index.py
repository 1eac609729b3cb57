"""The index: exact search, and an approximate one that finds the same."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from metarec.recall.index import PIECE, ApproximateIndex, ExactIndex, make_index

Floats = NDArray[np.float32]


def vectors(num_items: int, dim: int = 24, seed: int = 0) -> tuple[Floats, Floats]:
    """Vectors of very different lengths, as those of popular and rare items are."""
    rng = np.random.default_rng(seed)
    phi_IE = rng.normal(size=(num_items, dim)) * rng.gamma(2.0, 0.5, size=(num_items, 1))
    return phi_IE.astype(np.float32), (rng.normal(size=num_items) * 0.3).astype(np.float32)


def trained(num_items: int, dim: int = 64, seed: int = 0) -> tuple[Floats, Floats]:
    """Vectors of like length, all on one side: those of a trained checkpoint, whose users are on that side too."""
    rng = np.random.default_rng(seed)
    scale_E = 0.9 ** np.arange(dim)
    phi_IE = rng.normal(size=(num_items, dim)) * scale_E * 0.3
    phi_IE[:, 0] += 1.0
    return phi_IE.astype(np.float32), (rng.normal(size=num_items) * 0.2).astype(np.float32)


def top(rows: NDArray[np.int64], scores: Floats, limit: int) -> set[int]:
    return set(rows[np.argsort(-scores)[:limit]].tolist())


def test_the_exact_index_scores_everything() -> None:
    phi_IE, bias_I = vectors(50)
    rows, scores = ExactIndex(phi_IE, bias_I).search(phi_IE[3], 5)
    np.testing.assert_array_equal(rows, np.arange(50))
    np.testing.assert_allclose(scores, bias_I + phi_IE @ phi_IE[3], rtol=1e-6)


def test_size_decides_which_index_is_used() -> None:
    assert isinstance(make_index(*vectors(20), exact_limit=20), ExactIndex)
    assert isinstance(make_index(*vectors(21), exact_limit=20), ApproximateIndex)


@pytest.mark.parametrize(("make", "side"), [(vectors, 0.0), (trained, 10.0)])
def test_the_approximate_index_finds_what_the_exact_one_does(make: Callable[[int], tuple[Floats, Floats]], side: float) -> None:
    phi_IE, bias_I = make(8_000)
    exact, approximate = ExactIndex(phi_IE, bias_I), ApproximateIndex(phi_IE, bias_I)
    rng = np.random.default_rng(1)
    for limit in (10, 200):
        recalls = []
        for _ in range(30):
            query = rng.normal(size=phi_IE.shape[1]).astype(np.float32) * 3
            query[0] += side
            rows, scores = approximate.search(query, limit)
            np.testing.assert_allclose(scores, bias_I[rows] + phi_IE[rows] @ query, rtol=1e-4, atol=1e-4)
            assert len(set(rows.tolist())) == len(rows) >= limit
            recalls.append(len(top(rows, scores, limit) & top(*exact.search(query, limit), limit)) / limit)
        assert np.mean(recalls) > 0.95


@pytest.mark.parametrize("length", [1.0, 10.0])
def test_new_and_changed_vectors_are_found_and_old_ones_are_not(length: float) -> None:
    phi_IE, bias_I = vectors(500)
    old = ApproximateIndex(phi_IE, bias_I)
    query = np.zeros(24, np.float32)
    query[5] = 1.0
    grown_IE, grown_I = np.concatenate([phi_IE, query[None] * 50 * length]), np.append(bias_I, np.float32(0.0))
    grown_IE[7] = -query * 50
    before = int(np.argmax(bias_I + phi_IE @ query))
    new = old.updated(grown_IE, grown_I, np.array([7, 500]))
    rows, scores = new.search(query, 5)
    assert rows[np.argmax(scores)] == 500
    assert 7 not in top(rows, scores, 5)
    rows, scores = old.search(query, 5)
    assert rows.max() < 500
    assert before == 7 or before in rows


def test_searches_have_their_turn_while_many_items_change() -> None:
    phi_IE, bias_I = vectors(300)
    index = ApproximateIndex(phi_IE, bias_I)
    turns: list[int] = []

    class Lock:
        def __enter__(self) -> None:
            turns.append(0)

        def __exit__(self, *_: object) -> None:
            pass

    index._lock = Lock()  # type: ignore[assignment]  # counts how often it is let go
    index.updated(phi_IE, bias_I, np.arange(200))
    assert len(turns) >= 200 / PIECE


def test_with_thousands_of_items_to_leave_out_everything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarec.recall.index.MAX_NEIGHBOURS", 50)
    phi_IE, bias_I = vectors(300)
    rows, scores = ApproximateIndex(phi_IE, bias_I).search(phi_IE[3], 26)
    np.testing.assert_array_equal(rows, np.arange(300))
    np.testing.assert_allclose(scores, bias_I + phi_IE @ phi_IE[3], rtol=1e-5)


def test_a_limit_beyond_the_catalogue_gives_all_of_it() -> None:
    phi_IE, bias_I = vectors(30)
    rows, _ = ApproximateIndex(phi_IE, bias_I).search(phi_IE[0], 100)
    assert set(rows.tolist()) == set(range(30))
