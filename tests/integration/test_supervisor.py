"""The supervisor of `metarec up`, over services of a few lines (fake_services.py), as processes and signals see it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest

from metarec.cli.ports import free_ports
from metarec.cli.processes import MARK, in_session
from waiting import until

SCRIPT = Path(__file__).with_name("fake_services.py")
QUICK = {"first_pause_seconds": 0.05, "poll_seconds": 0.02, "watch_seconds": 0.1, "drain_seconds": 10.0}
WAIT_SECONDS = 30.0


class Running:
    """A supervisor process over services named in `stages`: {name: behaviour} for each stage."""

    def __init__(self, folder: Path, *stages: dict[str, str], **patience: float) -> None:
        self.folder = folder
        names = [name for stage in stages for name in stage]
        ports = dict(zip(names, free_ports("127.0.0.1", len(names)), strict=True))
        config = folder / "config.json"
        services = [
            [{"name": n, "port": ports[n], "behaviour": b, "log": str(folder / f"{n}.log")} for n, b in stage.items()]
            for stage in stages
        ]
        config.write_text(json.dumps({"stages": services, "patience": QUICK | patience}))
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        self.said: list[str] = []
        self._lines: Queue[str] = Queue()
        self._readers = [threading.Thread(target=self._read, args=(s,)) for s in (self.process.stdout, self.process.stderr)]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip())

    def line(self, part: str) -> str:
        """Wait for a line that contains `part`."""
        while True:
            line = self._lines.get(timeout=WAIT_SECONDS)
            self.said.append(line)
            if part in line:
                return line

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def pids(self, *words: str) -> list[int]:
        """Processes of this run whose command line holds all the words."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                ours = os.readlink(entry / "cwd") == str(self.folder) and MARK.encode() in (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if ours and command != [""] and all(word in command for word in words):
                found.append(int(entry.name))
        return found

    def end(self) -> int:
        status = self.process.wait(timeout=WAIT_SECONDS)
        for reader in self._readers:
            reader.join()
        while not self._lines.empty():
            self.said.append(self._lines.get())
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        until(lambda: not self.pids())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def new(*stages: dict[str, str], **patience: float) -> Running:
        started.append(Running(tmp_path, *stages, **patience))
        return started[-1]

    yield new
    for running in started:
        running.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_drains_stage_after_stage_and_leaves_no_process(start: Callable[..., Running], number: signal.Signals):
    run = start({"gateway": "slow"}, {"recall": "family", "ranking": "serve"})
    run.line("ready")
    assert len(run.pids()) == 5
    run.process.send_signal(number)
    assert run.end() == 0
    assert run.pids() == []
    assert [line for line in run.said if line.startswith("stopping")] == ["stopping gateway", "stopping recall, ranking"]
    stopped = {name: (run.folder / f"{name}.log").stat().st_mtime_ns for name in ("gateway", "recall", "ranking")}
    assert all("stopped" in run.log(name) for name in stopped)
    assert stopped["gateway"] == min(stopped.values())


def test_a_second_signal_kills(start: Callable[..., Running]):
    run = start({"gateway": "stubborn"}, {"recall": "serve"}, drain_seconds=1000.0)
    run.line("ready")
    run.process.send_signal(signal.SIGINT)
    run.line("stopping gateway")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert run.pids() == []


def test_a_service_that_ignores_the_signal_is_killed_in_the_end(start: Callable[..., Running]):
    run = start({"gateway": "stubborn"}, drain_seconds=0.2)
    run.line("ready")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert "gateway did not stop within 0.2 s; killing it" in run.said


def test_a_crashed_service_is_restarted_with_its_family_gone_and_said(start: Callable[..., Running]):
    run = start({"gateway": "serve"}, {"recall": "family"})
    run.line("ready")
    (recall,) = run.pids("recall")
    family = in_session(recall)
    assert len(family) == 2
    os.kill(recall, signal.SIGKILL)
    assert str(run.folder / "recall.log") in run.line("recall was killed by SIGKILL; starting it again in 0.05 s")
    run.line("recall is back after")
    assert in_session(recall) == []
    assert run.pids("recall") != [recall]
    assert len(run.pids("gateway")) == 1


def test_a_service_that_had_been_healthy_is_never_given_up_and_pauses_grow(start: Callable[..., Running]):
    run = start({"recall": "serve"}, attempts=1, longest_pause_seconds=0.1)
    run.line("ready")
    for pause in ("0.05", "0.1", "0.1"):
        os.kill(run.pids("recall")[0], signal.SIGKILL)
        run.line(f"starting it again in {pause} s")
        run.line("is back after")


def test_a_service_that_cannot_start_stops_everything_and_names_its_log(start: Callable[..., Running]):
    run = start({"gateway": "serve"}, {"recall": "crash"}, attempts=3)
    assert run.end() == 1
    text = "\n".join(run.said)
    assert "recall exited with status 3; starting it again in 0.1 s" in text
    assert "error: recall cannot be started: it exited with status 3 3 times in a row" in text
    assert str(run.folder / "recall.log") in text
    assert "| no such table: users" in text
    assert run.log("recall").count("recall runs") == 3
    assert "ready" not in run.said
    assert run.pids() == []


def test_a_service_that_never_becomes_healthy_is_an_error_too(start: Callable[..., Running]):
    run = start({"gateway": "serve", "recall": "mute"}, start_seconds=0.3)
    assert run.end() == 1
    assert any("recall cannot be started: it is not healthy after 0.3 s" in line for line in run.said)
    assert run.pids() == []


def test_a_service_that_hangs_is_killed_and_restarted(start: Callable[..., Running]):
    run = start({"recall": "deaf"}, hung_seconds=0.3)
    run.line("ready")
    (run.folder / "recall.deaf").touch()
    run.line("recall did not answer for 0.3 s and was killed; starting it again")
    run.line("recall is back after")


def test_no_process_outlives_a_supervisor_that_is_killed(start: Callable[..., Running]):
    run = start({"gateway": "stubborn"}, {"recall": "family"})
    run.line("ready")
    assert len(run.pids()) == 4
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    until(lambda: not run.pids())


def test_the_logs_can_be_followed_to_the_last_line(start: Callable[..., Running]):
    run = start({"gateway": "serve"}, {"recall": "serve"})
    run.line("ready")
    os.kill(run.pids("recall")[0], signal.SIGKILL)
    run.line("recall is back after")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert [line for line in run.said if line.startswith("recall |")] == [
        "recall | recall runs",
        "recall | recall runs",
        "recall | recall stopped",
    ]


def test_a_large_log_is_put_aside_at_the_start(start: Callable[..., Running], tmp_path: Path):
    with (tmp_path / "recall.log").open("wb") as file:
        file.truncate(17 * 2**20)
    run = start({"recall": "serve"})
    run.line("ready")
    assert run.log("recall") == "recall runs\n"
    assert (tmp_path / "recall.log.1").stat().st_size == 17 * 2**20
