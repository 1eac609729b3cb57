from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError
from metarec.meta.alpaca import Alpaca
from metarec.models.linear_gaussian import LinearGaussian
from metarec.models.melu import Melu
from metarec.tasks.batch import TaskBatch
from metarec.tasks.planted import PlantedFamily, as_float64, checkerboard, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam, OneCycle

OF_TASKS = ("task_T", "row_TN", "label_TN", "mask_TN")
EXACT = Alpaca(id_dropout=0, cold_tasks=0, l2_id=0, l2_bias=0, l2_choice=0, l2_content=0, noise_shape=6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(family: PlantedFamily, learner: Alpaca, model: LinearGaussian) -> dict[str, torch.Tensor]:
    theta = learner.init(model, family.tables, generator(), label_stats(family.layout, family.tables.rows))
    return {name: value.double() + 0.03 * torch.randn(value.shape, generator=generator(1)) for name, value in theta.items()}


@pytest.fixture
def family() -> PlantedFamily:
    planted = linear_family(num_tasks=20, num_rows=16, rows_per_task=12, seed=2)
    return replace(planted, tables=as_float64(planted.tables))


@pytest.fixture
def tasks(family: PlantedFamily) -> TaskBatch:
    return next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=8, max_support=9, max_query=3), 0).epoch(0))


def textbook(theta: dict[str, torch.Tensor], family: PlantedFamily, tasks: TaskBatch, t: int, shape: float) -> tuple:  # type: ignore[type-arg]  # any dtype will do
    """Mean and variance of the query labels of task t, in numpy, straight from the model's definition."""
    par = {name: value.numpy() for name, value in theta.items()}
    items, users = family.tables.rows, family.tables.tasks
    code = items.code_N.numpy()
    x = items.dense_NP.numpy()
    phi = np.hstack([x @ par["row.content"] + np.where(code[:, None] > 0, par["row.id"][code], 0), np.ones((len(x), 1))])
    bias = par["mu"] + x @ par["row.content_bias"] + np.where(code > 0, par["row.id_bias"][code], 0)
    noise = np.exp(par["noise.log_var"])[(code == 0).astype(int)]
    profile = users.dense_NP.numpy()[tasks.query.task_T[t]]
    prior = np.append(profile @ par["task.content"], profile @ par["task.content_bias"]) + par["task.mean"]
    seen = tasks.support.row_TN[t][tasks.support.mask_TN[t]].numpy()
    free = np.where(code[seen, None] > 0, par["row.choice"][code[seen]], 0)
    prior = prior + (phi[seen] @ par["task.choice"] + free).sum(0) / np.sqrt(1 + len(seen))
    cov = np.diag(np.exp(par["prior.log_var"]))
    query = tasks.query.row_TN[t].numpy()
    kernel = phi[seen] @ cov @ phi[seen].T + np.diag(noise[seen])
    residual = tasks.support.label_TN[t][tasks.support.mask_TN[t]].numpy() - bias[seen] - phi[seen] @ prior
    cross = phi[query] @ cov @ phi[seen].T
    mean = bias[query] + phi[query] @ prior + cross @ np.linalg.solve(kernel, residual)
    spread = np.diag(phi[query] @ cov @ phi[query].T - cross @ np.linalg.solve(kernel, cross.T))
    scale = (shape + residual @ np.linalg.solve(kernel, residual)) / (shape + len(seen))
    calibration = np.exp(par["predict.log_scale"])[(code[query] == 0).astype(int)]
    return mean, (spread + scale * noise[query]) * calibration


def half_known(family: PlantedFamily, tasks: TaskBatch) -> tuple[PlantedFamily, TaskBatch]:
    """The same with every other row unknown."""
    rows = replace(family.tables.rows, code_N=torch.where(torch.arange(16) % 2 == 0, family.tables.rows.code_N, 0))
    tables = replace(family.tables, rows=rows)
    return replace(family, tables=tables), replace(
        tasks, support=replace(tasks.support, tables=tables), query=replace(tasks.query, tables=tables)
    )


@pytest.mark.parametrize("known", [True, False])
def test_mean_and_variance_are_those_of_the_textbook(family: PlantedFamily, tasks: TaskBatch, known: bool) -> None:
    if not known:
        family, tasks = half_known(family, tasks)
    model = LinearGaussian(embedding_dim=3)
    theta = start(family, EXACT, model)
    found = EXACT.predict(model, theta, EXACT.adapt(model, theta, tasks.support), tasks.query)
    assert found.variance_TQ is not None
    for t in range(tasks.query.num_tasks):
        mean, variance = textbook(theta, family, tasks, t, 6.0)
        np.testing.assert_allclose(found.mean_TQ[t].numpy(), mean, rtol=1e-10)
        np.testing.assert_allclose(found.variance_TQ[t].numpy(), variance, rtol=1e-10)


