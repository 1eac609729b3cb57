"""Where a Ray of our own keeps its logs and sockets: a directory that goes away with it. Of its own place, /tmp/ray, Ray clears
nothing. Standard library only: `metarec up` starts with it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_DIRECTORY = 107 - len("/session_2026-01-31_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of a directory's path below which Ray can open its sockets."""
SHORT_DIRECTORY = "/tmp"
"""Where Ray's files lie when the path of the directory for temporary files is too long."""
RAY_FOLDER = "/ray"
"""What Ray adds to a path that it is told by RAY_TMPDIR."""
PREFIX = "metarec-"


@contextmanager
def passing_directory(*, kept: bool = False) -> Iterator[Path | None]:
    """A directory for Ray's files for the length of the block, good as `_temp_dir` of ray.init and as RAY_TMPDIR.

    It is below SHORT_DIRECTORY where the paths of sockets would otherwise be longer than Linux allows. None, for a place of Ray's
    own, where its files are `kept`, where somebody has named a place (RAY_TMPDIR), and where there is no directory to have it in.
    """

    def fits(parent: str) -> bool:
        # As tempfile makes names: eight characters behind the prefix.
        length = len(os.fsencode(os.path.join(parent, PREFIX))) + 8 + len(RAY_FOLDER)
        return length <= MAX_DIRECTORY and os.access(parent, os.W_OK | os.X_OK)

    parent = next(filter(fits, (tempfile.gettempdir(), SHORT_DIRECTORY)), None)
    if kept or "RAY_TMPDIR" in os.environ or parent is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as directory:
        yield Path(directory)
