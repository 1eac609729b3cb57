"""Training through Ray Train: the same result with any number of workers, through deaths of workers and requests to stop."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError, FailedPreconditionError, InterruptedRunError
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint
from metarec.training.progress import Progress
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.training.run import train
from metarec.training.run_options import RunOptions
from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

RECIPE = get_recipe("alpaca").override(
    {
        "epochs": "4",
        "batch_size": "16",
        "model.embedding_dim": "4",
        "explicit.members": "1",
        "validation_fraction": "0.1",
        "patience": "0",
    }
)
OPTIONS = RunOptions(threads=1)


@pytest.fixture(scope="module")
def data(tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.save(tmp_path_factory.mktemp("data") / "tiny").path


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry of a run in this process."""
    out = tmp_path_factory.mktemp("alone")
    train(data, RECIPE, out=out, seed=1, options=OPTIONS)
    return out


def metrics(registry: Path) -> Mapping[str, float]:
    (info,) = Registry(registry).list()
    return info.metrics


def assert_alike(one: Prior, two: Prior) -> None:
    assert set(one.heads) == set(two.heads) == {"explicit", "implicit"}
    for target, head in one.heads.items():
        for name, value in head.theta.items():
            torch.testing.assert_close(two.heads[target].theta[name], value, rtol=2e-3, atol=2e-5, msg=f"{target} {name}")
    assert two.blend == pytest.approx(one.blend, rel=1e-2)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_result(
    ray_cluster: str, data: Path, alone: Path, tmp_path: Path, workers: int
) -> None:
    seen: list[Progress] = []
    checkpoint = train(data, RECIPE, out=tmp_path, seed=1, workers=workers, progress=seen.append, options=OPTIONS)
    assert_alike(load_checkpoint(alone), load_checkpoint(tmp_path))
    assert metrics(tmp_path) == pytest.approx(metrics(alone), rel=1e-3)
    ended = [(p.target, p.epoch) for p in seen if p.metrics]
    assert ended == [(target, epoch) for target in ("explicit", "implicit") for epoch in range(1, 5)]
    assert Registry(tmp_path).get(checkpoint).popular


