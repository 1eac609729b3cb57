"""The gradient family against the plainest form: one task at a time, no padding, weights copied, autograd for every gradient."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metarec.errors import ConfigError
from metarec.meta.anil import Anil
from metarec.meta.augmentation import augmented
from metarec.meta.dual import DualForm
from metarec.meta.gradient import GradientLearner
from metarec.meta.inner import ElementwiseForm
from metarec.meta.joint import Joint
from metarec.meta.maml import FirstOrderMaml, Maml
from metarec.meta.meta_sgd import MetaSgd
from metarec.meta.reptile import Reptile
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.linear_gaussian import LinearGaussian
from metarec.models.melu import Melu
from metarec.tasks.batch import Batch, TaskBatch
from metarec.tasks.planted import as_float64, checkerboard, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.optimizer import Adam

MODEL = Melu(embedding_dim=3, hidden_dim=5)
HEAD = ("decision.out", "decision.mean")
DECISIONS = (*(f"decision.{name}" for name in ("row", "task", "bias1", "hidden", "bias2")), *HEAD)
EXACT = 1e-12
Params = dict[str, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tasks() -> TaskBatch:
    family = linear_family(num_tasks=12, num_rows=15, rows_per_task=10, seed=4)
    config = EpisodeConfig(batch_size=6, max_support=6, max_query=4)
    drawn = next(EpisodeSampler(family.layout, as_float64(family.tables), config, 6).epoch(0))
    counts = drawn.support.mask_TN.sum(1).tolist()
    assert min(counts) == 0 < max(counts)  # a task without support, and padding
    return replace(drawn, weight_T=torch.linspace(0.5, 2.0, len(counts), dtype=torch.float64))


def called(learner: GradientLearner) -> str:
    """A short name for a parametrised test: what differs from the class's defaults."""
    changed = [f"{f.name}={getattr(learner, f.name)}" for f in fields(learner) if getattr(learner, f.name) != f.default]
    return "-".join([type(learner).__name__, *changed])


def plain(learner: GradientLearner) -> GradientLearner:
    """The learner without anything random or shared by the batch."""
    return replace(learner, id_dropout=0, l2_id=0)


def parameters(learner: GradientLearner, tasks: TaskBatch) -> Params:
    theta = learner.init(MODEL, tasks.query.tables, generator())
    return {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator(7)).double() for name, value in theta.items()
    }


def plain_score(theta: Params, weights: Params, part: Batch, t: int, shift: Tensor | float = 0.0) -> Tensor:
    rows = part.row_TN[t][part.mask_TN[t]]
    items, users = part.tables.rows, part.tables.tasks
    item = torch.cat([items.dense_NP[rows] @ theta["row.content"], theta["row.id"][items.code_N[rows]]], 1) + shift
    user = users.dense_NP[part.task_T[t]] @ theta["task.content"]
    first = torch.relu(item @ weights["decision.row"] + user @ weights["decision.task"] + weights["decision.bias1"])
    second = torch.relu(first @ weights["decision.hidden"] + weights["decision.bias2"])
    return second @ weights["decision.out"] + weights["decision.mean"]


def plain_loss(
    learner: GradientLearner, theta: Params, weights: Params, parts: list[Batch], t: int, shift: Tensor | float = 0.0
) -> Tensor:
    """Mean loss of a task's rows in one or more parts."""
    score = torch.cat([plain_score(theta, weights, part, t, shift) for part in parts])
    label = torch.cat([part.label_TN[t][part.mask_TN[t]] for part in parts]).double()
    if not len(label):
        return score.sum() * 0
    if learner.objective == "cross_entropy":
        return binary_cross_entropy_with_logits(score, label)
    return (score - label).square().mean()


def plain_rate(learner: GradientLearner, theta: Params, name: str) -> Tensor | float:
    key = {"none": "", "one": "rate.all"}.get(learner.learned_rates, f"rate.{name}")
    return learner.inner_lr * theta[key] if key else learner.inner_lr


def plain_path(
    learner: GradientLearner, theta: Params, parts: list[Batch], t: int, second: bool, shift: Tensor | float = 0.0
) -> list[Params]:
    """The weights before and after every step."""
    names = HEAD if isinstance(learner, Anil) else DECISIONS
    path = [{name: theta[name] for name in DECISIONS}]
    for _ in range(learner.inner_steps):
        weights = path[-1]
        loss = plain_loss(learner, theta, weights, parts, t, shift)
        steps = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=True)
        moved = {
            name: weights[name] - plain_rate(learner, theta, name) * (step if second else step.detach())
            for name, step in zip(names, steps, strict=True)
        }
        path.append({**weights, **moved})
    return path


