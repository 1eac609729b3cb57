"""Planted: vectors and biases of items follow their content; training has left all of it in their own parts."""

import pytest
import torch

from metarec.errors import InvalidInputError
from metarec.meta.content_refit import refit_content
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable, Tables

KNOWN, ITEMS, WIDTH, DIM = 150, 200, 6, 3


def _planted():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(ITEMS, WIDTH, generator=generator)
    code = torch.cat([torch.arange(1, KNOWN + 1), torch.zeros(ITEMS - KNOWN, dtype=torch.int64)])
    rows = EntityTable(code_N=code, dense_NP=dense, blocks=(("x", 0, WIDTH),), num_codes=KNOWN)
    users = EntityTable(code_N=torch.zeros(1, dtype=torch.int64), dense_NP=torch.zeros(1, 1), blocks=(("x", 0, 1),), num_codes=0)
    model = LinearGaussian(embedding_dim=DIM)
    theta = dict(model.init(Tables(tasks=users, rows=rows), generator))
    vectors, biases = torch.randn(WIDTH, DIM, generator=generator), torch.randn(WIDTH, generator=generator)
    theta["row.content"], theta["row.content_bias"] = torch.zeros(WIDTH, DIM), torch.zeros(WIDTH)
    theta["row.id"][1:], theta["row.id_bias"][1:] = dense[:KNOWN] @ vectors, dense[:KNOWN] @ biases + 0.25
    theta["mu"] = torch.tensor(3.0)
    return model, theta, rows, vectors, biases


def _says(model, theta, rows):
    phi, bias = model.row_features(theta, rows)
    return phi, bias + theta["mu"]


def test_known_rows_keep_their_vectors_and_biases():
    model, theta, rows, _, _ = _planted()
    fitted = refit_content(theta, rows, torch.full((ITEMS,), 20))
    for before, after in zip(_says(model, theta, rows), _says(model, fitted, rows), strict=True):
        torch.testing.assert_close(after[:KNOWN], before[:KNOWN], atol=1e-5, rtol=0)
    assert set(fitted) == set(theta)
    assert not fitted["row.id"][0].any()
    assert fitted["row.id_bias"][0] == 0


def test_unknown_rows_get_what_their_content_says():
    model, theta, rows, vectors, biases = _planted()
    fitted = refit_content(theta, rows, torch.full((ITEMS,), 10_000), vector_penalty=1e-6, bias_penalty=1e-6)
    phi, bias = _says(model, fitted, rows)
    torch.testing.assert_close(phi[KNOWN:, :DIM], rows.dense_NP[KNOWN:] @ vectors, atol=1e-4, rtol=0)
    spread = bias[KNOWN:] - rows.dense_NP[KNOWN:] @ biases
    assert spread.std() < 1e-4
    own = fitted["row.id_bias"][1:] - fitted["row.id_bias"][1:].mean()
    assert own.abs().max() < 1e-4


def test_the_level_of_unknown_rows_stays_where_training_put_it():
    """By interactions: the one item that everybody has rated decides."""
    model, theta, rows, _, _ = _planted()
    theta["row.content_bias"] = torch.full((WIDTH,), 0.1)
    count = torch.ones(ITEMS)
    count[7] = 1e9
    hidden = EntityTable(
        code_N=torch.zeros(ITEMS, dtype=torch.int64), dense_NP=rows.dense_NP, blocks=rows.blocks, num_codes=KNOWN
    )
    before, after = (_says(model, found, hidden)[1][7] for found in (theta, refit_content(theta, rows, count)))
    assert after == pytest.approx(float(before), abs=1e-5)


def test_a_heavier_penalty_shrinks_the_map():
    _, theta, rows, _, _ = _planted()
    light, heavy = (
        refit_content(theta, rows, torch.full((ITEMS,), 20), vector_penalty=p, bias_penalty=p)["row.content"].norm()
        for p in (1.0, 1000.0)
    )
    assert heavy < 0.5 * light


def test_without_known_rows_nothing_changes():
    _, theta, rows, _, _ = _planted()
    nobody = EntityTable(code_N=torch.zeros_like(rows.code_N), dense_NP=rows.dense_NP, blocks=rows.blocks, num_codes=0)
    assert refit_content(theta, nobody, torch.zeros(ITEMS)) == theta
    with pytest.raises(InvalidInputError, match="penalties must be positive"):
        refit_content(theta, rows, torch.ones(ITEMS), bias_penalty=0.0)
