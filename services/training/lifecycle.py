"""The life of training jobs: recorded, launched, followed until they end, cancelled, and taken up again by the next service."""

import logging
from collections.abc import Mapping

from metarec.errors import FailedPreconditionError, MetarecError, NotFoundError, UnavailableError
from metarec.training.registry import Registry
from services.training.jobs import JobRecord, JobStore
from services.training.launchers import FINAL_STATES, JobSpec, JobStatus, Launcher
from services.training.local import LocalLauncher

logger = logging.getLogger(__name__)


class Lifecycle:
    """Moves the jobs of `store` on with the launchers there are; calls block and may come from several threads."""

    def __init__(self, store: JobStore, launchers: Mapping[str, Launcher], registry: Registry) -> None:
        self._store, self._launchers, self._registry = store, launchers, registry
        # Jobs being cancelled: that their process ends is no failure.
        self._cancelling: set[str] = set()

    def get(self, job_id: str) -> JobRecord:
        """One job, as its launcher sees it now."""
        return self.refresh(self._store.get(job_id))

    def follow(self, record: JobRecord) -> None:
        """Bring the record of a job up to date, whatever happens: one that cannot be followed must not stop the others."""
        try:
            self.refresh(record)
        except Exception:
            logger.exception("job %s cannot be followed", record.spec.job_id)

    def resume(self) -> None:
        """Launch jobs that were recorded but not launched when this service ended, and local ones that it took with it."""
        for record in self._store.unfinished():
            if record.handle and record.launcher != "local":
                continue
            try:
                self._launch(record)
            except MetarecError as error:
                logger.warning("job %s cannot be resumed: %s", record.spec.job_id, error.message)

    def suspend(self) -> None:
        """Stop the jobs that run beside this service, for the next one to go on with."""
        local = self._launchers.get("local")
        assert local is None or isinstance(local, LocalLauncher)
        for record in self._store.unfinished():
            if local is not None and record.launcher == "local" and record.handle:
                local.suspend(record.handle)

    def create(self, spec: JobSpec, launcher: str, request_id: str) -> JobRecord:
        """Record a job, once for each `request_id`, then launch it; one that cannot be launched is recorded as failed."""
        record = self._store.add(spec, launcher=launcher, request_id=request_id)
        return record if record.handle or record.ended is not None else self._launch(record)

    def _launch(self, record: JobRecord) -> JobRecord:
        job_id = record.spec.job_id
        launcher = self._launchers.get(record.launcher)
        try:
            if launcher is None:
                raise FailedPreconditionError(f"launcher '{record.launcher}' is not set up here any more")
            handle = launcher.launch(record.spec)
        except MetarecError as error:
            self._store.update(job_id, state="failed", error=error.message, ended=True)
            raise
        return self._store.launched(job_id, handle)

    def cancel(self, job_id: str) -> JobRecord:
        """Stop a job. FailedPreconditionError when it has ended."""
        record = self.refresh(self._store.get(job_id))
        if record.state in FINAL_STATES:
            raise FailedPreconditionError(
                f"training job 'trainingJobs/{job_id}' has ended already: {record.state}", metadata={"state": record.state}
            )
        self._cancelling.add(job_id)
        try:
            if record.handle:
                self._launchers[record.launcher].cancel(record.handle)
            return self._store.update(job_id, state="cancelled", ended=True)
        finally:
            self._cancelling.discard(job_id)

    def refresh(self, record: JobRecord) -> JobRecord:
        """Ask the launcher and record what it says; an unreachable launcher leaves the record as it is."""
        if record.ended is not None or not record.handle:
            return record
        job_id, launcher = record.spec.job_id, self._launchers.get(record.launcher)
        try:
            if launcher is None:
                raise UnavailableError(f"launcher '{record.launcher}' is not set up here any more")
            status = launcher.status(record.handle)
        except NotFoundError:
            status = JobStatus(state="failed", error=f"launcher '{record.launcher}' no longer knows this job")
        except MetarecError as error:
            logger.warning("job %s cannot be followed: %s", job_id, error.message)
            return record
        if status.state == record.state or job_id in self._cancelling:
            return record
        checkpoint = ""
        if status.state == "succeeded":
            checkpoint = next((info.id for info in self._registry.list() if info.job_id == job_id), "")
        ended = status.state in FINAL_STATES
        return self._store.update(job_id, state=status.state, error=status.error, checkpoint=checkpoint, ended=ended)
