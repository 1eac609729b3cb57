"""The batched gradient family against the plainest form: one task at a time, no padding, formulas written out."""

import pytest
import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.gradient import GradientLearner
from metarec.meta.joint import Joint
from metarec.meta.maml import FirstOrderMaml, Maml
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.linear_gaussian import LinearGaussian
from metarec.models.melu import Melu
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import as_float64, checkerboard, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam

MODEL = Melu(embedding_dim=3, hidden_dim=5)
DECISIONS = tuple(f"decision.{name}" for name in ("row", "task", "bias1", "hidden", "bias2", "out", "mean"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tasks() -> TaskBatch:
    family = linear_family(num_tasks=12, num_rows=15, rows_per_task=10, seed=4)
    config = EpisodeConfig(batch_size=6, max_support=6, max_query=4)
    return next(EpisodeSampler(family.layout, as_float64(family.tables), config, 1).epoch(0))


def parameters(tasks: TaskBatch) -> dict[str, Tensor]:
    theta = MODEL.init(tasks.query.tables, generator())
    return {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator(7)).double() for name, value in theta.items()
    }


def plain_score(theta: dict[str, Tensor], weights: dict[str, Tensor], part: Batch, t: int) -> Tensor:
    rows = part.row_TN[t][part.mask_TN[t]]
    items, users = part.tables.rows, part.tables.tasks
    item = torch.cat([items.dense_NP[rows] @ theta["row.content"], theta["row.id"][items.code_N[rows]]], 1)
    user = users.dense_NP[part.task_T[t]] @ theta["task.content"]
    first = torch.relu(item @ weights["decision.row"] + user @ weights["decision.task"] + weights["decision.bias1"])
    second = torch.relu(first @ weights["decision.hidden"] + weights["decision.bias2"])
    return second @ weights["decision.out"] + weights["decision.mean"]


def plain_loss(theta: dict[str, Tensor], weights: dict[str, Tensor], part: Batch, t: int) -> Tensor:
    label = part.label_TN[t][part.mask_TN[t]]
    return (plain_score(theta, weights, part, t) - label).square().mean() if len(label) else torch.zeros(())


def plain_adapt(learner: GradientLearner, theta: dict[str, Tensor], tasks: TaskBatch, t: int, second: bool) -> dict[str, Tensor]:
    weights = {name: theta[name] for name in DECISIONS}
    for _ in range(learner.inner_steps if bool(tasks.support.mask_TN[t].any()) else 0):
        loss = plain_loss(theta, weights, tasks.support, t)
        steps = torch.autograd.grad(loss, list(weights.values()), create_graph=second, retain_graph=True)
        weights = {name: weights[name] - learner.inner_lr * step for name, step in zip(weights, steps, strict=True)}
    return weights


@pytest.mark.parametrize(
    "learner", [Maml(inner_steps=1), Maml(inner_steps=3), FirstOrderMaml(inner_steps=3), Maml(first_order=True)]
)
def test_the_outer_gradient_is_that_of_a_plain_loop(learner: Maml, tasks: TaskBatch) -> None:
    learner = type(learner)(
        inner_lr=0.03, inner_steps=learner.inner_steps, first_order=learner.first_order, id_dropout=0, l2_id=0
    )
    theta = parameters(tasks)
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    losses = [
        plain_loss(live, plain_adapt(learner, live, tasks, t, not learner.first_order), tasks.query, t)
        for t in range(tasks.query.num_tasks)
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, value in live.items():
        expected = torch.zeros_like(value) if value.grad is None else value.grad.clone()
        if name == "row.id":
            expected[0] = 0
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_first_and_second_order_differ(tasks: TaskBatch) -> None:
    theta = parameters(tasks)
    second, _ = Maml(id_dropout=0).meta_gradient(MODEL, theta, tasks, generator())
    first, _ = FirstOrderMaml(id_dropout=0).meta_gradient(MODEL, theta, tasks, generator())
    assert float((first["decision.row"] - second["decision.row"]).abs().max()) > 1e-6


@pytest.mark.parametrize("learner", [Maml(inner_lr=0.03, inner_steps=4), Joint(inner_lr=0.03, inner_steps=4)])
def test_adaptation_is_that_of_a_plain_loop(learner: GradientLearner, tasks: TaskBatch) -> None:
    theta = parameters(tasks)
    fast = learner.adapt(MODEL, theta, tasks.support)
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    for t in range(tasks.query.num_tasks):
        for name, value in plain_adapt(learner, live, tasks, t, False).items():
            torch.testing.assert_close(fast[name][t], value.detach(), rtol=1e-12, atol=1e-12)


def test_joint_training_pools_the_rows_and_does_not_adapt(tasks: TaskBatch) -> None:
    theta = parameters(tasks)
    found, _ = Joint(id_dropout=0, l2_id=0).meta_gradient(MODEL, theta, tasks, generator())
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    weights = {name: live[name] for name in DECISIONS}
    losses = []
    for t in range(tasks.query.num_tasks):
        error = torch.cat(
            [
                plain_score(live, weights, part, t) - part.label_TN[t][part.mask_TN[t]]
                for part in (tasks.support, tasks.query)
                if bool(part.mask_TN[t].any())
            ]
        )
        losses.append(error.square().mean())
    torch.stack(losses).mean().backward()
    for name in (*DECISIONS, "row.content", "task.content"):
        torch.testing.assert_close(found[name], live[name].grad, rtol=1e-12, atol=1e-12)


def test_the_linear_model_adapts_by_gradient_steps_too(tasks: TaskBatch) -> None:
    model, learner = LinearGaussian(embedding_dim=3), Maml(inner_lr=0.1, inner_steps=5)
    theta = model.init(tasks.query.tables, generator())
    fast = learner.adapt(model, theta, tasks.support)
    assert fast["mean"].shape == (6, 4)
    assert learner.predict(model, theta, fast, tasks.query).mean_TQ.shape == tasks.query.row_TN.shape


@pytest.mark.parametrize("learner", [Maml(inner_lr=0.1), FirstOrderMaml(inner_lr=0.1)])
def test_clicks_are_learned_with_cross_entropy(learner: Maml) -> None:
    learner = type(learner)(inner_lr=0.3, inner_steps=3, objective="cross_entropy", id_dropout=0, l2_id=0)
    family = checkerboard(num_tasks=300, low=0, high=1)
    sampler = EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=100, max_support=3, max_query=9), 0)
    model = Melu(embedding_dim=4, hidden_dim=16)
    theta = learner.init(model, family.tables, generator(), label_stats(family.layout, family.tables.rows))
    optimizer = Adam()
    for epoch in range(40):
        for batch in sampler.epoch(epoch):
            gradient, _ = learner.meta_gradient(model, theta, batch, generator())
            optimizer.step(theta, gradient, 0.01)
    batch = next(sampler.epoch(99))
    share_TQ = learner.predict(model, theta, learner.adapt(model, theta, batch.support), batch.query).mean_TQ
    assert 0 <= float(share_TQ.min()) <= float(share_TQ.max()) <= 1
    seen_TQ = batch.query.mask_TN & batch.support.mask_TN.any(1)[:, None]
    right_TQ = (share_TQ > 0.5) == (batch.query.label_TN > 0.5)
    assert float(right_TQ[seen_TQ].float().mean()) > 0.95


def test_wrong_settings_and_models_are_named(tasks: TaskBatch) -> None:
    with pytest.raises(ConfigError, match="inner_lr is 0"):
        Maml(inner_lr=0)
    with pytest.raises(ConfigError, match="inner_steps is 0"):
        Joint(inner_steps=0)
    with pytest.raises(ConfigError, match="'hinge' is unknown"):
        Maml(objective="hinge")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="model 'catalogue' cannot be adapted by gradient steps"):
        Maml().adapt(CatalogueScorer(), {}, tasks.support)
