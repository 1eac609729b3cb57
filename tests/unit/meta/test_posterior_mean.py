import torch

from metarec.meta.posterior_mean import posterior_mean


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, precisions and residuals of 3 tasks, one of which has fewer rows than the others."""
    draw = torch.Generator().manual_seed(seed)
    z_TSD = torch.randn(3, 5, 4, generator=draw, dtype=torch.float64)
    weight_TS = torch.rand(3, 5, generator=draw, dtype=torch.float64) + 0.2
    weight_TS[1, 2:] = 0.0
    return z_TSD, weight_TS, torch.randn(3, 5, generator=draw, dtype=torch.float64)


def plain(z_TSD: torch.Tensor, weight_TS: torch.Tensor, residual_TS: torch.Tensor) -> torch.Tensor:
    weighted_TDS = (z_TSD * weight_TS[..., None]).mT
    a_TDD = weighted_TDS @ z_TSD + torch.eye(z_TSD.shape[2], dtype=z_TSD.dtype)
    return torch.linalg.solve(a_TDD, (weighted_TDS @ residual_TS[..., None]))[..., 0]


def test_the_mean_solves_the_normal_equations() -> None:
    z_TSD, weight_TS, residual_TS = problem()
    w_TD, inverse_TDD, half_TD = posterior_mean(z_TSD, weight_TS, residual_TS)
    torch.testing.assert_close(w_TD, plain(z_TSD, weight_TS, residual_TS))
    torch.testing.assert_close(torch.einsum("ted,te->td", inverse_TDD, half_TD), w_TD)


def test_its_gradient_is_that_of_a_solve_that_autograd_goes_through() -> None:
    inputs = tuple(part.requires_grad_() for part in problem())
    probe_TD = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = torch.autograd.grad((plain(*inputs) * probe_TD).sum(), inputs)
    found = torch.autograd.grad((posterior_mean(*inputs)[0] * probe_TD).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *parts: posterior_mean(*parts)[0], inputs)
