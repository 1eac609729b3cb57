"""Scenarios as tasks: the shift that users share, against the textbook posterior over all rows at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError
from metarec.meta.alpaca import Alpaca
from metarec.meta.prior import Head
from metarec.meta.registry import make_learner
from metarec.meta.scenario import REFERENCE, REFERENCE_ROWS, Evidence, adapt_scenario, reference, without_shifts
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import PlantedFamily, as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler

DIM = 3
SHIFT = np.array([0.7, -0.5, 0.0])


def planted(shift: "np.ndarray", num_tasks: int = 80) -> tuple[PlantedFamily, Head, TaskBatch]:  # type: ignore[type-arg]  # any dtype will do
    """A family whose users are all moved by `shift`, the head that knows everything else, and support and query of every user."""
    family = linear_family(num_tasks=num_tasks, num_rows=40, rows_per_task=12, known=False, seed=1)
    layout = replace(
        family.layout, label_N=(family.layout.label_N + family.row_RD[family.layout.row_N] @ shift).astype(np.float32)
    )
    learner, model = Alpaca(noise_shape=0.0), LinearGaussian(embedding_dim=DIM)
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(0))
    profile_TP = family.tables.tasks.dense_NP.double().numpy()
    theta |= {
        "mu": torch.tensor(family.mean),
        "row.content": torch.eye(DIM),
        "row.content_bias": torch.zeros(DIM),
        "task.content": torch.from_numpy(np.linalg.lstsq(profile_TP, family.task_TD, rcond=None)[0]),
        "task.content_bias": torch.zeros_like(theta["task.content_bias"]),
        "task.mean": torch.zeros_like(theta["task.mean"]),
        "prior.log_var": torch.log(torch.tensor([*family.variance_D, 1e-4])),
        "noise.log_var": torch.log(torch.full((2,), family.noise_variance)),
    }
    head = Head(target="explicit", learner=learner, model=model, theta={k: v.double() for k, v in theta.items()})
    config = EpisodeConfig(batch_size=num_tasks, max_support=6, max_query=6, min_query=6)
    return family, head, next(EpisodeSampler(layout, as_float64(family.tables), config, 3).epoch(0))


def halves(batch: Batch) -> list[Batch]:
    def part(rows: slice) -> Batch:
        return replace(
            batch,
            task_T=batch.task_T[rows],
            row_TN=batch.row_TN[rows],
            label_TN=batch.label_TN[rows],
            mask_TN=batch.mask_TN[rows],
        )

    return [part(slice(0, 33)), part(slice(33, None))]


def test_the_posterior_is_that_of_all_rows_of_all_users_at_once() -> None:
    family, head, tasks = planted(SHIFT)
    found = adapt_scenario(head, halves(tasks.support), kappas=(0.3,))
    variance = np.append(family.variance_D, 1e-4)
    precision, moment = np.diag(1 / (found.kappa * variance)), np.zeros(DIM + 1)
    for t, task in enumerate(tasks.support.task_T.tolist()):
        seen = tasks.support.mask_TN[t].numpy()
        phi = np.column_stack([family.row_RD[tasks.support.row_TN[t].numpy()[seen]], np.ones(seen.sum())])
        covariance = (phi * variance) @ phi.T + family.noise_variance * np.eye(len(phi))
        rest = tasks.support.label_TN[t].double().numpy()[seen] - family.mean - phi[:, :-1] @ family.task_TD[task]
        precision += phi.T @ np.linalg.solve(covariance, phi)
        moment += phi.T @ np.linalg.solve(covariance, rest)
    np.testing.assert_allclose(found.mean_E.numpy(), np.linalg.solve(precision, moment), atol=1e-5)
    np.testing.assert_allclose(found.covariance_EE.numpy(), np.linalg.inv(precision), atol=1e-6)
    assert found.num_users == int(tasks.support.mask_TN.any(1).sum())
    assert found.num_rows == int(tasks.support.mask_TN.sum())


def test_users_without_rows_of_their_own_profit_from_the_others() -> None:
    _, head, tasks = planted(SHIFT)
    first, others = halves(tasks.support)
    scenario = adapt_scenario(head, [first])
    np.testing.assert_allclose(scenario.mean_E.numpy()[:DIM], SHIFT, atol=0.35)
    query = halves(tasks.query)[1]
    nothing = replace(others, mask_TN=torch.zeros_like(others.mask_TN))

    def error(used: Head) -> float:
        fast = used.learner.adapt(used.model, used.theta, nothing)
        mean_TQ = used.learner.predict(used.model, used.theta, fast, query).mean_TQ
        return float(((mean_TQ - query.label_TN) * query.mask_TN).square().sum() / query.mask_TN.sum())

    assert error(scenario.head(head)) < error(head) - 0.2


def test_a_scenario_like_all_others_is_hardly_moved_and_none_without_users() -> None:
    _, head, tasks = planted(np.zeros(DIM), num_tasks=80)
    alike = adapt_scenario(head, [tasks.support])
    assert float(alike.mean_E.abs().max()) < 0.15
    assert alike.kappa < 0.05
    nobody = adapt_scenario(head, [])
    assert float(nobody.mean_E.abs().max()) == 0.0
    assert torch.equal(nobody.head(head).theta["task.mean"], head.theta["task.mean"])


def test_heads_that_are_not_in_closed_form_are_refused() -> None:
    _, head, _ = planted(SHIFT)
    with pytest.raises(ConfigError, match="not of 'maml'"):
        adapt_scenario(replace(head, learner=make_learner("maml")), [])


def scenarios_of(batch: Batch, seed: int = 5) -> torch.Tensor:
    """Scenarios 0 (the default), 1 and 2 at random, row by row: users are in several."""
    return torch.randint(0, 3, batch.row_TN.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_scenarios", [2, 6])
def test_scenarios_that_share_users_are_solved_together(num_scenarios: int) -> None:
    family, head, tasks = planted(SHIFT, num_tasks=40)
    support, scenario_TN = tasks.support, scenarios_of(tasks.support)
    if num_scenarios == 6:  # each of a user's rows in a scenario of its own
        scenario_TN = torch.arange(1, support.row_TN.shape[1] + 1).expand(support.row_TN.shape)
    places = range(1, num_scenarios + 1)
    evidence = Evidence(head)
    evidence.add(support, scenario_TN)
    found = evidence.solve(kappas=(0.2,))
    kappa, variance = found[1].kappa, np.append(family.variance_D, 1e-4)
    width = DIM + 1
    precision, moment = np.diag(np.tile(1 / (kappa * variance), num_scenarios)), np.zeros(num_scenarios * width)
    for t, task in enumerate(support.task_T.tolist()):
        seen = support.mask_TN[t].numpy()
        phi = np.column_stack([family.row_RD[support.row_TN[t].numpy()[seen]], np.ones(seen.sum())])
        where = scenario_TN[t].numpy()[seen]
        design = np.column_stack([phi * (where == k)[:, None] for k in places])
        covariance = (phi * variance) @ phi.T + family.noise_variance * np.eye(len(phi))
        rest = support.label_TN[t].double().numpy()[seen] - family.mean - phi[:, :-1] @ family.task_TD[task]
        precision += design.T @ np.linalg.solve(covariance, design)
        moment += design.T @ np.linalg.solve(covariance, rest)
    joint = np.linalg.solve(precision, moment)
    np.testing.assert_allclose(np.concatenate([found[k].mean_E.numpy() for k in places]), joint, atol=1e-6)


def test_a_user_within_a_scenario_is_one_of_the_moved_prior() -> None:
    _, head, tasks = planted(SHIFT)
    scenario = adapt_scenario(head, [tasks.support])
    shift_TNE = scenario.mean_E.expand(*tasks.support.row_TN.shape, -1)
    moved = scenario.head(head)
    expected = moved.learner.adapt(moved.model, moved.theta, tasks.support)
    plain = head.learner.adapt(head.model, head.theta, tasks.support)
    found = head.learner.adapt(head.model, head.theta, without_shifts(head, tasks.support, shift_TNE))
    # The same from the stored factor alone, where all of a user's rows are of the scenario: Cov[w] V^-1 m.
    gain_TEE = plain["factor"] @ plain["factor"].mT / torch.exp(head.theta["prior.log_var"])
    for mean_TE in (found["mean"] + scenario.mean_E, plain["mean"] + gain_TEE @ scenario.mean_E):
        torch.testing.assert_close(mean_TE, expected["mean"], atol=1e-12, rtol=0)


def test_one_person_with_a_grudge_moves_nobody_far() -> None:
    _, head, tasks = planted(np.zeros(DIM))
    head = replace(head, learner=Alpaca(noise_shape=8.0))
    one = next(place for place in range(80) if int(tasks.support.mask_TN[place].sum()) >= 3)
    mine = replace(
        tasks.support,
        task_T=tasks.support.task_T[[one]],
        row_TN=tasks.support.row_TN[[one]],
        label_TN=tasks.support.label_TN[[one]] - 4.0 * tasks.support.mask_TN[[one]],
        mask_TN=tasks.support.mask_TN[[one]],
    )
    alone, many = adapt_scenario(head, [mine]), adapt_scenario(head, [mine] * 40)
    assert float(alone.mean_E.abs().max()) < 0.5 * float(many.mean_E.abs().max())
    assert alone.kappa < many.kappa


def test_kappa_is_averaged_over_by_its_evidence() -> None:
    _, head, tasks = planted(SHIFT, num_tasks=20)
    few = [halves(tasks.support)[0]]
    each = [adapt_scenario(head, few, kappas=(kappa,)) for kappa in (0.1, 1.0)]
    both = adapt_scenario(head, few, kappas=(0.1, 1.0))
    share = (both.kappa - 0.1) / 0.9
    assert 0.01 < share < 1
    mean_E = (1 - share) * each[0].mean_E + share * each[1].mean_E
    torch.testing.assert_close(both.mean_E, mean_E, atol=1e-9, rtol=0)
    apart_E = each[1].mean_E - each[0].mean_E
    spread_EE = (1 - share) * each[0].covariance_EE + share * each[1].covariance_EE
    spread_EE = spread_EE + share * (1 - share) * torch.outer(apart_E, apart_E)
    torch.testing.assert_close(both.covariance_EE, spread_EE, atol=1e-9, rtol=0)


def test_what_users_of_training_have_in_common_is_no_scenario() -> None:
    _, head, tasks = planted(SHIFT)
    everybody = torch.tensor([*SHIFT, 0.0], dtype=torch.float64)
    known = replace(head, theta={**head.theta, REFERENCE: everybody.expand(2, -1), REFERENCE_ROWS: torch.tensor([1.0, 5.0])})
    moved, alike = (adapt_scenario(used, [tasks.support]) for used in (head, known))
    assert float(alike.mean_E.norm()) < 0.25 * float(moved.mean_E.norm())


def test_the_reference_runs_through_its_sizes_from_nothing() -> None:
    _, head, _ = planted(SHIFT)
    points = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None].expand(-1, DIM + 1)
    theta = {**head.theta, REFERENCE: points, REFERENCE_ROWS: torch.tensor([1.0, 5.0, 20.0, 100.0, 500.0])}
    found = reference(theta, torch.tensor([0, 1, 5, 100, 500, 9_000]))
    assert found[:, 0].tolist() == pytest.approx([0.0, 1.0, 2.0, 4.0, 5.0, 5.0])
    between = float(reference(theta, torch.tensor([50]))[0, 0])
    assert 3.0 < between < 4.0
    assert torch.equal(reference(head.theta, torch.tensor([7])), torch.zeros(1, DIM + 1, dtype=torch.float64))
