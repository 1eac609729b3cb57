"""The Ray Jobs launcher against a real head node: one job that fails, one that is cancelled, and who is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# In a process of its own, for Ray reads the token once a process.
CLIENT = """
import dataclasses, json, sys, time
from metarec.errors import MetarecError
from services.training.launchers import FINAL_STATES, JobSpec
from services.training.ray_jobs import RayJobsLauncher

address, folder = sys.argv[1:]
launcher = RayJobsLauncher(address=address, environment=(("METAREC_ONLINE_STORE", "sqlite"),))
spec = JobSpec(job_id="fails", data=f"{folder}/nothing", recipe="", num_workers=0, seed=0, registry=f"{folder}/registry")
try:
    said = {"launched": launcher.launch(spec), "again": launcher.launch(spec)}
    while launcher.status("fails").state not in FINAL_STATES:
        time.sleep(0.2)
    said["failed"] = dataclasses.asdict(launcher.status("fails"))

    class Waits(JobSpec):
        def entrypoint(self):
            return "sleep 600"

    launcher.launch(Waits(**{**dataclasses.asdict(spec), "job_id": "waits"}))
    while launcher.status("waits").state != "running":
        time.sleep(0.2)
    launcher.cancel("waits")
    while launcher.status("waits").state == "running":
        time.sleep(0.2)
    said["cancelled"] = launcher.status("waits").state
    try:
        launcher.status("unheard-of")
    except MetarecError as error:
        said["unheard_of"] = error.code
    print(json.dumps(said))
except MetarecError as error:
    print(json.dumps({"code": error.code, "message": error.message}))
"""


def client(address: str, environment: dict[str, str], folder: Path) -> dict[str, object]:
    ran = subprocess.run(
        [sys.executable, "-c", CLIENT, address, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def test_jobs_are_submitted_once_followed_and_cancelled(ray_head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    said = client(*ray_head, tmp_path)
    assert said["launched"] == said["again"] == "fails"
    assert said["failed"] == {"state": "failed", "error": said["failed"]["error"]}  # type: ignore[index]  # said holds dictionaries
    assert str(tmp_path / "nothing") in said["failed"]["error"]  # type: ignore[index]  # said holds dictionaries
    assert "\n" not in said["failed"]["error"], "the job's own error, not the tail of its log"  # type: ignore[index]  # said holds dictionaries
    assert said["cancelled"] == "cancelled"
    assert said["unheard_of"] == "NOT_FOUND"


def test_a_wrong_token_is_refused_for_good(ray_head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    dashboard, environment = ray_head
    said = client(dashboard, environment | {"RAY_AUTH_TOKEN": "0" * 64}, tmp_path)
    assert said["code"] == "FAILED_PRECONDITION"
    assert "refuses our token" in str(said["message"])


def test_a_dashboard_that_is_down_is_unavailable(
    ray_head: tuple[str, dict[str, str]], unused_tcp_port: int, tmp_path: Path
) -> None:
    said = client(f"http://127.0.0.1:{unused_tcp_port}", ray_head[1], tmp_path)
    assert said["code"] == "UNAVAILABLE"
    assert str(unused_tcp_port) in str(said["message"])