Loss = Callable[[Any, Params, TaskBatch, int], Tensor]
Attack = tuple[Tensor | float, Tensor | float]


def maml_loss(learner: Maml, theta: Params, tasks: TaskBatch, t: int, attack: Attack = (0.0, 0.0)) -> Tensor:
    adapted = plain_path(learner, theta, [tasks.support], t, not learner.first_order, attack[0])[-1]
    return plain_loss(learner, theta, adapted, [tasks.query], t, attack[1])


def plain_attack(learner: GradientLearner, theta: Params, weights: Params, part: Batch, t: int) -> Tensor:
    """A move of each embedded row along its gradient, by a share of its length."""
    rows = part.row_TN[t][part.mask_TN[t]]
    items = part.tables.rows
    item = torch.cat([items.dense_NP[rows] @ theta["row.content"], theta["row.id"][items.code_N[rows]]], 1).detach()
    shift = torch.zeros_like(item).requires_grad_()
    if not len(rows):
        return shift.detach()
    (slope,) = torch.autograd.grad(plain_loss(learner, theta, weights, [part], t, shift), [shift])
    direction = torch.nan_to_num(slope / slope.norm(dim=1, keepdim=True))  # rows behind dead units stay
    return learner.adversarial_size * item.norm(dim=1, keepdim=True) * direction


def adversarial_maml_loss(learner: Maml, theta: Params, tasks: TaskBatch, t: int) -> Tensor:
    path = plain_path(learner, theta, [tasks.support], t, False)
    on_support = plain_attack(learner, theta, path[0], tasks.support, t)
    on_query = plain_attack(learner, theta, path[-1], tasks.query, t)
    clean = maml_loss(learner, theta, tasks, t)
    crossed = maml_loss(learner, theta, tasks, t, (on_support, 0.0)) + maml_loss(learner, theta, tasks, t, (0.0, on_query))
    return (1 - learner.adversarial) * clean + learner.adversarial / 2 * crossed


def joint_loss(learner: GradientLearner, theta: Params, tasks: TaskBatch, t: int) -> Tensor:
    return plain_loss(learner, theta, {name: theta[name] for name in DECISIONS}, [tasks.support, tasks.query], t)


def outer_gradient(loss: Loss, learner: GradientLearner, theta: Params, tasks: TaskBatch) -> tuple[Params, float]:
    """Gradient and value of the weighted mean of the tasks' losses."""
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    losses = torch.stack([loss(learner, live, tasks, t) for t in range(tasks.query.num_tasks)])
    mean = (losses * tasks.weight_T).sum() / tasks.weight_T.sum()
    mean.backward()
    gradient = {name: torch.zeros_like(value) if value.grad is None else value.grad.clone() for name, value in live.items()}
    gradient["row.id"][0] = 0
    return gradient, float(mean.detach())


def assert_same(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], rtol=EXACT, atol=EXACT, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("objective", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize(
    "learner",
    [
        Maml(inner_steps=1),
        Maml(inner_steps=3),
        Maml(inner_steps=3, learned_rates="one"),
        Maml(inner_steps=3, learned_rates="layer"),
        Maml(inner_steps=2, learned_rates="layer", first_order=True),
        FirstOrderMaml(inner_steps=1),
        FirstOrderMaml(inner_steps=3),
        Anil(inner_steps=3),
        Anil(inner_steps=3, learned_rates="element"),
        Anil(inner_steps=3, first_order=True, learned_rates="layer"),
        MetaSgd(inner_steps=1),
        MetaSgd(inner_steps=3),
        MetaSgd(inner_steps=3, first_order=True),
    ],
    ids=called,
)
def test_the_outer_gradient_is_that_of_a_plain_loop(learner: Maml, objective: str, tasks: TaskBatch) -> None:
    learner = replace(plain(learner), objective=objective, inner_lr=0.03)
    if objective == "cross_entropy":
        tasks = with_clicks(tasks)
    theta = parameters(learner, tasks)
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    expected, loss = outer_gradient(maml_loss, learner, theta, tasks)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)
    assert_same(found, expected)


def with_clicks(tasks: TaskBatch) -> TaskBatch:
    support, query = (replace(part, label_TN=(part.label_TN > 3).float()) for part in (tasks.support, tasks.query))
    return replace(tasks, support=support, query=query)


