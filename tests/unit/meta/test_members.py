"""Members side by side are the Gaussian process with the mean of their prior means and the mean of their kernels."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metarec.meta.alpaca import Alpaca
from metarec.meta.alpaca_terms import choice, unknown
from metarec.meta.members import as_wide, merged
from metarec.meta.prior import Head
from metarec.meta.row_axes import fold_axes
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import PlantedFamily, as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats

LEARNER = Alpaca(noise_shape=6.0, row_axes=2)
WIDTHS = (3, 5)


@pytest.fixture
def family() -> PlantedFamily:
    planted = linear_family(num_tasks=20, num_rows=40, rows_per_task=12, seed=2)
    rows = replace(planted.tables.rows, code_N=torch.where(torch.arange(40) % 4 == 0, 0, planted.tables.rows.code_N))
    return replace(planted, tables=as_float64(replace(planted.tables, rows=rows)))


@pytest.fixture
def tasks(family: PlantedFamily) -> TaskBatch:
    return next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=8, max_support=9, max_query=3), 0).epoch(0))


@pytest.fixture
def thetas(family: PlantedFamily) -> list[MetaParams]:
    return [member(family, width, seed) for seed, width in enumerate(WIDTHS)]


def member(family: PlantedFamily, width: int, seed: int) -> MetaParams:
    generator = torch.Generator().manual_seed(seed)
    stats = label_stats(family.layout, family.tables.rows)
    theta = LEARNER.init(LinearGaussian(embedding_dim=width), family.tables, generator, stats)
    theta = {name: value.double() + 0.05 * torch.randn(value.shape, generator=generator) for name, value in theta.items()}
    for name in ("row.id", "row.id_bias", "row.choice", "axes.row"):
        theta[name][0] = 0.0
    return theta


def whole(thetas: list[MetaParams]) -> Head:
    model = LinearGaussian(embedding_dim=WIDTHS[0])
    return as_wide(Head(target="explicit", learner=LEARNER, model=model, theta=merged(thetas)))


def prior_and_kernel(theta: MetaParams, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
    """Prior mean (T, N) and kernel (T, N, N) of support and query rows, as one member has them."""
    theta, model = fold_axes(theta), LinearGaussian()
    both = Batch(
        tables=tasks.support.tables,
        task_T=tasks.support.task_T,
        row_TN=torch.cat([tasks.support.row_TN, tasks.query.row_TN], 1),
        label_TN=torch.cat([tasks.support.label_TN, tasks.query.label_TN], 1),
        mask_TN=torch.cat([tasks.support.mask_TN, tasks.query.mask_TN], 1),
    )
    phi_TND, bias_TN = model.batch_features(theta, both)
    shown = phi_TND[:, : tasks.support.row_TN.shape[1]]
    prior_TD = model.task_prior(theta, both.tables.tasks, both.task_T)
    prior_TD = prior_TD + choice(theta, shown, tasks.support, unknown(tasks.support)).sum(1)
    mean_TN = theta["mu"] + bias_TN + torch.einsum("tnd,td->tn", phi_TND, prior_TD)
    return mean_TN, (phi_TND * torch.exp(theta["prior.log_var"])) @ phi_TND.mT


def test_the_posterior_is_that_of_the_mean_kernel(thetas: list[MetaParams], tasks: TaskBatch) -> None:
    head = whole(thetas)
    assert head.model == LinearGaussian(embedding_dim=sum(WIDTHS))
    found = LEARNER.predict(head.model, head.theta, LEARNER.adapt(head.model, head.theta, tasks.support), tasks.query)
    mean_TN, kernel_TNN = (torch.stack(part).mean(0) for part in zip(*(prior_and_kernel(t, tasks) for t in thetas), strict=True))
    noise_2 = torch.exp(torch.stack([theta["noise.log_var"] for theta in thetas]).mean(0))
    scale_2 = torch.exp(torch.stack([theta["predict.log_scale"] for theta in thetas]).mean(0))
    width = tasks.support.row_TN.shape[1]
    assert found.variance_TQ is not None
    for t in range(tasks.query.num_tasks):
        seen = tasks.support.mask_TN[t].nonzero()[:, 0]
        asked = width + torch.arange(tasks.query.row_TN.shape[1])
        noise = noise_2[unknown(tasks.support)[t, seen]]
        gram = kernel_TNN[t][seen][:, seen] + torch.diag(noise)
        cross = kernel_TNN[t][asked][:, seen]
        residual = tasks.support.label_TN[t, seen].double() - mean_TN[t, seen]
        mean = mean_TN[t, asked] + cross @ torch.linalg.solve(gram, residual)
        torch.testing.assert_close(found.mean_TQ[t], mean, rtol=1e-12, atol=1e-12)
        spread = torch.diagonal(kernel_TNN[t][asked][:, asked] - cross @ torch.linalg.solve(gram, cross.mT))
        level = (6.0 + residual @ torch.linalg.solve(gram, residual)) / (6.0 + len(seen))
        kind = unknown(tasks.query)[t]
        torch.testing.assert_close(found.variance_TQ[t], (spread + level * noise_2[kind]) * scale_2[kind], rtol=1e-11, atol=1e-12)


def test_explanations_of_members_add_up(thetas: list[MetaParams], tasks: TaskBatch) -> None:
    head = whole(thetas)
    fast = LEARNER.adapt(head.model, head.theta, tasks.support)
    mean_TQ = LEARNER.predict(head.model, head.theta, fast, tasks.query).mean_TQ
    terms = LEARNER.contributions(head.model, head.theta, tasks.support, tasks.query)
    total_TQ = terms["global"] + terms["item"] + terms["profile"] + terms["support"].sum(-1)
    torch.testing.assert_close(total_TQ, mean_TQ, rtol=1e-11, atol=1e-11)


def test_a_member_twice_predicts_as_it_does_alone(thetas: list[MetaParams], tasks: TaskBatch) -> None:
    alone, twice = fold_axes(thetas[0]), whole([thetas[0], thetas[0]])
    model = LinearGaussian(embedding_dim=WIDTHS[0])
    expected = LEARNER.predict(model, alone, LEARNER.adapt(model, alone, tasks.support), tasks.query)
    found = LEARNER.predict(twice.model, twice.theta, LEARNER.adapt(twice.model, twice.theta, tasks.support), tasks.query)
    torch.testing.assert_close(found.mean_TQ, expected.mean_TQ, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.variance_TQ, expected.variance_TQ, rtol=1e-11, atol=1e-11)


def test_one_member_is_the_head_as_it_is(thetas: list[MetaParams]) -> None:
    assert merged(thetas[:1]) is thetas[0]
    assert math.isclose(float(torch.exp(merged(thetas)["prior.log_var"][-1])), mean_of_constants(thetas))


def mean_of_constants(thetas: list[MetaParams]) -> float:
    return sum(float(torch.exp(theta["prior.log_var"][-1])) for theta in thetas) / len(thetas)
