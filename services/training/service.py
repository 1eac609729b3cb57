"""The training service: starts jobs, follows them, and decides which checkpoint is live."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc

from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.training.registry import Registry
from metarec.v1 import training_pb2, training_pb2_grpc
from services.runtime.settings import Settings
from services.training.jobs import JobStore
from services.training.kuberay import KubeRayLauncher
from services.training.launchers import JobSpec, Launcher
from services.training.lifecycle import Lifecycle
from services.training.local import LocalLauncher
from services.training.ray_jobs import RayJobsLauncher
from services.training.requests import checked, identifier, page
from services.training.wire import LAUNCHERS, checkpoint_proto, job_proto

POLL_SECONDS = 2.0
T = TypeVar("T")


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Answers TrainingService; the work is done by the job store, the launchers and the registry, off the event loop."""

    names = ("metarec.v1.TrainingService",)

    def __init__(
        self, *, store: JobStore, launchers: Mapping[str, Launcher], default: str, registry: Registry, data: str = ""
    ) -> None:
        self._store, self._launchers, self._default, self._registry, self._data = store, launchers, default, registry, data
        self._jobs = Lifecycle(store, launchers, registry)
        self._follower: asyncio.Task[None] | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicer."""
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Go on with the jobs of an earlier life of this service, then follow all of them."""
        await asyncio.to_thread(self._jobs.resume)
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Suspend the jobs that run beside this service; those elsewhere run on."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        await asyncio.to_thread(self._jobs.suspend)
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
        return await self._run(lambda: job_proto(self._jobs.create(spec, launcher, request.request_id)))

    async def GetTrainingJob(
        self, request: training_pb2.GetTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """One job, as its launcher sees it now."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: job_proto(self._jobs.get(job_id)))

    async def ListTrainingJobs(
        self, request: training_pb2.ListTrainingJobsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListTrainingJobsResponse:
        """A page of jobs, newest first, as they were seen last."""
        size = page(request.page_size)
        records = await self._run(lambda: self._store.page(size + 1, request.page_token))
        token = records[size - 1].spec.job_id if len(records) > size else ""
        jobs = [job_proto(record) for record in records[:size]]
        return training_pb2.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=token)

    async def CancelTrainingJob(
        self, request: training_pb2.CancelTrainingJobRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.TrainingJob:
        """Stop a job that has not ended."""
        job_id = identifier(request.name, "trainingJobs")
        return await self._run(lambda: job_proto(self._jobs.cancel(job_id)))

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
                await asyncio.to_thread(self._jobs.follow, record)
            await asyncio.sleep(POLL_SECONDS)

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
