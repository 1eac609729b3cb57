"""Where a replica listens.

Ray Serve binds its gRPC servers to every interface of the machine: the ingress, and the server through which handles call a
replica, which unpickles what it is sent and asks for no credentials. Neither has a setting for it (Ray 2.60). So a replica
narrows both before Serve starts them: the ingress listens on METAREC_HOST, the other on the address by which Ray knows the node.
"""

from grpc.aio import _server

EVERYWHERE = "[::]:"


def narrowed(address: str, *, host: str, node: str) -> str:
    """`address` as it should be: Serve asks for port 0 for calls among replicas and for a fixed port for the ingress."""
    if not address.startswith(EVERYWHERE):
        return address
    port = address.removeprefix(EVERYWHERE)
    chosen = node if port == "0" else host
    return f"[{chosen}]:{port}" if ":" in chosen else f"{chosen}:{port}"


def narrow(*, host: str, node: str) -> None:
    """Make the gRPC servers that this process starts from now on listen on `host` and `node` in place of every interface."""
    original = _server.Server.add_insecure_port

    def add_insecure_port(server: _server.Server, address: str) -> int:
        return int(original(server, narrowed(address, host=host, node=node)))

    _server.Server.add_insecure_port = add_insecure_port
