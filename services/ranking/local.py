"""Ray Serve on one machine: a Ray of its own, with one replica and nothing in front of it.

The replica answers on the service's port itself (Serve's direct ingress): a proxy would cost three milliseconds a call and one
more process, and balances nothing here. Ray listens on loopback only, has no dashboard, and ends with this process in whatever
way it ends. With RAY_ADDRESS set, Serve runs on that cluster, behind the cluster's proxies.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metarec.errors import UnavailableError
from metarec.training.ray_files import passing_directory
from services.runtime.rules import RuleBook
from services.runtime.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 * 2**20
"""Nothing is kept in Ray's object store; it takes no less."""
READY_SECONDS = 60.0
SERVICERS = (
    "metarec.v1.ranking_pb2_grpc.add_RankingServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. UnavailableError when it is taken: Serve would retry for minutes before it said so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {host}:{port}; another process has the port, or the address is not this machine's",
                metadata={"address": f"{host}:{port}"},
            ) from error
        return int(probe.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """What Ray and Serve read from the environment of their processes, for a replica that answers on `port`."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # The switch is named after the systems where it is the default: the node is 127.0.0.1 and listens there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # No processes in advance: the replica is all there will be.
        "RAY_prestart_worker_first_driver": "0",
        # A node that is gone is noticed within seconds: whoever supervises this service can restart it, Ray cannot.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(port + 1),
        # A replica that died gives the port to the next one at once, and one that is told to stop has no balancer to wait for.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[int]:
    """Ranking answers within the block; gives the port.

    UnavailableError when it cannot be started, ConfigError for rules that cannot be kept: Serve would start replicas for ever.
    """
    RuleBook(settings.rules)
    joined = os.environ.get("RAY_ADDRESS")
    port = settings.port if joined else free_port(settings.host, settings.port)
    if not joined:
        os.environ.update(environment(port))
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    from services.ranking.app import APPLICATION, build

    quiet = {"configure_logging": False, "logging_level": logging.WARNING}
    own = {} if joined else {"num_cpus": 2, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    values = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    with passing_directory(kept=bool(joined)) as directory:
        files = {} if directory is None else {"_temp_dir": str(directory)}
        try:
            ray.init(address=joined or "local", **own, **files, **quiet)
            # Without a host there are no proxies.
            http = HTTPOptions() if joined else HTTPOptions(host=None)
            serve.start(http_options=http, grpc_options=gRPCOptions(port=port, grpc_servicer_functions=list(SERVICERS)))
            serve.run(build(values), name=APPLICATION)
            wait_until_healthy(settings.host, port)
        except (RuntimeError, OSError) as error:
            ray.shutdown()
            raise UnavailableError(f"ray serve cannot be started: {error}") from error
        except BaseException:
            ray.shutdown()
            raise
        try:
            yield port
        finally:
            serve.shutdown()
            ray.shutdown()


def check_node() -> None:
    """UnavailableError when no node of Ray is left."""
    import ray

    if not any(node["Alive"] for node in ray.nodes()):
        raise UnavailableError("ray's node has ended; start the service again")


def wait_until_healthy(host: str, port: int) -> None:
    """Return when the health service says SERVING. UnavailableError after a minute."""
    address = f"[{host}]:{port}" if ":" in host else f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with grpc.insecure_channel(address) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=READY_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise UnavailableError(f"ranking does not answer on {address}: {error.details()}") from error
