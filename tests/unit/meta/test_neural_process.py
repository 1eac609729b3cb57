"""The neural process against the plainest form: one task, one head and one row at a time, no padding and no masks."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.neural_process import NeuralProcess
from metarec.models.attentive_set import AttentiveSet
from metarec.models.melu import Melu
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import PlantedFamily, as_float64, checkerboard, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam, OneCycle

MODEL = AttentiveSet(embedding_dim=3, hidden_dim=6, num_heads=2, num_layers=2)
EXACT = 1e-12
Params = dict[str, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_settings(objective: str = "squared_error") -> NeuralProcess:
    return NeuralProcess(objective=objective, id_dropout=0, cold_tasks=0, l2_id=0, l2_bias=0)  # type: ignore[arg-type]  # from parameters


@pytest.fixture
def tasks() -> TaskBatch:
    family = linear_family(num_tasks=12, num_rows=15, rows_per_task=10, seed=4)
    tables = as_float64(family.tables)
    code_N = tables.rows.code_N.clone()
    code_N[::4] = 0  # some rows unknown
    tables = replace(tables, rows=replace(tables.rows, code_N=code_N))
    config = EpisodeConfig(batch_size=6, max_support=6, max_query=4)
    drawn = next(EpisodeSampler(family.layout, tables, config, 6).epoch(0))
    assert 0 in drawn.support.mask_TN.sum(1).tolist()
    return replace(drawn, weight_T=torch.linspace(0.5, 2.0, 6, dtype=torch.float64))


def parameters(tasks: TaskBatch, model: AttentiveSet = MODEL) -> Params:
    start = NeuralProcess().init(model, tasks.query.tables, generator())
    return {k: v.double() + 0.2 * torch.randn(v.shape, generator=generator(7)).double() for k, v in start.items()}


def linear(theta: Params, name: str, value: Tensor) -> Tensor:
    return value @ theta[f"{name}.weight"] + theta[f"{name}.bias"]


def normal(value: Tensor) -> Tensor:
    return (value - value.mean()) / torch.sqrt(value.var(unbiased=False) + 1e-5)


def direction(value: Tensor) -> Tensor:
    return value / torch.sqrt(value.square().mean() + 1e-6)


def row(theta: Params, part: Batch, place: int) -> tuple[Tensor, Tensor]:
    items = part.tables.rows
    dense, code = items.dense_NP[place], int(items.code_N[place])
    phi, bias = dense @ theta["row.content"], dense @ theta["row.content_bias"]
    return (phi + theta["row.id"][code], bias + theta["row.id_bias"][code]) if code else (phi, bias)


def heads(value: Tensor) -> list[Tensor]:
    return list(value.split(3))


def plain_task(learner: NeuralProcess, theta: Params, tasks: TaskBatch, t: int) -> tuple[Tensor, Tensor]:
    """Scores and log variances of a task's query rows."""
    users = tasks.query.tables.tasks.dense_NP[tasks.query.task_T[t]]
    profile, offset = users @ theta["task.content"] + theta["task.taste"], users @ theta["task.content_bias"]

    def prior(phi: Tensor, bias: Tensor) -> Tensor:
        return theta["mu"] + bias + offset + phi @ profile

    tokens, keys, residuals = [], [], []
    support = tasks.support
    for place, label, true in zip(support.row_TN[t], support.label_TN[t], support.mask_TN[t], strict=True):
        if not true:
            continue
        phi, bias = row(theta, support, int(place))
        expected = prior(phi, bias)
        r = label.double() - (torch.sigmoid(expected) if learner.objective == "cross_entropy" else expected)
        tokens.append(linear(theta, "token", torch.cat([phi, r[None], r * phi, profile])))
        keys.append(linear(theta, "attend.key", direction(phi)))
        residuals.append(r)
    for block in ("block0", "block1"):
        normals = [normal(token) for token in tokens]
        after = []
        for token, own in zip(tokens, normals, strict=True):
            mixed = []
            for head in range(2):
                query = heads(linear(theta, f"{block}.query", own))[head]
                logit = torch.stack([query @ heads(linear(theta, f"{block}.key", other))[head] for other in normals]) / math.sqrt(
                    3
                )
                weight = torch.softmax(logit, 0)
                values = [heads(linear(theta, f"{block}.value", other))[head] for other in normals]
                mixed.append(sum(w * v for w, v in zip(weight, values, strict=True)))
            seen = token + linear(theta, f"{block}.out", torch.cat(mixed))
            up = torch.relu(linear(theta, f"{block}.up", normal(seen)))
            after.append(seen + linear(theta, f"{block}.down", up))
        tokens = after
    taste = (sum(tokens) if tokens else torch.zeros(6).double()) / (1 + len(tokens)) @ theta["pool.weight"]
    values = [linear(theta, "attend.value", token) for token in tokens]

    scores, spreads = [], []
    for place, true in zip(tasks.query.row_TN[t], tasks.query.mask_TN[t], strict=True):
        if not true:
            continue
        phi, bias = row(theta, tasks.query, int(place))
        taken, residual = [], torch.zeros(()).double()
        for head in range(2):
            query = heads(linear(theta, "attend.query", direction(phi)))[head]
            logit = [query @ heads(key)[head] / math.sqrt(3) for key in keys]
            weight = torch.softmax(torch.stack([*logit, theta["attend.empty"][head]]), 0)[:-1]
            taken.append(sum((w * heads(v)[head] for w, v in zip(weight, values, strict=True)), torch.zeros(3).double()))
            residual = residual + sum(w * r for w, r in zip(weight, residuals, strict=True)) / 2
        hidden = torch.relu(linear(theta, "decode.first", torch.cat([phi, *taken, profile])))
        out = linear(theta, "decode.second", hidden)
        scores.append(prior(phi, bias) + residual + phi @ taste[:-1] + taste[-1] + out[0])
        known = int(tasks.query.tables.rows.code_N[place]) > 0
        spreads.append(out[1] + theta["noise.log_var"][0 if known else 1])
    return torch.stack(scores), torch.stack(spreads)


