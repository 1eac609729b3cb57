"""The recipes `metarec train --recipe` knows. A new recipe is one entry of RECIPES, and a line about it in ABOUT."""

from dataclasses import replace

from metarec.errors import ConfigError
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.types import GRADES_STD

# Chosen on held-out users and new items among the training users of ML-1M (docs/training.md).
CLOSED_FORM = {"l2_id": 1.0, "l2_content": 0.003, "huber": 1.0, "row_axes": 32}
EXPLICIT = HeadRecipe(
    target="explicit",
    learner="alpaca",
    model="linear_gaussian",
    # Sampled axes lower the errors of new users and cost the users of training more (docs/adr/0032-axes-from-a-posterior.md).
    learner_settings=CLOSED_FORM,
    model_settings={"embedding_dim": 24},
    members=3,
    # Small supports more often than large ones: the first ratings of a user count most.
    episodes={"max_query": 500, "row_weight": 0.5, "support_skew": 1.5},
    epochs=24,
    batch_size=128,
    # Under a one-cycle rate validation wavers until the rate falls: 8 stopped ML-100K at .747 instead of .740.
    patience=16,
    penalty_rows=600_000,
    label_std=GRADES_STD,
)
IMPLICIT = HeadRecipe(
    target="implicit",
    learner="alpaca_implicit",
    model="catalogue",
    model_settings={"embedding_dim": 48},
    # In time order where there is one: the tasks to come are asked for what follows.
    episodes={"order": "auto", "max_support": 10, "max_query": 1000, "min_query": 5},
    # The start holds most of it (models/catalogue_start.py): nDCG@10 of ML-1M's validation users is .583 after a quarter of these
    # steps and .592 at their end; ten times the rate loses it (.54), since it asks tasks that the start has seen.
    epochs=4,
    batch_size=128,
    outer_lr=2e-4,
    patience=0,
)
# Nobody has asked what members are worth to several targets.
TARGETS = replace(EXPLICIT, learner="alpaca_targets", model="linear_targets", model_settings={"embedding_dim": 40}, members=1)
GRADIENT = HeadRecipe(
    target="explicit",
    learner="maml",
    model="melu",
    # Chosen on a fifth of ML-100K's users (docs/learning.md): more inner steps and small batches, which are many outer steps.
    learner_settings={"inner_lr": 0.05, "inner_steps": 3},
    episodes={"max_query": 100},
    epochs=30,
    batch_size=32,
    outer_lr=5e-3,
    # As for alpaca: validation wavers until the rate falls.
    patience=16,
    label_std=GRADES_STD,
)
AMORTISED = HeadRecipe(
    target="explicit",
    learner="neural_process",
    model="attentive_set",
    learner_settings={"l2_content": 0.003},
    # Attention costs queries times support rows; with 500 query rows a step takes four times as long and gains nothing.
    episodes={"max_query": 100, "row_weight": 0.5},
    epochs=24,
    batch_size=64,
    patience=16,
    penalty_rows=600_000,
    label_std=GRADES_STD,
)

RECIPES: dict[str, Recipe] = {
    "alpaca": Recipe(name="alpaca", heads=(EXPLICIT, IMPLICIT)),
    "alpaca_targets": Recipe(name="alpaca_targets", heads=(TARGETS, IMPLICIT)),
    "maml": Recipe(name="maml", heads=(GRADIENT,)),
    "fomaml": Recipe(name="fomaml", heads=(replace(GRADIENT, learner="fomaml"),)),
    "anil": Recipe(name="anil", heads=(replace(GRADIENT, learner="anil", learner_settings={}),)),
    "meta_sgd": Recipe(name="meta_sgd", heads=(replace(GRADIENT, learner="meta_sgd"),)),
    "reptile": Recipe(name="reptile", heads=(replace(GRADIENT, learner="reptile"),)),
    "joint": Recipe(name="joint", heads=(replace(GRADIENT, learner="joint"),)),
    "neural_process": Recipe(name="neural_process", heads=(AMORTISED,)),
}
"""The recipes `metarec train --recipe` knows."""

ABOUT: dict[str, str] = {
    "alpaca": "Bayesian adaptation in closed form, one head for ratings and one for interacted-or-not",
    "alpaca_targets": "the same with one head for the label and further targets of the schema (the default where there are some)",
    "maml": "gradient adaptation of a small network, second order",
    "fomaml": "the same, first order",
    "anil": "the same network with only its last layer adapting",
    "meta_sgd": "gradient adaptation with a learned rate for every weight",
    "reptile": "the same network moved to where steps on each task lead, first order",
    "joint": "the same network trained on all tasks pooled, then fine-tuned; the reference for Delta_joint",
    "neural_process": "adaptation in one forward pass of an attentive set encoder, with variances",
}
"""One line about each recipe, for people."""

DEFAULT_RECIPE, TARGETS_RECIPE = "alpaca", "alpaca_targets"


def get_recipe(name: str = "", *, several_targets: bool = False) -> Recipe:
    """The recipe of this name, or for an empty name the default one of data with one target or several. ConfigError lists the
    known ones."""
    try:
        return RECIPES[name or (TARGETS_RECIPE if several_targets else DEFAULT_RECIPE)]
    except KeyError:
        raise ConfigError(f"unknown recipe '{name}'; known: {', '.join(RECIPES)}", field="recipe") from None
