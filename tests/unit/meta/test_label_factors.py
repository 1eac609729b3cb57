"""Gibbs draws of a factorisation beside plain regressions, moments and planted noise."""

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta import label_factors
from metarec.meta.label_factors import Factors, FactorSampler, Side


@pytest.fixture(autouse=True)
def few_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five will do."""
    monkeypatch.setattr(label_factors, "FACTORS", 5)


def sampler(tasks: int = 30, rows: int = 12, seed: int = 3) -> tuple[FactorSampler, tuple[Tensor, Tensor, Tensor]]:
    """Few labels of some tasks on some rows, the first of both without any, and the labels: task, code and label (N,)."""
    random = np.random.default_rng(seed)
    pair_N = random.permutation((tasks - 1) * (rows - 1))[:150]
    task_N, code_N = torch.from_numpy(1 + pair_N // (rows - 1)), torch.from_numpy(1 + pair_N % (rows - 1))
    label_N = torch.from_numpy(random.normal(size=len(pair_N))).float()
    return FactorSampler(task_N, code_N, label_N, (tasks, rows), torch.Generator().manual_seed(0)), (task_N, code_N, label_N)


@pytest.mark.parametrize("at_once", [1, 60, 10_000])
@pytest.mark.parametrize("side", ["tasks", "rows"])
def test_factors_are_drawn_from_the_posterior_of_a_plain_regression(
    side: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and covariance of every entity as numpy has them in double precision, entity by entity."""
    monkeypatch.setattr(label_factors, "LABELS_AT_ONCE", at_once)
    _, (task_N, code_N, label_N) = sampler()
    entity_N, other_N, size, others = (task_N, code_N, 30, 12) if side == "tasks" else (code_N, task_N, 12, 30)
    width, random = 4, torch.Generator().manual_seed(5)
    other = Factors(torch.randn(others, width, generator=random), 0.5 + torch.rand(others, generator=random))
    precision_E, center_K = 0.5 + torch.rand(size, generator=random), torch.randn(width, generator=random)
    root_KK = torch.randn(width, width, generator=random)
    prior_KK = root_KK @ root_KK.T + torch.eye(width)
    drawn = Side.of(entity_N, other_N, label_N, size)

    def draw(noise_EK: Tensor) -> tuple[Tensor, Tensor]:
        factors, error_E = drawn.drawn(other, precision_E, (center_K, prior_KK), noise_EK)
        assert factors.precision_E is precision_E
        return factors.factor_EK, error_E

    mean_EK, error_E = draw(torch.zeros(size, width))
    # The draw is linear in its noise, which differs from entity to entity: half of them by one unit each, the others not at all.
    moved_EKK = torch.zeros(size, width, width)
    even_E = (torch.arange(size) % 2 == 0).float()[:, None]
    for k in range(width):
        moved_EKK[:, :, k] = draw(even_E * torch.eye(width)[k])[0] - mean_EK
    for entity in range(size):
        mine_N = entity_N == entity
        z_NK = other.factor_EK[other_N[mine_N]].double().numpy().copy()
        rest_N = label_N[mine_N].double().numpy() - z_NK[:, -1]
        z_NK[:, -1] = 1.0
        weight_N = (precision_E[entity] * other.precision_E[other_N[mine_N]]).double().numpy()
        inside_KK = z_NK.T @ (weight_N[:, None] * z_NK) + prior_KK.double().numpy()
        mean_K = np.linalg.solve(inside_KK, z_NK.T @ (weight_N * rest_N) + (prior_KK @ center_K).double().numpy())
        np.testing.assert_allclose(mean_EK[entity].numpy(), mean_K, atol=1e-5)
        np.testing.assert_allclose(float(error_E[entity]), (weight_N * (rest_N - z_NK @ mean_K) ** 2).sum(), rtol=1e-4, atol=1e-5)
        covariance_KK = (moved_EKK[entity] @ moved_EKK[entity].T).numpy()
        wanted_KK = np.linalg.inv(inside_KK) if entity % 2 == 0 else np.zeros((width, width))
        np.testing.assert_allclose(covariance_KK, wanted_KK, atol=1e-5)


def test_means_and_precisions_are_drawn_about_those_of_the_factors() -> None:
    one, _ = sampler()
    random = np.random.default_rng(4)
    root_KK = np.array([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.8]])
    factor_EK = torch.from_numpy(2.0 + random.normal(size=(2000, 3)) @ root_KK.T).float()
    drawn = [one._prior(factor_EK) for _ in range(300)]
    mean_DK, precision_DKK = (torch.stack([pair[place] for pair in drawn]).double() for place in (0, 1))
    torch.testing.assert_close(mean_DK.mean(0), factor_EK.double().mean(0), rtol=0.01, atol=0.01)
    torch.testing.assert_close(torch.linalg.inv(precision_DKK.mean(0)), torch.cov(factor_EK.double().T), rtol=0.05, atol=0.02)
    # The spread of the mean is that of the factors over the root of their number.
    torch.testing.assert_close(mean_DK.std(0), factor_EK.double().std(0) / 2000**0.5, rtol=0.25, atol=0.0)
    # Two factors know next to nothing: the prior's precision of 5, times what a Wishart of few entities has.
    few = torch.stack([one._prior(torch.zeros(2, 3))[1] for _ in range(300)]).double().mean(0)
    torch.testing.assert_close(few, 7 * torch.eye(3).double(), rtol=0.1, atol=0.7)


def test_tasks_that_grade_erratically_have_less_precision() -> None:
    one, _ = sampler()
    count_T = one.tasks.count_E.double()
    assert int(count_T[0]) == 0
    variance_T = torch.where(torch.arange(30) < 15, 0.25, 4.0).double()
    drawn_T = torch.stack([one._precision((variance_T * count_T).float(), torch.full((30,), 1.5)) for _ in range(200)]).mean(0)
    assert float(drawn_T[1:15].mean()) > 2 * float(drawn_T[15:].mean())
    assert float(drawn_T[1:15].min()) > float(drawn_T[15:].max())
    alike_T = torch.stack([one._precision((0.5 * count_T).float(), torch.full((30,), 1.5)) for _ in range(400)]).mean(0)
    assert float(alike_T[1:].mean()) == pytest.approx(2.0, rel=0.15)
