"""Where the services are and how to connect: addresses, TLS, token, and the options of a channel."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import grpc

from metarec.client.policy import service_config
from metarec.errors import ConfigError
from services.runtime.settings import check_address

ServiceName = Literal["gateway", "recall", "adaptation", "training"]
MAX_MESSAGE_BYTES = 16 * 2**20
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Addresses of the services; only the gateway's is needed to recommend, record and explain.

    `gateway_ca` (a PEM file) turns TLS to the gateway on; `token` is sent to the gateway alone, where auth ends.
    """

    gateway_address: str = "127.0.0.1:50051"
    recall_address: str = "127.0.0.1:50052"
    adaptation_address: str = "127.0.0.1:50053"
    training_address: str = "127.0.0.1:50055"
    gateway_ca: Path | None = None
    token: str = ""

    def __post_init__(self) -> None:
        for name in ("gateway", "recall", "adaptation", "training"):
            check_address(f"METAREC_{name.upper()}_ADDRESS", getattr(self, f"{name}_address"))

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> "ClientSettings":
        """The METAREC_*_ADDRESS names, METAREC_GATEWAY_CA and METAREC_AUTH_TOKEN_FILE (its first line), else the defaults."""
        values = {name: value for name, value in (os.environ if environment is None else environment).items() if value}
        defaults = ClientSettings()
        ca, token_file = values.get("METAREC_GATEWAY_CA"), values.get("METAREC_AUTH_TOKEN_FILE")
        return ClientSettings(
            gateway_address=values.get("METAREC_GATEWAY_ADDRESS", defaults.gateway_address),
            recall_address=values.get("METAREC_RECALL_ADDRESS", defaults.recall_address),
            adaptation_address=values.get("METAREC_ADAPTATION_ADDRESS", defaults.adaptation_address),
            training_address=values.get("METAREC_TRAINING_ADDRESS", defaults.training_address),
            gateway_ca=Path(ca) if ca else None,
            token=_first_line(Path(token_file)) if token_file else "",
        )

    def address(self, service: ServiceName) -> str:
        """Address of `service`."""
        return str(getattr(self, f"{service}_address"))

    def metadata(self, service: ServiceName) -> tuple[tuple[str, str], ...]:
        """What to send with each call to `service`."""
        return (("authorization", f"Bearer {self.token}"),) if self.token and service == "gateway" else ()

    def credentials(self, service: ServiceName) -> grpc.ChannelCredentials | None:
        """TLS credentials; None for plain text. ConfigError when the file cannot be read."""
        if self.gateway_ca is None or service != "gateway":
            return None
        return grpc.ssl_channel_credentials(_read("METAREC_GATEWAY_CA", self.gateway_ca))


class Channels(Protocol):
    """The part of `grpc` and of `grpc.aio` that opens channels."""

    def insecure_channel(self, target: str, options: object) -> grpc.Channel:
        """A channel in plain text."""
        ...

    def secure_channel(self, target: str, credentials: grpc.ChannelCredentials, options: object) -> grpc.Channel:
        """A channel with TLS."""
        ...


def open_channel(channels: Channels, settings: ClientSettings, service: ServiceName) -> grpc.Channel:
    """A channel to `service` of the kind that `channels` opens."""
    options: tuple[tuple[str, str | int], ...] = (
        ("grpc.service_config", service_config()),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    )
    address, credentials = settings.address(service), settings.credentials(service)
    if address.rpartition(":")[0] in LOOPBACK:
        # A proxy of the user's shell cannot reach this machine's own services.
        options = (*options, ("grpc.enable_http_proxy", 0))
    if credentials is None:
        return channels.insecure_channel(address, options=options)
    return channels.secure_channel(address, credentials, options=options)


def _first_line(path: Path) -> str:
    return next((line.strip() for line in _read("METAREC_AUTH_TOKEN_FILE", path).decode().splitlines() if line.strip()), "")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error}", field=name) from error
