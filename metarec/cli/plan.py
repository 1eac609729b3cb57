"""What `metarec up` runs where: ports, directories, and the environment of each service."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metarec.cli.ports import free_ports, is_free, owner
from metarec.cli.supervisor import Program
from metarec.errors import FailedPreconditionError, InvalidInputError
from services.runtime.settings import DEFAULT_PORTS, ENVIRONMENT, PREFIX

LOOPBACK = "127.0.0.1"
STAGES = (("gateway",), ("ranking", "recall", "adaptation", "training"))
"""Drained in this order: first the one that calls the others."""
OWN = (
    "HOST",
    "PORT",
    "STATE",
    "REGISTRY",
    "FEATURES",
    "ONLINE_STORE",
    "DATA",
    *[f"{name.upper()}_ADDRESS" for name in DEFAULT_PORTS],
)
"""METAREC_ settings that `up` decides itself; the other known ones are passed on to the services."""

PATHS = ("METAREC_RULES", "METAREC_IMPRESSIONS")
"""Those that name files: services get them absolute."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, all paths absolute. `ports` is by service; the gateway listens on `host`, the others on the loopback.

    Ranking's own Ray keeps its logs and sockets in `ray_files`; None where somebody else has named the place.
    """

    registry: Path
    state: Path
    data: Path | None
    online_store: str
    host: str
    ports: Mapping[str, int]
    ray_files: Path | None = None

    @property
    def features(self) -> Path:
        """The feature store directory."""
        return self.registry / "features"

    @property
    def logs(self) -> Path:
        """Directory of the services' logs."""
        return self.state / "logs"

    @property
    def addresses(self) -> dict[str, str]:
        """`host:port` by service, as this machine reaches it."""
        hosts = dict.fromkeys(self.ports, LOOPBACK) | {"gateway": LOOPBACK if self.host in ("0.0.0.0", "::") else self.host}
        return {
            name: f"[{hosts[name]}]:{port}" if ":" in hosts[name] else f"{hosts[name]}:{port}"
            for name, port in self.ports.items()
        }

    def environment(self, service: str, inherited: Mapping[str, str]) -> dict[str, str]:
        """What a service's process sees: `inherited`, less METAREC_ settings that are unknown or ours to decide, and these."""
        others = {
            n: v for n, v in inherited.items() if not n.startswith(PREFIX) or (n in ENVIRONMENT and n[len(PREFIX) :] not in OWN)
        }
        settings = {
            "METAREC_HOST": self.host if service == "gateway" else LOOPBACK,
            "METAREC_PORT": str(self.ports[service]),
            "METAREC_STATE": str(self.state / service),
            "METAREC_REGISTRY": str(self.registry),
            "METAREC_FEATURES": str(self.features),
            "METAREC_ONLINE_STORE": self.online_store,
            **({"METAREC_DATA": str(self.data)} if self.data else {}),
            **{f"METAREC_{name.upper()}_ADDRESS": address for name, address in self.addresses.items() if name != "gateway"},
        }
        defaults = {
            "METAREC_IMPRESSIONS": str(self.state / "gateway" / "impressions.jsonl"),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            # A proxy of the user's shell is not for calls between services of this machine.
            "no_grpc_proxy": "127.0.0.1,::1,localhost",
        }
        # A training job's cluster has a place of its own and clears it away itself.
        if service == "ranking" and self.ray_files is not None:
            settings["RAY_TMPDIR"] = str(self.ray_files)
        paths = {name: str(Path(others[name]).absolute()) for name in PATHS if others.get(name)}
        return {**defaults, **others, **paths, **settings, "PYTHONUNBUFFERED": "1"}

    def program(self, service: str, inherited: Mapping[str, str]) -> Program:
        """The process of one service. -P: a folder named `services` in the user's working directory must not come first."""
        return Program(
            name=service,
            command=(sys.executable, "-P", "-m", f"services.{service}"),
            environment=self.environment(service, inherited),
            address=self.addresses[service],
            log=self.logs / f"{service}.log",
        )


def choose_ports(host: str, base: int | None, chosen: Mapping[str, int | None]) -> dict[str, int]:
    """A port for each service: the one named for it, else base + its place, else the default; 0 means any free one.

    FailedPreconditionError names those that are in use, and by whom.
    """
    ports = {}
    for place, (name, default) in enumerate(DEFAULT_PORTS.items()):
        from_base = default if base is None else base and base + place
        named = chosen[name]
        ports[name] = from_base if named is None else named
    missing = [name for name, port in ports.items() if port == 0]
    hosts = {name: host if name == "gateway" else LOOPBACK for name in ports}
    try:
        ports |= zip(missing, free_ports(LOOPBACK, len(missing)), strict=True)
        taken = [name for name, port in ports.items() if not is_free(hosts[name], port)]
    except OSError as error:
        raise InvalidInputError(f"cannot listen on '{host}': {error.strerror or error}", field="host") from error
    twice = sorted({port for port in ports.values() if list(ports.values()).count(port) > 1})
    if twice:
        raise InvalidInputError(f"port {twice[0]} is given to two services", field="port")
    if taken:
        users = "; ".join(f"port {ports[name]} ({name}) is in use by {owner(ports[name])}" for name in taken)
        raise FailedPreconditionError(f"{users}; stop it, or choose other ports with --port-base N (0: any free ones)")
    return ports