@pytest.mark.parametrize(
    "learner", [Maml(inner_steps=2), FirstOrderMaml(inner_steps=2), MetaSgd(inner_steps=2), Anil()], ids=called
)
def test_adversarial_training_mixes_perturbed_rows_in(learner: Maml, tasks: TaskBatch) -> None:
    learner = replace(plain(learner), adversarial=0.6, adversarial_size=0.3)
    theta = parameters(learner, tasks)
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    expected, loss = outer_gradient(adversarial_maml_loss, learner, theta, tasks)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)
    assert_same(found, expected)
    assert metrics["loss"] > replace(learner, adversarial=0.0).meta_gradient(MODEL, theta, tasks, generator())[1]["loss"]


@pytest.mark.parametrize("learner", [Joint(), Reptile()], ids=called)
def test_learners_without_adapted_query_loss_take_the_switch_too(learner: GradientLearner, tasks: TaskBatch) -> None:
    learner = replace(plain(learner), adversarial=0.5)
    theta = parameters(learner, tasks)
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    clean, plain_metrics = replace(learner, adversarial=0.0).meta_gradient(MODEL, theta, tasks, generator())
    assert metrics["loss"] > plain_metrics["loss"]
    assert all(bool((found[name] != clean[name]).any()) for name in ("decision.hidden", "row.content"))


def test_first_and_second_order_differ(tasks: TaskBatch) -> None:
    theta = parameters(Maml(), tasks)
    second, _ = Maml(id_dropout=0).meta_gradient(MODEL, theta, tasks, generator())
    first, _ = FirstOrderMaml(id_dropout=0).meta_gradient(MODEL, theta, tasks, generator())
    assert float((first["decision.row"] - second["decision.row"]).abs().max()) > 1e-6


