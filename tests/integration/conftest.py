"""A gateway in process before fake stages (real servers on real ports, whose answers the test decides), and a Ray head node."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from metarec.client import AsyncClient, ClientSettings
from metarec.errors import MetarecError
from metarec.training.files import canonical, sha256
from metarec.training.manifest import FORMAT_VERSION
from metarec.v1 import (
    adaptation_pb2,
    adaptation_pb2_grpc,
    gateway_pb2,
    ranking_pb2,
    ranking_pb2_grpc,
    recall_pb2,
    recall_pb2_grpc,
    types_pb2,
)
from services.gateway.access import authorization, credentials
from services.gateway.service import build as build_gateway
from services.runtime.server import Server
from services.runtime.settings import Settings
from waiting import until

RETRIEVED = [
    ("i1", types_pb2.CANDIDATE_SOURCE_PERSONAL),
    ("i2", types_pb2.CANDIDATE_SOURCE_PERSONAL),
    ("i3", types_pb2.CANDIDATE_SOURCE_FRESH),
]


class FakeStage:
    """What a stage does next: hang until `hold`, abort bare, fail with `error` (`failures` times, None: always), or answer."""

    names: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: MetarecError | None = None
        self.failures: int | None = None
        self.bare: grpc.StatusCode | None = None
        self.hold: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.seen: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.remaining: list[float] = []
        self.degradations: list[types_pb2.Degradation] = []
        self.rules: list[types_pb2.RuleReport] = []
        self.rules_version = ""
        self.server: Server | None = None
        self.port = 0

    async def act(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        self.seen.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        self.entered.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.bare is not None:
            await context.abort(self.bare, "said without details")
        if self.error is not None and self.failures != 0:
            self.failures = None if self.failures is None else self.failures - 1
            raise self.error

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def up(self) -> None:
        """Start the stage, on the port it had before if it had one."""

        async def build(settings: Settings) -> "FakeStage":
            return self

        self.server = Server(self.name, Settings(service=self.name, port=self.port, drain_seconds=0), build)
        await self.server.start()
        self.port = self.server.port

    async def down(self) -> None:
        """Stop the stage; its port refuses connections then."""
        if self.hold is not None:
            self.hold.set()
        if self.server is not None:
            await self.server.drain()
            self.server = None


class FakeRecall(FakeStage, recall_pb2_grpc.RecallServiceServicer):
    names = ("metarec.v1.RecallService",)

    def add_to(self, server: grpc.aio.Server) -> None:
        recall_pb2_grpc.add_RecallServiceServicer_to_server(self, server)

    async def RetrieveCandidates(
        self, request: recall_pb2.RetrieveCandidatesRequest, context: grpc.aio.ServicerContext
    ) -> recall_pb2.RetrieveCandidatesResponse:
        await self.act(request, context)
        response = recall_pb2.RetrieveCandidatesResponse(
            checkpoint="c-recall", shots=1, degradations=self.degradations, rules=self.rules, rules_version=self.rules_version
        )
        for score, (item_id, source) in zip((0.9, 0.5, 7.0), RETRIEVED, strict=True):
            response.candidates.add(item_id=item_id, score=score, source=source)
        return response

    async def UpsertItems(
        self, request: gateway_pb2.UpsertItemsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertItemsResponse:
        await self.act(request, context)
        response = gateway_pb2.UpsertItemsResponse(items=request.items)
        for item in response.items:
            item.revision = 1
        return response

    async def GetItem(self, request: recall_pb2.GetItemRequest, context: grpc.aio.ServicerContext) -> types_pb2.Item:
        await self.act(request, context)
        item = types_pb2.Item(item_id=request.item_id, revision=3)
        item.features["title"].text = f"Title of {request.item_id}"
        item.features["genre"].list.values.extend(["drama", "war"])
        return item

    async def ListItems(
        self, request: recall_pb2.ListItemsRequest, context: grpc.aio.ServicerContext
    ) -> recall_pb2.ListItemsResponse:
        await self.act(request, context)
        first = int(request.page_token or 0)
        ids = [f"i{number}" for number in range(5)]
        page = ids[first : first + (request.page_size or 50)]
        rest = str(first + len(page)) if first + len(page) < len(ids) else ""
        return recall_pb2.ListItemsResponse(
            items=[types_pb2.Item(item_id=item_id) for item_id in page], next_page_token=rest, total_size=len(ids)
        )


class FakeRanking(FakeStage, ranking_pb2_grpc.RankingServiceServicer):
    """Orders candidates backwards, so that the order of ranking is told from that of recall; `pinned` items come behind them."""

    names = ("metarec.v1.RankingService",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pinned: list[ranking_pb2.RankedItem] = []

    def add_to(self, server: grpc.aio.Server) -> None:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(self, server)

    async def RankCandidates(
        self, request: ranking_pb2.RankCandidatesRequest, context: grpc.aio.ServicerContext
    ) -> ranking_pb2.RankCandidatesResponse:
        await self.act(request, context)
        response = ranking_pb2.RankCandidatesResponse(
            checkpoint="c-ranking", shots=2, degradations=self.degradations, rules=self.rules, rules_version=self.rules_version
        )
        for number, candidate in enumerate(reversed(request.candidates)):
            response.items.add(item_id=candidate.item_id, score=10.0 - number, rank_before=number + 1, propensity=1.0)
        response.items.extend(self.pinned)
        return response

    async def ExplainScore(
        self, request: ranking_pb2.ExplainScoreRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.ExplainResponse:
        await self.act(request, context)
        response = gateway_pb2.ExplainResponse(item_id=request.item_id, score=4.0, checkpoint="c-ranking", shots=1)
        response.degradations.extend(self.degradations)
        response.contributions.add(kind=types_pb2.CONTRIBUTION_KIND_GLOBAL, value=3.5)
        response.contributions.add(kind=types_pb2.CONTRIBUTION_KIND_SUPPORT, value=0.5, item_id="i9", label=5)
        return response


class FakeAdaptation(FakeStage, adaptation_pb2_grpc.AdaptationServiceServicer):
    names = ("metarec.v1.AdaptationService",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.recorded: dict[str, types_pb2.Interaction] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        adaptation_pb2_grpc.add_AdaptationServiceServicer_to_server(self, server)

    async def RecordInteractions(
        self, request: gateway_pb2.RecordInteractionsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.RecordInteractionsResponse:
        await self.act(request, context)
        new = {event.event_id: event for event in request.interactions if event.event_id not in self.recorded}
        self.recorded |= new
        response = gateway_pb2.RecordInteractionsResponse(
            num_recorded=len(new), num_duplicates=len(request.interactions) - len(new), checkpoint="c-adaptation"
        )
        response.unknown_item_ids.extend(event.item_id for event in request.interactions if event.item_id.startswith("unheard"))
        for user_id in dict.fromkeys(event.user_id for event in request.interactions):
            shots = sum(event.user_id == user_id for event in self.recorded.values())
            response.users.add(user_id=user_id, shots=shots)
        return response

    async def AdaptTask(
        self, request: adaptation_pb2.AdaptTaskRequest, context: grpc.aio.ServicerContext
    ) -> adaptation_pb2.AdaptTaskResponse:
        await self.act(request, context)
        response = adaptation_pb2.AdaptTaskResponse(shots=len(request.support), checkpoint="c-adaptation", unknown_ids=["zz"])
        for number, row_id in enumerate(request.query_ids):
            response.predictions.add(id=row_id, mean=4.5 - number, stddev=0.0 if row_id == "sure" else 0.25)
        if request.kind in (adaptation_pb2.TASK_KIND_SCENARIO, adaptation_pb2.TASK_KIND_USER_IN_SCENARIO):
            response.scenario.num_users, response.scenario.num_rows, response.scenario.kappa = 7, 40, 0.1
            response.scenario.mean_shift, response.scenario.stddev_shift = -0.25, 0.5
        return response

    async def ListInteractions(
        self, request: adaptation_pb2.ListInteractionsRequest, context: grpc.aio.ServicerContext
    ) -> adaptation_pb2.ListInteractionsResponse:
        await self.act(request, context)
        events = [event for event in self.recorded.values() if event.user_id == request.user_id]
        return adaptation_pb2.ListInteractionsResponse(interactions=events[::-1])

    async def UpsertUsers(
        self, request: gateway_pb2.UpsertUsersRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertUsersResponse:
        await self.act(request, context)
        return gateway_pb2.UpsertUsersResponse(num_upserted=len(request.users))

    async def DeleteUser(
        self, request: gateway_pb2.DeleteUserRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.DeleteUserResponse:
        await self.act(request, context)
        return gateway_pb2.DeleteUserResponse(num_interactions_deleted=4)


class Stages:
    """The three fakes, up."""

    def __init__(self) -> None:
        self.recall, self.ranking, self.adaptation = FakeRecall("recall"), FakeRanking("ranking"), FakeAdaptation("adaptation")

    @property
    def all(self) -> tuple[FakeStage, ...]:
        return self.recall, self.ranking, self.adaptation


@pytest.fixture
async def stages() -> AsyncIterator[Stages]:
    stages = Stages()
    for stage in stages.all:
        await stage.up()
    yield stages
    for stage in stages.all:
        await stage.down()


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry whose live checkpoint lists popular items and holds nothing else."""
    manifest: dict[str, object] = {
        "format": FORMAT_VERSION,
        "recipe": {"name": "default"},
        "created": 0.0,
        "gate": None,
        "schema_hash": "s",
        "data_fingerprint": "d",
        "metrics": {},
        "job_id": "",
        "run": "",
        "popular": ["p1", "p2", "p3"],
    }
    directory = tmp_path / "registry" / "checkpoints" / "c-1-popular"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256(canonical(manifest))}))
    (tmp_path / "registry" / "live.json").write_text(json.dumps({"live": "c-1-popular", "promoted": ["c-1-popular"]}))
    return tmp_path / "registry"


