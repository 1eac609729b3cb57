from dataclasses import replace

import pytest

from metarec.errors import ConfigError
from metarec.meta.alpaca import Alpaca
from metarec.training.heads import check_labels, make_head, training_learner
from metarec.training.recipe import HeadRecipe
from metarec.training.recipes import get_recipe

HEAD = HeadRecipe(
    target="explicit",
    learner="alpaca",
    model="linear_gaussian",
    learner_settings={"l2_id": 1.0, "l2_content": 0.01, "huber": 0.5},
    penalty_rows=40_000,
)


def test_penalties_grow_by_the_root_of_what_is_lacking_and_nothing_else_changes() -> None:
    learner = training_learner(HEAD, 10_000, 1.0)
    assert learner == Alpaca(l2_id=2.0, l2_content=0.02, l2_bias=0.1, l2_choice=0.06, huber=0.5)


def test_on_tiny_data_they_grow_threefold_at_most() -> None:
    assert training_learner(HEAD, 10, 1.0) == Alpaca(
        l2_id=3.0, l2_content=0.03, l2_bias=0.05 * 3.0, l2_choice=0.03 * 3.0, huber=0.5
    )


@pytest.mark.parametrize("rows", [40_000, 90_000])
def test_penalties_never_shrink(rows: int) -> None:
    assert training_learner(HEAD, rows, 1.0) == make_head(HEAD, {}).learner


def test_without_penalty_rows_they_hold_as_they_are() -> None:
    assert training_learner(replace(HEAD, penalty_rows=0), 10, 1.0) == make_head(HEAD, {}).learner
    implicit = get_recipe("alpaca").heads[1]
    assert training_learner(implicit, 10, 1.0) == make_head(implicit, {}).learner


def test_penalties_of_vectors_follow_the_scale_of_the_labels() -> None:
    learner = training_learner(replace(HEAD, penalty_rows=0, penalty_std=1.0), 10, 0.5)
    plain = make_head(HEAD, {}).learner
    assert isinstance(learner, Alpaca)
    assert isinstance(plain, Alpaca)
    assert learner == replace(plain, l2_id=plain.l2_id / 4, l2_content=plain.l2_content / 4)


def test_cross_entropy_is_for_binary_labels() -> None:
    recipe = get_recipe("maml").override({"learner.objective": "cross_entropy"})
    check_labels(recipe, "binary")
    check_labels(get_recipe("alpaca"), "rating")
    with pytest.raises(ConfigError, match="'cross_entropy' of head 'explicit' is for binary labels"):
        check_labels(recipe, "rating")
