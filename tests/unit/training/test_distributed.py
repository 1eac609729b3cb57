"""Where a local Ray cluster keeps its files, with Ray itself left out."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from metarec.errors import UnavailableError
from metarec.training.distributed import cluster
from metarec.training.ray_files import MAX_DIRECTORY, SHORT_DIRECTORY


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """The settings that Ray was started with, each time; temporary directories are made at a short path, as on most machines."""
    import ray

    calls: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: calls.append(settings))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # the path's length is what is tested
    return calls


def test_the_files_of_a_local_cluster_go_away_with_it(started: list[dict[str, object]]) -> None:
    with cluster(1):
        directory = Path(str(started[0]["_temp_dir"]))
        (directory / "session_1" / "logs").mkdir(parents=True)
        assert len(str(directory)) <= MAX_DIRECTORY
    assert not directory.exists()


def test_they_go_away_too_where_ray_does_not_start(started: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: object) -> None:
        started.append(settings)
        raise ConnectionError("no")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(UnavailableError), cluster(1):
        pass
    assert not os.path.exists(str(started[0]["_temp_dir"]))


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "RAY_ADDRESS"])
def test_a_place_or_a_cluster_that_somebody_named_is_left_to_ray(
    started: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/somewhere")
    with cluster(1):
        assert "_temp_dir" not in started[0]


def test_where_sockets_would_have_too_long_a_path_the_files_lie_at_a_short_one(
    started: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with cluster(1):
        directory = Path(str(started[0]["_temp_dir"]))
        assert directory.is_dir()
        assert directory.parent == Path(SHORT_DIRECTORY)
    assert not directory.exists()


def test_where_no_place_will_do_ray_has_its_own(
    started: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 10)))
    monkeypatch.setattr("metarec.training.ray_files.SHORT_DIRECTORY", "/there/is/none")
    with cluster(1):
        assert "_temp_dir" not in started[0]


def test_rays_notes_about_its_own_settings_are_not_shown_to_people() -> None:
    code = """
import warnings
from metarec.training.distributed import quiet
quiet()
for module in ("ray.data.context", "mine"):
    warnings.warn_explicit(f"in {module}", DeprecationWarning, "x.py", 1, module=module)
"""
    # As Ray does to its own: shown, which Python's default is not.
    said = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "in mine" in said.stderr
    assert "in ray" not in said.stderr
