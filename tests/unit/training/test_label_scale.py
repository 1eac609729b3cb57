"""Training does not depend on the unit that labels come in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.data.interactions import Interactions
from metarec.errors import ConfigError
from metarec.meta.prior import Head
from metarec.models.contract import Prediction
from metarec.tasks.planted import linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.training.head_run import train_head
from metarec.training.heads import make_head
from metarec.training.inputs import Inputs
from metarec.training.label_scale import in_labels, in_scale, label_scale, told
from metarec.training.recipe import HeadRecipe
from metarec.training.recipes import get_recipe
from metarec.training.state import HeadState
from metarec.training.surroundings import Surroundings
from metarec.types import GRADES_STD

SMALL = {"epochs": "3", "batch_size": "16", "explicit.model.embedding_dim": "4", "patience": "0"}
CLOSED = [get_recipe(name).override(SMALL).heads[0] for name in ("alpaca", "alpaca_targets")]
OTHERS = [get_recipe(name).override(SMALL).heads[0] for name in ("maml", "reptile", "neural_process")]


def inputs_of(deviation: float, mean: float = 3.0, *, targets: bool = False) -> Inputs:
    """Planted users and items whose labels have this mean and deviation, a tenth of the users held out."""
    family = linear_family(num_tasks=120, num_rows=40, rows_per_task=15, seed=4, extra_share=0.5 if targets else 0.0)
    layout = family.layout
    unit_N = (layout.label_N - layout.label_N.mean()) / layout.label_N.std()
    return Inputs(
        users=family.tables.tasks,
        items=family.tables.rows,
        interactions=Interactions(
            user_N=layout.row_tasks.astype(np.int32),
            item_N=layout.row_N.astype(np.int32),
            label_N=(deviation * unit_N + mean).astype(np.float32),
            timestamp_N=np.zeros(len(layout.row_N)),
            scenario_N=np.zeros(len(layout.row_N), np.int16),
            extra_NK=layout.extra_NK,
        ),
        validation_user_U=np.arange(len(layout)) % 10 == 0,
        validation_item_I=np.zeros(len(family.tables.rows), bool),
    )


def predicted(head: Head, inputs: Inputs, target: int = 0) -> tuple[Tensor, Tensor | None]:
    """Means and variances of one target for the held-out users after up to 8 rows."""
    layout = inputs.layout("user", validation=True, targets=head.learner.name == "alpaca_targets")
    tables = inputs.tables("user")
    tasks = next(EpisodeSampler(layout, tables, EpisodeConfig(batch_size=100, max_support=8), 1).epoch(0))
    fast = head.learner.adapt(head.model, head.theta, tasks.support)
    found: Prediction = head.learner.predict(head.model, head.theta, fast, tasks.query)
    mask_TQ = tasks.query.mask_TN & (tasks.query.targets_TN == target)
    variance = None if found.variance_TQ is None else found.variance_TQ[mask_TQ].detach()
    return found.mean_TQ[mask_TQ].detach(), variance


def trained(recipe: HeadRecipe, inputs: Inputs) -> tuple[Head, HeadState]:
    state = train_head(inputs, recipe, 0, Surroundings())
    return make_head(recipe, state.best), state


@pytest.mark.parametrize(("times", "plus"), [(64.0, 0.0), (2.0**-6, 0.0), (100.0, 7.0), (0.3, -4.0)])
@pytest.mark.parametrize("recipe", [*CLOSED, *OTHERS], ids=lambda recipe: recipe.learner)
def test_labels_in_another_unit_give_the_same_predictions_in_that_unit(recipe: HeadRecipe, times: float, plus: float) -> None:
    targets = recipe.learner == "alpaca_targets"
    one, two = inputs_of(10.0, 30.0, targets=targets), inputs_of(10.0 * times, 30.0 * times + plus, targets=targets)
    (head, state), (other, other_state) = trained(recipe, one), trained(recipe, two)
    (mean_N, variance_N), (other_N, other_variance_N) = predicted(head, one), predicted(other, two)
    spread = float(mean_N.std())
    assert spread > 0.1
    # Labels are rounded to 24 bits before anything else happens to them: that is all that differs.
    torch.testing.assert_close((other_N - plus) / times, mean_N, rtol=0, atol=2e-3 * spread)
    if variance_N is not None and other_variance_N is not None:
        torch.testing.assert_close(other_variance_N / times**2, variance_N, rtol=1e-3, atol=0)
    for name, power in (("train_loss", 2), ("validation_loss", 2), ("validation_mae", 1)):
        assert other_state.history[-1][name] == pytest.approx(times**power * state.history[-1][name], rel=1e-3)
    if targets:
        torch.testing.assert_close(predicted(other, two, 1)[0], predicted(head, one, 1)[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("recipe", CLOSED, ids=lambda recipe: recipe.learner)
def test_labels_up_to_400_are_learned_as_well_as_those_up_to_4(recipe: HeadRecipe) -> None:
    recipe = replace(recipe, epochs=20, outer_lr=0.02, members=1)
    targets = recipe.learner == "alpaca_targets"
    points = inputs_of(100 * GRADES_STD, 200.0, targets=targets)
    grades_mae, points_mae, as_they_are_mae = (
        trained(recipe, inputs)[1].history[-1]["validation_mae"]
        for recipe, inputs in (
            (recipe, inputs_of(GRADES_STD, 2.0, targets=targets)),
            (recipe, points),
            (replace(recipe, label_std=0.0), points),
        )
    )
    assert points_mae / 100 == pytest.approx(grades_mae, rel=0.02)
    assert as_they_are_mae > 1.1 * points_mae


def test_grades_and_clicks_are_trained_on_as_they_are() -> None:
    recipe = get_recipe("alpaca").heads[0]
    for deviation in (0.95, 1.0, GRADES_STD, 1.35):
        assert label_scale(recipe, np.array([3 - deviation, 3 + deviation], np.float32)) == 1
    clicks = get_recipe("alpaca").for_labels("binary").heads[0]
    assert label_scale(clicks, np.array([0, 1, 1], np.float32)) == 1
    assert label_scale(replace(recipe, label_std=0.0), np.array([0, 400], np.float32)) == 1
    layout = inputs_of(1.0).layout("user", validation=False)
    assert in_scale(layout, 1.0) is layout
    theta = {"mu": torch.ones(())}
    assert in_labels(make_head(recipe, {}).learner, theta, 1.0) is theta


def test_other_labels_are_brought_to_the_deviation_that_settings_are_meant_for() -> None:
    recipe = get_recipe("alpaca").heads[0]
    layout = inputs_of(25.0, 50.0, targets=True).layout("user", validation=False, targets=True)
    scaled = in_scale(layout, label_scale(recipe, layout.label_N))
    assert float(scaled.label_N.std()) == pytest.approx(GRADES_STD, rel=1e-5)
    np.testing.assert_array_equal(scaled.extra_NK, layout.extra_NK)


@pytest.mark.parametrize("label_N", [[], [70.0, 70.0]])
def test_labels_that_do_not_vary_have_no_scale(label_N: list[float]) -> None:
    assert label_scale(get_recipe("alpaca").heads[0], np.array(label_N, np.float32)) == 1


def test_figures_of_validation_are_told_in_units_of_the_label() -> None:
    assert told({"loss": 2.0, "mae": 3.0, "ndcg@10": 0.5}, 10.0) == {"loss": 200.0, "mae": 30.0, "ndcg@10": 0.5}


def test_a_learner_without_a_unit_refuses_a_scale() -> None:
    recipe = get_recipe("alpaca").override({"implicit.label_std": "1.0"})
    with pytest.raises(ConfigError, match="learner 'alpaca_implicit' takes labels as they are; leave label_std at 0"):
        make_head(recipe.heads[1], {})
