"""The training service: starts jobs, follows them, and decides which checkpoint is live."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from metarec.errors import FailedPreconditionError, InvalidInputError, MetarecError, NotFoundError, UnavailableError
from metarec.training.registry import CheckpointInfo, Registry
from metarec.v1 import training_pb2, training_pb2_grpc
from services.training.jobs import JobRecord, JobStore
from services.training.launchers import FINAL_STATES, JobSpec, JobStatus, Launcher

logger = logging.getLogger(__name__)

LAUNCHERS = {
    training_pb2.LAUNCHER_LOCAL: "local",
    training_pb2.LAUNCHER_RAY_JOBS: "ray_jobs",
    training_pb2.LAUNCHER_KUBERAY: "kuberay",
}
STATES = {
    "pending": training_pb2.TRAINING_JOB_STATE_PENDING,
    "running": training_pb2.TRAINING_JOB_STATE_RUNNING,
    "succeeded": training_pb2.TRAINING_JOB_STATE_SUCCEEDED,
    "failed": training_pb2.TRAINING_JOB_STATE_FAILED,
    "cancelled": training_pb2.TRAINING_JOB_STATE_CANCELLED,
}
POLL_SECONDS = 2.0
T = TypeVar("T")


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Answers TrainingService; the work is done by the job store, the launchers and the registry, off the event loop."""

    def __init__(
        self, *, store: JobStore, launchers: Mapping[str, Launcher], default: str, registry: Registry, data: str
    ) -> None:
        self._store, self._launchers, self._default, self._registry, self._data = store, launchers, default, registry, data

    async def follow(self) -> None:
        """Keep the records of unfinished jobs up to date, until cancelled."""
        while True:
            for record in await asyncio.to_thread(self._store.unfinished):
                with contextlib.suppress(MetarecError):
                    await asyncio.to_thread(self._refresh, record)
            await asyncio.sleep(POLL_SECONDS)

    def stop_local_jobs(self) -> None:
        """Interrupt jobs that run beside this service: they save their state and can be resumed."""
        for record in self._store.unfinished():
            if record.launcher == "local" and record.handle:
                self._launchers["local"].cancel(record.handle)

    async def CreateTrainingJob(
        self, request: training_pb2.CreateTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """Record the job, then launch it; a job that cannot be launched is recorded as failed and reported."""
        job = request.training_job
        if job.num_workers < 0:
            raise InvalidInputError("must be 0 or more", field="training_job.num_workers")
        data = job.data or self._data
        if not data:
            raise InvalidInputError("name the dataset directory to train on", field="training_job.data")
        launcher = LAUNCHERS.get(job.launcher, self._default)
        if launcher not in self._launchers:
            known = ", ".join(sorted(self._launchers))
            raise FailedPreconditionError(f"launcher '{launcher}' is not configured here; configured: {known}")
        spec = JobSpec(
            job_id=uuid.uuid4().hex[:12],
            data=data,
            recipe=job.recipe,
            num_workers=job.num_workers,
            seed=job.seed,
            registry=str(self._registry.path),
        )
        return await self._run(lambda: self._create(spec, launcher, request.request_id))

    async def GetTrainingJob(
        self, request: training_pb2.GetTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """One job, as its launcher sees it now."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: self._proto(self._refresh(self._store.get(job_id))))

    async def ListTrainingJobs(
        self, request: training_pb2.ListTrainingJobsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListTrainingJobsResponse:
        """A page of jobs, newest first."""
        size, offset = page(request.page_size, request.page_token)
        records = await self._run(lambda: self._store.page(size + 1, offset))
        jobs = [self._proto(record) for record in records[:size]]
        token = str(offset + size) if len(records) > size else ""
        return training_pb2.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=token)

    async def CancelTrainingJob(
        self, request: training_pb2.CancelTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """Stop a job that has not ended."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: self._cancel(job_id))

    async def GetCheckpoint(
        self, request: training_pb2.GetCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """One checkpoint; `checkpoints/live` is the live one."""
        return await self._run(lambda: checkpoint_proto(self._registry.get(self._checkpoint_id(request.name))))

    async def ListCheckpoints(
        self, request: training_pb2.ListCheckpointsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListCheckpointsResponse:
        """A page of checkpoints, newest first."""
        size, offset = page(request.page_size, request.page_token)
        infos = await self._run(self._registry.list)
        token = str(offset + size) if len(infos) > offset + size else ""
        checkpoints = [checkpoint_proto(info) for info in infos[offset : offset + size]]
        return training_pb2.ListCheckpointsResponse(checkpoints=checkpoints, next_page_token=token)

    async def PromoteCheckpoint(
        self, request: training_pb2.PromoteCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """Make a checkpoint live."""
        checkpoint = self._checkpoint_id(request.name)
        await self._run(lambda: self._registry.promote(checkpoint, force=request.force))
        return await self._run(lambda: checkpoint_proto(self._registry.get(checkpoint)))

    async def RollbackCheckpoint(
        self, request: training_pb2.RollbackCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """Make the previously live checkpoint live again."""
        return await self._run(lambda: checkpoint_proto(self._registry.get(self._registry.rollback())))

    def _create(self, spec: JobSpec, launcher: str, request_id: str) -> training_pb2.TrainingJob:
        record = self._store.add(spec, launcher=launcher, request_id=request_id)
        if record.handle or record.state in FINAL_STATES:
            return self._proto(record)
        try:
            handle = self._launchers[record.launcher].launch(record.spec)
        except MetarecError as error:
            self._store.update(record.spec.job_id, state="failed", error=error.message, ended=True)
            raise
        return self._proto(self._store.update(record.spec.job_id, state="running", handle=handle))

    def _cancel(self, job_id: str) -> training_pb2.TrainingJob:
        record = self._refresh(self._store.get(job_id))
        if record.state in FINAL_STATES:
            raise FailedPreconditionError(f"training job 'trainingJobs/{job_id}' has ended already: {record.state}")
        self._launchers[record.launcher].cancel(record.handle)
        return self._proto(self._store.update(job_id, state="cancelled", ended=True))

    def _refresh(self, record: JobRecord) -> JobRecord:
        """Ask the launcher and record what it says; an unreachable launcher leaves the record as it is."""
        if record.ended is not None or not record.handle:
            return record
        try:
            status = self._launchers[record.launcher].status(record.handle)
        except UnavailableError as error:
            logger.warning("job %s cannot be followed: %s", record.spec.job_id, error.message)
            return record
        except (NotFoundError, KeyError):
            status = JobStatus(state="failed", error=f"launcher '{record.launcher}' no longer knows this job")
        ended = status.state in FINAL_STATES
        return self._store.update(record.spec.job_id, state=status.state, error=status.error, ended=ended)

    def _proto(self, record: JobRecord) -> training_pb2.TrainingJob:
        launcher = next(value for value, name in LAUNCHERS.items() if name == record.launcher)
        checkpoint = ""
        if record.state == "succeeded":
            checkpoint = next((info.id for info in self._registry.list() if info.job_id == record.spec.job_id), "")
        return training_pb2.TrainingJob(
            name=f"trainingJobs/{record.spec.job_id}",
            data=record.spec.data,
            recipe=record.spec.recipe,
            num_workers=record.spec.num_workers,
            seed=record.spec.seed,
            launcher=launcher,
            state=STATES[record.state],
            checkpoint=checkpoint,
            error=record.error,
            create_time=timestamp(record.created),
            end_time=timestamp(record.ended) if record.ended is not None else None,
        )

    def _checkpoint_id(self, name: str) -> str:
        checkpoint = identifier(name, "checkpoints")
        if checkpoint != "live":
            return checkpoint
        live = self._registry.live()
        if live is None:
            raise NotFoundError("no checkpoint is live; promote one")
        return live

    @staticmethod
    async def _run(call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)


def checkpoint_proto(info: CheckpointInfo) -> training_pb2.Checkpoint:
    """A registry entry on the wire."""
    return training_pb2.Checkpoint(
        name=f"checkpoints/{info.id}",
        recipe=info.recipe,
        create_time=timestamp(info.created),
        live=info.live,
        gate_passed=info.gate_passed,
        delta=info.delta,
        metrics=info.metrics,
        schema_hash=info.schema_hash,
        data_fingerprint=info.data_fingerprint,
    )


def identifier(name: str, collection: str) -> str:
    """The id in the resource name `collection/id`. InvalidInputError when it is none."""
    prefix, _, rest = name.partition("/")
    if prefix != collection or not rest or "/" in rest:
        raise InvalidInputError(f"'{name}' is no resource name of the form '{collection}/ID'", field="name")
    return rest


def page(size: int, token: str) -> tuple[int, int]:
    """Page size and offset of a list request. InvalidInputError when they are out of range."""
    if not 0 <= size <= 1000:
        raise InvalidInputError(f"must be 1 to 1000, not {size}", field="page_size")
    if token and not token.isdigit():
        raise InvalidInputError("is not a token of a previous response", field="page_token")
    return size or 50, int(token or 0)


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a protobuf Timestamp."""
    result = Timestamp()
    result.FromMilliseconds(int(seconds * 1000))
    return result
