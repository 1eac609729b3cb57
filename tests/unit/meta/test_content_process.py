"""Unknown rows by a Gaussian process over content: the equations written out, and planted rows that are no linear map."""

import math

import pytest
import torch
from torch import Tensor

from metarec.meta.content_kernel import Kernel
from metarec.meta.content_process import with_process
from metarec.meta.content_refit import SHRINKAGE, refit_content
from metarec.meta.item_side import SMALLEST_SCALE, ItemSide
from metarec.models.content_process import has_process
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable, Tables

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN, ITEMS, DIM = 160, 200, 2
BLOCKS = (("one", 0, 2), ("two", 2, 3), ("still", 3, 4))
"""The last block never varies among known rows."""
COUNTS = torch.arange(ITEMS) % 30 + 1


def planted() -> tuple[LinearGaussian, MetaParams, EntityTable, ItemSide]:
    """Vectors are a wave of the first block; the item side knows which columns make rows alike."""
    generator = torch.Generator().manual_seed(0)
    dense_NP = torch.cat([torch.rand(ITEMS, 3, generator=generator) * 4 - 2, torch.ones(ITEMS, 1)], 1)
    code_N = torch.cat([torch.arange(1, KNOWN + 1), torch.zeros(ITEMS - KNOWN, dtype=torch.int64)])
    rows = EntityTable(code_N=code_N, dense_NP=dense_NP, blocks=BLOCKS, num_codes=KNOWN)
    users = EntityTable(code_N=torch.zeros(1, dtype=torch.int64), dense_NP=torch.zeros(1, 1), blocks=(("x", 0, 1),), num_codes=0)
    model = LinearGaussian(embedding_dim=DIM)
    theta = dict(model.init(Tables(tasks=users, rows=rows), generator))
    theta["row.id"][1:] = truth(dense_NP[:KNOWN]) - dense_NP[:KNOWN] @ theta["row.content"]
    log_weight_B = torch.tensor([1.0, -8.0, 0.0], dtype=torch.float64)

    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    kernel = Kernel(linear_B=log_weight_B - 1, squared_B=log_weight_B, variance=number(2.0), constant=number(-1.0))
    side = ItemSide(
        anchor_NP=dense_NP[:3],
        centre_P=dense_NP[:KNOWN].double().mean(0),
        scale_P=torch.tensor([0.9, 0.9, 1.2, SMALLEST_SCALE], dtype=torch.float64),
        block_P=torch.tensor([0, 0, 1, 2]),
        level_E=torch.zeros(DIM + 1, dtype=torch.float64),
        taste_D=torch.zeros(DIM, dtype=torch.float64),
        weight_NE=torch.zeros(3, DIM + 1, dtype=torch.float64),
        spread_EE=torch.eye(DIM + 1, dtype=torch.float64),
        offset=kernel,
        taste=kernel,
    )
    return model, theta, rows, side


def truth(dense_NP: Tensor) -> Tensor:
    return torch.stack([torch.sin(2 * dense_NP[:, 0]) + 3, torch.cos(2 * dense_NP[:, 1])], 1)


def written_out(theta: MetaParams, rows: EntityTable, side: ItemSide, anchor_M: Tensor) -> Tensor:
    """The posterior mean (N, D) of the unknown rows in float64, entry by entry."""
    weight_B = torch.exp(side.taste.linear_B), torch.exp(side.taste.squared_B)
    value_NP = ((rows.dense_NP.double() - side.centre_P) / side.scale_P)[:, :3]
    block_P = side.block_P[:3]

    def kernel(left: int, right: int) -> float:
        product = float((weight_B[0][block_P] * value_NP[left] * value_NP[right]).sum())
        distance = float((weight_B[1][block_P] * (value_NP[left] - value_NP[right]).square()).sum())
        return product + math.exp(float(side.taste.variance) - distance / 2) + math.exp(float(side.taste.constant))

    total_MD = (rows.dense_NP @ theta["row.content"])[anchor_M].double() + theta["row.id"][rows.code_N[anchor_M]].double()
    precision_M = COUNTS[anchor_M] / (COUNTS[anchor_M] + SHRINKAGE)
    level_D = (precision_M[:, None] * total_MD).sum(0) / precision_M.sum()
    among = [[kernel(int(a), int(b)) for b in anchor_M] for a in anchor_M]
    matrix_MM = torch.tensor(among, dtype=torch.float64) + torch.diag(1 / precision_M)
    across = torch.tensor([[kernel(row, int(a)) for a in anchor_M] for row in range(KNOWN, ITEMS)], dtype=torch.float64)
    return level_D + across @ torch.linalg.inv(matrix_MM) @ (total_MD - level_D)


