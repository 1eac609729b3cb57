from dataclasses import replace

import pytest
import torch

from metarec.tasks.batch import EntityTable
from metarec.tasks.sparse_columns import sparse_columns


def table(rows: int = 60, words: int = 200) -> EntityTable:
    """Two columns that everybody has, and of many others up to three each, the first row none."""
    draw = torch.Generator().manual_seed(0)
    dense_NP = torch.zeros(rows, words)
    for row in range(1, rows):
        dense_NP[row, torch.randperm(words, generator=draw)[: 1 + row % 3]] = torch.rand(1 + row % 3, generator=draw) - 0.5
    dense_NP = torch.cat([torch.randn(rows, 2, generator=draw), dense_NP], 1)
    return EntityTable(
        code_N=torch.arange(rows), dense_NP=dense_NP, blocks=(("words", 0, dense_NP.shape[1]),), num_codes=rows - 1
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row_N", [None, torch.tensor([7, 0, 7, 33]), torch.zeros(0, dtype=torch.int64)])
def test_a_map_of_sparse_columns_is_that_of_the_dense_ones(dtype: torch.dtype, row_N: torch.Tensor | None) -> None:
    dense = table()
    sparse = dense.with_sparse()
    assert sparse.sparse is not None
    assert (sparse.sparse.common_W.tolist(), sparse.sparse.start_N1[:4].tolist()) == ([0, 1], [0, 0, 2, 5])
    map_PE = torch.randn(202, 4, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
    probe_NE = torch.randn(60 if row_N is None else len(row_N), 4, generator=torch.Generator().manual_seed(2), dtype=dtype)
    mapped = [one.mapped(map_PE, row_N) for one in (dense, sparse)]
    torch.testing.assert_close(mapped[1], mapped[0])
    slopes = [torch.autograd.grad((one * probe_NE).sum(), map_PE)[0] for one in mapped]
    torch.testing.assert_close(slopes[1], slopes[0])


def test_content_that_is_replaced_is_mapped_as_it_is_now() -> None:
    sparse, map_PE = table().with_sparse(), torch.ones(202, 1)
    torch.testing.assert_close(replace(sparse, dense_NP=2 * sparse.dense_NP).mapped(map_PE), 2 * sparse.mapped(map_PE))
    assert len(sparse.at(slice(3)).mapped(map_PE)) == 3
    assert len(sparse.append(sparse).mapped(map_PE)) == 120


def test_dense_content_stays_dense() -> None:
    assert sparse_columns(torch.randn(30, 20)) is None
    assert sparse_columns(torch.zeros(0, 20)) is None
    assert sparse_columns(torch.zeros(30, 0)) is None
    assert sparse_columns(torch.zeros(30, 20)) is None


@pytest.mark.parametrize(("values", "pays"), [(40, True), (45, False)])
def test_many_values_a_row_are_multiplied(values: int, pays: bool) -> None:
    """A thousand rare columns, of which every row has so many, beside 650 that everybody has."""
    dense_NP = torch.zeros(1000, 1000)
    dense_NP[torch.arange(1000)[:, None], (torch.arange(1000)[:, None] + torch.arange(values)) % 1000] = 1.0
    assert (sparse_columns(torch.cat([dense_NP, torch.ones(1000, 650)], 1)) is not None) is pays


def test_one_rich_row_does_not_make_everybody_dense() -> None:
    dense_NP = table().dense_NP.clone()
    dense_NP[5] = 1.0
    sparse, map_PE = sparse_columns(dense_NP), torch.randn(202, 3, generator=torch.Generator().manual_seed(1))
    assert sparse is not None
    torch.testing.assert_close(sparse.mapped(map_PE), dense_NP @ map_PE)
