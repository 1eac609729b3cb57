"""Training jobs through Ray Jobs: the entry point is `metarec train`, as on the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metarec.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.training.launchers import JobSpec, JobState, JobStatus, last_error

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
    """Submits to the Ray dashboard at `address`, for example `http://127.0.0.1:8265`.

    metarec must be installed on the cluster, and data and registry must have the same paths there. `environment` holds settings
    that the job needs besides.
    """

    name: ClassVar[str] = "ray_jobs"
    address: str
    environment: tuple[tuple[str, str], ...] = ()

    def launch(self, spec: JobSpec) -> str:
        """Submit the job under its own id; returns that id."""
        with self._client() as client:
            if not any(job.submission_id == spec.job_id for job in client.list_jobs()):
                runtime_env = {"env_vars": dict(self.environment)} if self.environment else {}
                client.submit_job(entrypoint=spec.entrypoint(), submission_id=spec.job_id, runtime_env=runtime_env)
        return spec.job_id

    def status(self, handle: str) -> JobStatus:
        """State of the submitted job; of a failed one its own last error, else Ray's message."""
        with self._client() as client:
            info = client.get_job_info(handle)
        state, message = STATES[str(info.status.value)], str(info.message or "")
        return JobStatus(state=state, error=(last_error(message) or message) if state == "failed" else "")

    def cancel(self, handle: str) -> None:
        """Stop the submitted job; Ray lets it save its state and kills it after a few seconds."""
        with self._client() as client:
            client.stop_job(handle)

    @contextmanager
    def _client(self) -> "Iterator[JobSubmissionClient]":
        """A client, and what goes wrong with it as metarec's errors."""
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        metadata = {"address": self.address}
        try:
            yield JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise FailedPreconditionError(
                f"ray's jobs api at '{self.address}' refuses our token; set RAY_AUTH_MODE=token and the cluster's token here",
                metadata=metadata,
            ) from error
        # requests' errors are OSErrors; the client raises RuntimeError for any status but 200.
        except (OSError, RuntimeError) as error:
            if "status code 404" in str(error):
                raise NotFoundError(f"ray's jobs api at '{self.address}' does not know the job", metadata=metadata) from error
            raise UnavailableError(
                f"ray's jobs api at '{self.address}' cannot be used: {error}; is the cluster up, with its dashboard?",
                metadata=metadata,
            ) from error
