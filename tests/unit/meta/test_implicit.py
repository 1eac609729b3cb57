"""The implicit head against a dense whole-catalogue reference, and what it says of unknown items and odd labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.implicit import ImplicitAlpaca
from metarec.meta.implicit_loss import columns, occurring
from metarec.meta.implicit_terms import evidence, neighbour_weights
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable, TaskBatch
from metarec.tasks.layout import TaskLayout
from metarec.tasks.planted import as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats

LEARNER = ImplicitAlpaca(id_dropout=0.0, l2_start=0.0, l2_profile=0.0)
MODEL = CatalogueScorer(embedding_dim=4)


def family_batch(max_support: int = 7) -> tuple[MetaParams, TaskBatch]:
    """Random float64 parameters and a batch of planted tasks with labels on several levels."""
    family = linear_family(num_tasks=16, num_rows=20, rows_per_task=12, seed=3)
    layout = replace(family.layout, label_N=np.clip(np.round(3 + family.layout.label_N), 1, 5).astype(np.float32))
    tasks = next(
        EpisodeSampler(
            layout, as_float64(family.tables), EpisodeConfig(batch_size=6, max_support=max_support, max_query=4), 1
        ).epoch(0)
    )
    generator = torch.Generator().manual_seed(0)
    start = LEARNER.init(MODEL, family.tables, generator, label_stats(layout, family.tables.rows))
    theta = {
        name: value.double() + (0.2 * torch.randn(value.shape, generator=generator).double()) * (not name.startswith("range."))
        for name, value in start.items()
    }
    theta["row.id"][0] = 0.0
    theta["row.id_bias"][0] = 0.0
    return theta, tasks


def scores(theta: MetaParams, tasks: TaskBatch, model: CatalogueScorer = MODEL) -> Tensor:
    fast = LEARNER.adapt(model, theta, tasks.support)
    phi_ID, bias_I = LEARNER.row_vectors(model, theta, tasks.support.tables.rows)
    return bias_I + LEARNER.task_vector(fast) @ phi_ID.T


def test_the_solve_equals_weighted_least_squares_over_the_whole_catalogue() -> None:
    theta, tasks = family_batch()
    support, rows = tasks.support, tasks.support.tables.rows
    phi_IE, bias_I = LEARNER.row_vectors(MODEL, theta, rows)
    phi_ID = phi_IE[:, :4]
    confidence_TS, positive_TS = evidence(theta, support, torch.float64)
    prior_TD = MODEL.task_prior(theta, support.tables.tasks, support.task_T)
    fast = LEARNER.adapt(MODEL, theta, support)["mean"][:, :4]
    for t in range(support.num_tasks):
        # Every item of the catalogue is one row: target 0 with weight alpha0; the support comes on top, as a
        # surprise over the offset; then the prior.
        design = [phi_ID, phi_ID[support.row_TN[t]], torch.eye(4, dtype=torch.float64)]
        target = [torch.zeros(len(rows)).double(), positive_TS[t] - bias_I[support.row_TN[t]], prior_TD[t]]
        weight = [theta["solve.log_unobserved"].exp().expand(len(rows)), confidence_TS[t], theta["solve.log_precision"].exp()]
        root = torch.cat(weight).sqrt()
        expected = torch.linalg.lstsq(torch.cat(design) * root[:, None], (torch.cat(target) * root)[:, None]).solution[:, 0]
        # Of the way there from the prior a task goes the part that it trusts its rows.
        moved = prior_TD[t] + theta["solve.log_trust"].exp() * (expected - prior_TD[t])
        torch.testing.assert_close(fast[t], moved, rtol=1e-10, atol=1e-10)


def test_heads_from_before_there_was_trust_follow_their_rows_all_the_way() -> None:
    theta, tasks = family_batch()
    old = {name: value for name, value in theta.items() if name != "solve.log_trust"}
    full = {**theta, "solve.log_trust": torch.zeros(()).double()}
    torch.testing.assert_close(scores(old, tasks), scores(full, tasks), rtol=0, atol=0)
    assert not torch.allclose(scores(old, tasks), scores(theta, tasks))


@pytest.mark.parametrize("max_support", [0, 7])
def test_contributions_add_up_to_the_score(max_support: int) -> None:
    theta, tasks = family_batch(max_support)
    mean_TQ = LEARNER.predict(MODEL, theta, LEARNER.adapt(MODEL, theta, tasks.support), tasks.query).mean_TQ
    parts = LEARNER.contributions(MODEL, theta, tasks.support, tasks.query)
    total_TQ = parts["global"] + parts["item"] + parts["profile"] + parts["support"].sum(2)
    torch.testing.assert_close(total_TQ, mean_TQ, rtol=1e-10, atol=1e-10)
    assert bool((parts["support"].masked_select(~tasks.support.mask_TN[:, None, :].expand_as(parts["support"])) == 0).all())


def test_prepared_theta_gives_the_same_scores() -> None:
    theta, tasks = family_batch()
    prepared = LEARNER.prepare(MODEL, theta, tasks.support.tables.rows)
    torch.testing.assert_close(scores(prepared, tasks), scores(theta, tasks), rtol=1e-12, atol=1e-12)


def test_an_unknown_item_is_scored_by_its_content_alone() -> None:
    theta, tasks = family_batch()
    rows = tasks.support.tables.rows
    stranger = replace(rows, code_N=torch.zeros_like(rows.code_N))
    phi_ID, bias_I = LEARNER.row_vectors(MODEL, theta, stranger)
    content_PE = torch.cat([theta["row.content"], theta["row.content_stage"], theta["near.content"]], 1)
    torch.testing.assert_close(phi_ID, rows.dense_NP @ content_PE)
    torch.testing.assert_close(bias_I, rows.dense_NP @ theta["row.content_bias"])


def test_labels_between_levels_are_interpolated_and_labels_beyond_the_range_clipped() -> None:
    theta, tasks = family_batch()
    theta["solve.log_positive"] = torch.arange(5).double()
    label_TN = torch.full_like(tasks.support.label_TN, 3.5)
    support = replace(tasks.support, label_TN=label_TN, timestamp_TN=None)
    _, positive_TS = evidence(theta, support, torch.float64)
    torch.testing.assert_close(positive_TS.log(), torch.full_like(positive_TS, 2.5))
    _, positive_TS = evidence(theta, replace(support, label_TN=label_TN * 9), torch.float64)
    torch.testing.assert_close(positive_TS.log(), torch.full_like(positive_TS, 4.0))


def test_labels_of_one_value_are_the_highest_level() -> None:
    theta, tasks = family_batch()
    theta["range.label"] = torch.tensor([1.0, 1.0]).double()
    _, positive_TS = evidence(theta, tasks.support, torch.float64)
    torch.testing.assert_close(positive_TS, theta["solve.log_positive"][-1].exp().expand_as(positive_TS))


def test_older_support_rows_count_less() -> None:
    theta, tasks = family_batch()
    day = 86400.0 * torch.arange(tasks.support.row_TN.shape[1]).double().expand(tasks.support.row_TN.shape)
    timed = replace(tasks.support, timestamp_TN=day, mask_TN=torch.ones_like(tasks.support.mask_TN), label_TN=0 * day + 3)
    confidence_TS, _ = evidence(theta, timed, torch.float64)
    assert bool((confidence_TS[:, 1:] > confidence_TS[:, :-1]).all())
    newer_TS = torch.arange(day.shape[1] - 1, -1, -1).expand_as(day)
    faded_TS = 1 / (1 + newer_TS / theta["solve.log_fading"].exp())
    torch.testing.assert_close(confidence_TS / confidence_TS[:, -1:], faded_TS, rtol=1e-10, atol=0)


def test_equal_times_fade_alike() -> None:
    theta, tasks = family_batch()
    support = tasks.support
    same = replace(support, timestamp_TN=7.0 * support.mask_TN, label_TN=0 * support.label_TN + 3)
    confidence_TS, _ = evidence(theta, same, torch.float64)
    plain_TS, _ = evidence(theta, replace(same, timestamp_TN=None), torch.float64)
    torch.testing.assert_close(confidence_TS, plain_TS, rtol=0, atol=0)


def test_the_offset_follows_the_number_of_rows_held() -> None:
    """With no evidence counting, two tasks differ by their stage alone: shares of those who hold that many rows."""
    theta, tasks = family_batch()
    theta["solve.log_confidence"] -= 50.0
    theta["near.weight"] *= 0
    support = tasks.support
    wide = replace(
        support,
        task_T=support.task_T[:1].expand(3),
        row_TN=support.row_TN[:1].expand(3, -1),
        label_TN=support.label_TN[:1].expand(3, -1),
        mask_TN=torch.arange(support.row_TN.shape[1]) < torch.tensor([0, 1, 2])[:, None],
        timestamp_TN=None,
    )
    rows = support.tables.rows
    phi_IE, _ = LEARNER.row_vectors(MODEL, theta, rows)
    stage_IR = phi_IE[:, 4:]
    w_TE = LEARNER.adapt(MODEL, theta, wide)["mean"]
    torch.testing.assert_close(w_TE[1, :4], w_TE[0, :4], rtol=1e-9, atol=1e-9)
    shift_TI = (w_TE - w_TE[:1]) @ phi_IE.T
    torch.testing.assert_close(shift_TI[1], stage_IR[:, 0], rtol=1e-7, atol=1e-7)
    part = float(np.log(3 / 2) / np.log(4 / 2))
    torch.testing.assert_close(shift_TI[2], (1 - part) * stage_IR[:, 0] + part * stage_IR[:, 1], rtol=1e-7, atol=1e-7)


NEAR = 2 * MODEL.neighbour_dim


def test_of_few_support_rows_the_mean_cosine_is_added_to_the_score() -> None:
    theta, tasks = family_batch()
    phi_IE, _ = LEARNER.row_vectors(MODEL, theta, tasks.support.tables.rows)
    cosine_IN = phi_IE[:, -NEAR : -NEAR // 2]
    without = {**theta, "near.weight": torch.zeros(2).double()}
    for t in range(tasks.support.num_tasks):
        held_S = tasks.support.row_TN[t][tasks.support.mask_TN[t]]
        expected_I = theta["near.weight"][0] * (cosine_IN @ cosine_IN[held_S].T).sum(1) / max(1, len(held_S))
        torch.testing.assert_close((scores(theta, tasks) - scores(without, tasks))[t], expected_I, rtol=1e-9, atol=1e-9)


def test_of_many_support_rows_the_regression_is_added_to_the_score_instead() -> None:
    theta, tasks = family_batch()
    nu, omega = theta["near.weight"]
    full = replace(
        tasks.support,
        row_TN=torch.arange(41).remainder(20).expand(6, -1),
        label_TN=torch.ones(6, 41).double(),
        mask_TN=torch.arange(41) < torch.tensor([20, 30, 40, 41, 1, 0])[:, None],
        timestamp_TN=None,
    )
    total_TN = neighbour_weights(theta, full, NEAR, torch.float64) * full.mask_TN.sum(1)[:, None]
    many = float(np.log(31 / 21) / np.log(41 / 21))
    cosine_T = nu * torch.tensor([1.0, 1 - many, 0.0, 0.0, 1.0, 0.0]).double()
    regression_T = omega * torch.tensor([0.0, 30 * many, 40.0, 41.0, 0.0, 0.0]).double()
    torch.testing.assert_close(total_TN, torch.stack([cosine_T, regression_T], 1).repeat_interleave(NEAR // 2, 1))
    phi_IE, _ = LEARNER.row_vectors(MODEL, theta, tasks.support.tables.rows)
    regression_IN = phi_IE[:, -NEAR // 2 :]
    without = {**theta, "near.weight": torch.zeros(2).double()}
    held = replace(tasks, support=full)
    expected_I = omega * (regression_IN @ regression_IN[full.row_TN[2, :40]].T).sum(1)
    torch.testing.assert_close((scores(theta, held) - scores(without, held))[2], expected_I, rtol=1e-9, atol=1e-9)


def test_heads_from_before_there_were_neighbours_score_as_they_did() -> None:
    theta, tasks = family_batch()
    old = {name: value for name, value in theta.items() if not name.startswith("near.")}
    without = {**theta, "near.weight": torch.zeros(2).double()}
    torch.testing.assert_close(scores(old, tasks), scores(without, tasks), rtol=1e-12, atol=1e-12)
    parts, same = (LEARNER.contributions(MODEL, one, tasks.support, tasks.query) for one in (old, without))
    torch.testing.assert_close(parts["support"], same["support"], rtol=1e-12, atol=1e-12)
    assert LEARNER.factor(MODEL, old, tasks.support).shape[1] == LEARNER.adapt(MODEL, old, tasks.support)["mean"].shape[1]


@pytest.mark.parametrize("loss", ["multinomial", "squared"])
def test_gradients_match_finite_differences(loss: str) -> None:
    theta, tasks = family_batch()
    learner = ImplicitAlpaca(id_dropout=0.0, loss=loss, softness=0.5)  # type: ignore[arg-type]  # parametrised
    gradient, _ = learner.meta_gradient(MODEL, theta, tasks, torch.Generator())
    solve = ("solve.log_confidence", "solve.log_positive", "solve.log_precision", "solve.log_trust")
    for name in ("row.id", "row.content", *solve, "task.content"):
        values = {}
        index = (1,) * theta[name].dim()
        for sign in (1, -1):
            moved = {**theta, name: theta[name].clone()}
            moved[name][index] += sign * 1e-6
            values[sign] = learner.meta_gradient(MODEL, moved, tasks, torch.Generator())[1]["objective"]
        # Metrics are doubles of a float64 loss, so central differences are good to about 1e-8.
        assert float(gradient[name][index]) == pytest.approx((values[1] - values[-1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_facts_of_the_data_get_no_gradient() -> None:
    theta, tasks = family_batch()
    gradient, _ = ImplicitAlpaca().meta_gradient(MODEL, theta, tasks, torch.Generator().manual_seed(1))
    assert all(not value.any() for name, value in gradient.items() if name.startswith(("range.", "start.")))


def test_a_sampled_outer_loss_covers_the_batch_and_stands_for_every_item() -> None:
    _, tasks = family_batch()
    learner = ImplicitAlpaca(sampled_items=3)
    one = TaskBatch(support=_first(tasks.support), query=_first(tasks.query), weight_T=tasks.weight_T[:1])
    pick_C, scale_C = columns(one, 20, learner.sampled_items, torch.Generator().manual_seed(0))
    own = set((occurring(one.support, 20) | occurring(one.query, 20)).any(0).nonzero()[:, 0].tolist())
    assert own <= set(pick_C.tolist())
    assert len(pick_C) == len(own) + 3 == len(set(pick_C.tolist()))
    assert float(scale_C.sum()) == pytest.approx(20)


def test_one_item_of_a_taste_brings_up_its_other_items_from_the_start() -> None:
    """Two groups of users with disjoint tastes, and as little noise as so few users need."""
    learner, model = replace(LEARNER, noise_tasks=1.0), CatalogueScorer(embedding_dim=4)
    random = np.random.default_rng(0)
    item_UN = np.concatenate([np.stack([random.permutation(10)[:6] + 10 * (user % 2) for user in range(40)])])
    layout = TaskLayout.from_arrays(np.repeat(np.arange(40), 6), item_UN.ravel().astype(np.int64), np.ones(240, np.float32))
    table = EntityTable(code_N=torch.arange(1, 41), dense_NP=torch.zeros(40, 1), blocks=(("x", 0, 1),), num_codes=40)
    rows = EntityTable(code_N=torch.arange(1, 21), dense_NP=torch.zeros(20, 1), blocks=(("x", 0, 1),), num_codes=20)
    family = linear_family(num_tasks=16, num_rows=20, rows_per_task=12, seed=3)
    tables = replace(family.tables, tasks=table, rows=rows)
    theta = learner.init(model, tables, torch.Generator().manual_seed(0), label_stats(layout, rows))
    tasks = next(EpisodeSampler(layout, tables, EpisodeConfig(batch_size=40, max_support=1, min_query=5), 0).epoch(0))
    score_TI = scores(theta, tasks, model)
    for t in range(40):
        if tasks.support.mask_TN[t].any():
            taste = int(tasks.support.row_TN[t, 0]) // 10
            assert set((score_TI[t].argsort(descending=True)[:10] // 10).tolist()) == {taste}


def test_wrong_settings_and_models_are_named() -> None:
    with pytest.raises(ConfigError, match="loss 'hinge' is unknown"):
        ImplicitAlpaca(loss="hinge")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ConfigError, match=r"noise_tasks is 0\.0, must be positive"):
        ImplicitAlpaca(noise_tasks=0.0)
    theta, tasks = family_batch()
    with pytest.raises(ConfigError, match="needs model 'catalogue', got 'linear_gaussian'"):
        LEARNER.adapt(LinearGaussian(), theta, tasks.support)


def _first(batch):  # type: ignore[no-untyped-def]  # Batch in, Batch out
    return replace(
        batch, task_T=batch.task_T[:1], row_TN=batch.row_TN[:1], label_TN=batch.label_TN[:1], mask_TN=batch.mask_TN[:1]
    )
