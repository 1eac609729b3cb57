import pytest
import torch

from metarec.training.optimizer import Adam, OneCycle


def test_steps_are_those_of_the_textbook_adam() -> None:
    start = {"b": torch.randn(3, 2), "a": torch.randn(4)}
    theta = {name: value.clone() for name, value in start.items()}
    reference = {name: value.clone().requires_grad_() for name, value in start.items()}
    ours, theirs = Adam(), torch.optim.Adam(reference.values(), lr=0.01)
    for _ in range(5):
        gradient = {name: torch.randn_like(value) for name, value in start.items()}
        ours.step(theta, gradient, 0.01)
        for name, value in reference.items():
            value.grad = gradient[name].clone()
        theirs.step()
    for name in start:
        torch.testing.assert_close(theta[name], reference[name].detach())


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    schedule = OneCycle(peak=1.0, num_steps=100, warmup_fraction=0.3)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[30] == 1.0
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[-1] <= 1.01e-4


def test_a_single_step_has_a_rate() -> None:
    assert 0 < OneCycle(peak=0.1, num_steps=1, warmup_fraction=0.3).rate(0) <= 0.1
