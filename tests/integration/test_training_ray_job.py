"""`ray job submit -- metarec train ...` against a real head node with dashboard, Jobs API and token authentication."""

import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_command_runs_as_a_ray_job(
    ray_head: tuple[str, dict[str, str]], tiny_dataset: "Dataset", tmp_path: Path
) -> None:
    dashboard, environment = ray_head
    assert status(f"{dashboard}/api/jobs/") == 401  # nobody submits without the token
    data, out = tiny_dataset.save(tmp_path / "data").path, tmp_path / "registry"
    settings = ["--set", "epochs=2", "--set", "batch_size=16", "--set", "model.embedding_dim=4", "--threads", "1"]
    training = ["metarec", "train", "--data", str(data), "--out", str(out), "--workers", "1", "--no-gate", "--job-id", "nightly"]
    submitted = subprocess.run(
        ["ray", "job", "submit", "--address", dashboard, "--submission-id", "nightly", "--", *training, *settings],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    members = get_recipe().heads[0].members
    assert f"explicit member {members}/{members} epoch 2/2" in submitted.stdout
    assert "Job 'nightly' succeeded" in submitted.stdout
    (info,) = Registry(out).list()
    assert info.job_id == "nightly"
    assert info.id in submitted.stdout
    assert set(Registry(out).load(info.id).heads) == {"explicit", "implicit"}
