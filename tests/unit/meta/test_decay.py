"""Support rows whose noise grows with age, in the closed form."""

import math
from dataclasses import replace

import pytest
import torch

from metarec.meta.alpaca import Alpaca
from metarec.meta.decay import NAME, ages, decay
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import Batch
from metarec.tasks.planted import as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler

DAY = 86_400.0


@pytest.fixture(scope="module")
def planted() -> tuple[Alpaca, LinearGaussian, MetaParams, Batch, Batch]:
    """A head of random parameters, support sets with times two days apart, the newest first, and query sets, in float64."""
    family = linear_family(num_tasks=6, num_rows=30, rows_per_task=12, seed=2)
    learner, model = Alpaca(), LinearGaussian(embedding_dim=3)
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(0))
    theta = {name: value.double() for name, value in theta.items()}
    config = EpisodeConfig(batch_size=6, max_support=7, max_query=5, min_query=5)
    tasks = next(EpisodeSampler(family.layout, as_float64(family.tables), config, 4).epoch(0))
    width = tasks.support.row_TN.shape[1]
    time_TN = (1_000.0 - 2.0 * torch.arange(width, dtype=torch.float64)).expand(6, -1) * DAY
    return learner, model, theta, replace(tasks.support, timestamp_TN=time_TN), tasks.query


def test_age_is_counted_from_the_newest_row_of_the_task(planted: tuple[Alpaca, LinearGaussian, MetaParams, Batch, Batch]) -> None:
    *_, support, _ = planted
    mask_TN = support.mask_TN.clone()
    mask_TN[:, 0] = False
    age_TS = ages(replace(support, mask_TN=mask_TN))
    for task in range(6):
        seen = mask_TN[task].nonzero()[:, 0]
        assert age_TS[task, seen].tolist() == pytest.approx([2.0 * (row - 1) for row in seen.tolist()])
        assert float(age_TS[task][~mask_TN[task]].abs().sum()) == 0


def test_the_posterior_is_that_of_rows_with_noise_of_their_own(
    planted: tuple[Alpaca, LinearGaussian, MetaParams, Batch, Batch],
) -> None:
    learner, model, theta, support, query = planted
    gamma, tau = 1.7, 3.0
    faded = {**theta, NAME: torch.tensor([gamma, math.log(tau)], dtype=torch.float64)}
    fast = learner.adapt(model, faded, support)
    phi_TSD, bias_TS = model.batch_features(theta, support)
    for task in range(6):
        seen = support.mask_TN[task]
        phi, age = phi_TSD[task][seen], ages(support)[task][seen]
        noise = torch.exp(theta["noise.log_var"])[0] * (1 + age / tau) ** gamma
        prior = model.task_prior(theta, support.tables.tasks, support.task_T)[task]
        variance = torch.exp(theta["prior.log_var"])
        rest = support.label_TN[task][seen].double() - theta["mu"] - bias_TS[task][seen] - phi @ prior
        kernel = (phi * variance) @ phi.T + torch.diag(noise)
        expected = prior + variance * (phi.T @ torch.linalg.solve(kernel, rest))
        torch.testing.assert_close(fast["mean"][task], expected, atol=1e-9, rtol=0)
    terms = learner.contributions(model, faded, support, query)
    mean_TQ = learner.predict(model, faded, fast, query).mean_TQ
    total_TQ = terms["global"] + terms["item"] + terms["profile"] + terms["support"].sum(-1)
    torch.testing.assert_close(total_TQ[query.mask_TN], mean_TQ[query.mask_TN], atol=1e-9, rtol=0)


def test_without_times_or_parameters_all_rows_count_alike(
    planted: tuple[Alpaca, LinearGaussian, MetaParams, Batch, Batch],
) -> None:
    learner, model, theta, support, _ = planted
    faded = {**theta, NAME: torch.tensor([2.0, 0.0], dtype=torch.float64)}
    timeless = replace(support, timestamp_TN=None)
    assert decay(theta, support) is None
    assert decay(faded, timeless) is None
    expected = learner.adapt(model, theta, support)["mean"]
    assert torch.equal(learner.adapt(model, faded, timeless)["mean"], expected)
    alike = replace(support, timestamp_TN=torch.full_like(support.timestamp_TN, 5.0))  # type: ignore[arg-type]  # it has times
    assert torch.equal(learner.adapt(model, faded, alike)["mean"], expected)
