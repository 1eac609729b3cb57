"""Where the vectors and offsets of the catalogue scorer start."""

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.tasks.batch import EntityTable, Tables
from metarec.tasks.layout import TaskLayout


def table(size: int, known: int, width: int = 2) -> EntityTable:
    code_N = torch.where(torch.arange(size) < known, torch.arange(1, size + 1), 0)
    dense_NP = torch.from_numpy(np.random.default_rng(1).normal(size=(size, width)).astype(np.float32))
    return EntityTable(code_N=code_N, dense_NP=dense_NP, blocks=(("x", 0, width),), num_codes=known)


def interactions(users: int = 30, items: int = 12, timed: bool = True) -> TaskLayout:
    random = np.random.default_rng(0)
    user_N, item_N = np.nonzero(random.random((users, items)) < np.linspace(0.7, 0.1, items))
    times = random.permutation(len(user_N)).astype(np.float64) if timed else None
    return TaskLayout.from_arrays(user_N, item_N, np.ones(len(user_N), np.float32), times, num_tasks=users, num_rows=items)


def start(model: CatalogueScorer, layout: TaskLayout, rows: EntityTable) -> tuple[torch.Tensor, torch.Tensor]:
    tables = Tables(tasks=table(30, 30), rows=rows)
    theta = model.init(tables, torch.Generator().manual_seed(0))
    return model.row_features(model.start_from(theta, layout, rows), rows)


def test_inner_products_start_as_the_best_approximation_of_the_shrunken_cosine() -> None:
    layout = interactions()
    phi_ID, _ = start(CatalogueScorer(embedding_dim=5, shrinkage=3.0), layout, table(12, 12))
    binary_UI = np.zeros((30, 12))
    binary_UI[layout.row_tasks, layout.row_N] = 1
    count_I = binary_UI.sum(0)
    similarity = binary_UI.T @ binary_UI / np.sqrt(np.outer(count_I + 3, count_I + 3))
    value_I, vector_II = np.linalg.eigh(similarity)
    best = (vector_II[:, -5:] * value_I[-5:]) @ vector_II[:, -5:].T
    np.testing.assert_allclose((phi_ID @ phi_ID.T).numpy(), best, atol=1e-5)


def test_offsets_start_as_the_share_of_users_and_favour_recent_ones() -> None:
    plain = interactions(timed=False)
    _, bias_I = start(CatalogueScorer(embedding_dim=2), plain, table(12, 12))
    users = len(np.unique(plain.row_tasks))
    np.testing.assert_allclose(bias_I.numpy(), np.bincount(plain.row_N, minlength=12) / users, atol=1e-5)
    rising = TaskLayout.from_arrays(
        np.arange(20), np.repeat([0, 1], 10), np.ones(20, np.float32), np.arange(20.0), num_tasks=30, num_rows=12
    )
    _, bias_I = start(CatalogueScorer(embedding_dim=2, recent_fraction=0.2), rising, table(12, 12))
    assert float(bias_I[1]) > 0.8 > float(bias_I[0])


def test_the_start_does_not_depend_on_the_generator() -> None:
    layout, rows, model = interactions(), table(12, 12), CatalogueScorer(embedding_dim=3)
    tables = Tables(tasks=table(30, 30), rows=rows)
    one = model.start_from(model.init(tables, torch.Generator().manual_seed(1)), layout, rows)
    two = model.start_from(model.init(tables, torch.Generator().manual_seed(2)), layout, rows)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_items_without_a_code_have_the_vector_of_their_content() -> None:
    layout, rows = interactions(), table(12, 10)
    model = CatalogueScorer(embedding_dim=3)
    theta = model.start_from(model.init(Tables(tasks=table(30, 30), rows=rows), torch.Generator()), layout, rows)
    phi_ID, _ = model.row_features(theta, rows)
    torch.testing.assert_close(phi_ID[10:], rows.dense_NP[10:] @ theta["row.content"])
    assert not theta["row.id"][0].any()


@pytest.mark.parametrize(("users", "items"), [(1, 1), (1, 5), (3, 2)])
def test_data_sets_smaller_than_the_dimension_fill_the_rest_with_zeros(users: int, items: int) -> None:
    user_N, item_N = (part.ravel() for part in np.meshgrid(np.arange(users), np.arange(items)))
    layout = TaskLayout.from_arrays(user_N, item_N, np.ones(len(user_N), np.float32), num_tasks=users, num_rows=items)
    phi_ID, _ = start(CatalogueScorer(embedding_dim=8), layout, table(items, items))
    assert phi_ID.shape == (items, 8)
    assert bool(phi_ID.isfinite().all())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="embedding_dim is 0"):
        CatalogueScorer(embedding_dim=0)
    with pytest.raises(ConfigError, match=r"shrinkage is -1\.0, must be positive"):
        CatalogueScorer(shrinkage=-1.0)
