"""`metarec up` as a process: what it says, refuses and prepares. The services are fakes; tests/e2e runs the real ones."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.data.dataset import Dataset
from metarec.data.interactions import Interactions
from metarec.data.schema import Field, Label, Schema
from metarec.features.manifest import StoreManifest
from services.runtime.settings import DEFAULT_PORTS

SCRIPT = Path(__file__).with_name("fake_services.py")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry without a checkpoint, whose feature store is loaded."""
    (tmp_path / "registry" / "features").mkdir(parents=True)
    manifest = StoreManifest(schema={}, fingerprint="f", applied="f", materialized={"sqlite": 1.0})
    manifest.write(tmp_path / "registry" / "features")
    return tmp_path / "registry"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(
        path=Path("unsaved"),
        schema=Schema(
            user_id="user",
            item_id="item",
            label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
            timestamp="time",
            items=(Field(name="genres", kind="multi_categorical"),),
        ),
        user_ids=np.array(["ann", "bob"], dtype=object),
        item_ids=np.array(["x"], dtype=object),
        users=pd.DataFrame(index=range(2)),
        items=pd.DataFrame({"genres": pd.Series([["a", "b"]], dtype=object)}),
        interactions=Interactions(
            user_N=np.array([0, 1], np.int32),
            item_N=np.array([0, 0], np.int32),
            label_N=np.array([2.0, 4.0], np.float32),
            timestamp_N=np.array([100.0, 200.0]),
            scenario_N=np.zeros(2, np.int16),
        ),
        graph=None,
        fingerprint="",
    ).save(tmp_path / "data")


def start(*arguments: object, folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "up", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )


def failure(*arguments: object, folder: Path | None = None) -> tuple[int, str]:
    with start(*arguments, folder=folder) as process:
        _, said = process.communicate(timeout=60)
        return process.returncode, said


def seen(registry: Path, service: str) -> dict[str, str]:
    """The environment that a service was started with."""
    return dict(json.loads((registry / "state" / "logs" / f"{service}.log").read_text().splitlines()[1]))


def test_ready_line_json_and_a_clean_end(registry: Path):
    with start("--registry", registry, "--port-base", 0, "--json", METAREC_TYPO="1") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == ""
    assert list(ready["addresses"]) == list(DEFAULT_PORTS)
    assert ready["checkpoint"] is None
    assert f"make one live with: metarec train --data DIR --out {registry}" in said
    assert "METAREC_TYPO" in said
    assert said.rstrip().endswith("stopped")
    environment = seen(registry, "recall")
    assert environment["METAREC_RANKING_ADDRESS"] == ready["addresses"]["ranking"]
    assert "METAREC_TYPO" not in environment