def with_clicks(tasks: TaskBatch) -> TaskBatch:
    support, query = (replace(part, label_TN=(part.label_TN > 3).float()) for part in (tasks.support, tasks.query))
    return replace(tasks, support=support, query=query)


@pytest.mark.parametrize("objective", ["squared_error", "cross_entropy"])
def test_predictions_are_those_of_a_plain_loop(objective: str, tasks: TaskBatch) -> None:
    learner, theta = plain_settings(objective), parameters(tasks)
    tasks = with_clicks(tasks) if objective == "cross_entropy" else tasks
    found = learner.predict(MODEL, theta, learner.adapt(MODEL, theta, tasks.support), tasks.query)
    assert found.variance_TQ is not None
    for t in range(6):
        score, log_var = plain_task(learner, theta, tasks, t)
        mean, variance = score, torch.exp(log_var)
        if objective == "cross_entropy":
            mean = torch.sigmoid(score)
            variance = mean * (1 - mean)
        mask = tasks.query.mask_TN[t]
        torch.testing.assert_close(found.mean_TQ[t][mask], mean, rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(found.variance_TQ[t][mask], variance, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("objective", ["squared_error", "cross_entropy"])
def test_the_gradient_is_that_of_a_plain_loop(objective: str, tasks: TaskBatch) -> None:
    learner, theta = plain_settings(objective), parameters(tasks)
    tasks = with_clicks(tasks) if objective == "cross_entropy" else tasks
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    errors, likelihoods = [], []
    for t in range(6):
        score, log_var = plain_task(learner, live, tasks, t)
        label = tasks.query.label_TN[t][tasks.query.mask_TN[t]].double()
        if objective == "cross_entropy":
            errors.append(-(label * torch.sigmoid(score).log() + (1 - label) * torch.sigmoid(-score).log()).mean())
            likelihoods.append(torch.zeros(()).double())
        else:
            square = (score - label).square()
            errors.append(square.mean())
            likelihoods.append(0.5 * (square.detach() / torch.exp(log_var) + log_var).mean())
    share_T = tasks.weight_T / tasks.weight_T.sum()
    error = (torch.stack(errors) * share_T).sum()
    (error + (torch.stack(likelihoods) * share_T).sum()).backward()
    assert metrics["loss"] == pytest.approx(float(error.detach()), rel=1e-12)
    for name, value in live.items():
        expected = torch.zeros_like(value) if value.grad is None else value.grad.clone()
        if name in ("row.id", "row.id_bias"):
            expected[0] = 0
        torch.testing.assert_close(found[name], expected, rtol=EXACT, atol=EXACT, msg=lambda text, name=name: f"{name}: {text}")


def trained(family: PlantedFamily, learner: NeuralProcess, epochs: int) -> tuple[AttentiveSet, Params, TaskBatch]:
    model = AttentiveSet(embedding_dim=8, hidden_dim=32)
    sampler = EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=60, max_support=12, max_query=12), 0)
    theta = learner.init(model, family.tables, generator(), label_stats(family.layout, family.tables.rows))
    optimizer, schedule = Adam(), OneCycle(peak=0.01, num_steps=epochs * sampler.steps_per_epoch, warmup_fraction=0.2)
    for epoch in range(epochs):
        for batch in sampler.epoch(epoch):
            gradient, _ = learner.meta_gradient(model, theta, batch, generator(epoch))
            optimizer.step(theta, gradient, schedule.rate(optimizer.steps))
    return model, theta, next(sampler.epoch(999))


