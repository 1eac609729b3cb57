"""Records of training jobs on SQLite: what was asked for, where it runs, how it ended."""

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from metarec.errors import NotFoundError
from services.training.launchers import JobSpec, JobState

COLUMNS = "job_id, request_id, data, recipe, num_workers, seed, registry, launcher, handle, state, error, created, ended"
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY, request_id TEXT UNIQUE, data TEXT NOT NULL, recipe TEXT NOT NULL, num_workers INTEGER NOT NULL,
    seed INTEGER NOT NULL, registry TEXT NOT NULL, launcher TEXT NOT NULL, handle TEXT NOT NULL, state TEXT NOT NULL,
    error TEXT NOT NULL, created REAL NOT NULL, ended REAL
)
"""


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job; times in seconds since the epoch."""

    spec: JobSpec
    launcher: str
    handle: str
    state: JobState
    error: str
    created: float
    ended: float | None


class JobStore:
    """Job records in one SQLite file; safe among threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, spec: JobSpec, *, launcher: str, request_id: str) -> JobRecord:
        """Record a new pending job; with a request id seen before, the record of that call."""
        with self._lock:
            if request_id and (row := self._row("request_id = ?", request_id)):
                return row
            values = (spec.job_id, request_id or None, spec.data, spec.recipe, spec.num_workers, spec.seed, spec.registry)
            marks = ", ".join("?" * 13)
            self._connection.execute(
                f"INSERT INTO jobs ({COLUMNS}) VALUES ({marks})", (*values, launcher, "", "pending", "", time.time(), None)
            )
            return self._get(spec.job_id)

    def update(
        self, job_id: str, *, state: JobState, error: str = "", handle: str | None = None, ended: bool = False
    ) -> JobRecord:
        """Change a job's state."""
        with self._lock:
            self._connection.execute(
                "UPDATE jobs SET state = ?, error = ?, handle = coalesce(?, handle), ended = coalesce(ended, ?) WHERE job_id = ?",
                (state, error, handle, time.time() if ended else None, job_id),
            )
            return self._get(job_id)

    def get(self, job_id: str) -> JobRecord:
        """One job. NotFoundError when there is none."""
        with self._lock:
            return self._get(job_id)

    def page(self, size: int, offset: int) -> list[JobRecord]:
        """Jobs from `offset` on, newest first, at most `size`."""
        with self._lock:
            query = f"SELECT {COLUMNS} FROM jobs ORDER BY created DESC, job_id LIMIT ? OFFSET ?"
            return [_record(row) for row in self._connection.execute(query, (size, offset))]

    def unfinished(self) -> list[JobRecord]:
        """Jobs that have not ended."""
        with self._lock:
            query = f"SELECT {COLUMNS} FROM jobs WHERE ended IS NULL ORDER BY created"
            return [_record(row) for row in self._connection.execute(query)]

    def _get(self, job_id: str) -> JobRecord:
        record = self._row("job_id = ?", job_id)
        if record is None:
            raise NotFoundError(f"no training job 'trainingJobs/{job_id}'", metadata={"name": f"trainingJobs/{job_id}"})
        return record

    def _row(self, where: str, value: str) -> JobRecord | None:
        row = self._connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE {where}", (value,)).fetchone()
        return _record(row) if row else None


def _record(row: tuple[object, ...]) -> JobRecord:
    job_id, _, data, recipe, num_workers, seed, registry, launcher, handle, state, error, created, ended = row
    spec = JobSpec(job_id=job_id, data=data, recipe=recipe, num_workers=num_workers, seed=seed, registry=registry)  # type: ignore[arg-type]  # SQLite's columns carry these types
    return JobRecord(spec=spec, launcher=launcher, handle=handle, state=state, error=error, created=created, ended=ended)  # type: ignore[arg-type]  # as above
