"""The calls of the training service: jobs and checkpoints (see metarec.client.calls)."""

import uuid

from metarec.client import convert
from metarec.client.call import Call, new_call
from metarec.client.results import Checkpoint, LauncherName, Page, TrainingJob
from metarec.v1 import training_pb2


def create_training_job(
    *,
    data: str = "",
    recipe: str = "",
    num_workers: int = 0,
    seed: int = 0,
    launcher: LauncherName = "",
    request_id: str = "",
    timeout: float | None = None,
) -> Call[TrainingJob]:
    """Start a meta-training job; empty values take the server's defaults. The same `request_id` starts a job once."""
    request = training_pb2.CreateTrainingJobRequest(request_id=request_id or uuid.uuid4().hex)
    job = request.training_job
    job.data, job.recipe, job.num_workers, job.seed = data, recipe, num_workers, seed
    job.launcher = convert.LAUNCHERS[launcher]
    return new_call("training", "CreateTrainingJob", request, convert.get_job, timeout)


def get_training_job(job_id: str, *, timeout: float | None = None) -> Call[TrainingJob]:
    """One job, as its launcher sees it now."""
    request = training_pb2.GetTrainingJobRequest(name=convert.resource_name("trainingJobs", job_id))
    return new_call("training", "GetTrainingJob", request, convert.get_job, timeout)


def list_training_jobs(*, page_size: int = 50, page_token: str = "", timeout: float | None = None) -> Call[Page[TrainingJob]]:
    """A page of jobs, newest first."""

    def parse(response: training_pb2.ListTrainingJobsResponse) -> Page[TrainingJob]:
        return Page(items=tuple(map(convert.get_job, response.training_jobs)), next_page_token=response.next_page_token)

    request = training_pb2.ListTrainingJobsRequest(page_size=page_size, page_token=page_token)
    return new_call("training", "ListTrainingJobs", request, parse, timeout)


def cancel_training_job(job_id: str, *, timeout: float | None = None) -> Call[TrainingJob]:
    """Ask a job to stop. FailedPreconditionError when it has ended."""
    request = training_pb2.CancelTrainingJobRequest(name=convert.resource_name("trainingJobs", job_id))
    return new_call("training", "CancelTrainingJob", request, convert.get_job, timeout)


def get_checkpoint(checkpoint_id: str, *, timeout: float | None = None) -> Call[Checkpoint]:
    """One checkpoint; `live` is the live one."""
    request = training_pb2.GetCheckpointRequest(name=convert.resource_name("checkpoints", checkpoint_id))
    return new_call("training", "GetCheckpoint", request, convert.get_checkpoint, timeout)


def list_checkpoints(*, page_size: int = 50, page_token: str = "", timeout: float | None = None) -> Call[Page[Checkpoint]]:
    """A page of checkpoints, newest first."""

    def parse(response: training_pb2.ListCheckpointsResponse) -> Page[Checkpoint]:
        return Page(items=tuple(map(convert.get_checkpoint, response.checkpoints)), next_page_token=response.next_page_token)

    request = training_pb2.ListCheckpointsRequest(page_size=page_size, page_token=page_token)
    return new_call("training", "ListCheckpoints", request, parse, timeout)


def promote_checkpoint(checkpoint_id: str, *, force: bool = False, timeout: float | None = None) -> Call[Checkpoint]:
    """Make a checkpoint live. GateNotPassedError when it is not better than the plain baselines, unless `force`."""
    request = training_pb2.PromoteCheckpointRequest(name=convert.resource_name("checkpoints", checkpoint_id), force=force)
    return new_call("training", "PromoteCheckpoint", request, convert.get_checkpoint, timeout)


def rollback_checkpoint(*, timeout: float | None = None) -> Call[Checkpoint]:
    """Make the checkpoint live again that was live before the current one."""
    return new_call("training", "RollbackCheckpoint", training_pb2.RollbackCheckpointRequest(), convert.get_checkpoint, timeout)
