"""`python -m services.NAME`: help instead of a server, arguments refused, wrong settings in one line."""

import subprocess
import sys

import pytest

from services.runtime.command_line import settings_of
from services.runtime.settings import DEFAULT_PORTS, ENVIRONMENT


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("service", DEFAULT_PORTS)
def test_help_names_every_setting_and_an_example(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        settings_of(service)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"METAREC_REGISTRY=registry python -m services.{service}" in text
    assert all(f"  {name}\n      {what}\n" in text for name, what in ENVIRONMENT.items())


def test_arguments_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--port", "3"])
    with pytest.raises(SystemExit) as ended:
        settings_of("recall")
    assert ended.value.code == 2
    assert "python -m services.recall: error: unrecognized arguments: --port 3" in capsys.readouterr().err


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py"])
    monkeypatch.setenv("METAREC_PORT", "x")
    with pytest.raises(SystemExit) as ended:
        settings_of("recall")
    assert ended.value.code == "error: METAREC_PORT must be a whole number, not 'x'"


def test_settings_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py"])
    monkeypatch.setenv("METAREC_DIVERSITY", "0.25")
    found = settings_of("ranking")
    assert (found.service, found.port, found.diversity) == ("ranking", DEFAULT_PORTS["ranking"], 0.25)


def test_every_service_answers_help_instead_of_serving() -> None:
    started = {
        service: subprocess.Popen([sys.executable, "-m", f"services.{service}", "-h"], stdout=subprocess.PIPE, text=True)
        for service in DEFAULT_PORTS
    }
    for service, process in started.items():
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.startswith(f"usage: python -m services.{service} ")
