"""From a head's recipe to its learner, model and episodes."""

import math
from dataclasses import fields, replace
from typing import cast

import numpy as np

from metarec.errors import ConfigError, FailedPreconditionError
from metarec.meta.contract import MetaLearner, takes_scale
from metarec.meta.members import as_wide, has_members
from metarec.meta.prior import Head
from metarec.meta.registry import learner_settings, learner_type, make_learner
from metarec.models.contract import MetaParams
from metarec.models.registry import make_model
from metarec.tasks.layout import TaskLayout
from metarec.tasks.sampler import EpisodeConfig
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe, Recipe, check_values
from metarec.types import Target

STREAMS: dict[Target, int] = {"explicit": 1, "implicit": 2}
"""Keeps the random streams of the heads of one seed apart."""

MAX_GROWTH = 3.0
"""Most that penalties grow on small data, as measured to help on ML-100K; beyond, little is left of what items differ in."""


UNITLESS = ("l2_id", "l2_content", "l2_task")
"""Penalties on what has not the unit of labels."""


def make_head(recipe: HeadRecipe, theta: MetaParams) -> Head:
    """The head of a recipe with these parameters. ConfigError for unknown names and settings, or a learner of another target."""
    target = learner_type(recipe.learner).target
    if target != recipe.target:
        raise ConfigError(f"learner '{recipe.learner}' predicts '{target}', not '{recipe.target}'", field="learner")
    if recipe.members > 1 and not has_members(recipe.learner):
        raise ConfigError(
            f"learner '{recipe.learner}' cannot be made of {recipe.members} trainings; set members to 1", field="members"
        )
    # Before they are made: a comparison with a value of the wrong type would not name it.
    check_values(learner_type(recipe.learner), recipe.learner_settings)
    check_values(type(make_model(recipe.model)), recipe.model_settings)
    learner, model = make_learner(recipe.learner, recipe.learner_settings), make_model(recipe.model, recipe.model_settings)
    if recipe.label_std and not takes_scale(learner):
        raise ConfigError(f"learner '{recipe.learner}' takes labels as they are; leave label_std at 0", field="label_std")
    return as_wide(Head(target=recipe.target, kind=recipe.kind, learner=learner, model=model, theta=theta))


def check_labels(recipe: Recipe, label_kind: str) -> None:
    """ConfigError where a head's objective is not for labels of this kind."""
    for head in recipe.heads:
        objective = learner_settings(make_head(head, {}).learner).get("objective")
        if objective == "cross_entropy" and label_kind != "binary":
            raise ConfigError(
                f"objective 'cross_entropy' of head '{head.target}' is for binary labels, those of the dataset are of kind "
                f"'{label_kind}'; use 'squared_error'",
                field="objective",
            )


def head_layout(inputs: Inputs, recipe: HeadRecipe, *, validation: bool, targets: bool = False) -> TaskLayout:
    """The tasks of one side of the split with the rows that this head learns from: what was taken, where its learner says so.

    Who took an item and let it be another time has taken it: of several events of one pair the latest of those that count stands.
    """
    if takes_positive_only(recipe):
        events = inputs.interactions
        inputs = replace(inputs, interactions=events.select(events.label_N > 0))
    return inputs.layout(recipe.kind, validation=validation, targets=targets)


def takes_positive_only(recipe: HeadRecipe) -> bool:
    """Whether rows of label 0 or less are none to this head."""
    return bool(learner_settings(make_head(recipe, {}).learner).get("positive_only", False))


def check_tasks(recipe: HeadRecipe, layout: TaskLayout) -> None:
    """FailedPreconditionError where no task of the layout has enough rows for this head to be trained."""
    least, most = episode_config(recipe).min_query, int(layout.counts.max(initial=0))
    if most < least:
        lower = f", or lower {recipe.target}.episodes.min_query" if most else ""
        of_label = " of label 1" if takes_positive_only(recipe) else ""
        raise FailedPreconditionError(
            f"head '{recipe.target}': no task has enough interactions{of_label} to train on (no {recipe.kind} of training has "
            f"{least} or more); import more data{lower}"
        )


def head_seed(seed: int, target: Target, member: int = 0) -> int:
    """The seed of everything random about one training of a head."""
    words = [seed, STREAMS[target], *([member] if member else [])]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def training_learner(recipe: HeadRecipe, num_rows: int, label_std: float) -> MetaLearner:
    """The learner as it is trained on `num_rows` rows with labels of this deviation.

    Penalties grow where there are fewer than `penalty_rows` rows; those of vectors, which are free of the labels' unit, follow
    the squared error where `penalty_std` is set (biases and shifts of taste have that unit themselves).
    """
    learner = make_head(recipe, {}).learner
    growth = max(1.0, min(MAX_GROWTH, math.sqrt(recipe.penalty_rows / max(1, num_rows))))
    scale = (label_std / recipe.penalty_std) ** 2 if recipe.penalty_std else 1.0
    if growth == 1 and scale == 1:
        return learner
    settings = learner_settings(learner)
    grown = {
        name: growth * (scale if name in UNITLESS else 1.0) * cast(float, value)
        for name, value in settings.items()
        if name.startswith("l2_")
    }
    return make_learner(learner.name, {**settings, **grown})


def episode_config(recipe: HeadRecipe) -> EpisodeConfig:
    """The sampler's settings. ConfigError names an unknown one."""
    known = [member.name for member in fields(EpisodeConfig) if member.name != "batch_size"]
    for name in recipe.episodes:
        if name not in known:
            raise ConfigError(f"setting '{name}' of episodes is unknown; use one of {', '.join(known)}", field="episodes")
    check_values(EpisodeConfig, recipe.episodes)
    return EpisodeConfig(batch_size=recipe.batch_size, **recipe.episodes)  # type: ignore[arg-type]  # checked above
