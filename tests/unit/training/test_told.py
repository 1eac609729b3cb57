"""People are told what a run does not use and what its end found out."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metarec.data.schema import Label
from metarec.features.encoder import FeatureEncoder
from metarec.meta.decay import NAME
from metarec.meta.prior import Prior
from metarec.training.inputs import prepare
from metarec.training.loop import fit
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
from metarec.training.told import learned, left_out

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def told(dataset: "Dataset", recipe: Recipe) -> str:
    used = recipe.for_labels(dataset.schema.label.kind, varied=dataset.has_varied_labels)
    return "\n".join(left_out(recipe, used, dataset))


def clicks(dataset: "Dataset", label_N: "np.ndarray") -> "Dataset":  # type: ignore[type-arg]  # any dtype will do
    label = replace(dataset.schema.label, kind="binary", minimum=0.0, maximum=1.0)
    events = replace(dataset.interactions, label_N=label_N.astype(np.float32))
    return replace(dataset, schema=replace(dataset.schema, label=label), interactions=events)


def test_recipes_say_which_part_of_the_data_they_do_not_learn(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    scenario_N = (np.arange(len(events)) % 3).astype(np.int16)
    several = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, targets=(Label(column="bought", kind="binary"),)),
        interactions=replace(
            events,
            scenario_N=scenario_N,
            scenarios=("", "web", "app"),
            extra_NK=np.ones((len(events), 1), np.float32),
        ),
    )
    assert told(tiny_dataset, get_recipe("maml")) == ""
    assert "further targets ('bought') are not learned by recipe 'maml'; recipe 'alpaca_targets'" in told(
        several, get_recipe("maml")
    )
    assert "users of the 2 scenarios have in common is not learned by recipe 'maml'" in told(several, get_recipe("maml"))
    assert "targets" in told(several, get_recipe("alpaca"))
    assert "scenarios" not in told(several, get_recipe("alpaca"))
    assert "further targets" not in told(several, get_recipe("alpaca_targets"))
    assert told(several, get_recipe("alpaca_targets")).endswith("recipe 'alpaca' learns it, of the label alone")


def test_no_recipe_is_named_for_scenarios_where_none_would_learn_them(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    scenario_N = (np.arange(len(events)) % 3).astype(np.int16)
    apart = replace(tiny_dataset, interactions=replace(events, scenario_N=scenario_N, scenarios=("", "web", "app")))
    for recipe in ("alpaca", "maml"):
        said = told(clicks(apart, np.ones(len(events))), get_recipe(recipe))
        assert "users of the 2 scenarios have in common is not learned: all labels are alike" in said
        assert "learns it" not in said
    assert "scenarios" not in told(clicks(apart, events.label_N >= 4), get_recipe("alpaca"))


def test_settings_and_heads_that_binary_labels_leave_out_are_named(tiny_dataset: "Dataset") -> None:
    label_N = tiny_dataset.interactions.label_N
    liked, bought = clicks(tiny_dataset, label_N >= 4), clicks(tiny_dataset, np.ones(len(label_N)))
    scaled = get_recipe("alpaca").override({"explicit.label_std": "2"})
    assert told(liked, get_recipe("alpaca")) == ""
    assert told(liked, scaled) == "explicit.label_std=2 does nothing: binary labels are trained on as they are"
    assert told(tiny_dataset, scaled) == ""
    assert (
        told(bought, get_recipe("alpaca"))
        == "head 'explicit' is left out: all labels are alike, so there is nothing to tell apart"
    )


def test_what_age_does_to_support_is_told_with_the_reason(
    tiny_dataset: "Dataset", small_prior: Prior, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    few = prepare(tiny_dataset, encoder, small_recipe, 0)
    half = replace(few, validation_user_U=np.arange(len(few.users)) % 2 == 0)
    explicit = small_prior.head("explicit")
    plain = replace(
        small_prior, heads={"explicit": replace(explicit, theta={k: v for k, v in explicit.theta.items() if k != NAME})}
    )
    fading = replace(small_prior, heads={"explicit": replace(explicit, theta={**explicit.theta, NAME: torch.tensor([1.0, 0.0])})})
    assert learned(plain, few) == [
        "support weighs alike whatever its age: 8 held-out users have 12 interactions, and it takes 30 to tell"
    ]
    assert "does not help 40 held-out users" in learned(plain, half)[0]
    monkeypatch.setattr("metarec.training.told.MAX_TASKS", 35)
    assert "does not help 35 held-out users" in learned(plain, half)[0]  # no more are asked
    assert "30 days older than the newest has 31 times the noise, 365 days 3.7e+02" in learned(fading, half)[0]
    timeless = replace(few, interactions=replace(few.interactions, timestamp_N=np.zeros(len(few.interactions))))
    assert learned(plain, timeless) == []
    assert learned(replace(plain, scenarios={"web": None, "app": None}), timeless) == [  # type: ignore[dict-item]  # counted only
        "learned what users of 2 scenarios have in common"
    ]


def test_what_follows_the_heads_is_told_in_its_order(tiny_dataset: "Dataset", small_recipe: Recipe) -> None:
    seen: list[str] = []
    fit(tiny_dataset, small_recipe, seed=0, progress=lambda progress: seen.append(progress.stage))
    assert [stage for stage in seen if stage != "train"] == ["start", "start", "start", "refit", "items", "blend"]
