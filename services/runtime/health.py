"""grpc.health.v1: NOT_SERVING until the service is ready and from the signal to stop on; watches end when it stops, so that they
do not hold up the drain."""

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """One state for all of `names` and for the server as a whole, the empty name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"", *names}
        self._serving = self._stopped = False
        self._changed = asyncio.Condition()

    async def set_serving(self) -> None:
        """The service is ready."""
        await self._set(serving=True, stopped=False)

    async def stop(self) -> None:
        """The service stops: watchers are told, then their streams end."""
        await self._set(serving=False, stopped=True)

    async def _set(self, *, serving: bool, stopped: bool) -> None:
        async with self._changed:
            self._serving, self._stopped = serving, stopped
            self._changed.notify_all()

    def _status(self) -> int:
        return int(SERVING if self._serving else NOT_SERVING)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is not served here."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service '{request.service}' is served here")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """The state now and at each change; SERVICE_UNKNOWN for a service that is not served here."""
        known = request.service in self._names
        last: int | None = None

        def changed() -> bool:
            return self._stopped or (known and self._status() != last)

        while True:
            status = self._status() if known else int(UNKNOWN)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            if self._stopped:
                return
            async with self._changed:
                await self._changed.wait_for(changed)