def test_training_learns_to_use_the_support_and_how_sure_it_is() -> None:
    family = linear_family(num_tasks=400, num_rows=60, rows_per_task=24, profile_dim=1, noise=0.3)
    learner = NeuralProcess(id_dropout=0, cold_tasks=0, l2_id=0.01)
    model, theta, tasks = trained(family, learner, 25)
    found = learner.predict(model, theta, learner.adapt(model, theta, tasks.support), tasks.query)
    assert found.variance_TQ is not None
    mask_TQ, shots_T = tasks.query.mask_TN, tasks.support.mask_TN.sum(1)
    square_TQ = (found.mean_TQ - tasks.query.label_TN).square()

    def over(value_TQ: Tensor, chosen_T: Tensor) -> float:
        return float(value_TQ[mask_TQ & chosen_T[:, None]].mean())

    few_T, many_T = shots_T <= 2, shots_T >= 9
    assert over(square_TQ, many_T) < 0.5 * over(square_TQ, few_T)
    best = torch.from_numpy(family.bayes_mean(tasks))
    assert over((found.mean_TQ - best).square(), many_T) < 0.35
    for chosen_T in (few_T, many_T):
        assert over(square_TQ / found.variance_TQ, chosen_T) == pytest.approx(1, abs=0.35)


def test_clicks_are_learned_with_cross_entropy() -> None:
    learner = NeuralProcess(objective="cross_entropy", id_dropout=0, cold_tasks=0, l2_id=0.01)
    model, theta, tasks = trained(checkerboard(num_tasks=300, low=0, high=1), learner, 10)
    share_TQ = learner.predict(model, theta, learner.adapt(model, theta, tasks.support), tasks.query).mean_TQ
    assert 0 <= float(share_TQ.min()) <= float(share_TQ.max()) <= 1
    seen_TQ = tasks.query.mask_TN & tasks.support.mask_TN.any(1)[:, None]
    right_TQ = (share_TQ > 0.5) == (tasks.query.label_TN > 0.5)
    assert float(right_TQ[seen_TQ].float().mean()) > 0.95


def test_cold_tasks_are_shown_without_ids(tasks: TaskBatch) -> None:
    learner = NeuralProcess(id_dropout=0, cold_tasks=0.99, l2_id=0, l2_bias=0)
    gradient, _ = learner.meta_gradient(MODEL, parameters(tasks), tasks, generator())
    assert float(gradient["row.id"].abs().max()) == 0
    assert float(gradient["row.content"].abs().max()) > 0


def test_wrong_settings_and_models_are_named(tasks: TaskBatch) -> None:
    with pytest.raises(ConfigError, match="cold_tasks is 1"):
        NeuralProcess(cold_tasks=1)
    with pytest.raises(ConfigError, match="l2_id is -1"):
        NeuralProcess(l2_id=-1)
    with pytest.raises(ConfigError, match="hidden_dim is 9, must be a multiple of num_heads, 2"):
        AttentiveSet(hidden_dim=9)
    with pytest.raises(ConfigError, match="learner 'neural_process' needs model 'attentive_set', got 'melu'"):
        NeuralProcess().adapt(Melu(), {}, tasks.support)
