"""Records of training jobs on SQLite: what was asked for, where it runs, how it ended."""

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from metarec.errors import InvalidInputError, NotFoundError
from services.training.launchers import JobSpec, JobState

COLUMNS = "job_id, data, recipe, num_workers, seed, registry, launcher, handle, state, checkpoint, error, created, ended"
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, request_id TEXT UNIQUE, data TEXT NOT NULL,
    recipe TEXT NOT NULL, num_workers INTEGER NOT NULL, seed INTEGER NOT NULL, registry TEXT NOT NULL, launcher TEXT NOT NULL,
    handle TEXT NOT NULL, state TEXT NOT NULL, checkpoint TEXT NOT NULL, error TEXT NOT NULL, created REAL NOT NULL, ended REAL
)
"""


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job; times in seconds since the epoch. `handle` is empty until it was launched, `checkpoint` until it has published."""

    spec: JobSpec
    launcher: str
    handle: str
    state: JobState
    checkpoint: str
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
        with self._lock:
            self._connection.close()

    def add(self, spec: JobSpec, *, launcher: str, request_id: str) -> JobRecord:
        """Record a new pending job; with a request id seen before, the record of that call."""
        with self._lock:
            if request_id and (row := self._row("request_id = ?", request_id)):
                return row
            values = (spec.job_id, spec.data, spec.recipe, spec.num_workers, spec.seed, spec.registry)
            self._connection.execute(
                f"INSERT INTO jobs (request_id, {COLUMNS}) VALUES ({', '.join('?' * 14)})",
                (request_id or None, *values, launcher, "", "pending", "", "", time.time(), None),
            )
            return self._get(spec.job_id)

    def launched(self, job_id: str, handle: str) -> JobRecord:
        """Record where a job runs."""
        with self._lock:
            self._connection.execute("UPDATE jobs SET handle = ? WHERE job_id = ?", (handle, job_id))
            return self._get(job_id)

    def update(self, job_id: str, *, state: JobState, error: str = "", checkpoint: str = "", ended: bool = False) -> JobRecord:
        """Change the state of a job; one that has ended stays as it is."""
        with self._lock:
            self._connection.execute(
                "UPDATE jobs SET state = ?, error = ?, checkpoint = ?, ended = ? WHERE job_id = ? AND ended IS NULL",
                (state, error, checkpoint, time.time() if ended else None, job_id),
            )
            return self._get(job_id)

    def get(self, job_id: str) -> JobRecord:
        """One job. NotFoundError when there is none."""
        with self._lock:
            return self._get(job_id)

    def page(self, size: int, after: str) -> list[JobRecord]:
        """The `size` jobs before the job `after`, or the newest; newest first. InvalidInputError for an unknown id."""
        with self._lock:
            if after and self._row("job_id = ?", after) is None:
                raise InvalidInputError("is not a token of a previous response", field="page_token")
            where = "WHERE number < (SELECT number FROM jobs WHERE job_id = ?)" if after else ""
            query = f"SELECT {COLUMNS} FROM jobs {where} ORDER BY number DESC LIMIT ?"
            return [_record(row) for row in self._connection.execute(query, (*([after] if after else []), size))]

    def unfinished(self) -> list[JobRecord]:
        """Jobs that have not ended, oldest first."""
        with self._lock:
            query = f"SELECT {COLUMNS} FROM jobs WHERE ended IS NULL ORDER BY number"
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
    job_id, data, recipe, num_workers, seed, registry, launcher, handle, state, checkpoint, error, created, ended = row
    spec = JobSpec(job_id=job_id, data=data, recipe=recipe, num_workers=num_workers, seed=seed, registry=registry)  # type: ignore[arg-type]  # SQLite's columns carry these types
    return JobRecord(
        spec=spec,
        launcher=launcher,  # type: ignore[arg-type]  # as above
        handle=handle,  # type: ignore[arg-type]  # as above
        state=state,  # type: ignore[arg-type]  # as above
        checkpoint=checkpoint,  # type: ignore[arg-type]  # as above
        error=error,  # type: ignore[arg-type]  # as above
        created=created,  # type: ignore[arg-type]  # as above
        ended=ended,  # type: ignore[arg-type]  # as above
    )
