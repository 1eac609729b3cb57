"""`python -m services.gateway` as a process: ready line, signals, refusals at start."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from metarec.client import Client, ClientSettings
from metarec.errors import UnavailableError


def environment(**settings: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("METAREC_")}
    return {**plain, "METAREC_PORT": "0", **settings}


def start(settings: Mapping[str, str], cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.gateway"],
        env=environment(**settings),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = start({"METAREC_RECALL_ADDRESS": "127.0.0.1:1", "METAREC_RANKING_ADDRESS": "127.0.0.1:1"}, tmp_path)
    yield process
    process.kill()
    process.communicate()


def address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "no ready line"
    line = process.stdout.readline()
    found = re.fullmatch(r"metarec gateway ready on (127\.0\.0\.1:\d+)\n", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_ready_serves_and_stops_at_a_signal(gateway: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with Client(ClientSettings(gateway_address=address(gateway))) as client, pytest.raises(UnavailableError, match="recall"):
        # No stage is up and nothing was ever promoted: there is nothing to degrade to.
        client.recommend("u1", timeout=2)
    gateway.send_signal(number)
    _, log = gateway.communicate(timeout=60)
    assert gateway.returncode == 0, log
    lines = [line for line in log.splitlines() if "metarec.rpc" in line]
    assert lines
    assert all("method=/metarec.v1.GatewayService/Recommend code=UNAVAILABLE" in line for line in lines)
    assert "Traceback" not in log
    assert "u1" not in log


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"METAREC_REGISTERY": "/r"}, "error: unknown setting 'METAREC_REGISTERY'"),
        ({"METAREC_HOST": "192.0.2.1"}, "error: cannot listen on 192.0.2.1:0"),
        ({"METAREC_AUTH_TOKEN_FILE": "/nowhere"}, "error: METAREC_AUTH_TOKEN_FILE cannot be read"),
        ({"METAREC_TLS_CERT": "/c"}, "error: METAREC_TLS_CERT and METAREC_TLS_KEY belong together"),
    ],
)
def test_it_refuses_to_start_with_one_clear_line(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    process = start(settings, tmp_path)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert any(line.startswith(message) for line in errors.splitlines()), errors
    assert "Traceback" not in errors
