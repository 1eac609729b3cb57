"""Where training jobs run: the launcher contract.

Every launcher runs the same command line, `metarec train`, and hands out a handle: a string that is enough to find the job again
after this service was restarted.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

JobState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
FINAL_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})
JOB_SETTINGS = frozenset({"METAREC_ONLINE_STORE"})
"""Settings of this service that `metarec train` reads too."""


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
        """Start the job and return its handle; launching the same job id again starts no second one.

        UnavailableError when out of reach; any other MetarecError says why it cannot run there.
        """
        ...

    def status(self, handle: str) -> JobStatus:
        """The job's state now. NotFoundError when the place has forgotten it, UnavailableError when out of reach."""
        ...

    def cancel(self, handle: str) -> None:
        """Stop the job; nothing happens to one that has ended."""
        ...


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job: this process's own, less the settings that are the service's alone."""
    return {name: value for name, value in environment.items() if not name.startswith("METAREC_") or name in JOB_SETTINGS}


def last_error(log: str) -> str:
    """The last `error:` line of a job's output, without its prefix; empty when there is none."""
    return next((line.removeprefix("error: ") for line in reversed(log.splitlines()) if line.startswith("error: ")), "")
