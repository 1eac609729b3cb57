"""What every registered learner must do (DESIGN 4). A new learner is tested by its line in the registry alone."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.contract import MetaLearner, TargetsLearner, VectorLearner, takes_scale
from metarec.meta.objectives import task_loss
from metarec.meta.registry import LEARNERS, learner_settings, make_learner
from metarec.models.contract import MetaParams, Scorer, trainable
from metarec.models.registry import make_model
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam

EXACT = 1e-12
"""Tolerance of comparisons in float64."""

RANDOM = {"id_dropout": 0.0, "cold_tasks": 0.0}
"""Settings that make an outer step random, at the value where it is not."""

SHARED = {"l2_id": 0.0, "l2_bias": 0.0, "l2_choice": 0.0}
"""Settings of penalties that depend on which rows the whole batch touches."""


class Case:
    """A learner with its model, float64 parameters away from their start, and a batch of planted tasks."""

    def __init__(self, name: str, *, words: int = 0) -> None:
        """`words` columns more, of which every row has two."""
        settings = learner_settings(make_learner(name))
        self.learner: MetaLearner = make_learner(name, {k: v for k, v in {**RANDOM, **SHARED}.items() if k in settings})
        self.model: Scorer = make_model(self.learner.default_model, {"embedding_dim": 4})
        # Learners of several targets get rows of both, some of them without a label of the second.
        extra = 0.6 if hasattr(self.learner, "target_maps") else 0.0
        family = linear_family(num_tasks=24, num_rows=20, rows_per_task=12, extra_share=extra, seed=3)
        if words:
            said_NP = torch.zeros(20, words)
            said_NP[torch.arange(20), torch.arange(20)], said_NP[torch.arange(20), 20 + torch.arange(20)] = 1.0, 0.5
            rows = family.tables.rows
            blocks = (*rows.blocks, ("words", rows.dense_NP.shape[1], rows.dense_NP.shape[1] + words))
            rows = replace(rows, dense_NP=torch.cat([rows.dense_NP, said_NP], 1), blocks=blocks)
            family = replace(family, tables=replace(family.tables, rows=rows))
        config = EpisodeConfig(batch_size=6, max_support=7, max_query=4, min_query=3)
        self.tasks = next(EpisodeSampler(family.layout, as_float64(family.tables), config, 1).epoch(0))
        assert 0 < int(self.tasks.support.mask_TN.sum()) < self.tasks.support.mask_TN.numel()
        start = self.learner.init(self.model, family.tables, generator(0), label_stats(family.layout, family.tables.rows))
        noise = generator(5)
        self.theta: MetaParams = {
            key: value.double() + 0.05 * torch.randn(value.shape, generator=noise).double() * (not key.startswith("range."))
            for key, value in start.items()
        }
        for key in ("row.id", "row.id_bias"):
            if key in self.theta:
                self.theta[key][0] = 0.0

    def means(self, support: Batch, query: Batch, theta: MetaParams | None = None) -> Tensor:
        theta = self.theta if theta is None else theta
        fast = self.learner.adapt(self.model, theta, support)
        return self.learner.predict(self.model, theta, fast, query).mean_TQ.detach()

    def gradient(self, tasks: TaskBatch) -> MetaParams:
        return self.learner.meta_gradient(self.model, self.theta, tasks, generator(2))[0]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=sorted(LEARNERS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture
def vector_case(case: Case) -> Case:
    if not hasattr(case.learner, "row_vectors"):
        pytest.skip("the learner's score is not linear in a task vector")
    return case


def padded(batch: Batch, extra: int) -> Batch:
    """The batch with `extra` masked columns full of values that must not matter."""
    shape = (batch.num_tasks, extra)
    times = batch.timestamp_TN
    return replace(
        batch,
        row_TN=torch.cat([batch.row_TN, torch.full(shape, 7)], 1),
        label_TN=torch.cat([batch.label_TN, torch.full(shape, 99.0)], 1),
        mask_TN=torch.cat([batch.mask_TN, torch.zeros(shape, dtype=torch.bool)], 1),
        timestamp_TN=None if times is None else torch.cat([times, torch.full(shape, 9e9, dtype=times.dtype)], 1),
        target_TN=None if batch.target_TN is None else torch.cat([batch.target_TN, torch.full(shape, 1)], 1),
    )


def pick(batch: Batch, tasks: slice) -> Batch:
    times = batch.timestamp_TN
    return replace(
        batch,
        task_T=batch.task_T[tasks],
        row_TN=batch.row_TN[tasks],
        label_TN=batch.label_TN[tasks],
        mask_TN=batch.mask_TN[tasks],
        timestamp_TN=None if times is None else times[tasks],
        target_TN=None if batch.target_TN is None else batch.target_TN[tasks],
    )


def assert_same(left: MetaParams, right: MetaParams) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=EXACT, atol=EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_adapting_twice_gives_the_same_bits_and_changes_nothing(case: Case) -> None:
    before = {name: value.clone() for name, value in case.theta.items()}
    label_TN, state = case.tasks.support.label_TN.clone(), torch.get_rng_state()
    first = case.learner.adapt(case.model, case.theta, case.tasks.support)
    with torch.no_grad():
        second = case.learner.adapt(case.model, case.theta, case.tasks.support)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], case.theta[name]) for name in before)
    assert torch.equal(label_TN, case.tasks.support.label_TN)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("scale", [80.0, 0.01])
def test_rescaled_parameters_say_the_same_in_another_unit_of_the_label(case: Case, scale: float) -> None:
    learner = case.learner
    if not takes_scale(learner):
        pytest.skip("the learner takes labels as they are")
    support, query = case.tasks.support, case.tasks.query
    times_TS, times_TQ = (1 + (scale - 1) * (part.targets_TN == 0).double() for part in (support, query))
    theta = learner.rescaled(case.theta, scale)
    fast = learner.adapt(case.model, theta, replace(support, label_TN=support.label_TN * times_TS))
    found = learner.predict(case.model, theta, fast, query)
    before = learner.predict(case.model, case.theta, learner.adapt(case.model, case.theta, support), query)
    torch.testing.assert_close(found.mean_TQ, before.mean_TQ * times_TQ, rtol=1e-10, atol=1e-10)
    if before.variance_TQ is not None:
        assert found.variance_TQ is not None
        torch.testing.assert_close(found.variance_TQ, before.variance_TQ * times_TQ.square(), rtol=1e-10, atol=1e-10)
    twice = learner.rescaled(theta, 1 / scale)
    torch.testing.assert_close(case.means(support, query, twice), before.mean_TQ.detach(), rtol=1e-10, atol=1e-10)


def test_meta_gradient_is_a_function_of_its_generator(case: Case) -> None:
    learner = make_learner(case.learner.name)
    state = torch.get_rng_state()
    first, metrics = learner.meta_gradient(case.model, case.theta, case.tasks, generator(4))
    second, _ = learner.meta_gradient(case.model, case.theta, case.tasks, generator(4))
    assert "loss" in metrics
    assert_same(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_meta_gradient_has_the_names_and_shapes_of_theta(case: Case) -> None:
    gradient, theta = case.gradient(case.tasks), trainable(case.theta)
    assert {name: value.shape for name, value in gradient.items()} == {name: value.shape for name, value in theta.items()}
    assert all(bool(value.isfinite().all()) for value in gradient.values())
    assert not any(value.requires_grad for value in gradient.values())


def test_every_fast_weight_leads_with_the_tasks(case: Case) -> None:
    fast = case.learner.adapt(case.model, case.theta, case.tasks.support)
    assert all(value.shape[0] == case.tasks.support.num_tasks for value in fast.values())
    assert not any(value.requires_grad for value in fast.values())


def test_padding_does_not_matter(case: Case) -> None:
    support, query = case.tasks.support, case.tasks.query
    plain, wide = case.means(support, query), case.means(padded(support, 3), padded(query, 2))
    torch.testing.assert_close(plain, wide[:, : plain.shape[1]], rtol=EXACT, atol=EXACT)
    assert_same(
        case.gradient(case.tasks),
        case.gradient(replace(case.tasks, support=padded(support, 3), query=padded(query, 2))),
    )


def test_a_task_alone_is_adapted_as_in_a_batch(case: Case) -> None:
    support, query = case.tasks.support, case.tasks.query
    together = case.means(support, query)
    alone = [case.means(pick(support, slice(t, t + 1)), pick(query, slice(t, t + 1))) for t in range(support.num_tasks)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=EXACT, atol=EXACT)


def test_without_support_the_prior_predicts(case: Case) -> None:
    support, query = case.tasks.support, case.tasks.query
    empty = replace(support, mask_TN=torch.zeros_like(support.mask_TN))
    columns = slice(0, 0)
    narrow = replace(
        empty,
        row_TN=empty.row_TN[:, columns],
        label_TN=empty.label_TN[:, columns],
        mask_TN=empty.mask_TN[:, columns],
        timestamp_TN=None if empty.timestamp_TN is None else empty.timestamp_TN[:, columns],
        target_TN=None if empty.target_TN is None else empty.target_TN[:, columns],
    )
    prior = case.means(empty, query)
    torch.testing.assert_close(prior, case.means(replace(empty, label_TN=empty.label_TN + 1), query), rtol=0, atol=0)
    torch.testing.assert_close(prior, case.means(narrow, query), rtol=EXACT, atol=EXACT)
    if case.learner.target == "explicit":
        torch.testing.assert_close(prior, case.model.score(case.theta, {}, query), rtol=EXACT, atol=EXACT)


def test_adapting_fits_the_support(case: Case) -> None:
    support = case.tasks.support
    seen_T = support.mask_TN.any(1)
    empty = replace(support, mask_TN=torch.zeros_like(support.mask_TN))
    before, after = case.means(empty, support), case.means(support, support)
    if case.learner.target == "explicit":
        before_T = task_loss("squared_error", before, support.label_TN, support.mask_TN)
        after_T = task_loss("squared_error", after, support.label_TN, support.mask_TN)
        assert float(after_T.mean()) < float(before_T.mean())
        assert bool((after_T <= before_T + 1e-9)[seen_T].float().mean() > 0.8)
    else:
        gain_T = ((after - before) * support.mask_TN).sum(1)
        assert bool((gain_T[seen_T] > 0).all())


def test_meta_gradient_equals_a_loop_over_tasks(case: Case) -> None:
    tasks = replace(case.tasks, weight_T=torch.linspace(0.5, 2.0, case.tasks.query.num_tasks, dtype=torch.float64))
    share_T = tasks.weight_T / tasks.weight_T.sum()
    expected: MetaParams = {}
    for t in range(tasks.query.num_tasks):
        one = slice(t, t + 1)
        part = TaskBatch(support=pick(tasks.support, one), query=pick(tasks.query, one), weight_T=torch.ones(1).double())
        for name, value in case.gradient(part).items():
            expected[name] = expected.get(name, torch.zeros_like(value)) + share_T[t] * value
    assert_same(case.gradient(tasks), expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_sparse_content_has_the_same_meta_gradient(name: str) -> None:
    dense = Case(name, words=200)
    rows = dense.tasks.query.tables.rows.with_sparse()
    assert rows.sparse is not None
    tables = replace(dense.tasks.query.tables, rows=rows)
    support, query = (replace(part, tables=tables) for part in (dense.tasks.support, dense.tasks.query))
    assert_same(dense.gradient(replace(dense.tasks, support=support, query=query)), dense.gradient(dense.tasks))


def test_prepared_parameters_predict_the_same(case: Case) -> None:
    support, query = case.tasks.support, case.tasks.query
    prepared = case.learner.prepare(case.model, case.theta, support.tables.rows)
    assert trainable(prepared).keys() == case.theta.keys()
    torch.testing.assert_close(case.means(support, query), case.means(support, query, prepared), rtol=EXACT, atol=EXACT)


def test_outer_steps_lower_the_query_loss(case: Case) -> None:
    theta = {name: value.clone() for name, value in case.theta.items()}
    optimizer, losses = Adam(), []
    for step in range(30):
        gradient, metrics = case.learner.meta_gradient(case.model, theta, case.tasks, generator(step))
        optimizer.step(theta, gradient, 0.003)
        losses.append(metrics["loss"])
    assert losses[-1] < losses[0]


def test_settings_survive_the_registry(case: Case) -> None:
    assert make_learner(case.learner.name, learner_settings(case.learner)) == case.learner
    with pytest.raises(ConfigError, match="'no_such_setting'"):
        make_learner(case.learner.name, {"no_such_setting": 1})


def test_the_task_vector_reproduces_the_mean(vector_case: Case) -> None:
    learner, support, query = cast(VectorLearner, vector_case.learner), vector_case.tasks.support, vector_case.tasks.query
    phi_ID, bias_I = learner.row_vectors(vector_case.model, vector_case.theta, query.tables.rows)
    w_TD = learner.task_vector(learner.adapt(vector_case.model, vector_case.theta, support))
    score_TQ = (bias_I + w_TD @ phi_ID.T).gather(1, query.row_TN)
    of_label = replace(query, target_TN=None)
    torch.testing.assert_close(score_TQ, vector_case.means(support, of_label), rtol=1e-10, atol=1e-10)


def test_prepared_vectors_are_not_worked_out_again(vector_case: Case) -> None:
    """Serving asks for those of the whole catalogue at every request that weighs targets."""
    learner, rows = cast(VectorLearner, vector_case.learner), vector_case.tasks.query.tables.rows
    prepared = vector_case.learner.prepare(vector_case.model, vector_case.theta, rows)
    plain, found = (learner.row_vectors(vector_case.model, theta, rows) for theta in (vector_case.theta, prepared))
    torch.testing.assert_close(found, plain, rtol=EXACT, atol=EXACT)
    assert found[0].data_ptr() == prepared["cache.phi"].data_ptr()


def test_every_target_has_its_vector(vector_case: Case) -> None:
    if not hasattr(vector_case.learner, "target_maps"):
        pytest.skip("the learner has one target")
    learner, support, query = cast(TargetsLearner, vector_case.learner), vector_case.tasks.support, vector_case.tasks.query
    model, theta = vector_case.model, vector_case.theta
    phi_ID, _ = learner.row_vectors(model, theta, query.tables.rows)
    offset_IK, map_KDD = learner.target_offsets(model, theta, query.tables.rows), learner.target_maps(model, theta)
    w_TD = learner.task_vector(learner.adapt(model, theta, support))
    for target in range(len(map_KDD)):
        score_TQ = (offset_IK[:, target] + w_TD @ map_KDD[target] @ phi_ID.T).gather(1, query.row_TN)
        of_target = replace(query, target_TN=torch.full_like(query.row_TN, target))
        torch.testing.assert_close(score_TQ, vector_case.means(support, of_target), rtol=1e-10, atol=1e-10)


def test_contributions_add_up_to_the_mean(vector_case: Case) -> None:
    learner, support, query = cast(VectorLearner, vector_case.learner), vector_case.tasks.support, vector_case.tasks.query
    terms = learner.contributions(vector_case.model, vector_case.theta, support, query)
    total_TQ = terms["global"] + terms["item"] + terms["profile"] + terms["support"].sum(-1)
    torch.testing.assert_close(total_TQ, vector_case.means(support, query), rtol=1e-10, atol=1e-10)
    assert bool((terms["support"].masked_select(~support.mask_TN[:, None, :]) == 0).all())
