"""Where the vectors, offsets and profile map of the catalogue scorer start."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError
from metarec.models.catalogue_scorer import NUM_STAGES, CatalogueScorer, stages
from metarec.models.catalogue_start import MIN_TASKS, STAGES, best_candidate, choose_recency, principal_axes, shares
from metarec.models.contract import MetaParams
from metarec.models.neighbour_axes import RIDGE, SHRINKAGE, cosine_axes, ridge_axes
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


def start(model: CatalogueScorer, layout: TaskLayout, tables: Tables, seed: int = 0) -> MetaParams:
    return model.start_from(model.init(tables, torch.Generator().manual_seed(seed)), layout, tables)


def binary(layout: TaskLayout) -> np.ndarray:
    held_UI = np.zeros((len(layout), layout.num_rows))
    held_UI[layout.row_tasks, layout.row_N] = 1
    return held_UI


def test_inner_products_start_as_the_best_approximation_of_the_covariance() -> None:
    layout, tables = interactions(), Tables(tasks=table(30, 30), rows=table(12, 12))
    model = CatalogueScorer(embedding_dim=5)
    phi_IE, _ = model.row_features(start(model, layout, tables), tables.rows)
    phi_ID = phi_IE[:, :5]
    value_I, vector_II = np.linalg.eigh(np.cov(binary(layout).T, bias=True))
    best = (vector_II[:, -5:] * value_I[-5:]) @ vector_II[:, -5:].T
    np.testing.assert_allclose((phi_ID @ phi_ID.T).numpy(), best, atol=1e-5)


def test_coordinates_are_those_of_what_tasks_hold() -> None:
    layout = interactions()
    axes, held_UI = principal_axes(layout, 11), binary(layout)
    gram_DD = axes.phi_ID.T @ axes.phi_ID
    np.testing.assert_allclose(axes.place_TD @ gram_DD, (held_UI - held_UI.mean(0)) @ axes.phi_ID, atol=1e-9)
    np.testing.assert_allclose((axes.place_TD**2).mean(0), 1.0, rtol=1e-6)


def test_without_times_offsets_start_as_the_share_of_users_at_every_stage() -> None:
    layout, tables = interactions(timed=False), Tables(tasks=table(30, 30), rows=table(12, 12))
    model = CatalogueScorer(embedding_dim=2)
    phi_IE, bias_I = model.row_features(start(model, layout, tables), tables.rows)
    np.testing.assert_allclose(bias_I.numpy(), binary(layout).mean(0), atol=1e-5)
    np.testing.assert_allclose(phi_IE[:, 2 : 2 + NUM_STAGES].numpy(), 0.0, atol=1e-6)


def test_later_stages_count_what_follows_among_those_who_do_not_have_it_yet() -> None:
    """Half of the users take item 0 first and item 1 next, the others item 1 first and item 2 next; all go on with item 3."""
    row_N = np.tile([0, 1, 3, 1, 2, 3], 500)
    layout = TaskLayout.from_arrays(
        np.repeat(np.arange(1000), 3), row_N, np.ones(3000, np.float32), np.arange(3000.0), num_tasks=1000, num_rows=4
    )
    share_KI = shares(layout)
    np.testing.assert_allclose(share_KI[0], [0.5, 1.0, 0.5, 1.0], atol=0.02)
    np.testing.assert_allclose(share_KI[1], [0.0, 1.0, 0.5, 1.0], atol=0.02)
    # Nobody has more than three rows: the stages from three on keep to those before.
    np.testing.assert_allclose(share_KI[3], share_KI[2], atol=1e-9)


def drifting(fresh: bool) -> TaskLayout:
    """200 users in a row with 8 of 40 items each; `fresh`: what is taken moves on from the first items to the last."""
    random = np.random.default_rng(3)
    item_UN = np.empty((200, 8), np.int64)
    for user in range(200):
        centre = 40 * user / 200 if fresh else 20.0
        weight_I = np.exp(-(((np.arange(40) - centre) / 6) ** 2)) + 1e-3
        item_UN[user] = random.choice(40, 8, replace=False, p=weight_I / weight_I.sum())
    return TaskLayout.from_arrays(
        np.repeat(np.arange(200), 8), item_UN.ravel(), np.ones(1600, np.float32), np.arange(1600.0), num_tasks=200, num_rows=40
    )


def test_offsets_lean_on_recent_tasks_where_that_predicts_the_next_ones() -> None:
    fraction, mix = choose_recency(drifting(fresh=True))[0]
    assert mix == 1.0
    assert fraction <= 0.12
    share_I = shares(drifting(fresh=True))[0]
    assert share_I[-5:].mean() > 3 * share_I[:5].mean()


def test_too_few_tasks_to_ask_are_no_reason_for_recency() -> None:
    assert all(mix == 0.0 for _, mix in choose_recency(interactions()))


@pytest.mark.parametrize(("better", "wanted"), [(45, 1), (31, 0)])
def test_a_choice_that_must_be_sure_is_better_by_a_standard_error(better: int, wanted: int) -> None:
    """Of 60 tasks so many are served better by the second candidate, and the rest worse by as much."""
    gain_CA = np.stack([np.full(60, 0.2), np.where(np.arange(60) < better, 0.3, 0.1)])
    assert best_candidate(gain_CA, sure=True) == wanted
    assert best_candidate(gain_CA, sure=False) == 1
    assert best_candidate(gain_CA[:, : MIN_TASKS - 1], sure=False) == 0
    assert best_candidate(gain_CA[[0, 0]], sure=False) == 0


def test_stages_are_interpolated() -> None:
    weight_TR = stages(torch.tensor([0.0, 1.0, 3.0, 2.0, 500.0], dtype=torch.float64))
    assert weight_TR.shape == (5, len(STAGES) - 1)
    assert not weight_TR[0].any()
    torch.testing.assert_close(weight_TR[1:].sum(1), torch.ones(4, dtype=torch.float64))
    assert weight_TR[1, 0] == weight_TR[2, 1] == weight_TR[4, -1] == 1.0
    part = np.log(3 / 2) / np.log(4 / 2)
    np.testing.assert_allclose(weight_TR[3, :3].numpy(), [1 - part, part, 0.0], atol=1e-12)


def test_the_profile_map_starts_as_the_regression_of_coordinates() -> None:
    """Two kinds of users, told apart by their profile, take two kinds of items."""
    kind_U = np.arange(200) % 2
    row_N = np.array([np.random.default_rng(user).permutation(6)[:4] + 6 * kind_U[user] for user in range(200)]).ravel()
    layout = TaskLayout.from_arrays(np.repeat(np.arange(200), 4), row_N, np.ones(800, np.float32), num_tasks=200, num_rows=12)
    tasks = EntityTable(
        code_N=torch.zeros(200, dtype=torch.int64), dense_NP=torch.eye(2)[kind_U], blocks=(("kind", 0, 2),), num_codes=0
    )
    tables = Tables(tasks=tasks, rows=table(12, 12))
    model = CatalogueScorer(embedding_dim=3, profile_ridge=1.0)
    theta = start(model, layout, tables)
    phi_IE, bias_I = model.row_features(theta, tables.rows)
    prior_TD = model.task_prior(theta, tasks, torch.tensor([0, 1]))
    score_TI = bias_I + prior_TD @ phi_IE[:, :3].T
    assert float(score_TI[0, :6].min()) > 0.5 > 0.2 > float(score_TI[0, 6:].max())
    assert float(score_TI[1, 6:].min()) > 0.5 > 0.2 > float(score_TI[1, :6].max())


def test_neighbouring_knots_share_what_they_learn() -> None:
    """Users at the even knots of a number are seen; those between them are expected to be alike."""
    knots, users = 9, 400
    at_U = 2 * (np.arange(users) % 5)
    share_U = (np.arange(users) % 2) * 0.02  # a little off the knot, so that neighbours are seen together
    dense = np.zeros((users, knots), np.float32)
    dense[np.arange(users), at_U] = 1 - share_U
    dense[np.arange(users), np.minimum(at_U + 1, knots - 1)] += share_U
    row_N = np.stack([(at_U >= 4).astype(np.int64), np.full(users, 2)], 1)
    layout = TaskLayout.from_arrays(
        np.repeat(np.arange(users), 2), row_N.ravel(), np.ones(2 * users, np.float32), num_tasks=users, num_rows=3
    )
    tasks = EntityTable(
        code_N=torch.zeros(users, dtype=torch.int64), dense_NP=torch.from_numpy(dense), blocks=(("age", 0, knots),), num_codes=0
    )
    model = CatalogueScorer(embedding_dim=1)
    weight_P = start(model, layout, Tables(tasks=tasks, rows=table(3, 3)))["task.content"][:, 0].abs()
    assert float(weight_P[7]) > 0.5 * float(weight_P[8])


def test_neighbours_are_the_shrunken_cosine_of_who_holds_what() -> None:
    layout = interactions()
    held_UI = binary(layout)
    count_I = held_UI.sum(0) + SHRINKAGE
    near_IN = cosine_axes(layout, 40)
    value_I, vector_II = np.linalg.eigh(held_UI.T @ held_UI / np.sqrt(np.outer(count_I, count_I)))
    best = (vector_II[:, 1:] * value_I[1:]) @ vector_II[:, 1:].T  # one axis fewer than there are items
    np.testing.assert_allclose(near_IN @ near_IN.T, best, atol=1e-9)
    assert not near_IN[:, 11:].any()


def test_the_regression_is_ridge_of_every_item_on_all_that_a_task_holds() -> None:
    layout = interactions()
    held_UI = binary(layout)
    gram_II = held_UI.T @ held_UI
    axes_IN, exact_II = ridge_axes(layout, 11), np.linalg.solve(gram_II + RIDGE * np.eye(12), gram_II)
    least = np.linalg.eigvalsh(gram_II)[0]  # the axis that is left out
    assert np.abs(axes_IN @ axes_IN.T - exact_II).max() < 1.01 * least / (least + RIDGE)


def test_the_start_has_the_neighbours_of_known_items() -> None:
    layout, tables = interactions(), Tables(tasks=table(30, 30), rows=table(12, 12))
    phi_IE, _ = (model := CatalogueScorer(embedding_dim=2)).row_features(start(model, layout, tables), tables.rows)
    both_IN = np.concatenate([cosine_axes(layout, 32), ridge_axes(layout, 32)], 1)
    np.testing.assert_allclose(phi_IE[:, -2 * model.neighbour_dim :].numpy(), both_IN, atol=1e-6)


@pytest.mark.parametrize("axes", [cosine_axes, ridge_axes])
def test_without_rows_or_axes_nobody_is_near(axes: Callable[[TaskLayout, int], np.ndarray]) -> None:
    empty = TaskLayout.from_arrays(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), num_tasks=3, num_rows=4)
    assert axes(empty, 5).shape == (4, 5)
    assert not axes(empty, 5).any()
    assert axes(interactions(), 0).shape == (12, 0)


def test_tasks_that_hold_the_same_have_no_axes() -> None:
    layout = TaskLayout.from_arrays(np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5), np.ones(20, np.float32))
    axes = principal_axes(layout, 2)
    assert not axes.phi_ID.any()
    assert not axes.place_TD.any()


def test_the_start_does_not_depend_on_the_generator() -> None:
    layout, tables, model = interactions(), Tables(tasks=table(30, 30), rows=table(12, 12)), CatalogueScorer(embedding_dim=3)
    one, two = start(model, layout, tables, 1), start(model, layout, tables, 2)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_items_without_a_code_have_the_vector_of_their_content() -> None:
    layout, tables = interactions(), Tables(tasks=table(30, 30), rows=table(12, 10))
    model = CatalogueScorer(embedding_dim=3)
    theta = start(model, layout, tables)
    phi_IE, _ = model.row_features(theta, tables.rows)
    content_PE = torch.cat([theta["row.content"], theta["row.content_stage"], theta["near.content"]], 1)
    torch.testing.assert_close(phi_IE[10:], tables.rows.dense_NP[10:] @ content_PE)
    assert not theta["row.id"][0].any()
    assert not theta["row.id_stage"][0].any()
    assert not theta["near.id"][0].any()


@pytest.mark.parametrize(("users", "items"), [(1, 1), (1, 5), (3, 2)])
def test_data_sets_smaller_than_the_dimension_fill_the_rest_with_zeros(users: int, items: int) -> None:
    user_N, item_N = (part.ravel() for part in np.meshgrid(np.arange(users), np.arange(items)))
    layout = TaskLayout.from_arrays(user_N, item_N, np.ones(len(user_N), np.float32), num_tasks=users, num_rows=items)
    tables, model = Tables(tasks=table(users, users), rows=table(items, items)), CatalogueScorer(embedding_dim=8)
    phi_IE, _ = model.row_features(start(model, layout, tables), tables.rows)
    assert phi_IE.shape == (items, 8 + NUM_STAGES + 2 * model.neighbour_dim)
    assert bool(phi_IE.isfinite().all())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="embedding_dim is 0"):
        CatalogueScorer(embedding_dim=0)
    with pytest.raises(ConfigError, match="neighbour_dim is -1, must not be negative"):
        CatalogueScorer(neighbour_dim=-1)
    with pytest.raises(ConfigError, match=r"profile_ridge is -1\.0, must be positive"):
        CatalogueScorer(profile_ridge=-1.0)