def test_unknown_rows_have_the_posterior_mean_of_the_process() -> None:
    model, theta, rows, side = planted()
    phi_ND, _ = model.row_features(with_process(theta, rows, COUNTS, side), rows)
    expected = written_out(theta, rows, side, torch.arange(KNOWN))
    torch.testing.assert_close(phi_ND[KNOWN:, :DIM].double(), expected, atol=1e-4, rtol=0)
    assert (phi_ND[:, DIM] == 1).all()


def test_of_too_many_known_rows_the_content_map_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarec.meta.content_process.MAX_ANCHORS", KNOWN - 1)
    _, theta, rows, side = planted()
    assert with_process(theta, rows, COUNTS, side) is theta


def test_known_rows_and_biases_stay_to_the_bit() -> None:
    model, theta, rows, side = planted()
    found = with_process(theta, rows, COUNTS, side)
    assert has_process(found)
    assert not has_process(theta)
    before, after = model.row_features(theta, rows), model.row_features(found, rows)
    assert torch.equal(before[0][:KNOWN], after[0][:KNOWN])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0][KNOWN:], after[0][KNOWN:])


def test_a_known_row_shown_without_its_id_is_an_unknown_one() -> None:
    model, theta, rows, side = planted()
    found = with_process(theta, rows, COUNTS, side)
    nameless = EntityTable(
        code_N=torch.zeros_like(rows.code_N), dense_NP=rows.dense_NP, blocks=rows.blocks, num_codes=rows.num_codes
    )
    hidden, _ = model.row_features(found, rows, known_N=torch.zeros(ITEMS))
    torch.testing.assert_close(hidden, model.row_features(found, nameless)[0])
    some = torch.tensor([3, KNOWN + 1, 9])
    torch.testing.assert_close(model.row_features(found, nameless, some)[0], hidden[some])


def test_what_is_no_linear_map_of_content_is_found_where_ridge_finds_nothing() -> None:
    model, theta, rows, side = planted()
    ridge = refit_content(theta, rows, COUNTS)

    def error(theta: MetaParams) -> float:
        phi_ND, _ = model.row_features(theta, rows)
        return float((phi_ND[KNOWN:, :DIM] - truth(rows.dense_NP[KNOWN:])).square().mean())

    assert error(with_process(ridge, rows, COUNTS, side)) < 0.2 * error(ridge)


def test_a_block_that_never_varied_says_nothing_of_new_rows() -> None:
    model, theta, rows, side = planted()
    found = with_process({**theta, "row.content": torch.zeros_like(theta["row.content"])}, rows, COUNTS, side)
    odd = EntityTable(code_N=rows.code_N, dense_NP=rows.dense_NP.clone(), blocks=rows.blocks, num_codes=rows.num_codes)
    odd.dense_NP[:, 3] = -40.0
    usual, strange = model.row_features(found, rows)[0], model.row_features(found, odd)[0]
    torch.testing.assert_close(strange[KNOWN:], usual[KNOWN:], atol=1e-5, rtol=0)


def test_a_block_that_varies_among_other_known_rows_than_the_item_sides_anchors_is_left_out_of_it_all() -> None:
    model, theta, rows, side = planted()
    theta["row.content"] = torch.zeros_like(theta["row.content"])
    odd = EntityTable(code_N=rows.code_N, dense_NP=rows.dense_NP.clone(), blocks=rows.blocks, num_codes=rows.num_codes)
    odd.dense_NP[:KNOWN:7, 3] = 100.0
    usual = model.row_features(with_process(theta, rows, COUNTS, side), rows)[0]
    torch.testing.assert_close(model.row_features(with_process(theta, odd, COUNTS, side), odd)[0], usual, atol=1e-4, rtol=0)
