"""Scenarios of the training data: learned with the heads, kept in the checkpoint, there from the first request on."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metarec.adaptation.engine import Engine
from metarec.data.interactions import Interactions
from metarec.meta.prior import Prior
from metarec.meta.scenario import REFERENCE
from metarec.training.checkpoint import load_checkpoint, save_checkpoint
from metarec.training.loop import fit
from metarec.training.manifest import Manifest
from metarec.training.progress import Progress
from metarec.training.recipe import Recipe
from metarec.training.scenarios import places

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@pytest.fixture(scope="module")
def told(tiny_dataset: "Dataset") -> "Dataset":
    """Every user acts on the web and in the app, where they give a grade and a half less; a few events have no scenario."""
    events = tiny_dataset.interactions
    where_N = np.arange(len(events)) % 2
    where_N[::11] = 2
    label_N = np.where(where_N == 1, np.maximum(1.0, events.label_N - 1.5), events.label_N).astype(np.float32)
    return tiny_dataset.with_interactions(
        replace(events, label_N=label_N, scenario_N=where_N.astype(np.int16), scenarios=("web", "app", ""))
    )


def test_scenarios_are_learned_kept_and_used(told: "Dataset", small_recipe: Recipe, tmp_path: Path) -> None:
    prior = fit(told, small_recipe.override({"epochs": "6", "explicit.outer_lr": "0.03"}), seed=0)
    assert sorted(prior.scenarios) == ["app", "web"]
    trained = prior.scenarios["app"]
    assert trained.num_users > 60
    assert trained.num_rows > 300
    save_checkpoint(prior, tmp_path / "c", Manifest(recipe=small_recipe, seed=0, data_fingerprint="f", created=0.0))
    loaded = load_checkpoint(tmp_path / "c")
    for name, scenario in prior.scenarios.items():
        assert torch.equal(loaded.scenarios[name].mean_E, scenario.mean_E)
        assert torch.equal(loaded.scenarios[name].covariance_EE, scenario.covariance_EE)
        assert loaded.scenarios[name].kappa == scenario.kappa
    engine = Engine(loaded)
    nobody = engine.adapt([])
    means = [engine.predict(user, [f"i{k}" for k in range(60)])[0] for user in engine.within([nobody] * 2, ["app", "web"])]
    assert float((means[1] - means[0]).mean()) == pytest.approx(1.2, abs=0.5)


def test_users_of_training_are_no_scenario_of_their_own(told: "Dataset", small_recipe: Recipe) -> None:
    everywhere = told.with_interactions(
        replace(told.interactions, scenario_N=np.zeros(len(told.interactions), np.int16), scenarios=("all",))
    )
    prior = fit(everywhere, small_recipe, seed=0)
    at_RE = prior.heads["explicit"].theta[REFERENCE]
    assert at_RE.shape[0] == 3, "1, 5 and all of a user's 14 rows"
    assert float(prior.scenarios["all"].mean_E.norm()) < 0.9 * float(at_RE[-1].norm())


def test_data_without_scenarios_has_none(small_prior: Prior, tiny_dataset: "Dataset") -> None:
    assert small_prior.scenarios == {}
    assert places(replace(tiny_dataset.interactions, scenarios=("",))).tolist() == [0]


def test_the_scenarios_with_most_events_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarec.training.scenarios.MAX_SCENARIOS", 2)
    scenario_N = np.array([0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4], np.int16)
    none = np.zeros(len(scenario_N))
    events = Interactions(
        user_N=none.astype(np.int32),
        item_N=none.astype(np.int32),
        label_N=none.astype(np.float32),
        timestamp_N=none,
        scenario_N=scenario_N,
        scenarios=("a", "b", "c", "d", ""),
    )
    assert places(events).tolist() == [0, 1, 0, 2, 0]


def test_learning_from_many_users_tells_how_far_it_is(
    told: "Dataset", small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarec.training.scenarios.CHUNK", 16)
    monkeypatch.setattr("metarec.training.scenarios.MANY", 32)
    seen: list[Progress] = []
    explicit = replace(small_recipe, heads=small_recipe.heads[:1])
    fit(told, explicit, seed=0, progress=seen.append)
    assert [progress.note for progress in seen if progress.stage == "scenarios"] == ["", "32 of 72 users", "64 of 72 users"]
