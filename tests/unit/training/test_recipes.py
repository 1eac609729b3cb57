from dataclasses import replace

import pytest

from metarec.errors import ConfigError
from metarec.training.heads import episode_config, make_head
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.training.recipes import ABOUT, DEFAULT_RECIPE, RECIPES, get_recipe
from metarec.types import GRADES_STD


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_being_written_down(name: str) -> None:
    assert Recipe.from_dict(RECIPES[name].to_dict()) == RECIPES[name]


def test_every_recipe_is_described_and_the_default_is_one_of_them() -> None:
    assert set(ABOUT) == set(RECIPES)
    assert get_recipe() == RECIPES[DEFAULT_RECIPE]


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'alpaka'; known: alpaca, alpaca_targets, maml"):
        get_recipe("alpaka")


def test_overrides_reach_all_heads_or_one_and_every_group_of_settings() -> None:
    recipe = get_recipe("alpaca").override(
        {
            "epochs": "3",
            "implicit.epochs": "5",
            "explicit.learner.l2_id": "2.5",
            "explicit.model.embedding_dim": "8",
            "explicit.episodes.max_query": "50",
            "validation_fraction": "0.2",
        }
    )
    explicit, implicit = recipe.heads
    assert (explicit.epochs, implicit.epochs) == (3, 5)
    assert explicit.learner_settings["l2_id"] == 2.5
    assert explicit.model_settings["embedding_dim"] == 8
    assert explicit.episodes["max_query"] == 50
    assert recipe.validation_fraction == 0.2
    assert implicit.learner_settings == get_recipe("alpaca").heads[1].learner_settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("epoch", "3", "unknown setting 'epoch'; known: batch_size"),
        ("explicit.epoch", "3", r"unknown setting 'explicit\.epoch'"),
        ("target", "implicit", "unknown setting 'target'"),
        ("learner_settings", "3", "unknown setting 'learner_settings'"),
        ("epochs", "many", "epochs must be a whole number, not 'many'"),
        ("epochs", "2.5", r"epochs must be a whole number, not 2\.5"),
        ("epochs", "true", "epochs must be a whole number, not True"),
        ("epochs", "0", "epochs must be at least 1, not 0"),
        ("outer_lr", "fast", "outer_lr must be a number, not 'fast'"),
        ("outer_lr", "nan", "outer_lr must be a number, not nan"),
        ("outer_lr", "0", "outer_lr must be positive"),
        ("epochs", "[1, 2]", r"epochs must be a whole number, not \[1, 2\]"),
        ("validation_fraction", "0.7", "must be between 0 and 0.5"),
        ("validation_fraction", "much", "validation_fraction must be a number, not 'much'"),
        ("kind", "world", "kind must be one of user, item, not 'world'"),
        ("epochs", "{", "cannot be read as a value"),
        ("explicit.learner.l2_id", "", "'explicit.learner.l2_id' needs a value, not ''"),
    ],
)
def test_wrong_overrides_are_refused_by_name(path: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_recipe("alpaca").override({path: value})


def test_numbers_may_be_written_with_an_exponent() -> None:
    assert get_recipe("maml").override({"outer_lr": "2e-3"}).heads[0].outer_lr == 2e-3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("explicit.learner.l2_id", "abc", "l2_id must be a number, not 'abc'"),
        ("explicit.model.embedding_dim", "[4]", r"embedding_dim must be a whole number, not \[4\]"),
        ("explicit.learner.l3_id", "1", "setting 'l3_id' of learner 'alpaca' is unknown"),
        ("explicit.model.embedding_dim", "2.5", "embedding_dim must be a whole number"),
        ("explicit.episodes.max_queries", "5", "setting 'max_queries' of episodes is unknown; use one of max_support, max_query"),
        ("explicit.episodes.max_query", "many", "max_query must be a whole number, not 'many'"),
        ("explicit.episodes.row_weight", "-1", "row_weight is -1, must not be negative"),
        ("explicit.learner", "alpaca_implicit", "learner 'alpaca_implicit' predicts 'implicit', not 'explicit'"),
        ("explicit.model", "linear", "model 'linear' is unknown"),
    ],
)
def test_settings_of_learners_models_and_episodes_are_checked_when_they_are_made(path: str, value: str, message: str) -> None:
    recipe = get_recipe("alpaca").override({path: value}).heads[0]
    with pytest.raises(ConfigError, match=message):
        (make_head(recipe, {}), episode_config(recipe))


def test_an_override_for_a_head_the_recipe_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipe 'maml' has no head 'implicit'"):
        get_recipe("maml").override({"implicit.epochs": "2"})


def test_unknown_settings_in_written_recipes_are_refused() -> None:
    data = get_recipe("alpaca").to_dict()
    with pytest.raises(ConfigError, match="unknown recipe settings: speed"):
        Recipe.from_dict({**data, "speed": 3})


def test_binary_labels_keep_both_heads_with_penalties_on_their_scale() -> None:
    recipe = get_recipe("alpaca")
    clicks = recipe.for_labels("binary")
    assert [head.target for head in clicks.heads] == ["explicit", "implicit"]
    assert (clicks.heads[0].penalty_std, clicks.heads[0].label_std) == (GRADES_STD, 0.0)
    assert clicks.heads[1] == replace(recipe.heads[1], learner_settings={"positive_only": True})
    own = recipe.override({"explicit.penalty_std": "2.5", "implicit.learner.positive_only": "false"}).for_labels("binary")
    assert (own.heads[0].penalty_std, own.heads[1].learner_settings) == (2.5, {"positive_only": False})
    assert recipe.for_labels("rating") == recipe
    assert get_recipe("maml").for_labels("binary") == get_recipe("maml").override({"label_std": "0.0"})


def test_events_that_are_all_positive_leave_the_explicit_head_out() -> None:
    assert [head.target for head in get_recipe("alpaca").for_labels("binary", varied=False).heads] == ["implicit"]
    assert [head.target for head in get_recipe("maml").for_labels("binary", varied=False).heads] == ["explicit"]


def test_a_recipe_needs_heads_and_one_per_target() -> None:
    head = HeadRecipe(target="explicit", learner="alpaca", model="linear_gaussian")
    with pytest.raises(ConfigError, match="has no heads"):
        Recipe(name="x", heads=())
    with pytest.raises(ConfigError, match="two heads of one target"):
        Recipe(name="x", heads=(head, head))
