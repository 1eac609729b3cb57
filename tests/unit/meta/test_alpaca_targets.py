"""Several targets at once: the textbook posterior in plain loops, and what labels of one target tell of another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metarec.errors import ConfigError
from metarec.meta.alpaca_targets import AlpacaTargets
from metarec.meta.alpaca_terms import few_of_each
from metarec.meta.row_axes import fold_axes
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.models.linear_targets import LinearTargets
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import PlantedFamily, as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam

MODEL = LinearTargets(embedding_dim=3)


def sampler(family: PlantedFamily, seed: int = 1) -> EpisodeSampler:
    config = EpisodeConfig(batch_size=64, max_support=10, max_query=8, min_query=4)
    return EpisodeSampler(family.layout, as_float64(family.tables), config, seed)


def start(family: PlantedFamily, learner: AlpacaTargets) -> MetaParams:
    stats = label_stats(family.layout, family.tables.rows)
    theta = learner.init(MODEL, family.tables, torch.Generator().manual_seed(0), stats)
    return {name: value.double() for name, value in theta.items()}


def trained(family: PlantedFamily, learner: AlpacaTargets, epochs: int = 20) -> MetaParams:
    theta, optimizer, draws = start(family, learner), Adam(), sampler(family)
    for epoch in range(epochs):
        for step, tasks in enumerate(draws.epoch(epoch)):
            gradient, _ = learner.meta_gradient(MODEL, theta, tasks, torch.Generator().manual_seed(1000 * epoch + step))
            optimizer.step(theta, gradient, 0.02 * (1 - epoch / epochs))
    return theta


def error(theta: MetaParams, learner: AlpacaTargets, batches: list[TaskBatch], target: int) -> float:
    """Mean squared error of a target's query rows."""
    total, count = 0.0, 0
    for tasks in batches:
        fast = learner.adapt(MODEL, theta, tasks.support)
        mean_TQ = learner.predict(MODEL, theta, fast, tasks.query).mean_TQ
        here_TQ = tasks.query.mask_TN & (tasks.query.targets_TN == target)
        total += float((mean_TQ - tasks.query.label_TN).square()[here_TQ].sum())
        count += int(here_TQ.sum())
    return total / count


def test_the_posterior_is_that_of_one_regression_over_the_rows_of_all_targets() -> None:
    family = linear_family(num_tasks=12, num_rows=20, rows_per_task=8, extra_share=0.7, seed=4)
    learner = AlpacaTargets(noise_shape=0.0)
    noise = torch.Generator().manual_seed(2)
    theta = {
        name: v + (not name.startswith("range.")) * 0.2 * torch.randn(v.shape, generator=noise).double()
        for name, v in start(family, learner).items()
    }
    theta["row.choice"].zero_()
    theta["task.choice"].zero_()
    tasks = next(sampler(family).epoch(0))
    found = learner.adapt(MODEL, theta, tasks.support)["mean"].numpy()
    support, rows = tasks.support, tasks.support.tables.rows
    maps = [np.eye(4), theta["targets.map"][0].numpy()]
    level: NDArray[np.float64] = np.array([float(theta["mu"]), float(theta["targets.mu"])])
    for t in range(support.num_tasks):
        task = int(support.task_T[t])
        dense = support.tables.tasks.dense_NP[task].numpy()
        w0 = theta["task.mean"].numpy() + np.append(
            dense @ theta["task.content"].numpy(), dense @ theta["task.content_bias"].numpy()
        )
        precision, moment = np.diag(np.exp(-theta["prior.log_var"].numpy())), np.zeros(4)
        for s in range(support.row_TN.shape[1]):
            if not support.mask_TN[t, s]:
                continue
            row, k = int(support.row_TN[t, s]), int(support.target_TN[t, s])  # type: ignore[index]  # there are two targets
            content, code = rows.dense_NP[row].numpy(), int(rows.code_N[row])
            phi = np.append(content @ theta["row.content"].numpy() + theta["row.id"][code].numpy(), 1.0)
            bias = content @ (theta["row.content_bias"] if k == 0 else theta["targets.content_bias"][:, 0]).numpy() + float(
                (theta["row.id_bias"] if k == 0 else theta["targets.id_bias"][0])[code]
            )
            z, variance = maps[k] @ phi, float(torch.exp(theta["noise.log_var" if k == 0 else "targets.log_var"].reshape(2)[0]))
            precision += np.outer(z, z) / variance
            moment += z * (float(support.label_TN[t, s]) - level[k] - bias - z @ w0) / variance
        np.testing.assert_allclose(found[t], w0 + np.linalg.solve(precision, moment), rtol=1e-9, atol=1e-9)


