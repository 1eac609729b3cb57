"""The process beside a local job: runs the command and leaves its exit status behind.

`python -m services.training.watcher FOLDER COMMAND...` outlives the training service, so that a job goes on when the service is
restarted and the new one learns how it ended. Standard library only: it stays in memory as long as the job.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PID, EXIT, LOCK, LOG = "pid", "exit", "lock", "log"
"""Files of a job's folder: the watcher's process id; the command's exit status; locked as long as the job lives; its output."""


def watch(folder: Path, command: Sequence[str]) -> int:
    """Run `command` until it ends and write its exit status (minus the signal when one killed it). SIGTERM is passed on to it."""
    running: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        for child in running:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    write(folder / PID, str(os.getpid()))
    if stop.is_set():
        status: int = -signal.SIGTERM
    else:
        # The command inherits the lock too: should the watcher be killed, the job still counts as alive until both are gone.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
        running.append(child)
        if stop.is_set():
            child.terminate()
        status = child.wait()
    write(folder / EXIT, str(status))
    return status


def write(path: Path, text: str) -> None:
    """Replace a small file: whoever reads it sees all of it or the one before."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2:])
