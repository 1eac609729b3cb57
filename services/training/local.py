"""Training jobs as processes on this machine; each has a folder with its log and its exit status.

A job belongs to a watcher process (watcher.py) in a session of its own. The watcher inherits a lock on the folder, which the
kernel releases when it ends in whatever way: so a job is alive exactly as long as its lock is held, and process ids that were
given to another process meanwhile cannot mislead.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from metarec.errors import NotFoundError
from services.training.launchers import JobSpec, JobStatus, job_environment, last_error
from services.training.watcher import EXIT, LOCK, LOG, PID, write

GRACE_SECONDS = 5.0
"""How long a cancelled job may take to save its state. Killing it then is safe too: it resumes from the state saved before."""
POLL_SECONDS = 0.05
SUSPENDED = "suspended"
"""File of a job's folder: this service stopped the job with itself, and will go on with it at its next start."""
INTERRUPTED = (130, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL)
"""Exit statuses of a job that was stopped: of `metarec train` itself, and of signals before or after its own handling."""


def metarec_command(spec: JobSpec) -> Sequence[str]:
    """`metarec train` of this installation."""
    return [sys.executable, "-P", "-c", "from metarec.cli.main import main; main()", *spec.arguments()]


@dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Runs jobs beside this service, below `directory`; `command` turns a job into the process to start."""

    name: ClassVar[str] = "local"
    directory: Path
    command: Callable[[JobSpec], Sequence[str]] = metarec_command
    _watchers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def launch(self, spec: JobSpec) -> str:
        """Start the job and return its folder. A job that was suspended, or killed with this machine, goes on where it was."""
        folder = self.directory / spec.job_id
        folder.mkdir(parents=True, exist_ok=True)
        with self._guard, _lock(folder) as lock:
            if lock is None or ((folder / EXIT).exists() and not (folder / SUSPENDED).exists()):
                return str(folder)
            for name in (SUSPENDED, EXIT, PID):
                (folder / name).unlink(missing_ok=True)
            command = [sys.executable, "-P", "-m", "services.training.watcher", str(folder), *self.command(spec)]
            with (folder / LOG).open("ab") as log:
                self._watchers[str(folder)] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=job_environment(os.environ),
                    pass_fds=[lock],
                )
        return str(folder)

    def status(self, handle: str) -> JobStatus:
        """From the lock while the job lives, then from the exit status it left."""
        folder = Path(handle)
        if not folder.is_dir():
            raise NotFoundError(f"no training job was launched in '{folder}'")
        if self._alive(folder):
            return JobStatus(state="running")
        if (folder / SUSPENDED).exists():
            return JobStatus(state="pending")
        try:
            status = int((folder / EXIT).read_text())
        except FileNotFoundError:
            return JobStatus(state="failed", error="the job's processes were killed; create the job again to go on from there")
        if status == 0:
            return JobStatus(state="succeeded")
        error = last_error((folder / LOG).read_text(errors="replace"))
        if status in INTERRUPTED:
            return JobStatus(state="failed", error=error or f"the job was stopped by a signal (status {status})")
        return JobStatus(state="failed", error=error or f"metarec train exited with status {status}; its log is '{folder / LOG}'")

    def cancel(self, handle: str) -> None:
        """Stop the process: it may save its state, then it is killed."""
        folder = Path(handle)
        deadline = time.monotonic() + GRACE_SECONDS
        asked = False
        while self._alive(folder):
            watcher = _read_pid(folder)
            if watcher is not None and (not asked or time.monotonic() > deadline):
                late = time.monotonic() > deadline
                _signal(watcher, signal.SIGKILL if late else signal.SIGTERM, family=late)
                asked = True
            time.sleep(POLL_SECONDS)

    def suspend(self, handle: str) -> None:
        """Stop the job with this service; `launch` goes on with it."""
        folder = Path(handle)
        if self._alive(folder):
            write(folder / SUSPENDED, "")
            self.cancel(handle)
            if (folder / EXIT).exists() and int((folder / EXIT).read_text()) not in INTERRUPTED:
                (folder / SUSPENDED).unlink()  # it had ended by itself

    def _alive(self, folder: Path) -> bool:
        if not folder.is_dir():
            return False
        # Guarded, so that one thread's look is not another's job.
        with self._guard, _lock(folder) as lock:
            if lock is None:
                return True
            watcher = self._watchers.pop(str(folder), None)
            if watcher is not None:
                watcher.wait()  # the kernel closes its files, and with them the lock, as it ends
            return False


@contextmanager
def _lock(folder: Path) -> Iterator[int | None]:
    """The file descriptor that holds the folder's lock, or None while a job has it."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file
    finally:
        # Closing releases the lock only when no job has inherited it.
        os.close(file)


def _read_pid(folder: Path) -> int | None:
    """The watcher's process id; None while it is starting."""
    try:
        return int((folder / PID).read_text())
    except FileNotFoundError:
        return None


def _signal(watcher: int, number: signal.Signals, *, family: bool) -> None:
    """Send a signal to the watcher, or to everything in its process group. The caller has just seen that it lives."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
        if family:
            os.killpg(watcher, number)
        else:
            os.kill(watcher, number)