def test_ready_line_for_people(registry: Path):
    with start("--registry", registry, "--port-base", 0) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("metarec is ready: gateway 127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_files_of_rankings_ray_go_away_with_the_run_however_it_ends(registry: Path, number: signal.Signals):
    with start("--registry", registry, "--port-base", 0, RAY_ADDRESS="") as process:
        assert process.stdout is not None
        process.stdout.readline()
        directory = Path(seen(registry, "ranking")["RAY_TMPDIR"])
        (directory / "ray" / "session_1").mkdir(parents=True)
        process.send_signal(number)
        process.communicate(timeout=60)  # until the guard has ended too: it holds the pipes
    assert not directory.exists()
    assert "RAY_TMPDIR" not in seen(registry, "training")


def test_a_place_that_somebody_named_for_rays_files_is_kept(registry: Path, tmp_path: Path):
    with start("--registry", registry, "--port-base", 0, RAY_TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert seen(registry, "ranking")["RAY_TMPDIR"] == str(tmp_path)
    assert tmp_path.exists()


def test_a_second_run_on_the_same_state_is_refused(registry: Path):
    with start("--registry", registry, "--port-base", 0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status, said = failure("--registry", registry, "--port-base", 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert status == 1
    assert f"another 'metarec up' (process {process.pid}) runs on" in said


def test_a_port_in_use_is_said_before_anything_starts(registry: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status, said = failure("--registry", registry, "--port-base", 0, "--recall-port", port)
    assert status == 1
    assert f"error: port {port} (recall) is in use by process {os.getpid()}" in said
    assert not (registry / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--registry", "nowhere"], "no registry at 'nowhere'; make one with: metarec train"),
        (["--registry", ".", "--port-base", "0"], "name the dataset to build it from with --data DIR"),
        (["--registry", ".", "--data", "nowhere"], "no dataset at 'nowhere'; make one with: metarec data import"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    status, said = failure(*arguments)
    assert status == 1
    assert message in said
    assert "Traceback" not in said


def test_rules_that_cannot_be_kept_are_said_before_anything_starts(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "rules.yaml").write_text("rules: 3")
    monkeypatch.setenv("METAREC_RULES", str(tmp_path / "rules.yaml"))
    status, said = failure("--registry", registry, "--port-base", 0)
    assert status == 2
    assert f"error: rules file '{tmp_path / 'rules.yaml'}' must be a mapping" in said
    assert not (registry / "state").exists()


def test_a_damaged_dataset_is_wrong_input(registry: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    status, said = failure("--registry", registry, "--data", tmp_path / "data", "--port-base", 0)
    assert status == 2
    assert str(tmp_path / "data" / "dataset.json") in said


def test_a_live_checkpoint_that_cannot_be_read_is_said(registry: Path):
    (registry / "checkpoints" / "c-1-aaaaaaaa").mkdir(parents=True)
    (registry / "checkpoints" / "c-1-aaaaaaaa" / "manifest.json").write_text('{"format": 3, "sha256": "0"}')
    (registry / "live.json").write_text(json.dumps({"promoted": ["c-1-aaaaaaaa"]}))
    with start("--registry", registry, "--port-base", 0) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("metarec is ready")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert "checkpoint 'c-1-aaaaaaaa' is live but cannot be used" in said
    assert "is damaged: its checksum differs" in said


def test_files_where_folders_should_be_are_said_without_a_traceback(registry: Path):
    (registry / "state").touch()
    status, said = failure("--registry", registry, "--port-base", 0)
    assert status == 1
    assert said.splitlines()[-1] == f"error: '{registry / 'state'}': File exists"


def test_a_dataset_in_place_of_the_registry_is_refused_and_left_as_it_was(tmp_path: Path, dataset: Dataset):
    before = sorted(dataset.path.iterdir())
    status, said = failure("--registry", dataset.path, "--data", dataset.path, "--port-base", 0)
    assert status == 2
    assert f"'{dataset.path}' is a dataset, not a registry" in said
    assert sorted(dataset.path.iterdir()) == before


def test_an_online_store_that_is_away_is_said_and_does_not_keep_services_from_starting(registry: Path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    online = f"redis://:secret@127.0.0.1:{port}/0"
    manifest = StoreManifest(schema={}, fingerprint="f", applied="f", materialized={f"redis://127.0.0.1:{port}/0": 1.0})
    manifest.write(registry / "features")
    with start("--registry", registry, "--port-base", 0, "--online-store", online) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("metarec is ready")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert f"the online store 127.0.0.1:{port} cannot be reached (Connection refused)" in said


def test_an_online_store_that_cannot_be_loaded_is_named_without_its_password(tmp_path: Path, dataset: Dataset):
    (tmp_path / "registry").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        online = f"redis://:s3cret@127.0.0.1:{probe.getsockname()[1]}/0"
    status, said = failure(
        "--registry", tmp_path / "registry", "--data", dataset.path, "--port-base", 0, "--online-store", online
    )
    assert status == 1
    assert "see that Redis runs there" in said
    assert f"--online {online.replace('s3cret', 'PASSWORD')}' failed with status" in said
    assert "s3cret" not in said


def test_the_feature_store_is_built_and_loaded_once(tmp_path: Path, dataset: Dataset):
    (tmp_path / "registry").mkdir()
    said = []
    for _ in range(2):
        with start("--registry", tmp_path / "registry", "--data", dataset.path, "--port-base", 0) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            said.append(process.communicate(timeout=60)[1])
        assert process.returncode == 0
    assert "building the feature store" in said[0]
    assert "loading views" in said[0]
    assert "feature store" not in said[1]
    manifest = StoreManifest.read(tmp_path / "registry" / "features")
    assert manifest.fingerprint == dataset.fingerprint
    assert "sqlite" in manifest.materialized


def test_the_supervisor_imports_nothing_heavy():
    code = (
        "import sys; import metarec.cli.up, metarec.client.health; print({'torch', 'ray', 'feast', 'pandas'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
