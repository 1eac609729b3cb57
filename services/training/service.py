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
from services.runtime.settings import Settings
from services.training.jobs import JobRecord, JobStore
from services.training.kuberay import KubeRayLauncher
from services.training.launchers import FINAL_STATES, JobSpec, JobStatus, Launcher
from services.training.local import LocalLauncher
from services.training.ray_jobs import RayJobsLauncher
from services.training.requests import checked, identifier, page

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

    names = ("metarec.v1.TrainingService",)

    def __init__(
        self, *, store: JobStore, launchers: Mapping[str, Launcher], default: str, registry: Registry, data: str = ""
    ) -> None:
        self._store, self._launchers, self._default, self._registry, self._data = store, launchers, default, registry, data
        self._follower: asyncio.Task[None] | None = None
        # Jobs being cancelled: that their process ends is no failure.
        self._cancelling: set[str] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicer."""
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Go on with the jobs of an earlier life of this service, then follow all of them."""
        await asyncio.to_thread(self._resume)
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Suspend the jobs that run beside this service; those elsewhere run on."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        await asyncio.to_thread(self._suspend)
        self._store.close()

    async def CreateTrainingJob(
        self, request: training_pb2.CreateTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """Record the job, then launch it; a job that cannot be launched is recorded as failed and reported."""
        job = checked(request.training_job, default_data=self._data)
        launcher = LAUNCHERS.get(job.launcher, self._default)
        if launcher not in self._launchers:
            raise FailedPreconditionError(
                f"launcher '{launcher}' is not set up here, only {', '.join(sorted(self._launchers))}; set "
                "METAREC_RAY_JOBS_ADDRESS for ray_jobs, METAREC_RAYJOB_TEMPLATE for kuberay",
                metadata={"launcher": launcher},
            )
        spec = JobSpec(
            job_id=uuid.uuid4().hex[:12],
            data=job.data,
            recipe=job.recipe,
            num_workers=job.num_workers,
            seed=job.seed,
            registry=str(self._registry.path),
        )
        return await self._run(lambda: self._proto(self._create(spec, launcher, request.request_id)))

    async def GetTrainingJob(
        self, request: training_pb2.GetTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """One job, as its launcher sees it now."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: self._proto(self._refresh(self._store.get(job_id))))

    async def ListTrainingJobs(
        self, request: training_pb2.ListTrainingJobsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListTrainingJobsResponse:
        """A page of jobs, newest first, as they were seen last."""
        size = page(request.page_size)
        records = await self._run(lambda: self._store.page(size + 1, request.page_token))
        token = records[size - 1].spec.job_id if len(records) > size else ""
        jobs = [self._proto(record) for record in records[:size]]
        return training_pb2.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=token)

    async def CancelTrainingJob(
        self, request: training_pb2.CancelTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """Stop a job that has not ended."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: self._proto(self._cancel(job_id)))

    async def GetCheckpoint(
        self, request: training_pb2.GetCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """One checkpoint; `checkpoints/live` is the live one."""
        checkpoint = identifier(request.name, "checkpoints")
        return await self._run(lambda: checkpoint_proto(self._registry.get(checkpoint)))

    async def ListCheckpoints(
        self, request: training_pb2.ListCheckpointsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListCheckpointsResponse:
        """A page of checkpoints, newest first."""
        size = page(request.page_size)
        infos = await self._run(self._registry.list)
        if request.page_token:
            places = [place for place, info in enumerate(infos) if info.id == request.page_token]
            if not places:
                raise InvalidInputError("is not a token of a previous response", field="page_token")
            infos = infos[places[0] + 1 :]
        token = infos[size - 1].id if len(infos) > size else ""
        checkpoints = [checkpoint_proto(info) for info in infos[:size]]
        return training_pb2.ListCheckpointsResponse(checkpoints=checkpoints, next_page_token=token)

    async def PromoteCheckpoint(
        self, request: training_pb2.PromoteCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """Make a checkpoint live."""
        checkpoint = identifier(request.name, "checkpoints")
        return await self._run(lambda: checkpoint_proto(self._registry.promote(checkpoint, force=request.force)))

    async def RollbackCheckpoint(
        self, request: training_pb2.RollbackCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.Checkpoint:
        """Make the previously live checkpoint live again."""
        return await self._run(lambda: checkpoint_proto(self._registry.get(self._registry.rollback())))

    async def _follow(self) -> None:
        """Keep the records of unfinished jobs up to date, until cancelled."""
        while True:
            for record in await asyncio.to_thread(self._store.unfinished):
                try:
                    await asyncio.to_thread(self._refresh, record)
                except Exception:
                    # One job that cannot be followed must not stop the others from being followed.
                    logger.exception("job %s cannot be followed", record.spec.job_id)
            await asyncio.sleep(POLL_SECONDS)

    def _resume(self) -> None:
        """Launch jobs that were recorded but not launched when this service ended, and local ones that it took with it."""
        for record in self._store.unfinished():
            if record.handle and record.launcher != "local":
                continue
            try:
                self._launch(record)
            except MetarecError as error:
                logger.warning("job %s cannot be resumed: %s", record.spec.job_id, error.message)

    def _suspend(self) -> None:
        local = self._launchers.get("local")
        assert local is None or isinstance(local, LocalLauncher)
        for record in self._store.unfinished():
            if local is not None and record.launcher == "local" and record.handle:
                local.suspend(record.handle)

    def _create(self, spec: JobSpec, launcher: str, request_id: str) -> JobRecord:
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

    def _cancel(self, job_id: str) -> JobRecord:
        record = self._refresh(self._store.get(job_id))
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

    def _refresh(self, record: JobRecord) -> JobRecord:
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

    def _proto(self, record: JobRecord) -> training_pb2.TrainingJob:
        launcher = next(value for value, name in LAUNCHERS.items() if name == record.launcher)
        return training_pb2.TrainingJob(
            name=f"trainingJobs/{record.spec.job_id}",
            data=record.spec.data,
            recipe=record.spec.recipe,
            num_workers=record.spec.num_workers,
            seed=record.spec.seed,
            launcher=launcher,
            state=STATES[record.state],
            checkpoint=record.checkpoint,
            error=record.error,
            create_time=timestamp(record.created),
            end_time=timestamp(record.ended) if record.ended is not None else None,
        )

    @staticmethod
    async def _run(call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)


async def build(settings: Settings) -> TrainingService:
    """The service with the launchers that `settings` has what they need for."""
    registry = Registry(settings.registry.absolute())
    launchers: dict[str, Launcher] = {"local": LocalLauncher(directory=settings.state.absolute() / "jobs")}
    if settings.ray_jobs_address:
        online = settings.online_store
        environment = () if online == "sqlite" else (("METAREC_ONLINE_STORE", online),)
        launchers["ray_jobs"] = RayJobsLauncher(address=settings.ray_jobs_address, environment=environment)
    if settings.rayjob_template:
        launchers["kuberay"] = KubeRayLauncher(template=settings.rayjob_template)
    if settings.launcher not in launchers:
        needed = {"ray_jobs": "METAREC_RAY_JOBS_ADDRESS", "kuberay": "METAREC_RAYJOB_TEMPLATE"}[settings.launcher]
        raise InvalidInputError(f"METAREC_LAUNCHER is '{settings.launcher}', which needs {needed}", field="METAREC_LAUNCHER")
    return TrainingService(
        store=JobStore(settings.state / "jobs.sqlite"),
        launchers=launchers,
        default=settings.launcher,
        registry=registry,
        data=str(settings.data.absolute()) if settings.data else "",
    )


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
        gate_metrics=info.gate_metrics,
    )


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a protobuf Timestamp."""
    result = Timestamp()
    result.FromMilliseconds(int(seconds * 1000))
    return result