def test_float32_is_enough(family: PlantedFamily, tasks: TaskBatch) -> None:
    model = LinearGaussian(embedding_dim=3)
    theta = start(family, EXACT, model)
    single = {name: value.float() for name, value in theta.items()}
    exact = EXACT.predict(model, theta, EXACT.adapt(model, theta, tasks.support), tasks.query).mean_TQ
    rough = EXACT.predict(model, single, EXACT.adapt(model, single, tasks.support), tasks.query).mean_TQ
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=1e-4)


def test_the_meta_gradient_is_the_slope_of_the_query_error(family: PlantedFamily, tasks: TaskBatch) -> None:
    model = LinearGaussian(embedding_dim=3)
    theta = start(family, EXACT, model)
    theta["row.id"][0] = theta["row.id_bias"][0] = 0
    gradient, _ = EXACT.meta_gradient(model, theta, tasks, generator())
    for name in ("mu", "row.id", "row.id_bias", "row.content", "task.content", "task.mean", "prior.log_var", "noise.log_var"):
        direction = torch.randn(theta[name].shape, generator=generator(3), dtype=torch.float64)
        if name in ("row.id", "row.id_bias"):
            direction[0] = 0
        step = 1e-5

        def loss(sign: int, name: str = name, direction: torch.Tensor = direction, step: float = step) -> float:
            moved = {**theta, name: theta[name] + sign * step * direction}
            return EXACT.meta_gradient(model, moved, tasks, generator())[1]["loss"]

        slope = (loss(1) - loss(-1)) / (2 * step)
        assert float((gradient[name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_a_steps_loss_is_that_of_adapting_and_predicting_of_rows_known_and_unknown(
    family: PlantedFamily, tasks: TaskBatch
) -> None:
    family, tasks = half_known(family, tasks)
    model = LinearGaussian(embedding_dim=3)
    theta = start(family, EXACT, model)
    theta["noise.log_var"] = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    said = EXACT.predict(model, theta, EXACT.adapt(model, theta, tasks.support), tasks.query)
    mask_TQ = tasks.query.mask_TN.double()
    error_T = ((tasks.query.label_TN - said.mean_TQ).square() * mask_TQ).sum(1) / mask_TQ.sum(1)
    expected = float((tasks.weight_T * error_T).sum() / tasks.weight_T.sum())
    assert EXACT.meta_gradient(model, theta, tasks, generator())[1]["loss"] == pytest.approx(expected, rel=1e-9)


def test_hidden_ids_look_like_unknown_entities(family: PlantedFamily, tasks: TaskBatch) -> None:
    model, hide = LinearGaussian(embedding_dim=3), replace(EXACT, id_dropout=1 - 1e-9)
    theta = start(family, EXACT, model)
    unknown = replace(family.tables, rows=replace(family.tables.rows, code_N=torch.zeros(16, dtype=torch.int64)))
    bare = replace(tasks, support=replace(tasks.support, tables=unknown), query=replace(tasks.query, tables=unknown))
    _, hidden = hide.meta_gradient(model, theta, tasks, generator())
    _, never = EXACT.meta_gradient(model, theta, bare, generator())
    _, cold = replace(EXACT, cold_tasks=1 - 1e-9).meta_gradient(model, theta, tasks, generator())
    assert hidden["loss"] == pytest.approx(never["loss"], rel=1e-12)
    assert cold["loss"] == pytest.approx(never["loss"], rel=1e-12)
    assert never["loss"] != pytest.approx(EXACT.meta_gradient(model, theta, tasks, generator())[1]["loss"], rel=1e-3)


def test_a_step_of_cold_and_other_tasks_is_both(family: PlantedFamily, tasks: TaskBatch) -> None:
    model = LinearGaussian(embedding_dim=3)
    theta = start(family, EXACT, model)
    draw, num_tasks = generator(), tasks.query.num_tasks
    torch.rand(len(torch.unique(torch.cat([tasks.support.row_TN, tasks.query.row_TN], 1))), generator=draw)
    cold_T = torch.rand(num_tasks, generator=draw) < 0.5
    assert 0 < int(cold_T.sum()) < num_tasks
    unknown = replace(family.tables, rows=replace(family.tables.rows, code_N=torch.zeros(16, dtype=torch.int64)))
    expected = {name: torch.zeros_like(value) for name, value in theta.items()}
    for t in range(num_tasks):
        parts = [replace(part, tables=unknown if cold_T[t] else family.tables) for part in (tasks.support, tasks.query)]
        support, query = (replace(part, **{k: getattr(part, k)[t : t + 1] for k in OF_TASKS}) for part in parts)
        one = TaskBatch(support=support, query=query, weight_T=torch.ones(1, dtype=torch.float64))
        for name, value in EXACT.meta_gradient(model, theta, one, generator())[0].items():
            expected[name] += value / num_tasks
    weights = torch.ones(num_tasks, dtype=torch.float64)
    found, _ = replace(EXACT, cold_tasks=0.5).meta_gradient(model, theta, replace(tasks, weight_T=weights), generator())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)


def trained(family: PlantedFamily, learner: Alpaca, model: LinearGaussian, config: EpisodeConfig, epochs: int):  # type: ignore[no-untyped-def]  # theta and the losses
    sampler = EpisodeSampler(family.layout, family.tables, config, 0)
    theta = learner.init(model, family.tables, generator(), label_stats(family.layout, family.tables.rows))
    optimizer, schedule = Adam(), OneCycle(peak=0.05, num_steps=epochs * sampler.steps_per_epoch, warmup_fraction=0.2)
    for epoch in range(epochs):
        for tasks in sampler.epoch(epoch):
            gradient, _ = learner.meta_gradient(model, theta, tasks, generator())
            optimizer.step(theta, gradient, schedule.rate(optimizer.steps))
    return theta


def test_training_reaches_the_bayes_error_on_tasks_drawn_from_its_model() -> None:
    family = linear_family(num_tasks=1200, num_rows=60, rows_per_task=24, noise=0.3, seed=5)
    seen = replace(family, layout=family.layout.select(range(1000)))
    learner, model = replace(EXACT, noise_shape=0), LinearGaussian(embedding_dim=3)
    config = EpisodeConfig(batch_size=100, max_support=12, max_query=12)
    theta = trained(seen, learner, model, config, epochs=20)
    new = family.layout.select(range(1000, 1200))
    tasks = next(EpisodeSampler(new, family.tables, replace(config, batch_size=200), 1).epoch(0))
    found = learner.predict(model, theta, learner.adapt(model, theta, tasks.support), tasks.query)
    mask_TQ, label_TQ = tasks.query.mask_TN.numpy(), tasks.query.label_TN.numpy()
    assert found.variance_TQ is not None
    error = float(((found.mean_TQ.numpy() - label_TQ) ** 2)[mask_TQ].mean())
    best = float(((family.bayes_mean(tasks) - label_TQ) ** 2)[mask_TQ].mean())
    assert best < error < 1.05 * best
    squared = ((found.mean_TQ.numpy() - label_TQ) ** 2 / found.variance_TQ.numpy())[mask_TQ].mean()
    assert 0.8 < squared < 1.25


def test_one_observation_settles_a_checkerboard() -> None:
    family = checkerboard(num_tasks=400)
    learner, model = replace(EXACT, noise_shape=0), LinearGaussian(embedding_dim=2)
    config = EpisodeConfig(batch_size=100, max_support=3, max_query=9)
    theta = trained(family, learner, model, config, epochs=30)
    tasks = next(EpisodeSampler(family.layout, family.tables, replace(config, batch_size=400), 1).epoch(0))
    mean_TQ = learner.predict(model, theta, learner.adapt(model, theta, tasks.support), tasks.query).mean_TQ
    error_TQ = (mean_TQ - tasks.query.label_TN).abs()
    seen_T = tasks.support.mask_TN.any(1)
    assert float(error_TQ[seen_T][tasks.query.mask_TN[seen_T]].mean()) < 0.2
    assert float(error_TQ[~seen_T][tasks.query.mask_TN[~seen_T]].mean()) == pytest.approx(2.0, abs=0.15)


def test_the_model_must_be_linear_gaussian(tasks: TaskBatch) -> None:
    with pytest.raises(ConfigError, match="needs model 'linear_gaussian', got 'melu'"):
        Alpaca().adapt(Melu(), {}, tasks.support)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="id_dropout is 1"):
        Alpaca(id_dropout=1)
    with pytest.raises(ConfigError, match="l2_id is -1"):
        Alpaca(l2_id=-1)