@pytest.mark.parametrize("objective", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize(
    "learner",
    [Maml(), Maml(learned_rates="layer"), Joint(), Reptile(), Anil(), MetaSgd()],
    ids=called,
)
def test_adapted_predictions_are_those_of_a_plain_loop(learner: GradientLearner, objective: str, tasks: TaskBatch) -> None:
    learner = replace(plain(learner), objective=objective, inner_lr=0.03, inner_steps=4)
    if objective == "cross_entropy":
        tasks = with_clicks(tasks)
    theta = parameters(learner, tasks)
    found = learner.predict(MODEL, theta, learner.adapt(MODEL, theta, tasks.support), tasks.query).mean_TQ
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    for t in range(tasks.query.num_tasks):
        score = plain_score(live, plain_path(learner, live, [tasks.support], t, False)[-1], tasks.query, t).detach()
        expected = torch.sigmoid(score) if objective == "cross_entropy" else score
        torch.testing.assert_close(found[t][tasks.query.mask_TN[t]], expected, rtol=EXACT, atol=EXACT)


def test_joint_training_pools_the_rows_and_does_not_adapt(tasks: TaskBatch) -> None:
    learner = plain(Joint())
    theta = parameters(learner, tasks)
    found, metrics = learner.meta_gradient(MODEL, theta, tasks, generator())
    expected, loss = outer_gradient(joint_loss, learner, theta, tasks)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)
    assert_same(found, expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_reptile_moves_to_where_its_steps_end(steps: int, tasks: TaskBatch) -> None:
    learner = replace(plain(Reptile()), inner_lr=0.03, inner_steps=steps)
    theta = parameters(learner, tasks)
    found, _ = learner.meta_gradient(MODEL, theta, tasks, generator())
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    share_T = tasks.weight_T / tasks.weight_T.sum()
    expected = {name: torch.zeros_like(value) for name, value in theta.items()}
    for t, share in enumerate(share_T):
        parts = [tasks.support, tasks.query]
        path = plain_path(learner, live, parts, t, False)
        for name in DECISIONS:
            expected[name] += share * (path[0][name] - path[-1][name]).detach() / (learner.inner_lr * steps)
        embeddings = [name for name in theta if name not in DECISIONS]
        for weights in path[:-1]:
            still = {name: value.detach() for name, value in weights.items()}
            loss = plain_loss(learner, live, still, parts, t)
            for name, value in zip(embeddings, torch.autograd.grad(loss, [live[name] for name in embeddings]), strict=True):
                expected[name] += share * value / steps
    expected["row.id"][0] = 0
    assert_same(found, expected)


@pytest.mark.parametrize("learner", [Joint(), Reptile()], ids=called)
@pytest.mark.parametrize("kind", ["one", "layer", "element"])
def test_rates_are_learned_from_the_query_loss_even_where_nothing_else_is(
    learner: GradientLearner, kind: str, tasks: TaskBatch
) -> None:
    learner = replace(plain(learner), learned_rates=kind, inner_lr=0.03)
    theta = parameters(learner, tasks)
    found, _ = learner.meta_gradient(MODEL, theta, tasks, generator())
    expected, _ = outer_gradient(
        maml_loss,
        replace(plain(FirstOrderMaml()), learned_rates=kind, inner_lr=0.03, inner_steps=learner.inner_steps),
        theta,
        tasks,
    )
    rates = [name for name in theta if name.startswith("rate.")]
    assert rates
    assert_same({name: found[name] for name in rates}, {name: expected[name] for name in rates})
    fixed, _ = replace(learner, learned_rates="none").meta_gradient(
        MODEL, {k: v for k, v in theta.items() if k not in rates}, tasks, generator()
    )
    if isinstance(learner, Joint):
        assert_same({name: found[name] for name in fixed}, fixed)


def test_only_rates_of_elements_leave_the_dual_form() -> None:
    for learner in (Maml(), FirstOrderMaml(), Maml(learned_rates="layer"), Reptile(), Joint(), Anil(learned_rates="element")):
        assert isinstance(learner.form(MODEL), DualForm)
    assert isinstance(MetaSgd().form(MODEL), ElementwiseForm)
    assert isinstance(Maml().form(LinearGaussian()), ElementwiseForm)


def test_the_first_layer_is_never_held_per_task(tasks: TaskBatch) -> None:
    fast = Maml().adapt(MODEL, parameters(Maml(), tasks), tasks.support)
    assert fast["dual.row"].shape == (*tasks.support.row_TN.shape, 6)
    assert fast["dual.step"].shape == (*tasks.support.row_TN.shape, 5)
    assert "decision.row" not in fast
    assert set(Anil().adapt(MODEL, parameters(Anil(), tasks), tasks.support)) == set(HEAD)


def test_a_label_shift_is_one_per_task_and_spares_tasks_without_support(tasks: TaskBatch) -> None:
    moved = augmented(tasks, "squared_error", 0.7, generator(3))
    seen = tasks.support.mask_TN.any(1)
    shift_T1 = moved.query.label_TN[:, :1] - tasks.query.label_TN[:, :1]
    assert bool((shift_T1[seen] != 0).all())
    assert bool((shift_T1[~seen] == 0).all())
    for before, after in ((tasks.support, moved.support), (tasks.query, moved.query)):
        torch.testing.assert_close(after.label_TN, before.label_TN + shift_T1)
    assert augmented(tasks, "squared_error", 0.0, generator(3)) is tasks


def test_yes_and_no_are_swapped_in_a_share_of_tasks() -> None:
    family = checkerboard(num_tasks=400, low=0, high=1)
    config = EpisodeConfig(batch_size=400, max_support=3, max_query=9)
    tasks = next(EpisodeSampler(family.layout, family.tables, config, 0).epoch(0))
    moved = augmented(tasks, "cross_entropy", 0.25, generator(3))
    swapped_TQ = moved.query.label_TN != tasks.query.label_TN
    assert bool((swapped_TQ == swapped_TQ[:, :1]).all())
    seen_T = tasks.support.mask_TN.any(1)
    assert not bool(swapped_TQ[~seen_T].any())
    assert float(swapped_TQ[seen_T, 0].float().mean()) == pytest.approx(0.25, abs=0.06)


def test_a_step_is_taken_on_the_augmented_tasks(tasks: TaskBatch) -> None:
    learner = replace(plain(Maml()), label_shift=0.5)
    theta, draw = parameters(learner, tasks), generator(3)
    found, _ = learner.meta_gradient(MODEL, theta, tasks, generator(3))
    plain(Maml()).known_rows(tasks.query.tables.rows, draw)
    expected, _ = plain(Maml()).meta_gradient(MODEL, theta, augmented(tasks, "squared_error", 0.5, draw), generator())
    assert_same(found, expected)


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
    with pytest.raises(ConfigError, match="learner 'anil' needs model 'melu', got 'linear_gaussian'"):
        Anil().adapt(LinearGaussian(), {}, tasks.support)
    with pytest.raises(ConfigError, match="learned_rates 'some' is unknown; use one of none, one, layer, element"):
        Maml(learned_rates="some")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="adversarial is 2"):
        Maml(adversarial=2)
    with pytest.raises(ConfigError, match="label_shift is -1, must not be negative"):
        Maml(label_shift=-1)
    with pytest.raises(ConfigError, match=r"label_shift is 1\.5, a share of tasks"):
        Maml(label_shift=1.5, objective="cross_entropy")
