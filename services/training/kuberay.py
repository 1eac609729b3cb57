"""Training jobs as KubeRay RayJobs: each job is a copy of the suspended RayJob of k8s/base/meta-training.yaml.

Copying an object that lives in the cluster keeps images, volumes and limits in one place, where kustomize and skaffold set them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metarec.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.training.launchers import JobSpec, JobState, JobStatus

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CustomObjectsApi

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
JOB_LABEL = "metarec/job-id"
COPIED_LABELS = "app.kubernetes.io/"
TIMEOUT_SECONDS = 10.0
REFUSED = frozenset({400, 401, 403, 404, 405, 422})
"""Statuses that trying again does not change."""

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

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class KubeRayLauncher:
    """Creates RayJobs in `namespace` (default: this pod's), copied from the RayJob named `template`.

    `api` is an ApiClient for another cluster than the configured one (tests use an emulated one).
    """

    name: ClassVar[str] = "kuberay"
    template: str
    namespace: str = ""
    api: "ApiClient | None" = None

    def launch(self, spec: JobSpec) -> str:
        """Create the RayJob; returns its name."""
        name = f"train-{spec.job_id}"
        with self._objects() as objects:
            template = objects.get_namespaced_custom_object(
                GROUP, VERSION, self._namespace(), PLURAL, self.template, _request_timeout=TIMEOUT_SECONDS
            )
        with self._objects(done_when=409) as objects:
            objects.create_namespaced_custom_object(
                GROUP, VERSION, self._namespace(), PLURAL, rayjob(template, spec, name), _request_timeout=TIMEOUT_SECONDS
            )
        return name

    def status(self, handle: str) -> JobStatus:
        """From the RayJob's status."""
        with self._objects() as objects:
            found = objects.get_namespaced_custom_object(
                GROUP, VERSION, self._namespace(), PLURAL, handle, _request_timeout=TIMEOUT_SECONDS
            )
        return job_status(found.get("status") or {})

    def cancel(self, handle: str) -> None:
        """Delete the RayJob, and its Ray cluster with it."""
        with self._objects(done_when=404) as objects:
            objects.delete_namespaced_custom_object(
                GROUP, VERSION, self._namespace(), PLURAL, handle, _request_timeout=TIMEOUT_SECONDS
            )

    def _namespace(self) -> str:
        return self.namespace or (NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default")

    @contextmanager
    def _objects(self, done_when: int = 0) -> "Iterator[CustomObjectsApi]":
        """The API, and what it answers as metarec's errors; status `done_when` means that it was done before."""
        from kubernetes import client, config
        from urllib3.exceptions import HTTPError

        try:
            if self.api is None:
                config.load_config()
            yield client.CustomObjectsApi(self.api)
        except config.ConfigException as error:
            raise FailedPreconditionError(f"no kubernetes cluster is configured here: {error}") from error
        except client.ApiException as error:
            if error.status == done_when:
                return
            what = f"kubernetes answered {error.status} {error.reason} for rayjobs of namespace '{self._namespace()}'"
            metadata = {"namespace": self._namespace(), "template": self.template, "status": str(error.status)}
            if error.status == 404:
                raise NotFoundError(
                    f"{what}; are KubeRay and the template rayjob '{self.template}' there?", metadata=metadata
                ) from error
            if error.status in REFUSED:
                raise FailedPreconditionError(f"{what}: {_said(error.body)}", metadata=metadata) from error
            raise UnavailableError(f"{what}: {_said(error.body)}", metadata=metadata) from error
        except HTTPError as error:
            raise UnavailableError(f"the kubernetes api cannot be reached: {error}") from error


def rayjob(template: Object, spec: JobSpec, name: str) -> Object:
    """The RayJob of one training job: the template's spec, started at once, with the job's entry point and workers."""
    body = {key: value for key, value in template["spec"].items() if key != "suspend"}
    cluster = dict(body["rayClusterSpec"])
    cluster["workerGroupSpecs"] = [
        {**group, "replicas": spec.num_workers, "minReplicas": spec.num_workers, "maxReplicas": max(spec.num_workers, 1)}
        for group in cluster.get("workerGroupSpecs", [])
    ]
    labels = template["metadata"].get("labels", {})
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "labels": {**{key: labels[key] for key in labels if key.startswith(COPIED_LABELS)}, JOB_LABEL: spec.job_id},
        },
        "spec": {**body, "entrypoint": spec.entrypoint(), "rayClusterSpec": cluster},
    }


def job_status(status: Mapping[str, Any]) -> JobStatus:
    """What a RayJob's status says. The cluster's state leads; where the job has ended its own tells how."""
    state = DEPLOYMENT_STATES.get(status.get("jobDeploymentStatus", ""), "running")
    if state in ("succeeded", "failed"):
        ended: dict[str, JobState] = {"STOPPED": "cancelled", "FAILED": "failed"}
        state = ended.get(status.get("jobStatus", ""), state)
    if state != "failed":
        return JobStatus(state=state)
    said = ": ".join(text for text in (status.get("reason", ""), status.get("message", "")) if text)
    return JobStatus(state=state, error=said or "the rayjob failed; see the log of its pods")


def _said(body: object) -> str:
    """The message in an error answer of the API."""
    try:
        return str(json.loads(str(body))["message"])
    except (ValueError, KeyError, TypeError):
        return str(body)[:200]
