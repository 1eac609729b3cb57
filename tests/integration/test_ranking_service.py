"""Ranking as `metarec up` runs it: a process with Ray Serve behind one gRPC port, and nothing left of it afterwards."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metarec.adaptation.engine import Engine
from metarec.errors import InvalidInputError, NotFoundError
from metarec.features.store import FeatureStore
from metarec.training.registry import Registry
from metarec.types import Interaction, Item
from metarec.v1 import ranking_pb2, ranking_pb2_grpc, types_pb2
from services.runtime.errors import from_rpc_error
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MARK = "RANKING_TEST"
MAX_CONCURRENT = 40
ITEMS = [f"i{k}" for k in range(60)]
Rank = ranking_pb2.RankCandidatesRequest


@dataclass
class Service:
    """A running `python -m services.ranking`, its files, and every process that came of it."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    registry: Path

    @property
    def port(self) -> int:
        found = re.search(r"^metarec ranking ready on 127\.0\.0\.1:(\d+)$", self.log.read_text(), re.MULTILINE)
        assert found, self.log.read_text()
        return int(found[1])

    def family(self) -> list[int]:
        """Live processes that carry the mark."""
        wanted = f"{MARK}={self.mark}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if wanted in environment(pid)]

    def replica(self) -> int:
        return next(pid for pid in self.family() if title(pid).startswith("ray::ServeReplica"))


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def environment(pid: int) -> Sequence[bytes]:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return () if state == "Z" else Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ()


