"""Where training jobs run: the launcher contract, and the launcher that starts processes on this machine.

Every launcher runs the same command line, `metarec train`, and hands out a handle: a string that is enough to find the job again
after this service was restarted.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from metarec.errors import NotFoundError

JobState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
FINAL_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What to train: the arguments of `metarec train`."""

    job_id: str
    data: str
    recipe: str
    num_workers: int
    seed: int
    registry: str

    def arguments(self) -> list[str]:
        """The command line after `metarec`."""
        recipe = ["--recipe", self.recipe] if self.recipe else []
        workers = ["--workers", str(self.num_workers), "--seed", str(self.seed)]
        return ["train", "--data", self.data, "--out", self.registry, *recipe, *workers, "--job-id", self.job_id]

    def entrypoint(self) -> str:
        """The command line as one shell string."""
        return shlex.join(["metarec", *self.arguments()])


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """State of a launched job; `error` says why it failed."""

    state: JobState
    error: str = ""


class Launcher(Protocol):
    """Runs training jobs somewhere."""

    name: ClassVar[str]

    def launch(self, spec: JobSpec) -> str:
        """Start the job and return its handle; launching the same job id twice starts it once. UnavailableError when out of reach."""
        ...

    def status(self, handle: str) -> JobStatus:
        """The job's state now. NotFoundError when the place has forgotten it, UnavailableError when out of reach."""
        ...

    def cancel(self, handle: str) -> None:
        """Ask the job to stop."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Runs each job as a process of its own beside the service; its folder keeps the log and the exit status."""

    name: ClassVar[str] = "local"
    directory: Path

    def launch(self, spec: JobSpec) -> str:
        """Start `metarec train` in a session of its own; returns the job's folder."""
        folder = self.directory / spec.job_id
        if (folder / "pid").exists():
            return str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "metarec.cli.main", *spec.arguments()]
        with (folder / "log").open("ab") as log:
            # The shell leaves the exit status behind for a service that was restarted and is no longer the parent.
            process = subprocess.Popen(
                ["sh", "-c", '"$@"; echo $? > "$0.part" && mv "$0.part" "$0"', str(folder / "exit"), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=job_environment(os.environ),
            )
        (folder / "pid").write_text(f"{process.pid} {start_time(process.pid)}")
        return str(folder)

    def status(self, handle: str) -> JobStatus:
        """From the exit status where there is one, else from whether the process lives."""
        folder = Path(handle)
        if not (folder / "pid").exists():
            raise NotFoundError(f"no training job was launched in '{folder}'")
        alive = self._process(folder) is not None
        if not (folder / "exit").exists():
            if alive:
                return JobStatus(state="running")
            if not (folder / "exit").exists():  # it may have ended between the two looks
                return JobStatus(state="failed", error="the process was killed; create the job again to resume it")
        code = int((folder / "exit").read_text())
        if code == 0:
            return JobStatus(state="succeeded")
        return JobStatus(state="failed", error=last_error(folder / "log") or f"metarec train exited with status {code}")

    def cancel(self, handle: str) -> None:
        """Interrupt the process; training saves its state, so that the same job can be resumed."""
        pid = self._process(Path(handle))
        if pid is not None:
            os.killpg(pid, signal.SIGINT)

    def _process(self, folder: Path) -> int | None:
        """Process id of the job if it is alive; a reused id does not count."""
        pid, started = (folder / "pid").read_text().split()
        try:
            os.waitpid(int(pid), os.WNOHANG)
        except ChildProcessError:
            pass  # not our child: the service was restarted since
        return int(pid) if start_time(int(pid)) == started else None


def start_time(pid: int) -> str:
    """When process `pid` started, in clock ticks since boot; empty when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job: this process's own, less the service's settings."""
    return {name: value for name, value in environment.items() if not name.startswith("METAREC_")}


def last_error(log: Path) -> str:
    """The last `error:` line of a log, without its prefix."""
    lines: Sequence[str] = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
