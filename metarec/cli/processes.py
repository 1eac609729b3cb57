"""Finding and ending whole families of processes (Linux), so that `metarec up` leaves none behind.

A service's own process is not all there is: Ray starts a dozen more, training jobs have sessions of their own, and both may
outlive their parent. Two traits are inherited by every descendant: the session (one per service, until a process makes its own)
and the environment (one mark per run). The first tells what belongs to one service, the second what belongs to a run.

This file is also the guard (`python processes.py MARK [DIRECTORY]`): it waits until the supervisor's end of its standard input is
closed, which the kernel does however the supervisor dies, and then kills every process of the run and removes the directory of
their passing files. Standard library only, so that it starts at once.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MARK = "UP_RUN"
"""Environment name that carries the mark. Without the prefix METAREC_: services refuse names of it that they do not know."""
POLL_SECONDS = 0.05


def processes() -> list[int]:
    """Ids of all processes that can be looked at, this one left out."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]


def in_session(session: int) -> list[int]:
    """Live processes of a session."""
    return [pid for pid in processes() if _session(pid) == session]


def marked(mark: str) -> list[int]:
    """Live processes that carry `mark`, in every session."""
    wanted = f"{MARK}={mark}".encode()
    return [pid for pid in processes() if _session(pid) is not None and wanted in _environment(pid)]


def end_all(find: Callable[[], list[int]], grace_seconds: float = 0.0, hurry: Callable[[], bool] = lambda: False) -> list[int]:
    """SIGTERM to all that `find` finds, SIGKILL to those left after `grace_seconds`, or when `hurry` says so.

    Without grace SIGKILL at once. Looks again until nothing is found, because a dying process may have started another. Returns
    the processes that were killed.
    """
    deadline = time.monotonic() + grace_seconds
    if grace_seconds:
        _send(find(), signal.SIGTERM)
    while time.monotonic() < deadline and not hurry() and find():
        time.sleep(POLL_SECONDS)
    killed: set[int] = set()
    while found := find():
        killed.update(_send(found, signal.SIGKILL))
        time.sleep(POLL_SECONDS)
    return sorted(killed)


class Guard:
    """The guard process of a run, for the length of a `with` block; when the block ends it ends too and finds no process to kill.

    The `passing` directory is removed then.
    """

    def __init__(self, mark: str, passing: Path | None = None) -> None:
        self._arguments = [mark, *([] if passing is None else [str(passing)])]

    def __enter__(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the supervisor.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *self._arguments], stdin=subprocess.PIPE, start_new_session=True
        )

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _session(pid: int) -> int | None:
    """Session of a process; None when it is gone or a zombie."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state in "ZX" else int(session)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone, or another user's


def _send(pids: list[int], number: signal.Signals) -> list[int]:
    reached = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
        reached.append(pid)
    return reached


def _guard(mark: str, *passing: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(lambda: marked(mark))
    for directory in passing:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
