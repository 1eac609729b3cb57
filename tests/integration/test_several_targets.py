"""Data of several targets through the commands: imported, trained by default, evaluated by target."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from metarec.cli.main import cli
from metarec.data.dataset import Dataset
from metarec.training.checkpoint import load_checkpoint

QUICK = ("--threads", "1", "--no-gate", "--set", "epochs=2", "--set", "batch_size=16", "--set", "model.embedding_dim=6")
SCHEMA = """
user_id: user
item_id: item
label: {column: clicked, kind: binary}
targets:
- {column: stars, kind: rating, minimum: 1, maximum: 5}
"""


def invoke(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users click on one genre of four and rate a third of what they see: their genre high, and of the rest the even items."""
    folder, random = tmp_path_factory.mktemp("several"), np.random.default_rng(5)
    lines = ["user,item,clicked,stars"]
    for user in range(120):
        for item in random.permutation(48)[:24]:
            clicked = int(item % 4 == user % 4)
            stars = str(5 if clicked else 3 if item % 2 == 0 else 1) if random.random() < 0.34 else ""
            lines.append(f"u{user},i{item},{clicked},{stars}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "schema.yaml").write_text(SCHEMA)
    words = ("--interactions", folder / "events.csv", "--schema", folder / "schema.yaml", "--out", folder / "data")
    invoke("data", "import", *words)
    return folder / "data"


@pytest.fixture(scope="module")
def registry(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("registry")
    said = json.loads(
        invoke(
            "train",
            "--data",
            data,
            "--out",
            out,
            "--json",
            *QUICK,
            "--set",
            "explicit.epochs=40",
            "--set",
            "validation_fraction=0.2",
        )
    )
    assert said["recipe"] == "alpaca_targets"
    return out


def test_show_tells_of_further_targets(data: Path) -> None:
    (target,) = json.loads(invoke("data", "show", "--data", data, "--json"))["targets"]
    events = Dataset.open(data).interactions
    assert events.extra_NK is not None
    assert (target["column"], target["missing"]) == ("stars", int(np.isnan(events.extra_NK).sum()))
    assert "target 'stars'" in invoke("data", "show", "--data", data)


def test_every_target_is_evaluated_beside_baselines_and_training_alone(registry: Path, data: Path) -> None:
    words = ("--checkpoint", registry, "--data", data, "--protocol", "held-out", "--shots", "0,8", "--alone", "--json", "-")
    found: dict[str, Any] = json.loads(invoke("evaluate", *words))
    protocols = found["protocols"]
    assert {"held_out_clicked@0", "held_out_clicked@8", "held_out_stars@0", "held_out_stars@8"} <= set(protocols)
    for name, models in protocols.items():
        if name.startswith(("held_out_clicked", "held_out_stars")):
            assert {"alpaca_targets", "alpaca_alone", "bias", "bias_als"} <= set(models)
    learner, none = (protocols[f"held_out_stars@{k}"]["alpaca_targets"]["mae"]["mean"] for k in (8, 0))
    assert learner < none
    # Eight interactions hold eight clicks and no more than three grades: what is shared is most of what there is to know.
    assert learner < protocols["held_out_stars@8"]["alpaca_alone"]["mae"]["mean"]
    assert found["deltas_joint"]["held_out_stars@8"]["alpaca_targets"]["mae"]["value"] > 0


def test_the_checkpoint_keeps_its_targets(registry: Path) -> None:
    prior = load_checkpoint(registry)
    assert [target.column for target in prior.schema.labels] == ["clicked", "stars"]
    assert len(prior.heads["explicit"].theta["targets.map"]) == 1


def test_a_recipe_of_one_target_trains_the_label_alone(data: Path, tmp_path: Path) -> None:
    words = ("--data", data, "--out", tmp_path, "--recipe", "alpaca", "--json", *QUICK)
    assert json.loads(invoke("train", *words))["recipe"] == "alpaca"
    assert "targets.map" not in load_checkpoint(tmp_path).heads["explicit"].theta