@pytest.mark.ray
def test_a_worker_killed_in_the_middle_is_replaced_and_nothing_is_lost(
    ray_cluster: str, data: Path, alone: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.metrics and progress.target == "implicit" and not killed:
            killed.extend(workers_of(tmp_path))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    # More epochs of the second head, so that it is still running when its first epoch is told.
    recipe = RECIPE.override({"implicit.epochs": "60"})
    train(data, recipe, out=tmp_path / "killed", seed=1, workers=1, progress=watch, options=OPTIONS)
    assert len(killed) == 1
    train(data, recipe, out=tmp_path / "alone", seed=1, options=OPTIONS)
    assert_alike(load_checkpoint(tmp_path / "alone"), load_checkpoint(tmp_path / "killed"))


def workers_of(out: Path) -> list[int]:
    """Processes of Ray Train workers that are descendants of this one's cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"RayTrainWorker" in title and f"RAY_JOB_ID={job_id()}".encode() in environment:
                found.append(int(entry.name))
    return found


def job_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_job_id())


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_saves_and_the_same_command_goes_on(
    ray_cluster: str, data: Path, alone: Path, tmp_path: Path, workers: int
) -> None:
    stages: list[str] = []

    def interrupt(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.metrics and progress.epoch == 1 and progress.target == "explicit":
            os.kill(os.getpid(), signal.SIGINT)

    recipe = RECIPE.override({"explicit.epochs": "40"})
    with pytest.raises(InterruptedRunError, match="head 'explicit'; the state is saved; run the same command again"):
        train(data, recipe, out=tmp_path / "out", seed=1, workers=workers, progress=interrupt, options=OPTIONS)
    assert "stopping" in stages
    assert Registry(tmp_path / "out").list() == []
    seen: list[Progress] = []
    train(data, recipe, out=tmp_path / "out", seed=1, workers=workers, progress=seen.append, options=OPTIONS)
    assert "features" not in [p.stage for p in seen]
    told = [p.epoch for p in seen if p.metrics and p.target == "explicit"]
    assert told == list(range(1, 41))
    assert seen[0].note == "resumed"
    train(data, recipe, out=tmp_path / "whole", seed=1, options=OPTIONS)
    assert_alike(load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_of_training_is_told_as_such_and_not_tried_again(
    ray_cluster: str, data: Path, tmp_path: Path, workers: int
) -> None:
    recipe = Recipe(name="odd", heads=(RECIPE.heads[0],)).override({"episodes.min_query": "1000"})
    with pytest.raises(FailedPreconditionError, match="no task has enough interactions to train on"):
        train(data, recipe, out=tmp_path, workers=workers, options=OPTIONS)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_that_is_not_there_is_refused_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"device 'gpu' needs \d CUDA devices? and this machine has 0; use 'cpu'"):
        train(data, RECIPE, out=tmp_path / "out", workers=workers, options=RunOptions(device="gpu"))
    assert not (tmp_path / "out").exists()


def test_a_run_in_progress_is_told_not_joined(data: Path, tmp_path: Path) -> None:
    refusals: list[str] = []
    recipe = RECIPE.override({"epochs": "1"})

    def second(progress: Progress) -> None:
        if progress.stage == "encoder":
            with pytest.raises(FailedPreconditionError, match="another process is training run") as caught:
                train(data, recipe, out=tmp_path, seed=9, options=OPTIONS)
            refusals.append(caught.value.message)

    train(data, recipe, out=tmp_path, seed=9, progress=second, options=OPTIONS)
    assert len(refusals) == 1


def test_the_gate_judges_on_held_out_users_and_its_report_is_kept(data: Path, tmp_path: Path) -> None:
    def judge(prior: Prior, training: "Dataset", validation: "Dataset") -> GateReport:
        known, asked = (set(part.interactions.user_N.tolist()) for part in (training, validation))
        assert not known & asked
        return GateReport(delta=-0.5, passed=False, metrics={"asked": float(len(asked))})

    checkpoint = train(data, RECIPE.override({"epochs": "1"}), out=tmp_path, gate=judge, options=OPTIONS)
    info = Registry(tmp_path).get(checkpoint)
    assert (info.judged, info.gate_passed, info.delta, info.gate_metrics) == (True, False, -0.5, {"asked": 8.0})


def test_a_run_of_the_same_settings_after_it_has_ended_is_a_new_one(data: Path, tmp_path: Path) -> None:
    recipe = RECIPE.override({"epochs": "1"})
    one, two = (train(data, recipe, out=tmp_path, options=OPTIONS) for _ in range(2))
    assert one.split("-")[2] == two.split("-")[2]
    assert [info.id for info in Registry(tmp_path).list()] == [two, one]


def test_binary_labels_train_an_explicit_head_that_predicts_probabilities(tiny_dataset: "Dataset", tmp_path: Path) -> None:
    from dataclasses import replace

    from metarec.adaptation.engine import Engine
    from metarec.data.schema import Label
    from metarec.types import Interaction

    schema = replace(tiny_dataset.schema, label=Label(column="rating", kind="binary"))
    events = replace(tiny_dataset.interactions, label_N=(tiny_dataset.interactions.label_N > 3).astype("float32"))
    data = replace(tiny_dataset, schema=schema, interactions=events).save(tmp_path / "data").path
    train(data, RECIPE.override({"epochs": "1"}), out=tmp_path / "out", options=OPTIONS)
    prior = load_checkpoint(tmp_path / "out")
    assert set(prior.heads) == {"implicit", "explicit"}
    assert prior.link is not None
    assert prior.link.slope > 0
    engine = Engine(prior)
    items = list(prior.item_ids[:6])
    adapted = engine.adapt([Interaction(user_id="", item_id=items[0], label=1.0)])
    mean, variance = engine.predict(adapted, items)
    assert ((mean > 0) & (mean < 1)).all()
    assert variance is not None
    np.testing.assert_allclose(variance, mean * (1 - mean), rtol=1e-5)
    terms = engine.contributions(adapted, items[1])
    assert sum(term.value for term in terms) == pytest.approx(float(engine.scores(adapted, items)[1]), abs=1e-4)


def test_where_every_event_is_positive_the_implicit_head_is_alone(tiny_dataset: "Dataset", tmp_path: Path) -> None:
    from dataclasses import replace

    from metarec.data.schema import Label

    schema = replace(tiny_dataset.schema, label=Label(column="rating", kind="binary"))
    events = replace(tiny_dataset.interactions, label_N=np.ones_like(tiny_dataset.interactions.label_N))
    data = replace(tiny_dataset, schema=schema, interactions=events).save(tmp_path / "data").path
    train(data, RECIPE.override({"epochs": "1"}), out=tmp_path / "out", options=OPTIONS)
    prior = load_checkpoint(tmp_path / "out")
    assert set(prior.heads) == {"implicit"}
    assert (prior.blend, prior.link) == (0.0, None)
