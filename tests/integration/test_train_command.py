"""`metarec train` as people and jobs run it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from metarec.cli.main import cli
from metarec.cli.train_display import TrainDisplay
from metarec.errors import ConfigError, MetarecError, NotFoundError
from metarec.training.progress import Progress
from metarec.training.registry import Registry
from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

QUICK = [
    "--threads",
    "1",
    "--set",
    "epochs=2",
    "--set",
    "batch_size=16",
    "--set",
    "model.embedding_dim=4",
    "--set",
    "explicit.members=1",
]


@pytest.fixture(scope="module")
def data(tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_dataset.save(tmp_path_factory.mktemp("data") / "tiny").path)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["train", *arguments])


def verdict(monkeypatch: pytest.MonkeyPatch, report: GateReport) -> None:
    """What the gate says from now on; how it comes to it is tested with the evaluation."""
    monkeypatch.setattr("metarec.evaluation.gate.DefaultGate.__call__", lambda self, prior, train, validation: report)


def test_a_run_tells_every_epoch_and_publishes(data: str, tmp_path: Path) -> None:
    result = invoke("--data", data, "--out", str(tmp_path), "--no-gate", *QUICK)
    assert result.exit_code == 0, result.stderr
    (info,) = Registry(tmp_path).list()
    assert info.id in result.stdout
    assert not info.live
    for head in ("explicit", "implicit"):
        assert f"head '{head}'" in result.stdout
        assert f"{head} epoch 1/2 train_loss" in result.stderr
        assert f"{head} epoch 2/2 train_loss" in result.stderr
    assert "building the feature store" in result.stderr
    assert "published" in result.stdout
    promoting = f"make it live with: metarec checkpoints promote {info.id} --registry {tmp_path} --force (refused without"
    assert promoting in result.stderr


def test_json_holds_what_machines_need(data: str, tmp_path: Path) -> None:
    result = invoke("--data", data, "--out", str(tmp_path), "--no-gate", "--json", "--job-id", "j-7", "--seed", "5", *QUICK)
    said = json.loads(result.stdout)
    info = Registry(tmp_path).get(said["checkpoint"])
    assert info.job_id == "j-7"
    assert said["seed"] == 5
    assert said["metrics"] == info.metrics
    assert [epoch["epoch"] for epoch in said["history"]["implicit"]] == [1, 2]
    assert said["gate"] is None
    assert said["live"] is False


def test_early_stopping_is_said(data: str, tmp_path: Path) -> None:
    settings = ["--set", "explicit.epochs=40", "--set", "explicit.patience=1", "--set", "explicit.outer_lr=0.3"]
    result = invoke("--data", data, "--out", str(tmp_path), "--no-gate", *QUICK, *settings)
    assert "head 'explicit' stopped early after epoch" in result.stderr
    assert "of 40: validation was best in epoch" in result.stderr
    assert "head 'implicit' stopped" not in result.stderr


def test_a_passed_gate_promotes(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(monkeypatch, GateReport(delta=0.125, passed=True, metrics={"learner_mae": 0.7}))
    result = invoke("--data", data, "--out", str(tmp_path), "--promote", "--json", *QUICK)
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["gate"] == {"delta": 0.125, "passed": True, "metrics": {"learner_mae": 0.7}}
    assert said["live"] is True
    assert Registry(tmp_path).live() == said["checkpoint"]


def test_a_failed_gate_refuses_with_what_decided(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(
        monkeypatch,
        GateReport(delta=-0.125, passed=False, metrics={"users": 15.0, "mae": 0.8, "bias_mae": 0.7, "delta_mae": -0.125}),
    )
    arguments = ["--data", data, "--out", str(tmp_path), "--promote", *QUICK]
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "mae 0.8000, the plain baseline bias 0.7000 (delta -0.1250; 15 users)" in result.stderr
    assert re.search(r"│ users +│ 15 +│", result.stdout)
    assert "every figure again: metarec checkpoints get " in result.stderr
    (info,) = Registry(tmp_path).list()
    assert info.id in result.stdout
    assert Registry(tmp_path).live() is None
    assert invoke(*arguments, "--force").exit_code == 0
    assert Registry(tmp_path).live() == Registry(tmp_path).list()[0].id


def test_with_too_little_data_to_judge_the_checkpoint_is_published_unjudged(data: str, tmp_path: Path) -> None:
    result = invoke("--data", data, "--out", str(tmp_path), "--promote", *QUICK)
    assert result.exit_code == 1
    assert "not judged: no held-out user has 15 interactions" in result.stderr
    assert "publishing" in result.stderr
    (info,) = Registry(tmp_path).list()
    assert not info.gate_passed
    assert not info.live


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--force"], "--force only means something with --promote"),
        (["--set", "epochs"], "must have the form PATH=VALUE"),
        (["--workers", "-1"], "-1 is not in the range x>=0"),
        (["--device", "tpu"], "'tpu' is not one of"),
    ],
)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = invoke("--data", "nowhere", "--out", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--recipe", "alpaka"], ConfigError, "unknown recipe 'alpaka'; known: alpaca"),
        (["--set", "epoch=3"], ConfigError, "unknown setting 'epoch'"),
        (["--set", "explicit.learner.l3=1"], ConfigError, "setting 'l3' of learner 'alpaca' is unknown"),
        (["--data", "nowhere"], NotFoundError, "no dataset at 'nowhere'"),
    ],
)
def test_wrong_input_is_refused_before_any_work(
    data: str, tmp_path: Path, arguments: list[str], error: type[MetarecError], message: str
) -> None:
    result = invoke("--data", data, "--out", str(tmp_path / "out"), *arguments)
    assert isinstance(result.exception, error)
    assert message in result.exception.message
    assert not (tmp_path / "out").exists()


def test_the_recipes_are_listed() -> None:
    listed, help_text = invoke("--list-recipes").stdout, invoke("--help").stdout
    for recipe in ("alpaca", "maml", "fomaml", "joint"):
        assert recipe in listed
        assert recipe in help_text
    assert "alpaca_targets  the same with" in help_text
    assert "Example: metarec train --data" in help_text


def test_ctrl_c_saves_says_how_to_resume_and_exits_with_130(data: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "metarec.cli.main",
        "train",
        "--data",
        data,
        "--out",
        str(tmp_path / "o@t"),
        "--no-gate",
        *QUICK,
    ]
    command += ["--set", "explicit.epochs=5000", "--set", "explicit.patience=0", "--no-resume"]
    command += ["--online", "redis://:s3cret@127.0.0.1:1/0"]  # training does not ask it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("explicit epoch 2/5000"):
            break
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopping: saving the state" in told
    assert "error: stopped in epoch" in told
    assert f"resume with: metarec train --data {data} --out {tmp_path / 'o@t'}" in told
    assert "--online redis://:PASSWORD@127.0.0.1:1/0" in told
    assert "s3cret" not in told
    assert "--no-resume" not in told
    assert out == ""
    (state,) = (tmp_path / "o@t" / "runs").glob("*/state.explicit.safetensors")
    assert state.stat().st_size > 0


def test_on_a_terminal_there_is_a_bar_per_head(monkeypatch: pytest.MonkeyPatch) -> None:
    pty_read, pty_write = os.openpty()
    parts: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(pty_read, 4096):
                parts.append(part)
        except OSError:
            return  # the other end was closed

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with os.fdopen(pty_write, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with TrainDisplay() as display:
            display(Progress(stage="features"))
            for head in ("explicit", "implicit"):
                display(Progress(target=head, epoch=1, epochs=2, step=3, steps=5))
                metrics = {"epoch": 1, "train_loss": 0.5, "seconds": 1.0}
                display(Progress(target=head, epoch=1, epochs=2, step=5, steps=5, metrics=metrics))
    reader.join()
    os.close(pty_read)
    shown = b"".join(parts).decode()
    assert "building the feature store" in shown
    assert "explicit" in shown
    assert "implicit" in shown
    assert "5/10" in shown
    assert "train_loss 0.5000" in shown