def launch(folder: Path, **settings: str) -> Service:
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("METAREC_", "RAY_ADDRESS"))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ranking"],
            env={**inherited, MARK: mark, "METAREC_REGISTRY": str(folder / "registry"), "METAREC_PORT": "0", **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Service(process, mark, folder / "log", folder / "registry")


def ready(service: Service) -> Service:
    until(lambda: service.process.poll() is not None or "metarec ranking ready" in service.log.read_text())
    assert service.process.poll() is None, service.log.read_text()
    return service


@pytest.fixture(scope="module")
def service(tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("ranking")
    shutil.copytree(tiny_registry, folder / "registry")
    started = launch(folder, METAREC_MAX_CONCURRENT_REQUESTS=str(MAX_CONCURRENT), METAREC_LOG_LEVEL="DEBUG")
    try:
        yield ready(started)
    finally:
        if started.process.poll() is None:
            started.process.terminate()
            started.process.wait()


@pytest.fixture
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> ranking_pb2_grpc.RankingServiceStub:
    return ranking_pb2_grpc.RankingServiceStub(channel)


@pytest.fixture
def store(service: Service) -> Iterator[FeatureStore]:
    """The feature store, as the services that write to it have it open."""
    store = FeatureStore.open(service.registry / "features")
    yield store
    store.close()


def request(user_id: str, items: Sequence[str] = ITEMS, **more: object) -> Rank:
    candidates = [types_pb2.Candidate(item_id=item_id) for item_id in items]
    return Rank(user_id=user_id, candidates=candidates, **more)  # type: ignore[arg-type]  # settings of the case


def adapt(service: Service, store: FeatureStore, user_id: str, labels: dict[str, float], checkpoint: str = "live") -> Engine:
    """Store fast weights as the adaptation service does."""
    engine = Engine(Registry(service.registry).load(checkpoint))
    support = [Interaction(user_id=user_id, item_id=item, label=label, timestamp=1.0) for item, label in labels.items()]
    state = engine.adapt(support).state
    store.write_user_adaptation(user_id, state.encode(), len(labels), engine.checkpoint, 1)
    return engine


def test_it_says_that_it_serves(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "metarec.v1.RankingService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="metarec.v1.Nothing"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_it(channel: grpc.Channel) -> None:
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
    names = {service.name for service in answer.list_services_response.service}
    assert {"metarec.v1.RankingService", "grpc.health.v1.Health"} <= names


def test_stored_fast_weights_are_used_at_once(
    service: Service, stub: ranking_pb2_grpc.RankingServiceStub, store: FeatureStore
) -> None:
    cold = stub.RankCandidates(request("new-user", num_items=10))
    assert (cold.shots, len(cold.items), list(cold.degradations)) == (0, 10, [])
    adapt(service, store, "new-user", {"i1": 5.0, "i5": 5.0, "i9": 5.0, "i0": 1.0, "i2": 1.0})
    warm = stub.RankCandidates(request("new-user", num_items=10))
    assert warm.shots == 5
    assert warm.checkpoint == cold.checkpoint == Registry(service.registry).live()
    assert sum(int(item.item_id[1:]) % 4 == 1 for item in warm.items) > sum(int(item.item_id[1:]) % 4 == 1 for item in cold.items)


def test_explanations_add_up(service: Service, stub: ranking_pb2_grpc.RankingServiceStub, store: FeatureStore) -> None:
    adapt(service, store, "explained", {"i1": 5.0, "i2": 1.0})
    explained = stub.ExplainScore(ranking_pb2.ExplainScoreRequest(user_id="explained", item_id="i5"))
    score = next(item.score for item in stub.RankCandidates(request("explained")).items if item.item_id == "i5")
    assert explained.score == pytest.approx(score, abs=1e-5)
    assert sum(term.value for term in explained.contributions) == pytest.approx(score, abs=1e-4)


def test_an_emerging_item_is_scored_by_its_content(
    service: Service, stub: ranking_pb2_grpc.RankingServiceStub, store: FeatureStore
) -> None:
    adapt(service, store, "likes-drama", {"i1": 5.0, "i5": 5.0, "i9": 5.0, "i0": 1.0, "i2": 1.0, "i3": 1.0})
    for name, genre in (("drama-new", "drama"), ("horror-new", "horror")):
        features = {"title": f"{genre} story", "genres": (genre,), "year": 1990.0}
        store.write_items([Item(item_id=name, features=features, revision=1)])
    candidates = [types_pb2.Candidate(item_id=name, revision=1) for name in ("horror-new", "drama-new")]
    ranked = stub.RankCandidates(Rank(user_id="likes-drama", candidates=candidates)).items
    assert [item.item_id for item in ranked] == ["drama-new", "horror-new"]


def test_errors_arrive_with_their_details(stub: ranking_pb2_grpc.RankingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RankCandidates(Rank(user_id="u"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidInputError)
    assert error.field == "candidates"
    with pytest.raises(grpc.RpcError) as caught:
        stub.ExplainScore(ranking_pb2.ExplainScoreRequest(user_id="u", item_id="unheard-of"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, NotFoundError)
    assert error.metadata == {"item_id": "unheard-of"}


def test_a_call_past_its_deadline_is_given_up(stub: ranking_pb2_grpc.RankingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RankCandidates(request("u"), timeout=1e-5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.RankCandidates(request("u")).items


def test_requests_at_the_same_time_are_answered_together(service: Service, stub: ranking_pb2_grpc.RankingServiceStub) -> None:
    with ThreadPoolExecutor(MAX_CONCURRENT // 2) as pool:
        answers = list(pool.map(lambda k: stub.RankCandidates(request(f"user-{k}"), wait_for_ready=True), range(200)))
    assert all(len(answer.items) == 60 for answer in answers)
    until(lambda: re.search(r"answering (?!1 )\d+ requests at once", service.log.read_text()))


def test_more_requests_than_it_can_take_are_refused(service: Service, stub: ranking_pb2_grpc.RankingServiceStub) -> None:
    heavy = request("u", [f"i{k}" for k in range(500)])

    def call(_: int) -> str:
        try:
            stub.RankCandidates(heavy)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    outcomes: set[str] = set()
    with ThreadPoolExecutor(4 * MAX_CONCURRENT) as pool:
        while "RESOURCE_EXHAUSTED" not in outcomes:
            outcomes |= set(pool.map(call, range(4 * MAX_CONCURRENT)))
    assert outcomes == {"OK", "RESOURCE_EXHAUSTED"}
    assert stub.RankCandidates(request("u")).items, "it has recovered"


def test_a_promoted_checkpoint_takes_over_without_a_failed_request(
    service: Service, stub: ranking_pb2_grpc.RankingServiceStub, store: FeatureStore
) -> None:
    registry = Registry(service.registry)
    adapt(service, store, "over-the-swap", {"i1": 5.0, "i5": 5.0, "i0": 1.0})
    old = registry.live()
    new = next(info.id for info in registry.list() if info.id != old)
    registry.promote(new, force=True)
    seen = []
    while not seen or seen[-1] != new:
        answer = stub.RankCandidates(request("over-the-swap"))
        assert answer.shots == 3
        seen.append(answer.checkpoint)
    assert set(seen) <= {old, new}
    engine = Engine(registry.load(new))
    support = [Interaction(user_id="", item_id=item, label=label) for item, label in {"i1": 5.0, "i5": 5.0, "i0": 1.0}.items()]
    expected = dict(zip(ITEMS, engine.scores(engine.adapt(support), ITEMS).tolist(), strict=True))
    assert {item.item_id: item.score for item in answer.items} == pytest.approx(expected, abs=1e-5)


def test_every_call_is_one_line_in_the_log(service: Service, stub: ranking_pb2_grpc.RankingServiceStub) -> None:
    name = f"request-{uuid.uuid4().hex}"
    stub.RankCandidates(request("u"), metadata=[("x-request-id", name), ("application", "ranking")])
    until(lambda: name in service.log.read_text())
    (line,) = [line for line in service.log.read_text().splitlines() if name in line]
    assert re.search(r"method=/metarec.v1.RankingService/RankCandidates code=OK ms=[\d.]+ request_id=" + name, line)


def test_it_listens_on_loopback_only(service: Service) -> None:
    inodes = {link for pid in service.family() for link in sockets(pid)}
    addresses = [address for inode, address in listening() if inode in inodes]
    assert len(addresses) > 5
    assert all((ip := ip_address(address)).is_loopback or (ip.version == 6 and mapped_loopback(address)) for address in addresses)


def mapped_loopback(address: str) -> bool:
    mapped = ip_address(address).ipv4_mapped  # type: ignore[union-attr]  # IPv6 sockets have it
    return mapped is not None and mapped.is_loopback


def sockets(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def listening() -> Iterator[tuple[str, str]]:
    """Inode and address of every listening TCP socket of this machine."""
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                # Words of four bytes, each in the machine's order.
                words = re.findall("........", columns[1].partition(":")[0])
                packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
                yield columns[9], socket.inet_ntop(family, packed)


def test_a_killed_replica_is_replaced(service: Service) -> None:
    before = service.replica()
    os.kill(before, signal.SIGKILL)

    def answers() -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{service.port}") as fresh:
            try:
                return bool(ranking_pb2_grpc.RankingServiceStub(fresh).RankCandidates(request("u"), timeout=2).items)
            except grpc.RpcError:
                return False

    until(answers)
    assert service.replica() != before


def test_told_to_stop_it_stops_cleanly_and_leaves_nothing_behind(service: Service) -> None:
    assert len(service.family()) > 5
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait() == 0
    until(lambda: not service.family())


# They have seen the end of their node by then, and try for up to a minute to report it to a process that is gone too.
LINGERING = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}


def test_killed_it_leaves_nothing_behind(tiny_registry: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_registry, tmp_path / "registry")
    started = ready(launch(tmp_path))
    assert len(started.family()) > 5
    started.process.kill()
    started.process.wait()
    until(lambda: {title(pid) for pid in started.family()} - {""} <= LINGERING)
    for pid in started.family():
        os.kill(pid, signal.SIGKILL)


def test_a_port_that_is_taken_is_an_error_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = launch(tmp_path, METAREC_PORT=str(port))
        assert started.process.wait() == 1
    assert started.log.read_text().strip() == (
        f"error: cannot listen on 127.0.0.1:{port}; another process has the port, or the address is not this machine's"
    )


def test_an_unknown_setting_is_an_error_at_once(tmp_path: Path) -> None:
    started = launch(tmp_path, METAREC_PROT="1")
    assert started.process.wait() == 1
    assert "error: unknown setting 'METAREC_PROT'" in started.log.read_text()
