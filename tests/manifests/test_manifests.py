"""The manifests as `kubectl kustomize` renders them: schemas first, then what no schema catches and a real API server does."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT.parent / "shared" / "k8s"
SERVICES = ("gateway", "recall", "adaptation", "ranking", "training")
KUBERNETES_VERSION = "1.31"

Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=["k8s/base", "k8s/overlays/dev"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so the manifests cannot be rendered")
    command = ["kubectl", "kustomize", str(ROOT / request.param)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return [manifest for manifest in yaml.safe_load_all(rendered.stdout) if manifest]


def where(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod template of a manifest; each has `metadata` and `spec`."""
    spec = manifest.get("spec", {})
    if manifest["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet"}:
        yield spec["template"]
    for key in ("rayClusterConfig", "rayClusterSpec"):
        if key in spec:
            yield spec[key]["headGroupSpec"]["template"]
            yield from (group["template"] for group in spec[key].get("workerGroupSpecs", []))


def containers(manifest: Manifest) -> Iterator[Manifest]:
    for template in pod_templates(manifest):
        yield from template["spec"].get("initContainers", [])
        yield from template["spec"]["containers"]


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number of cores or bytes."""
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi)?", str(text))
    assert match, text
    return float(match[1]) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[match[2]]


def test_every_core_manifest_is_valid_under_the_strict_schema(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if "ray.io/" not in manifest["apiVersion"]:
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_ray_manifests_fit_kuberays_schemas(
    manifests: list[Manifest], check_ray_object: Callable[[dict[str, Any]], None]
) -> None:
    objects = [manifest for manifest in manifests if manifest["apiVersion"] == "ray.io/v1"]
    for manifest in objects:
        check_ray_object(manifest)
    assert {manifest["kind"] for manifest in objects} == {"RayService", "RayJob"}


def test_skaffold_fits_its_schema_and_builds_every_service() -> None:
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    artifacts = {artifact["image"]: artifact["docker"] for artifact in skaffold["build"]["artifacts"]}
    assert set(artifacts) == {f"metarec-{service}" for service in SERVICES}
    for service in SERVICES:
        docker = artifacts[f"metarec-{service}"]
        assert docker["buildArgs"]["SERVICE"] == service
        assert (ROOT / docker["dockerfile"]).is_file()
    for path in skaffold["manifests"]["kustomize"]["paths"]:
        assert (ROOT / path / "kustomization.yaml").is_file()
    schema = SCHEMAS / "skaffold-v4beta14.schema.json"
    if not schema.exists():
        pytest.skip(f"skaffold's schema is not at {SCHEMAS}")
    jsonschema.Draft7Validator(yaml.safe_load(schema.read_text())).validate(skaffold)


def test_every_image_of_metarec_is_built_by_skaffold(manifests: list[Manifest]) -> None:
    built = {f"metarec-{service}" for service in SERVICES}
    used = {container["image"] for manifest in manifests for container in containers(manifest)}
    assert {image for image in used if image.startswith("metarec")} <= built


def test_names_are_unique_and_legal(manifests: list[Manifest]) -> None:
    names = [where(manifest) for manifest in manifests]
    assert len(names) == len(set(names))
    for manifest in manifests:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"]), where(manifest)
        for container in containers(manifest):
            for port in container.get("ports", []):
                assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", port["name"]), (where(manifest), port)


def test_selectors_match_the_labels_of_their_pods(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items(), where(manifest)
            assert "kustomize.config.k8s.io/needs-hash" not in labels


def test_every_service_selects_pods_that_have_its_target_port(manifests: list[Manifest]) -> None:
    ray_services = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "RayService"}
    for service in (manifest for manifest in manifests if manifest["kind"] == "Service"):
        selector = service["spec"]["selector"]
        if "ray.io/originated-from-cr-name" in selector:
            # KubeRay puts these labels on the pods it makes for the RayService of that name.
            selected = list(pod_templates(ray_services[selector["ray.io/originated-from-cr-name"]]))
        else:
            selected = [
                template
                for manifest in manifests
                for template in pod_templates(manifest)
                if selector.items() <= template["metadata"]["labels"].items()
            ]
        assert selected, f"{where(service)} selects no pod"
        for template in selected:
            named = {port["name"]: port["containerPort"] for c in template["spec"]["containers"] for port in c.get("ports", [])}
            for port in service["spec"]["ports"]:
                assert named.get(port["targetPort"]) == port["port"], (where(service), port)


def test_references_to_accounts_claims_and_config_maps_resolve(manifests: list[Manifest]) -> None:
    def named(kind: str) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == kind}

    for manifest in manifests:
        for template in pod_templates(manifest):
            spec = template["spec"]
            assert spec["serviceAccountName"] in named("ServiceAccount"), where(manifest)
            volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
            for volume in volumes.values():
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                assert claim is None or claim in named("PersistentVolumeClaim"), (where(manifest), claim)
            claimed = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
            for container in spec["containers"]:
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= set(volumes) | claimed, (where(manifest), mounted)
                for source in container.get("envFrom", []):
                    assert source["configMapRef"]["name"] in named("ConfigMap"), where(manifest)


def test_every_service_has_an_account_of_its_own(manifests: list[Manifest]) -> None:
    accounts: dict[str, str] = {}
    for manifest in manifests:
        for template in pod_templates(manifest):
            owner = accounts.setdefault(template["spec"]["serviceAccountName"], where(manifest))
            assert owner == where(manifest), f"{where(manifest)} shares an account with {owner}"
    assert set(SERVICES) <= set(accounts)


def test_pods_keep_the_restricted_pod_security_standard(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for template in pod_templates(manifest):
            pod = template["spec"]["securityContext"]
            assert pod["runAsNonRoot"] is True, where(manifest)
            assert pod["runAsUser"] > 0, where(manifest)
            assert pod["seccompProfile"]["type"] == "RuntimeDefault", where(manifest)
            assert template["spec"]["enableServiceLinks"] is False, where(manifest)
        for container in containers(manifest):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where(manifest)
            assert security["readOnlyRootFilesystem"] is True, where(manifest)
            assert security["capabilities"]["drop"] == ["ALL"], where(manifest)


def test_requests_are_set_and_stay_within_memory_limits(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for container in containers(manifest):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), where(manifest)
            for name, limit in resources["limits"].items():
                assert quantity(resources["requests"][name]) <= quantity(limit), (where(manifest), name)
            assert "memory" in resources["limits"], where(manifest)


def test_probes_have_one_handler_each_and_metarecs_own_services_use_grpc(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for container in containers(manifest):
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind)
                if probe is None:
                    continue
                handlers = {"grpc", "exec", "httpGet", "tcpSocket"} & set(probe)
                assert len(handlers) == 1, (where(manifest), kind, handlers)
                if manifest["kind"] == "Deployment":
                    assert handlers == {"grpc"}, (where(manifest), kind)
                    assert probe["grpc"]["port"] in {port["containerPort"] for port in container["ports"]}


def test_only_what_writes_to_the_shared_volume_may_write_to_it(manifests: list[Manifest]) -> None:
    writers = set()
    for manifest in manifests:
        for template in pod_templates(manifest):
            for container in template["spec"]["containers"]:
                for mount in container.get("volumeMounts", []):
                    if mount["name"] == "shared" and not mount.get("readOnly", False):
                        writers.add(template["spec"]["serviceAccountName"])
    # Checkpoints, the feature store's files and, in a development cluster, the dataset.
    assert writers - {"bootstrap"} == {"adaptation", "training", "meta-training"}


def test_every_service_that_keeps_state_has_a_volume_for_it(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for template in pod_templates(manifest):
            for container in template["spec"]["containers"]:
                paths = {mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly", False)}
                states = {entry["value"] for entry in container.get("env", []) if entry["name"] == "METAREC_STATE"}
                assert states <= paths, where(manifest)
                assert bool(states) is (manifest["metadata"]["name"] in {"recall", "adaptation", "training"}), where(manifest)


def test_only_the_training_service_gets_a_token_for_the_kubernetes_api(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for template in pod_templates(manifest):
            expected = template["spec"]["serviceAccountName"] == "training"
            assert template["spec"]["automountServiceAccountToken"] is expected, where(manifest)


def settings_of(manifests: list[Manifest]) -> Iterator[tuple[str, str, str]]:
    """(where, name, value) of every METAREC_ setting of a manifest set."""
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap":
            yield from ((where(manifest), name, value) for name, value in manifest["data"].items())
        for container in containers(manifest):
            yield from ((where(manifest), entry["name"], entry["value"]) for entry in container.get("env", []))


def test_every_setting_is_known_to_the_services(manifests: list[Manifest]) -> None:
    from services.runtime.settings import ENVIRONMENT

    for place, name, _ in settings_of(manifests):
        assert not name.startswith("METAREC_") or name in ENVIRONMENT, f"{place} sets '{name}', which no service reads"


def test_ports_and_addresses_agree_with_the_services(manifests: list[Manifest]) -> None:
    from services.runtime.settings import DEFAULT_PORTS

    ports = {
        manifest["metadata"]["name"]: manifest["spec"]["ports"][0]["port"]
        for manifest in manifests
        if manifest["kind"] == "Service" and manifest["metadata"]["name"] in SERVICES
    }
    assert ports == DEFAULT_PORTS
    for place, name, value in settings_of(manifests):
        if name.endswith("_ADDRESS") and name.startswith("METAREC_"):
            service, port = value.split(":")
            assert name == f"METAREC_{service.upper()}_ADDRESS", place
            assert DEFAULT_PORTS[service] == int(port), place


# ray.serve's own models warn of pydantic's next release.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_ray_service_serves_the_app_that_the_code_builds(manifests: list[Manifest]) -> None:
    import importlib

    service = next(manifest for manifest in manifests if manifest["kind"] == "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    for path in config["grpc_options"]["grpc_servicer_functions"]:
        module, function = path.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function))
    module, function = config["applications"][0]["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_dockerfile_copies_what_exists() -> None:
    dockerfile = (ROOT / "services" / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [source for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE) for source in line.split()[:-1]]
    assert {"metarec", "services", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), f"the Dockerfile copies '{source}', which does not exist"
        assert source not in ignored


def test_the_dockerfile_runs_as_a_plain_user() -> None:
    dockerfile = (ROOT / "services" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    assert re.search(r"^ARG SERVICE$", dockerfile, re.MULTILINE)
