"""The server around a servicer: what every service does the same way, from start to drain.

`python -m services.NAME` calls `run(NAME, settings, build)`. The port opens at once; until `start` of the service has returned,
health says NOT_SERVING and calls are refused with UNAVAILABLE. SIGTERM or SIGINT begins the drain: health NOT_SERVING, no new
calls, running ones may finish within `drain_seconds`. A second signal ends it at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types

from metarec.errors import MetarecError, UnavailableError
from services.runtime.health import SERVICE as HEALTH_SERVICE
from services.runtime.health import Health
from services.runtime.interceptors import Authorize, CallInterceptor
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 2**20
OPTIONS = (
    # A second process on the same port must fail, not share it silently.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Clients and the gateway keep idle connections alive with pings; without these the server would hang up on them.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Service(Protocol):
    """What a service brings: its servicers, and what to do before the first and after the last call."""

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of its proto services, for health and reflection."""
        ...

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers; their unary methods are coroutines and may raise MetarecError."""
        ...

    async def start(self) -> None:
        """Get ready; calls are refused until this has returned."""
        ...

    async def close(self) -> None:
        """Let go of everything, after the last call."""
        ...


Build = Callable[[Settings], Awaitable[Service]]


class Server:
    """A service behind a port: `start`, then `drain`. `port` is the real one once started."""

    def __init__(
        self,
        service_name: str,
        settings: Settings,
        build: Build,
        *,
        credentials: grpc.ServerCredentials | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        self.port = settings.port
        self._name, self._settings, self._build, self._credentials = service_name, settings, build, credentials
        self._calls = CallInterceptor(
            service_name,
            max_concurrent=settings.max_concurrent_requests,
            authorize=authorize,
            spells=service_name != "training",  # whose texts are paths and settings
        )
        self._server = grpc.aio.server(interceptors=[self._calls], options=OPTIONS)
        self._service: Service | None = None
        self._health: Health | None = None

    async def start(self) -> None:
        """Open the port, get the service ready, then serve. UnavailableError when the port is taken."""
        service = self._service = await self._build(self._settings)
        self._health = Health(service.names)
        service.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*service.names, HEALTH_SERVICE, reflection.SERVICE_NAME], self._server)
        self.port = self._bind()
        await self._server.start()
        await service.start()
        self._calls.ready = True
        await self._health.set_serving()

    async def drain(self) -> None:
        """Stop accepting, let running calls finish within `drain_seconds`, close the service."""
        if self._health is not None:
            await self._health.stop()
        await self._server.stop(self._settings.drain_seconds)
        if self._service is not None:
            await self._service.close()
            self._service = None

    async def abort(self) -> None:
        """End the running calls now; a `drain` in progress then finishes."""
        await self._server.stop(None)

    def _bind(self) -> int:
        host, port = self._settings.host, self._settings.port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is not None:
                return int(self._server.add_secure_port(address, self._credentials))
            return int(self._server.add_insecure_port(address))
        except RuntimeError:
            raise UnavailableError(
                f"cannot listen on {address}; another process has the port, or the address is not this machine's",
                metadata={"address": address},
            ) from None


async def serve(server: Server, settings: Settings) -> None:
    """Run `server` until a signal to stop has come and the drain is over."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    aborts: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        if stop.is_set():
            aborts.add(loop.create_task(server.abort()))
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    starting, stopping = loop.create_task(server.start()), loop.create_task(stop.wait())
    try:
        # A signal during a slow start ends it.
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            # Numerical libraries gain nothing from threads on one user's vectors and lose milliseconds on a busy machine.
            with threadpool_limits(limits=1):
                print(f"metarec {settings.service} ready on {settings.host}:{server.port}", flush=True)
                await stopping
                logger.info("draining for up to %g seconds", settings.drain_seconds)
    finally:
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        await server.drain()
        stopping.cancel()


def run(
    service_name: str,
    settings: Settings,
    build: Build,
    *,
    credentials: grpc.ServerCredentials | None = None,
    authorize: Authorize | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Exits with status 1 and one `error: ...` line when the service cannot start."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)

    for noisy in ("grpc", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.INFO, logging.getLevelNamesMapping()[settings.log_level]))

    async def main() -> None:
        server = Server(service_name, settings, build, credentials=credentials, authorize=authorize)
        await serve(server, settings)

    try:
        asyncio.run(main())
    except MetarecError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(1)
