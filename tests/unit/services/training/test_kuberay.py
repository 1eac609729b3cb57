import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from kmock import KubernetesEmulator
from kubernetes.client import ApiClient, Configuration

from metarec.errors import FailedPreconditionError, MetarecError, NotFoundError, UnavailableError
from services.training.kuberay import JOB_LABEL, KubeRayLauncher, job_status
from services.training.launchers import JobSpec, JobState

MANIFEST = Path(__file__).resolve().parents[4] / "k8s" / "base" / "meta-training.yaml"
SPEC = JobSpec(job_id="0123456789ab", data="/data", recipe="maml", num_workers=3, seed=7, registry="/registry")
NAME = "train-0123456789ab"
T = TypeVar("T")


def key(name: str) -> tuple[str, str, str]:
    return ("ray.io/v1/rayjobs", "metarec", name)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The RayJob that the manifests put into the cluster."""
    documents = yaml.safe_load_all(MANIFEST.read_text())
    found = next(document for document in documents if document["kind"] == "RayJob")
    assert isinstance(found, dict)
    return found


@pytest.fixture
def cluster(kmock: KubernetesEmulator, template: dict[str, Any]) -> KubernetesEmulator:
    """An emulated API server that holds the template."""
    kmock.resources["ray.io/v1/rayjobs"] = {"kind": "RayJob", "namespaced": True}
    kmock.objects[key("meta-training")] = template
    return kmock


@contextmanager
def client_of(url: str) -> Iterator[ApiClient]:
    configuration = Configuration(host=url.rstrip("/"))
    configuration.retries = False
    with ApiClient(configuration) as api:
        yield api


@pytest.fixture
def launcher(cluster: KubernetesEmulator) -> Iterator[KubeRayLauncher]:
    with client_of(str(cluster.url)) as api:
        yield KubeRayLauncher(template="meta-training", namespace="metarec", api=api)


async def off(call: Callable[..., T], *arguments: object) -> T:
    """The blocking client in a thread, as in the service: the emulated server runs on this event loop."""
    return await asyncio.to_thread(call, *arguments)


async def refusal(call: Callable[..., object], *arguments: object) -> MetarecError:
    with pytest.raises(MetarecError) as caught:
        await off(call, *arguments)
    return caught.value


async def test_a_job_is_a_started_copy_of_the_template(
    launcher: KubeRayLauncher, cluster: KubernetesEmulator, template: dict[str, Any]
) -> None:
    assert await off(launcher.launch, SPEC) == NAME
    job = cluster.objects[key(NAME)].raw
    assert job["metadata"]["labels"] == {"app.kubernetes.io/name": "meta-training", JOB_LABEL: "0123456789ab"}
    assert job["spec"]["entrypoint"] == SPEC.entrypoint()
    assert not job["spec"].get("suspend")
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [workers[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]
    assert workers["template"] == template["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    assert cluster.objects[key("meta-training")].raw == template, "the template itself is left alone"


async def test_a_job_fits_kuberays_schema(
    launcher: KubeRayLauncher, cluster: KubernetesEmulator, check_ray_object: Callable[[dict[str, Any]], None]
) -> None:
    await off(launcher.launch, SPEC)
    check_ray_object(cluster.objects[key(NAME)].raw)


async def test_launching_again_creates_no_second_job(launcher: KubeRayLauncher, cluster: KubernetesEmulator) -> None:
    first = await off(launcher.launch, SPEC)
    assert await off(launcher.launch, SPEC) == first
    names = {name for resource, _, name in cluster.objects if resource.plural == "rayjobs"}
    assert names == {"meta-training", NAME}


async def test_a_job_is_followed_and_cancelled(launcher: KubeRayLauncher, cluster: KubernetesEmulator) -> None:
    await off(launcher.launch, SPEC)
    assert (await off(launcher.status, NAME)).state == "pending"
    cluster.objects[key(NAME)].patch({"status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}})
    assert (await off(launcher.status, NAME)).state == "running"
    await off(launcher.cancel, NAME)
    assert cluster.objects[key(NAME)].deleted
    await off(launcher.cancel, NAME)  # it is gone already
    assert isinstance(await refusal(launcher.status, NAME), NotFoundError)


@pytest.mark.parametrize(
    ("deployment", "job", "state"),
    [
        ("", "", "pending"),
        ("Initializing", "", "pending"),
        ("Waiting", "PENDING", "pending"),
        ("Running", "RUNNING", "running"),
        ("Running", "SUCCEEDED", "running"),
        ("Retrying", "FAILED", "pending"),
        ("Complete", "SUCCEEDED", "succeeded"),
        ("Complete", "FAILED", "failed"),
        ("Complete", "STOPPED", "cancelled"),
        ("Failed", "FAILED", "failed"),
        ("Failed", "STOPPED", "cancelled"),
        ("ValidationFailed", "", "failed"),
        ("SomethingOfALaterRelease", "RUNNING", "running"),
    ],
)
def test_the_states_of_a_rayjob_map_to_ours(deployment: str, job: str, state: JobState) -> None:
    assert job_status({"jobDeploymentStatus": deployment, "jobStatus": job}).state == state


def test_a_failed_rayjob_says_why() -> None:
    failed = job_status({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "took too long"})
    assert failed.error == "DeadlineExceeded: took too long"
    assert job_status({"jobDeploymentStatus": "Failed"}).error == "the rayjob failed; see the log of its pods"


async def test_a_missing_template_is_named(launcher: KubeRayLauncher, cluster: KubernetesEmulator) -> None:
    cluster.objects[key("meta-training")].delete()
    error = await refusal(launcher.launch, SPEC)
    assert isinstance(error, NotFoundError)
    assert "template rayjob 'meta-training'" in error.message
    assert error.metadata["namespace"] == "metarec"


@pytest.mark.parametrize(
    ("status", "kind"), [(403, FailedPreconditionError), (422, FailedPreconditionError), (500, UnavailableError)]
)
async def test_a_refusal_of_the_api_says_what_it_was(
    launcher: KubeRayLauncher, cluster: KubernetesEmulator, status: int, kind: type[MetarecError]
) -> None:
    cluster["create"] << status << {"kind": "Status", "code": status, "message": "rayjobs.ray.io is not for you"}
    error = await refusal(launcher.launch, SPEC)
    assert type(error) is kind
    assert str(status) in error.message
    assert "rayjobs.ray.io is not for you" in error.message


async def test_an_api_that_is_down_is_unavailable(unused_tcp_port: int) -> None:
    with client_of(f"http://127.0.0.1:{unused_tcp_port}") as api:
        place = KubeRayLauncher(template="meta-training", namespace="metarec", api=api)
        for call in (lambda: place.launch(SPEC), lambda: place.status(NAME), lambda: place.cancel(NAME)):
            assert isinstance(await refusal(call), UnavailableError)


async def test_without_a_configured_cluster_the_launcher_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    error = await refusal(KubeRayLauncher(template="meta-training").launch, SPEC)
    assert isinstance(error, FailedPreconditionError)
    assert "no kubernetes cluster is configured here" in error.message
