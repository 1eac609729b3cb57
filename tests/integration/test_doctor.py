"""`metarec doctor` on a real registry, feature store and dataset, with services up, down and in the way."""

import asyncio
import json
import shutil
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from metarec.cli import doctor as doctor_module
from metarec.cli.checks_data import check_features, check_registry, check_schemas, check_services
from metarec.cli.doctor import doctor
from metarec.cli.main import cli
from metarec.cli.run_lock import only_one
from metarec.client.health import gateway_credentials, is_serving
from metarec.data.dataset import Dataset
from metarec.errors import ConfigError
from metarec.training.manifest import Manifest
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.types import GateReport
from services.runtime.settings import DEFAULT_PORTS


@contextmanager
def serving(status: int = health_pb2.HealthCheckResponse.SERVING) -> Iterator[str]:
    """A gRPC server that answers health checks with `status`; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def registry(tiny_registry: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_registry` that the test may write to."""
    return Path(shutil.copytree(tiny_registry, tmp_path / "registry"))


@pytest.fixture(autouse=True)
def _no_services_of_others(monkeypatch: pytest.MonkeyPatch):
    """Whatever runs on the default ports of this machine is not these tests' business."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    monkeypatch.setattr(doctor_module, "DEFAULT_PORTS", dict.fromkeys(DEFAULT_PORTS, free))


def by_check(findings: object) -> dict[str, tuple[str, str, str]]:
    return {finding.check: (finding.status, finding.detail, finding.advice) for finding in findings}


def run(*arguments: object) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(cli, ["doctor", "--json", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)
    report = json.loads(result.stdout)
    status = result.return_value
    assert report["ok"] == (status == 0)
    return status, {check["check"]: check for check in report["checks"]}


def test_everything_is_fine(tiny_registry: Path, tiny_dataset: Dataset):
    status, checks = run("--registry", tiny_registry, "--data", tiny_dataset.path)
    assert status == 0
    for name in ("python", "packages", "features", "dataset", "schema", "gateway", "training"):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["registry"]["detail"].startswith("2 of 2 checkpoints verified, live: c-1-")
    assert "80 users, 60 items" in checks["dataset"]["detail"]
    assert checks["gateway"]["detail"].startswith("not running; port")


def test_what_does_not_exist_fails_with_the_command_that_makes_it(tmp_path: Path):
    status, checks = run("--registry", tmp_path / "none", "--data", tmp_path / "no-data")
    assert status == 1
    assert checks["registry"]["advice"] == f"metarec train --data DIR --out {tmp_path / 'none'}"
    assert checks["dataset"]["advice"].startswith("make one with: metarec data import")


def test_a_table_for_people_with_what_to_do(tmp_path: Path):
    result = CliRunner().invoke(doctor, ["--registry", str(tmp_path / "none")])
    assert "what to do" in result.stdout
    assert "1 to repair" in result.stderr
    assert "Example: metarec doctor" in CliRunner().invoke(doctor, ["--help"]).output


def test_a_damaged_checkpoint_is_named_and_another_offered(registry: Path):
    live = Registry(registry).live()
    other = next(info.id for info in Registry(registry).list() if info.id != live)
    arrays = next((registry / "checkpoints" / str(live)).glob("*.safetensors"))
    found = arrays.read_bytes()
    arrays.write_bytes(found[:-1] + bytes([found[-1] ^ 0xFF]))
    checks = by_check(check_registry(registry))
    assert checks["checkpoint"][0] == "fail"
    assert str(arrays) in checks["checkpoint"][1]
    assert checks["registry"][0] == "fail"
    assert f"metarec checkpoints promote {other}" in checks["registry"][2]


@pytest.mark.parametrize(
    ("gate", "said", "better"),
    [
        (None, "which no gate has judged", "train with the gate"),
        (
            GateReport(delta=-0.02, passed=False, metrics={"users": 9.0}),
            "which did not pass its gate (-0.0200)",
            "train a better one",
        ),
    ],
)
def test_a_checkpoint_that_was_forced_is_warned_of(registry: Path, gate: GateReport | None, said: str, better: str):
    known = Registry(registry)
    manifest = Manifest(recipe=get_recipe(), seed=9, data_fingerprint="f", created=1.8e9, gate=gate)
    known.promote(known.publish(known.load("live"), manifest), force=True)
    status, detail, advice = by_check(check_registry(registry))["registry"]
    assert status == "warn"
    assert detail.endswith(said)
    assert advice == f"it was promoted by force; {better}"


def test_no_live_checkpoint_no_checkpoint_and_a_damaged_live_file(registry: Path, tmp_path: Path):
    (registry / "live.json").unlink()
    status, detail, advice = by_check(check_registry(registry))["registry"]
    assert (status, detail) == ("warn", "2 of 2 checkpoints verified, live: none")
    assert "metarec checkpoints promote c-2-" in advice
    (registry / "live.json").write_text("{")
    assert by_check(check_registry(registry))["registry"][0] == "fail"
    (tmp_path / "empty").mkdir()
    assert by_check(check_registry(tmp_path / "empty"))["registry"][1:] == (
        f"'{tmp_path / 'empty'}' holds no checkpoint",
        f"metarec train --data DIR --out {tmp_path / 'empty'}",
    )


def test_feature_store_missing_not_loaded_and_out_of_reach(registry: Path, tmp_path: Path, tiny_dataset: Dataset):
    from metarec.features.store import FeatureStore

    assert by_check(check_features(tmp_path, "sqlite"))["features"][0] == "fail"
    FeatureStore.build(tiny_dataset, tmp_path / "fresh").close()
    status, _, advice = by_check(check_features(tmp_path / "fresh", "sqlite"))["features"]
    assert (status, advice) == ("warn", f"metarec features materialize --store {tmp_path / 'fresh'}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    status, detail, _ = by_check(check_features(registry / "features", f"redis://127.0.0.1:{port}/0"))["features"]
    assert status == "fail"
    assert "ConnectionError" in detail


def test_schemas_that_differ_fail_and_data_that_grew_is_pointed_out(registry: Path, tiny_dataset: Dataset, tmp_path: Path):
    more = replace(tiny_dataset.interactions, label_N=6.0 - tiny_dataset.interactions.label_N)
    grown = tiny_dataset.with_interactions(more).save(tmp_path / "grown")
    checks = by_check(check_schemas(registry, grown.path))
    assert (checks["schema"][0], checks["data"][0]) == ("ok", "warn")
    assert grown.fingerprint in checks["data"][1]
    other = replace(tiny_dataset, schema=replace(tiny_dataset.schema, item_title=None)).save(tmp_path / "other")
    status, detail, _ = by_check(check_schemas(registry, other.path))["schema"]
    assert status == "fail"
    assert f"dataset {other.schema.hash}" in detail
    assert by_check(check_schemas(tmp_path, None)) == {}


def test_a_sentence_model_that_a_schema_asks_for_is_looked_for(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, *others = tiny_dataset.schema.items
    assert first.kind == "text"
    read = replace(tiny_dataset.schema, items=(replace(first, encoder="sentences"), *others))
    replace(tiny_dataset, schema=read).save(tmp_path / "read")
    for path, status in ((None, "fail"), (tmp_path, "ok")):
        monkeypatch.setattr("metarec.features.sentences.model_path", lambda path=path: path)
        found, detail, advice = by_check(check_schemas(tmp_path, tmp_path / "read"))["sentences"]
        assert (found, first.name in detail) == (status, True)
        assert ("pip install --no-deps" in advice) == (status == "fail")


def test_services_that_serve_that_do_not_and_ports_that_others_have():
    with (
        serving() as good,
        serving(health_pb2.HealthCheckResponse.NOT_SERVING) as bad,
        socket.create_server(("127.0.0.1", 0)) as probe,
    ):
        stranger = f"127.0.0.1:{probe.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = f"127.0.0.1:{closed.getsockname()[1]}"
        checks = by_check(check_services({"gateway": good, "recall": bad, "ranking": stranger, "training": free}, started=True))
    assert checks["gateway"][:2] == ("ok", f"serves at {good}")
    assert checks["recall"][0] == "fail"
    assert checks["ranking"][0] == "fail"
    assert "is in use by process" in checks["ranking"][1]
    assert checks["training"][:2] == ("fail", f"nobody answers at {free}")


def test_services_are_asked_where_metarec_up_says_they_are(registry: Path):
    with serving() as address, only_one(registry / "state", dict.fromkeys(DEFAULT_PORTS, address)):
        status, checks = run("--registry", registry)
    assert status == 0
    assert checks["up"]["status"] == "ok"
    assert checks["gateway"]["detail"] == f"serves at {address}"


def test_health_is_no_after_the_time_is_over():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert not asyncio.run(is_serving(address, timeout_seconds=0.2))


def test_health_of_a_named_service():
    with serving() as address:
        assert asyncio.run(is_serving(address))
        assert not asyncio.run(is_serving(address, service="metarec.v1.Nothing"))


def test_a_gateway_with_tls_needs_an_authority_to_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert gateway_credentials() is None
    monkeypatch.setenv("METAREC_TLS_CERT", str(tmp_path / "cert.pem"))
    with pytest.raises(ConfigError, match="METAREC_GATEWAY_CA"):
        gateway_credentials()
    (tmp_path / "ca.pem").write_bytes(b"a certificate")
    monkeypatch.setenv("METAREC_GATEWAY_CA", str(tmp_path / "ca.pem"))
    assert gateway_credentials() is not None
