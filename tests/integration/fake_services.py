"""Services of a few lines, and what runs them as a process of its own: a bare supervisor (`fake_services.py CONFIG.json`, for
test_supervisor.py) or `metarec up` (`fake_services.py up ARGUMENTS`, for test_up.py).

CONFIG: {"stages": [[{"name", "port", "behaviour", "log"}]], "patience": {...}}. Behaviours of a service: see `serve`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from metarec.cli.supervisor import Patience, Program, Supervisor, run_until_signalled
from metarec.errors import UnavailableError


def serve(name: str, port: int, behaviour: str) -> None:
    """Answer `ok` to every connection, and do what `behaviour` names besides."""
    print(f"{name} runs", flush=True)
    if behaviour == "environment":
        print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("METAREC_") or k == "RAY_TMPDIR"}), flush=True)
    if behaviour == "crash":
        print("no such table: users", flush=True)
        sys.exit(3)
    while behaviour == "mute":
        time.sleep(1)
    if behaviour == "family":
        for new_session in (False, True):
            subprocess.Popen(["sleep", "1000"], start_new_session=new_session)
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: None if behaviour == "stubborn" else stopping.append(True))
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.05)
        while not stopping:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                connection.sendall(b"ok")
                connection.close()
            if behaviour == "deaf" and Path(f"{name}.deaf").exists():
                Path(f"{name}.deaf").unlink()
                time.sleep(1000)
    if behaviour == "slow":
        time.sleep(0.5)
    print(f"{name} stopped", flush=True)


async def healthy(address: str) -> bool:
    """Whether the service says ok within half a second."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(0.5):
            reader, writer = await asyncio.open_connection(host, int(port))
            answer = await reader.read()
            writer.close()
            return answer == b"ok"
    except OSError:
        return False


def supervise(config: Path) -> None:
    """Run the supervisor that `config` describes; what it says goes to standard error, `ready` to standard output."""
    settings = json.loads(config.read_text())
    stages = [
        [
            Program(
                name=service["name"],
                command=[sys.executable, __file__, "serve", service["name"], str(service["port"]), service["behaviour"]],
                environment={"PATH": os.environ["PATH"]},
                address=f"127.0.0.1:{service['port']}",
                log=Path(service["log"]),
            )
            for service in stage
        ]
        for stage in settings["stages"]
    ]
    supervisor = Supervisor(
        stages,
        healthy=healthy,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        patience=Patience(**settings["patience"]),
        follow=True,
    )
    try:
        clean = run_until_signalled(supervisor, lambda: print("ready", flush=True))
    except UnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0 if clean else 130)


def up(arguments: list[str]) -> None:
    """`metarec up` as it is, but for the services, which are those of this file, and how their health is asked."""
    import metarec.client.health
    from metarec.cli.main import main
    from metarec.cli.plan import Plan

    real = Plan.program

    def program(plan: Plan, service: str, inherited: Mapping[str, str]) -> Program:
        command = [sys.executable, __file__, "serve", service, str(plan.ports[service]), "environment"]
        return replace(real(plan, service, inherited), command=command)

    Plan.program = program
    metarec.client.health.is_serving = lambda address, credentials: healthy(address)
    main(["up", *arguments])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1] == "up":
        up(sys.argv[2:])
    else:
        supervise(Path(sys.argv[1]))