def test_labels_of_one_target_tell_about_the_other_and_sharing_beats_training_alone() -> None:
    """With a third of the further target's labels, what the label says of the same taste is most of what there is to know."""
    family = linear_family(num_tasks=150, num_rows=40, rows_per_task=20, extra_share=0.3, seed=7)
    learner = AlpacaTargets(id_dropout=0.0, cold_tasks=0.0)
    shared, alone = trained(family, learner), trained(replace(family, layout=family.layout.of_target(0)), learner)
    tests = list(sampler(family, seed=99).epoch(0))

    def as_label(tasks: TaskBatch) -> TaskBatch:
        """The rows of the further target as those of the only one there is."""

        def only(batch: Batch) -> Batch:
            return replace(batch, mask_TN=batch.mask_TN & (batch.targets_TN == 1), target_TN=None)

        return replace(tasks, support=only(tasks.support), query=only(tasks.query))

    assert error(shared, learner, tests, target=1) < 0.6 * error(alone, learner, [as_label(tasks) for tasks in tests], target=0)


@pytest.mark.parametrize(("count", "other"), [(100, 6000), (1e-2, 1e-5)])
def test_what_a_further_target_counts_does_not_matter(count: float, other: float) -> None:
    """Steps of training are of one size, in which a target of hundreds would hardly move."""
    family = linear_family(num_tasks=40, num_rows=20, rows_per_task=12, extra_share=0.7, seed=7)
    assert family.layout.extra_NK is not None
    minutes, seconds = (
        replace(family, layout=replace(family.layout, extra_NK=np.float32(times) * family.layout.extra_NK))
        for times in (count, other)
    )
    learner = AlpacaTargets(huber=0.5, l2_map=0.1)
    errors = {}
    for name, counted in (("minutes", minutes), ("seconds", seconds)):
        theta, tests = trained(counted, learner, epochs=4), list(sampler(counted, seed=99).epoch(0))
        errors[name] = [error(theta, learner, tests, target) for target in (0, 1)]
    assert errors["seconds"] == pytest.approx([errors["minutes"][0], (other / count) ** 2 * errors["minutes"][1]], rel=1e-3)


def test_rows_for_the_variance_are_of_every_target() -> None:
    mask = torch.tensor([[True, True, True, True, False], [True, False, True, True, True]])
    target = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 1, 1, 1]])
    assert few_of_each(mask, target, 3).tolist() == [[0, 3, 1], [0, 2, 3]]


def test_axes_of_rows_are_given_and_fold_into_their_vectors() -> None:
    family = linear_family(num_tasks=40, num_rows=20, rows_per_task=8, extra_share=0.5, seed=4)
    learner = AlpacaTargets(row_axes=2)
    noise = torch.Generator().manual_seed(2)
    theta = {
        n: v + (n != "axes.row") * 0.1 * torch.randn(v.shape, generator=noise).double() for n, v in start(family, learner).items()
    }
    theta["row.id"][0], theta["row.id_bias"][0] = 0.0, 0.0
    tasks = next(sampler(family).epoch(0))
    gradient, _ = learner.meta_gradient(MODEL, theta, tasks, torch.Generator().manual_seed(0))
    assert not gradient["axes.row"].any()
    assert gradient["axes.map"].any()
    folded = fold_axes(theta)
    assert not any(name.startswith("axes.") for name in folded)
    for target in (0, 1):
        assert error(folded, learner, [tasks], target) == pytest.approx(error(theta, learner, [tasks], target), rel=1e-9)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="extra_weight"):
        AlpacaTargets(extra_weight=-1.0)
    family = linear_family(num_tasks=4)
    with pytest.raises(ConfigError, match="linear_targets"):
        AlpacaTargets().init(LinearGaussian(), family.tables, torch.Generator())
