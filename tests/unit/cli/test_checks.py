import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from metarec.cli import checks
from metarec.cli.checks import GIB, check_disk, check_environment, check_memory, check_packages, check_python, check_ray

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def statuses(findings: object) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


def test_supported_pythons_are_those_of_the_project():
    first, beyond = (".".join(map(str, version)) for version in checks.PYTHON)
    assert PROJECT["requires-python"] == f">={first},<{beyond}"
    assert statuses(check_python()) == {"python": "ok"}


def test_another_python_fails_and_says_which_to_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.sys, "version_info", (3, 9))
    (finding,) = check_python()
    assert (finding.status, finding.advice) == ("fail", "make the virtual environment with Python 3.11 to 3.12")


def test_this_environment_has_every_pinned_package():
    (finding,) = check_packages()
    pinned = [line for line in metadata.requires("metarec") or [] if "extra ==" not in line]
    assert (finding.status, finding.detail) == ("ok", f"{len(pinned)} packages as pinned")


def test_packages_that_are_missing_or_other_than_pinned_are_named(monkeypatch: pytest.MonkeyPatch):
    pins = ["click==0.1", "no-such-thing[extra]==2.0", "numpy==1.0; extra == 'dev'", f"rich=={metadata.version('rich')}"]
    monkeypatch.setattr(metadata, "requires", lambda name: pins)
    (finding,) = check_packages()
    assert finding.status == "fail"
    assert finding.detail == f"click is {metadata.version('click')}, 0.1 is wanted; no-such-thing is missing, 2.0 is wanted"


def test_a_local_build_of_the_pinned_release_is_that_release(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.13.0"])
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    assert statuses(check_packages()) == {"packages": "ok"}


def test_metarec_that_is_not_installed_is_said():
    (finding,) = check_packages("metarec-of-nowhere")
    assert (finding.status, finding.detail) == ("fail", "metarec-of-nowhere is not installed")


@pytest.mark.parametrize(("gib", "status"), [(8, "ok"), (2, "warn"), (1, "fail")])
def test_memory(tmp_path: Path, gib: float, status: str):
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {int(gib * GIB / 1024)} kB\n")
    assert statuses(check_memory(tmp_path / "meminfo")) == {"memory": status}
    assert statuses(check_memory(tmp_path / "none")) == {"memory": "warn"}


@pytest.mark.parametrize(("gib", "status"), [(8, "ok"), (2, "warn"), (0.1, "fail")])
def test_disk_of_folders_that_are_still_to_be_made(tmp_path: Path, gib: float, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: type("Usage", (), {"free": int(gib * GIB)}))
    found = list(check_disk(tmp_path / "not" / "yet", tmp_path))
    assert [finding.status for finding in found] == [status, status]
    assert f"'{tmp_path}'" in found[0].detail


def test_a_place_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.os, "access", lambda place, mode: False)
    assert [finding.status for finding in check_disk(tmp_path)] == ["fail", "fail"]


def test_ray_takes_its_token_from_the_environment_a_named_file_or_home(tmp_path: Path):
    (tmp_path / "token").write_text("secret")
    assert statuses(check_ray({"RAY_AUTH_TOKEN": "secret"})) == {"ray token": "ok"}
    assert statuses(check_ray({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})) == {"ray token": "ok"}
    assert statuses(check_ray({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})) == {"ray token": "fail"}
    (finding,) = check_ray({"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"})
    assert (finding.status, finding.detail) == ("ok", f"none yet; Ray will write '{tmp_path}/.ray/auth_token'")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert [finding.detail for finding in check_ray({"HOME": str(tmp_path)})] == [f"from '{tmp_path}/.ray/auth_token'"]


def test_findings_never_show_the_token(tmp_path: Path):
    (tmp_path / "token").write_text("hush")
    for environment in ({"RAY_AUTH_TOKEN": "hush"}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}):
        assert "hush" not in repr(list(check_ray(environment)))


def test_ray_without_authentication_or_a_place_for_its_token_fails(monkeypatch: pytest.MonkeyPatch):
    assert statuses(check_ray({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t"}))["ray auth"] == "fail"
    monkeypatch.setattr(checks.os, "access", lambda place, mode: False)
    assert statuses(check_ray({"HOME": "/nowhere"})) == {"ray token": "fail"}


def test_another_ray_cluster_is_pointed_out():
    assert statuses(check_ray({"RAY_ADDRESS": "host:1", "RAY_AUTH_TOKEN": "t"}))["ray cluster"] == "warn"


def test_misspelt_settings_are_named():
    (finding,) = check_environment({"METAREC_PROT": "1", "METAREC_PORT": "2", "PATH": ""})
    assert finding.status == "warn"
    assert finding.detail == "unknown settings METAREC_PROT"
    assert statuses(check_environment({"METAREC_PORT": "2"})) == {"environment": "ok"}