StartGateway = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start_gateway(stages: Stages, registry: Path) -> AsyncIterator[StartGateway]:
    """Starts gateways before the stages; keywords replace settings."""
    started: list[Server] = []

    async def start(**changes: Any) -> Server:
        settings = Settings(
            service="gateway",
            registry=registry,
            drain_seconds=5,
            recall_address=f"127.0.0.1:{stages.recall.port}",
            ranking_address=f"127.0.0.1:{stages.ranking.port}",
            adaptation_address=f"127.0.0.1:{stages.adaptation.port}",
        )
        settings = replace(settings, **changes)
        server = Server("gateway", settings, build_gateway, credentials=credentials(settings), authorize=authorization(settings))
        started.append(server)
        await server.start()
        return server

    yield start
    for server in started:
        await server.drain()


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Server:
    return await start_gateway()


@pytest.fixture
async def client(gateway: Server, stages: Stages) -> AsyncIterator[AsyncClient]:
    settings = ClientSettings(
        gateway_address=f"127.0.0.1:{gateway.port}",
        recall_address=f"127.0.0.1:{stages.recall.port}",
        adaptation_address=f"127.0.0.1:{stages.adaptation.port}",
    )
    async with AsyncClient(settings) as client:
        yield client


HEAD_START_SECONDS = 120.0
HEAD_PORTS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
)


def free_ports(count: int) -> list[int]:
    """Ports that the system gives out; all are held while they are drawn, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, with itself."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return found


@pytest.fixture(scope="session")
def ray_head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head node with dashboard and Jobs API: the dashboard's URL, and the environment with its token for clients.

    Two CPUs. The token is its own, so clients must run in processes with this environment: Ray reads the token once a process.
    """
    # Ray's sockets lie below this directory, and their paths may not be long.
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ports = free_ports(len(HEAD_PORTS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "METAREC_"))} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus", "2", "--temp-dir", directory, "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    command += [word for name, port in zip(HEAD_PORTS, ports, strict=True) for word in (name, str(port))]
    with Path(directory, "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        dashboard = f"http://127.0.0.1:{ports[1]}"
        wait_for(f"{dashboard}/api/version", process, Path(directory, "head.log"))
        yield dashboard, environment
    finally:
        # Asked nicely, a head node drains for half a minute.
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until something answers at `url`, with a token or without."""

    def answered() -> bool:
        assert process.poll() is None, log.read_text()
        return status(url) is not None

    until(answered, seconds=HEAD_START_SECONDS, told=log.read_text)


def status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
