"""Whether a service says that it serves (grpc.health.v1), for the supervisor and `metarec doctor`."""

import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metarec.client.channel import ClientSettings
from metarec.errors import ConfigError

OPTIONS = (
    # A proxy of the user's shell is not for services on this machine.
    ("grpc.enable_http_proxy", 0),
)


def gateway_credentials() -> grpc.ChannelCredentials | None:
    """What it takes to reach the gateway of this machine's settings; None for plain text.

    ConfigError when it has a certificate and nobody said who signed it.
    """
    credentials = ClientSettings.from_environment().credentials("gateway")
    if credentials is None and os.environ.get("METAREC_TLS_CERT"):
        raise ConfigError(
            "METAREC_TLS_CERT turns TLS on, so set METAREC_GATEWAY_CA too: without it the gateway cannot be asked for its health",
            field="METAREC_GATEWAY_CA",
        )
    return credentials


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
