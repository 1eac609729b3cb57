"""Every recipe through the same commands: trained and evaluated on a tiny data set, then served from its checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.cli.main import cli
from metarec.data.dataset import Dataset
from metarec.training.recipes import RECIPES
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

QUICK = ("--threads", "1", "--no-gate", "--set", "epochs=2", "--set", "batch_size=16", "--set", "model.embedding_dim=4")
LOVED, HATED = "i41", "i42"
"""Items of the first user's genre and of another."""


def invoke(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two users and a stranger, each with items of one genre as loved and of another as not."""
    rows = [
        ("all", 0, user, f"i{item}", 5 if item % 4 == genre else 1, "support" if item < 12 else "query")
        for user, genre in (("u1", 1), ("u6", 2), ("nobody", 3))
        for item in range(60)
    ]
    path = tmp_path_factory.mktemp("episodes") / "episodes.csv"
    pd.DataFrame(rows, columns=["protocol", "seed", "user_id", "item_id", "rating", "role"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module", params=sorted(RECIPES))
def trained_recipe(
    request: pytest.FixtureRequest, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Any]]:
    """A recipe, its registry, and what `metarec train` said."""
    out = tmp_path_factory.mktemp("recipe")
    said = invoke("train", "--data", tiny_dataset.path, "--recipe", request.param, "--out", out, "--json", *QUICK)
    return request.param, out, json.loads(said)


def test_it_trains(trained_recipe: tuple[str, Path, dict[str, Any]]) -> None:
    name, out, said = trained_recipe
    assert Registry(out).get(said["checkpoint"]).recipe == name
    members = {head.target: head.members for head in RECIPES[name].heads}
    for target, history in said["history"].items():
        assert [epoch["epoch"] for epoch in history] == [1, 2] * members[target], target
        assert all(np.isfinite(epoch["validation_loss"]) for epoch in history)


def test_it_evaluates(trained_recipe: tuple[str, Path, dict[str, Any]], tiny_dataset: Dataset, episodes: Path) -> None:
    name, out, _ = trained_recipe
    said = json.loads(invoke("evaluate", "--checkpoint", out, "--data", tiny_dataset.path, "--episodes", episodes, "--json", "-"))
    models = said["protocols"]["all"]
    (learner,) = {head.learner for head in RECIPES[name].heads if head.target == "explicit"}
    assert learner in models
    assert "bias_als" in models
    assert 0 < models[learner]["mae"]["mean"] < 4


def test_it_serves(trained_recipe: tuple[str, Path, dict[str, Any]]) -> None:
    _, out, said = trained_recipe
    engine = Engine(Registry(out).load(said["checkpoint"]))
    support = [Interaction(user_id="x", item_id=f"i{k}", label=5.0 if k % 4 == 1 else 1.0, timestamp=float(k)) for k in range(8)]
    adapted, cold = engine.adapt_many([UserInput(support=support, features={"gender": "F"}), UserInput()])
    assert adapted.shots == 8
    score, before = engine.scores(adapted, [LOVED, HATED]), engine.scores(cold, [LOVED, HATED])
    assert score[0] - score[1] > before[0] - before[1]
    again = engine.restore(UserState.decode(adapted.state.encode()), {"gender": "F"})
    np.testing.assert_array_equal(engine.scores(again, [LOVED, HATED]), score)
    terms = engine.contributions(adapted, LOVED)
    assert sum(term.value for term in terms) == pytest.approx(float(score[0]), abs=1e-4)
    engine.upsert([Item(item_id="new", features={"genres": ("drama",)})])
    fresh = engine.scores(engine.adapt(support), ["new", "never-heard-of"])
    assert bool(np.isfinite(fresh).all())
