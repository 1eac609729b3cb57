"""Training jobs on a Ray cluster through its Jobs API: the entry point is `metarec train`, as on the command line."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metarec.errors import NotFoundError, UnavailableError
from services.training.launchers import JobSpec, JobState, JobStatus

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STATES: dict[str, JobState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


@dataclass(frozen=True, kw_only=True)
class RayJobsLauncher:
    """Submits to the Ray dashboard at `address`, for example `http://127.0.0.1:8265`; metarec must be installed on the cluster."""

    name: ClassVar[str] = "ray_jobs"
    address: str

    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient

        try:
            return JobSubmissionClient(self.address)
        except (ConnectionError, RuntimeError) as error:
            raise UnavailableError(
                f"ray's jobs api at '{self.address}' cannot be reached; is the cluster up with its dashboard?",
                metadata={"address": self.address},
            ) from error

    def launch(self, spec: JobSpec) -> str:
        """Submit the job under its own id; returns that id."""
        client = self._client()
        try:
            client.get_job_info(spec.job_id)
        except RuntimeError:
            client.submit_job(entrypoint=spec.entrypoint(), submission_id=spec.job_id)
        return spec.job_id

    def status(self, handle: str) -> JobStatus:
        """State and message of the submitted job."""
        try:
            info = self._client().get_job_info(handle)
        except RuntimeError as error:
            raise NotFoundError(f"ray has no job '{handle}'") from error
        state = STATES[str(info.status.value)]
        return JobStatus(state=state, error=(info.message or "") if state == "failed" else "")

    def cancel(self, handle: str) -> None:
        """Stop the submitted job."""
        self._client().stop_job(handle)
