"""The training service over gRPC: a real job from request to live checkpoint, checkpoints, and what it does over restarts."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from metarec.data.dataset import Dataset
from metarec.errors import (
    FailedPreconditionError,
    GateNotPassedError,
    InvalidInputError,
    MetarecError,
    NotFoundError,
    UnavailableError,
)
from metarec.training.registry import Registry
from metarec.v1 import training_pb2, training_pb2_grpc
from services.runtime.errors import from_rpc_error
from services.runtime.server import Server
from services.runtime.settings import Settings
from services.training import service as training_service
from services.training.jobs import JobStore
from services.training.launchers import JobSpec, JobStatus
from services.training.local import LocalLauncher, metarec_command
from services.training.service import TrainingService
from services.training.wire import checkpoint_proto

Stub = training_pb2_grpc.TrainingServiceStub
Create = training_pb2.CreateTrainingJobRequest
Job = training_pb2.TrainingJob
RUNNING = training_pb2.TRAINING_JOB_STATE_RUNNING
SUCCEEDED = training_pb2.TRAINING_JOB_STATE_SUCCEEDED
FAILED = training_pb2.TRAINING_JOB_STATE_FAILED
CANCELLED = training_pb2.TRAINING_JOB_STATE_CANCELLED
WAITS = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_service, "POLL_SECONDS", 0.05)


@pytest.fixture
def registry(tiny_registry: Path, tmp_path: Path) -> Path:
    """Two checkpoints, the first of them live."""
    return Path(shutil.copytree(tiny_registry, tmp_path / "registry"))


@asynccontextmanager
async def serving(service: TrainingService, state: Path) -> AsyncIterator[Stub]:
    async def build(settings: Settings) -> TrainingService:
        return service

    server = Server("training", Settings(service="training", state=state, drain_seconds=1), build)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Stub(channel)
    finally:
        await server.drain()


def service(state: Path, registry: Path, program: str = WAITS, data: str = "") -> TrainingService:
    """The service, whose jobs run `program` in place of training."""
    launcher = LocalLauncher(directory=state / "jobs", command=lambda spec: [sys.executable, "-c", program, spec.job_id])
    return TrainingService(
        store=JobStore(state / "jobs.sqlite"),
        launchers={"local": launcher},
        default="local",
        registry=Registry(registry),
        data=data,
    )


async def error_of(call: Awaitable[object]) -> MetarecError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def ended(stub: Stub, name: str) -> Job:
    """The job once it has ended, as ListTrainingJobs shows it: what the service found out by itself."""
    while True:
        listed = (await stub.ListTrainingJobs(training_pb2.ListTrainingJobsRequest())).training_jobs
        job = next(job for job in listed if job.name == name)
        if job.HasField("end_time"):
            return job
        await asyncio.sleep(0.05)


QUICK = ("--set", "epochs=2", "--set", "validation_fraction=0.1", "--set", "implicit.episodes.min_query=1", "--no-gate")
"""For 80 users: the default recipe wants more of them."""


@pytest.mark.slow
async def test_a_job_trains_and_its_checkpoint_can_be_promoted(registry: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    launcher = LocalLauncher(directory=tmp_path / "jobs", command=lambda spec: [*metarec_command(spec), *QUICK])
    trainer = TrainingService(
        store=JobStore(tmp_path / "jobs.sqlite"),
        launchers={"local": launcher},
        default="local",
        registry=Registry(registry),
        data=str(tiny_dataset.path),
    )
    async with serving(trainer, tmp_path) as stub:
        created = await stub.CreateTrainingJob(Create(training_job=Job(seed=3)))
        assert created.data == str(tiny_dataset.path)
        assert created.launcher == training_pb2.LAUNCHER_LOCAL
        job = await ended(stub, created.name)
        assert (job.state, job.error) == (SUCCEEDED, "")
        assert job.end_time.ToMilliseconds() > job.create_time.ToMilliseconds()

        found = await stub.GetCheckpoint(training_pb2.GetCheckpointRequest(name=f"checkpoints/{job.checkpoint}"))
        assert found.data_fingerprint == tiny_dataset.fingerprint
        assert found.metrics
        before = await stub.GetCheckpoint(training_pb2.GetCheckpointRequest(name="checkpoints/live"))
        promoted = await stub.PromoteCheckpoint(training_pb2.PromoteCheckpointRequest(name=found.name, force=True))
        assert promoted.live
        assert (await stub.RollbackCheckpoint(training_pb2.RollbackCheckpointRequest())).name == before.name


async def test_a_failed_job_tells_why(registry: Path, tmp_path: Path) -> None:
    settings = Settings(service="training", state=tmp_path / "state", registry=registry)
    async with serving(await training_service.build(settings), tmp_path) as stub:
        created = await stub.CreateTrainingJob(Create(training_job=Job(data=str(tmp_path / "nothing"))))
        job = await ended(stub, created.name)
    assert job.state == FAILED
    assert str(tmp_path / "nothing") in job.error
    assert not job.checkpoint


async def test_a_request_id_starts_one_job_also_over_a_restart(registry: Path, tmp_path: Path) -> None:
    request = Create(request_id="r1", training_job=Job(data="d"))
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        first, second = await asyncio.gather(stub.CreateTrainingJob(request), stub.CreateTrainingJob(request))
        assert first.name == second.name
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        assert (await stub.CreateTrainingJob(request)).name == first.name
        assert (await stub.CreateTrainingJob(Create(request_id="r2", training_job=Job(data="d")))).name != first.name
        assert len((await stub.ListTrainingJobs(training_pb2.ListTrainingJobsRequest())).training_jobs) == 2


async def test_a_job_stopped_with_the_service_goes_on_with_the_next_one(registry: Path, tmp_path: Path) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        created = await stub.CreateTrainingJob(Create(training_job=Job(data="d")))
    async with serving(service(tmp_path, registry, "print('trained')"), tmp_path) as stub:
        assert (await ended(stub, created.name)).state == SUCCEEDED


async def test_a_service_that_was_killed_finds_its_running_job_again(registry: Path, tmp_path: Path) -> None:
    killed = service(tmp_path, registry)
    spec = JobSpec(job_id="j1", data="d", recipe="", num_workers=0, seed=0, registry=str(registry))
    killed._jobs.create(spec, "local", "")  # and then nothing more of it: no close, no suspension
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        job = await stub.GetTrainingJob(training_pb2.GetTrainingJobRequest(name="trainingJobs/j1"))
        assert job.state == RUNNING
        cancelled = await stub.CancelTrainingJob(training_pb2.CancelTrainingJobRequest(name=job.name))
        assert cancelled.state == CANCELLED
    assert killed._launchers["local"].status(str(tmp_path / "jobs" / "j1")).state == "failed", "its process is gone"
    killed._store.close()


async def test_a_job_recorded_but_not_launched_when_the_service_died_is_launched_by_the_next_one(
    registry: Path, tmp_path: Path
) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    spec = JobSpec(job_id="j1", data="d", recipe="", num_workers=0, seed=0, registry=str(registry))
    store.add(spec, launcher="local", request_id="r1")
    store.close()
    async with serving(service(tmp_path, registry, "print('trained')"), tmp_path) as stub:
        assert (await ended(stub, "trainingJobs/j1")).state == SUCCEEDED


async def test_a_cancelled_job_has_ended_and_cannot_be_cancelled_again(registry: Path, tmp_path: Path) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        created = await stub.CreateTrainingJob(Create(training_job=Job(data="d")))
        request = training_pb2.CancelTrainingJobRequest(name=created.name)
        cancelled = await stub.CancelTrainingJob(request)
        assert cancelled.state == CANCELLED
        assert cancelled.HasField("end_time")
        error = await error_of(stub.CancelTrainingJob(request))
        assert isinstance(error, FailedPreconditionError)
        assert error.metadata == {"state": "cancelled"}
        assert (await stub.GetTrainingJob(training_pb2.GetTrainingJobRequest(name=created.name))).state == CANCELLED


class BrokenLauncher:
    """Runs nothing: `error` is what it says to everything but a job that it knows."""

    name = "local"

    def __init__(self, error: MetarecError, state: JobStatus | None = None) -> None:
        self.error, self.state = error, state

    def launch(self, spec: JobSpec) -> str:
        if self.state is None:
            raise self.error
        return spec.job_id

    def status(self, handle: str) -> JobStatus:
        raise self.error

    def cancel(self, handle: str) -> None:
        raise self.error


def broken(state: Path, registry: Path, launcher: BrokenLauncher) -> TrainingService:
    return TrainingService(
        store=JobStore(state / "jobs.sqlite"), launchers={"kuberay": launcher}, default="kuberay", registry=Registry(registry)
    )


async def test_a_job_that_cannot_be_launched_is_reported_and_recorded_as_failed(registry: Path, tmp_path: Path) -> None:
    launcher = BrokenLauncher(UnavailableError("the cluster is down"))
    async with serving(broken(tmp_path, registry, launcher), tmp_path) as stub:
        request = Create(request_id="r1", training_job=Job(data="d"))
        assert (await error_of(stub.CreateTrainingJob(request))).message == "the cluster is down"
        job = await stub.CreateTrainingJob(request)
        assert (job.state, job.error) == (FAILED, "the cluster is down")


async def test_a_launcher_out_of_reach_leaves_the_job_as_it_was_seen_last(registry: Path, tmp_path: Path) -> None:
    launcher = BrokenLauncher(UnavailableError("the cluster is down"), JobStatus(state="running"))
    async with serving(broken(tmp_path, registry, launcher), tmp_path) as stub:
        created = await stub.CreateTrainingJob(Create(training_job=Job(data="d")))
        request = training_pb2.GetTrainingJobRequest(name=created.name)
        assert (await stub.GetTrainingJob(request)).state == created.state
        launcher.error = NotFoundError("no such job")
        job = await ended(stub, created.name)
        assert (job.state, job.error) == (FAILED, "launcher 'kuberay' no longer knows this job")


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (Job(), "training_job.data"),
        (Job(data="d", num_workers=-1), "training_job.num_workers"),
        (Job(data="d", num_workers=100_000), "training_job.num_workers"),
        (Job(data="d", seed=-1), "training_job.seed"),
        (Job(data="d", recipe="unheard-of"), "training_job.recipe"),
    ],
)
async def test_a_wrong_job_is_refused_with_its_field(registry: Path, tmp_path: Path, job: Job, field: str) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        error = await error_of(stub.CreateTrainingJob(Create(training_job=job)))
    assert isinstance(error, InvalidInputError)
    assert error.field == field


async def test_a_launcher_that_is_not_set_up_is_refused(registry: Path, tmp_path: Path) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        job = Job(data="d", launcher=training_pb2.LAUNCHER_KUBERAY)
        error = await error_of(stub.CreateTrainingJob(Create(training_job=job)))
    assert isinstance(error, FailedPreconditionError)
    assert "METAREC_RAYJOB_TEMPLATE" in error.message


@pytest.mark.parametrize(
    ("launcher", "needed"), [("ray_jobs", "METAREC_RAY_JOBS_ADDRESS"), ("kuberay", "METAREC_RAYJOB_TEMPLATE")]
)
async def test_a_default_launcher_without_its_setting_fails_the_start(tmp_path: Path, launcher: str, needed: str) -> None:
    with pytest.raises(InvalidInputError, match=needed):
        await training_service.build(Settings(service="training", state=tmp_path, launcher=launcher))


async def test_jobs_come_in_pages_newest_first(registry: Path, tmp_path: Path) -> None:
    async with serving(service(tmp_path, registry, "pass"), tmp_path) as stub:
        names = [(await stub.CreateTrainingJob(Create(training_job=Job(data="d")))).name for _ in range(3)]
        request = training_pb2.ListTrainingJobsRequest(page_size=2)
        first = await stub.ListTrainingJobs(request)
        late = await stub.CreateTrainingJob(Create(training_job=Job(data="d")))
        second = await stub.ListTrainingJobs(training_pb2.ListTrainingJobsRequest(page_token=first.next_page_token))
        assert [job.name for job in first.training_jobs] == [names[2], names[1]]
        assert [job.name for job in second.training_jobs] == [names[0]], "a job created between two pages shifts nothing"
        assert not second.next_page_token
        assert (await stub.ListTrainingJobs(request)).training_jobs[0].name == late.name
        for wrong in (training_pb2.ListTrainingJobsRequest(page_size=1001), training_pb2.ListTrainingJobsRequest(page_token="x")):
            assert isinstance(await error_of(stub.ListTrainingJobs(wrong)), InvalidInputError)


def test_a_checkpoint_carries_the_figures_of_its_gate(registry: Path) -> None:
    info = replace(Registry(registry).get("live"), gate_metrics={"users": 12.0, "bias_mae": 0.8})
    assert dict(checkpoint_proto(info).gate_metrics) == info.gate_metrics


async def test_checkpoints_come_in_pages_newest_first(registry: Path, tmp_path: Path) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        ids = [f"checkpoints/{info.id}" for info in Registry(registry).list()]
        first = await stub.ListCheckpoints(training_pb2.ListCheckpointsRequest(page_size=1))
        rest = await stub.ListCheckpoints(training_pb2.ListCheckpointsRequest(page_token=first.next_page_token))
        assert [checkpoint.name for checkpoint in (*first.checkpoints, *rest.checkpoints)] == ids
        assert not rest.next_page_token
        wrong = training_pb2.ListCheckpointsRequest(page_token="x")
        assert isinstance(await error_of(stub.ListCheckpoints(wrong)), InvalidInputError)


async def test_promotion_needs_a_passed_gate_or_force_and_can_be_taken_back(registry: Path, tmp_path: Path) -> None:
    newest, live = (info.id for info in Registry(registry).list())
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        request = training_pb2.PromoteCheckpointRequest(name=f"checkpoints/{newest}")
        assert isinstance(await error_of(stub.PromoteCheckpoint(request)), GateNotPassedError)
        request.force = True
        assert (await stub.PromoteCheckpoint(request)).live
        assert Registry(registry).live() == newest
        back = await stub.RollbackCheckpoint(training_pb2.RollbackCheckpointRequest())
        assert (back.name, back.live) == (f"checkpoints/{live}", True)
        assert isinstance(
            await error_of(stub.RollbackCheckpoint(training_pb2.RollbackCheckpointRequest())), FailedPreconditionError
        )


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda stub: stub.GetTrainingJob(training_pb2.GetTrainingJobRequest(name="trainingJobs/none")), NotFoundError),
        (lambda stub: stub.CancelTrainingJob(training_pb2.CancelTrainingJobRequest(name="trainingJobs/none")), NotFoundError),
        (lambda stub: stub.GetCheckpoint(training_pb2.GetCheckpointRequest(name="checkpoints/none")), NotFoundError),
        (lambda stub: stub.PromoteCheckpoint(training_pb2.PromoteCheckpointRequest(name="checkpoints/..")), InvalidInputError),
        (lambda stub: stub.GetTrainingJob(training_pb2.GetTrainingJobRequest(name="none")), InvalidInputError),
    ],
)
async def test_names_of_nothing_and_names_that_are_none_are_told_apart(
    registry: Path, tmp_path: Path, call: Callable[[Stub], Awaitable[object]], kind: type[MetarecError]
) -> None:
    async with serving(service(tmp_path, registry), tmp_path) as stub:
        assert type(await error_of(call(stub))) is kind
