"""Whether a service says that it serves (grpc.health.v1), for the supervisor and `metarec doctor`."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

OPTIONS = (
    # A proxy of the user's shell is not for services on this machine.
    ("grpc.enable_http_proxy", 0),
)


async def is_serving(
    address: str, *, service: str = "", timeout_seconds: float = 2.0, credentials: grpc.ChannelCredentials | None = None
) -> bool:
    """Ask the service at `address` (host:port) whether `service` is SERVING; the empty name means all of it. False when it
    cannot be reached, does not answer in time, or says otherwise."""
    async with (
        grpc.aio.secure_channel(address, credentials, options=OPTIONS)
        if credentials
        else grpc.aio.insecure_channel(address, options=OPTIONS)
    ) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
