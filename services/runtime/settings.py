"""Settings of the services, read from the environment once at start; an unknown METAREC_ name is an error."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from metarec.errors import ConfigError
from metarec.features.manifest import shown, store_name

PREFIX = "METAREC_"
DEFAULT_PORTS = {"gateway": 50051, "recall": 50052, "adaptation": 50053, "ranking": 50054, "training": 50055}
N = TypeVar("N", int, float)
LAUNCHERS = ("local", "ray_jobs", "kuberay")
POLICIES = ("ucb", "thompson")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

ENVIRONMENT: dict[str, str] = {
    "METAREC_HOST": "address to listen on (127.0.0.1)",
    "METAREC_PORT": "port to listen on, 0 for any free one (gateway 50051, recall 50052, adaptation 50053, ranking 50054, "
    "training 50055)",
    "METAREC_STATE": "directory for the service's own durable files (state/SERVICE)",
    "METAREC_REGISTRY": "checkpoint registry that `metarec train --out` wrote (registry)",
    "METAREC_FEATURES": "feature store directory (REGISTRY/features)",
    "METAREC_ONLINE_STORE": "online feature store: sqlite, or redis://HOST:PORT/DB (sqlite)",
    "METAREC_DATA": "dataset directory whose history the services may read (none)",
    "METAREC_RECALL_ADDRESS": "address of the recall service (127.0.0.1:50052)",
    "METAREC_ADAPTATION_ADDRESS": "address of the adaptation service (127.0.0.1:50053)",
    "METAREC_RANKING_ADDRESS": "address of the ranking service (127.0.0.1:50054)",
    "METAREC_TRAINING_ADDRESS": "address of the training service (127.0.0.1:50055)",
    "METAREC_GATEWAY_ADDRESS": "address of the gateway, for clients (127.0.0.1:50051)",
    "METAREC_GATEWAY_CA": "certificate authority that signed the gateway's certificate, for clients; turns TLS on (none)",
    "METAREC_CACHE": "where `metarec data fetch` keeps downloads (~/.cache/metarec)",
    "METAREC_TLS_CERT": "certificate chain of the gateway in PEM; turns TLS on, needs METAREC_TLS_KEY (none)",
    "METAREC_TLS_KEY": "private key of METAREC_TLS_CERT in PEM (none)",
    "METAREC_AUTH_TOKEN_FILE": "bearer tokens, one a line: the gateway accepts any of them, clients send the first (none)",
    "METAREC_MAX_CONCURRENT_REQUESTS": "requests a service works on at once; more are refused with RESOURCE_EXHAUSTED (256)",
    "METAREC_DRAIN_SECONDS": "how long requests may still run after a signal to stop (20)",
    "METAREC_RULES": "rules file that recall, ranking and the gateway keep (none)",
    "METAREC_DIVERSITY": "strength of diversity of lists whose request does not say, 0 to 1 (0)",
    "METAREC_EXPLORATION": "most places of a list that may be explored where the request does not say, as a share (0.1)",
    "METAREC_EXPLORATION_POLICY": "how places are explored: ucb or thompson (ucb)",
    "METAREC_EXPLORATION_COLD_SHOTS": "users of fewer interactions explore all candidates, not emerging ones alone (0)",
    "METAREC_IMPRESSIONS": "file to which the gateway appends what it recommended, with propensities (none)",
    "METAREC_LAUNCHER": "where training jobs run by default: local, ray_jobs or kuberay (local)",
    "METAREC_RAYJOB_TEMPLATE": "name of the RayJob that training jobs are copied from (none)",
    "METAREC_RAY_JOBS_ADDRESS": "address of Ray's dashboard, where training jobs are submitted (none)",
    "METAREC_LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR (INFO)",
}
"""Every METAREC_ name -> what it sets (its default)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one service; `port` 0 takes any free port. Paths are not checked here: a service checks those it reads."""

    service: str
    host: str = "127.0.0.1"
    port: int = 0
    state: Path = Path("state")
    registry: Path = Path("registry")
    features: Path = Path("registry/features")
    online_store: str = "sqlite"
    data: Path | None = None
    recall_address: str = "127.0.0.1:50052"
    adaptation_address: str = "127.0.0.1:50053"
    ranking_address: str = "127.0.0.1:50054"
    training_address: str = "127.0.0.1:50055"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    auth_token_file: Path | None = None
    max_concurrent_requests: int = 256
    drain_seconds: float = 20.0
    rules: Path | None = None
    diversity: float = 0.0
    exploration: float = 0.1
    exploration_policy: str = "ucb"
    exploration_cold_shots: int = 0
    impressions: Path | None = None
    launcher: str = "local"
    rayjob_template: str = ""
    ray_jobs_address: str = ""
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        if self.service not in DEFAULT_PORTS:
            raise ConfigError(f"unknown service '{self.service}'; known: {', '.join(DEFAULT_PORTS)}", field="service")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"METAREC_PORT must be 0 to 65535, not {self.port}", field="METAREC_PORT")
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise ConfigError(
                f"METAREC_DRAIN_SECONDS must be 0 or more, not {self.drain_seconds:g}", field="METAREC_DRAIN_SECONDS"
            )
        if self.max_concurrent_requests < 1:
            raise ConfigError(
                f"METAREC_MAX_CONCURRENT_REQUESTS must be at least 1, not {self.max_concurrent_requests}",
                field="METAREC_MAX_CONCURRENT_REQUESTS",
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError(
                "METAREC_TLS_CERT and METAREC_TLS_KEY belong together; set both or neither", field="METAREC_TLS_KEY"
            )
        for name, share in (("METAREC_DIVERSITY", self.diversity), ("METAREC_EXPLORATION", self.exploration)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} must be 0 to 1, not {share:g}", field=name)
        if self.exploration_cold_shots < 0:
            raise ConfigError(
                f"METAREC_EXPLORATION_COLD_SHOTS must be 0 or more, not {self.exploration_cold_shots}",
                field="METAREC_EXPLORATION_COLD_SHOTS",
            )
        _one_of("METAREC_EXPLORATION_POLICY", self.exploration_policy, POLICIES)
        _one_of("METAREC_LAUNCHER", self.launcher, LAUNCHERS)
        _one_of("METAREC_LOG_LEVEL", self.log_level, LOG_LEVELS)
        if self.online_store != "sqlite" and not self.online_store.startswith(("redis://", "rediss://")):
            raise ConfigError(
                f"METAREC_ONLINE_STORE must be sqlite or redis://HOST:PORT/DB, not '{shown(self.online_store)}'",
                field="METAREC_ONLINE_STORE",
            )
        try:
            store_name(self.online_store)
        except ConfigError as error:
            raise ConfigError(f"METAREC_ONLINE_STORE: {error.message}", field="METAREC_ONLINE_STORE") from error
        for name in ("recall", "adaptation", "ranking", "training"):
            check_address(f"METAREC_{name.upper()}_ADDRESS", getattr(self, f"{name}_address"))

    @staticmethod
    def from_environment(service: str, environment: Mapping[str, str] | None = None) -> "Settings":
        """The settings of `service`. An empty value counts as unset. ConfigError names what is unknown or wrong."""
        values = {name: value for name, value in (os.environ if environment is None else environment).items() if value}
        refuse_unknown(values)

        def path(name: str) -> Path | None:
            return Path(values[name]) if name in values else None

        defaults = Settings(service=service)
        registry = path("METAREC_REGISTRY") or defaults.registry
        return Settings(
            service=service,
            host=values.get("METAREC_HOST", defaults.host),
            port=_number(values, "METAREC_PORT", DEFAULT_PORTS[service], int),
            state=path("METAREC_STATE") or defaults.state / service,
            registry=registry,
            features=path("METAREC_FEATURES") or registry / "features",
            online_store=values.get("METAREC_ONLINE_STORE", defaults.online_store),
            data=path("METAREC_DATA"),
            recall_address=values.get("METAREC_RECALL_ADDRESS", defaults.recall_address),
            adaptation_address=values.get("METAREC_ADAPTATION_ADDRESS", defaults.adaptation_address),
            ranking_address=values.get("METAREC_RANKING_ADDRESS", defaults.ranking_address),
            training_address=values.get("METAREC_TRAINING_ADDRESS", defaults.training_address),
            tls_cert=path("METAREC_TLS_CERT"),
            tls_key=path("METAREC_TLS_KEY"),
            auth_token_file=path("METAREC_AUTH_TOKEN_FILE"),
            max_concurrent_requests=_number(values, "METAREC_MAX_CONCURRENT_REQUESTS", defaults.max_concurrent_requests, int),
            drain_seconds=_number(values, "METAREC_DRAIN_SECONDS", defaults.drain_seconds, float),
            rules=path("METAREC_RULES"),
            diversity=_number(values, "METAREC_DIVERSITY", defaults.diversity, float),
            exploration=_number(values, "METAREC_EXPLORATION", defaults.exploration, float),
            exploration_policy=values.get("METAREC_EXPLORATION_POLICY", defaults.exploration_policy),
            exploration_cold_shots=_number(values, "METAREC_EXPLORATION_COLD_SHOTS", defaults.exploration_cold_shots, int),
            impressions=path("METAREC_IMPRESSIONS"),
            launcher=values.get("METAREC_LAUNCHER", defaults.launcher),
            rayjob_template=values.get("METAREC_RAYJOB_TEMPLATE", ""),
            ray_jobs_address=values.get("METAREC_RAY_JOBS_ADDRESS", ""),
            log_level=values.get("METAREC_LOG_LEVEL", defaults.log_level).upper(),
        )


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """ConfigError when a METAREC_ name of `environment` is unknown: most often a misspelt one."""
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in ENVIRONMENT)
    if unknown:
        raise ConfigError(f"unknown setting '{unknown[0]}'; known: {', '.join(sorted(ENVIRONMENT))}", field=unknown[0])


def check_address(name: str, value: str) -> None:
    """ConfigError when `value` is no HOST:PORT."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ConfigError(f"{name} must be HOST:PORT, not '{value}'", field=name)


def _number(values: Mapping[str, str], name: str, default: N, kind: type[N]) -> N:
    text = values.get(name)
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} must be {what}, not '{text}'", field=name) from None


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not '{value}'", field=name)
