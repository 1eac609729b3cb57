"""Training jobs as KubeRay RayJobs: each job is a copy of the suspended RayJob of k8s/base/meta-training.yaml.

Copying a manifest that lives in the cluster keeps images, volumes and limits in one place, where kustomize and skaffold set them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metarec.errors import NotFoundError, UnavailableError
from services.training.launchers import JobSpec, JobState, JobStatus

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CustomObjectsApi

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

DEPLOYMENT_STATES: dict[str, JobState] = {
    "": "pending",
    "Initializing": "pending",
    "Waiting": "pending",
    "Suspended": "pending",
    "Suspending": "pending",
    "Retrying": "pending",
    "Running": "running",
    "Complete": "succeeded",
    "Failed": "failed",
    "ValidationFailed": "failed",
}
"""RayJob's status.jobDeploymentStatus -> our state."""


@dataclass(frozen=True, kw_only=True)
class KubeRayLauncher:
    """Creates RayJobs in `namespace`, copied from the RayJob named `template`.

    `api` is an ApiClient for another cluster than the one this pod runs in (tests use an emulated one).
    """

    name: ClassVar[str] = "kuberay"
    namespace: str = ""
    template: str = "meta-training"
    api: "ApiClient | None" = None

    def _objects(self) -> "CustomObjectsApi":
        from kubernetes import client, config

        if self.api is None:
            try:
                config.load_config()
            except config.ConfigException as error:
                raise UnavailableError(f"no kubernetes cluster is configured here: {error}") from error
        return client.CustomObjectsApi(self.api)

    def _namespace(self) -> str:
        return self.namespace or (NAMESPACE_FILE.read_text() if NAMESPACE_FILE.exists() else "default")

    def launch(self, spec: JobSpec) -> str:
        """Create the RayJob; returns its name."""
        from kubernetes.client import ApiException

        objects, namespace, name = self._objects(), self._namespace(), f"train-{spec.job_id}"
        body = rayjob(self._get(objects, namespace, self.template), spec, name)
        try:
            objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body)
        except ApiException as error:
            if error.status != 409:  # created by an earlier call for the same job
                raise UnavailableError(f"kubernetes refused rayjob '{name}': {error.status} {error.reason}") from error
        return name

    def status(self, handle: str) -> JobStatus:
        """From the RayJob's status."""
        status = self._get(self._objects(), self._namespace(), handle).get("status", {})
        state = DEPLOYMENT_STATES.get(status.get("jobDeploymentStatus", ""), "running")
        if status.get("jobStatus") == "STOPPED":
            state = "cancelled"
        return JobStatus(state=state, error=str(status.get("message", "")) if state == "failed" else "")

    def cancel(self, handle: str) -> None:
        """Delete the RayJob, and its Ray cluster with it."""
        from kubernetes.client import ApiException

        try:
            self._objects().delete_namespaced_custom_object(GROUP, VERSION, self._namespace(), PLURAL, handle)
        except ApiException as error:
            if error.status != 404:
                raise UnavailableError(f"kubernetes refused to delete rayjob '{handle}': {error.reason}") from error

    @staticmethod
    def _get(objects: "CustomObjectsApi", namespace: str, name: str) -> dict[str, Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            found = objects.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
        except ApiException as error:
            if error.status == 404:
                raise NotFoundError(f"kubernetes has no rayjob '{name}' in namespace '{namespace}'") from error
            raise UnavailableError(f"kubernetes refused to read rayjob '{name}': {error.status} {error.reason}") from error
        except HTTPError as error:
            raise UnavailableError("the kubernetes api cannot be reached") from error
        assert isinstance(found, dict)
        return found


def rayjob(template: dict[str, Any], spec: JobSpec, name: str) -> dict[str, Any]:
    """The RayJob of one training job: the template's spec, started at once, with the job's entry point and workers."""
    body = {key: value for key, value in template["spec"].items() if key != "suspend"}
    cluster = dict(body["rayClusterSpec"])
    cluster["workerGroupSpecs"] = [
        {**group, "replicas": spec.num_workers, "minReplicas": spec.num_workers, "maxReplicas": max(spec.num_workers, 1)}
        for group in cluster.get("workerGroupSpecs", [])
    ]
    labels = {**template["metadata"].get("labels", {}), "metarec/job-id": spec.job_id}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {**body, "entrypoint": spec.entrypoint(), "rayClusterSpec": cluster},
    }
