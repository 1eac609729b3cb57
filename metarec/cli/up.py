"""`metarec up`: every service on this machine, each a process of its own, under one supervisor.

This process imports neither torch nor ray nor feast: what needs them runs in the services, or in `metarec features` as a child.
"""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from metarec.cli.online import VARIABLE, repeated
from metarec.cli.output import note
from metarec.cli.plan import LOOPBACK, STAGES, Plan, choose_ports
from metarec.cli.run_lock import only_one
from metarec.cli.supervisor import Patience, Supervisor, run_until_signalled
from metarec.errors import DataError, FailedPreconditionError, InvalidInputError, MetarecError, NotFoundError
from services.runtime.settings import DEFAULT_PORTS, ENVIRONMENT, PREFIX

REACH_SECONDS = 2.0
METAREC = (sys.executable, "-P", "-m", "metarec.cli.main")


def _port_options(command: click.decorators.FC) -> click.decorators.FC:
    for name, default in reversed(DEFAULT_PORTS.items()):
        text = f"Port of the {name} service; 0 for any free one.  [default: {default}]"
        command = click.option(f"--{name}-port", type=click.IntRange(0, 65535), help=text)(command)
    return command


@click.command(epilog="Example: metarec up --registry registry --data data/ml-100k")
@click.option(
    "--registry",
    type=click.Path(path_type=Path),
    envvar="METAREC_REGISTRY",
    required=True,
    help="Directory that `metarec train --out` wrote.  [env: METAREC_REGISTRY]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="METAREC_DATA",
    help="Dataset directory: users, items and history that the services know from the start.  [env: METAREC_DATA]",
)
@click.option("--state", type=click.Path(path_type=Path), help="Directory of durable files and logs.  [default: REGISTRY/state]")
@click.option(
    "--host", default=LOOPBACK, show_default=True, help="Address the gateway listens on; the others stay on the loopback."
)
@click.option("--port-base", type=click.IntRange(0, 65531), help="Ports N to N+4, gateway first; 0 for any free ones.")
@_port_options
@click.option(
    "--online-store",
    default="sqlite",
    envvar="METAREC_ONLINE_STORE",
    show_default=True,
    help="Online feature store: 'sqlite' or redis://HOST:PORT/DB.  [env: METAREC_ONLINE_STORE]",
)
@click.option("--verbose", is_flag=True, help="Show the services' logs on standard error, each line with its service.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as one line of JSON.")
def up(
    registry: Path,
    data: Path | None,
    state: Path | None,
    host: str,
    port_base: int | None,
    online_store: str,
    verbose: bool,
    as_json: bool,
    **ports: int | None,
) -> int:
    """Start every service on this machine and keep it running until Ctrl-C.

    The services are ready when the line `metarec is ready: ...` with their addresses appears. One Ctrl-C lets running requests
    finish and stops everything, a second one kills. A service that crashes is restarted.
    """
    _check(registry, data)
    from metarec.client.health import gateway_credentials, is_serving
    from metarec.training.ray_files import passing_directory

    began, tls = time.monotonic(), gateway_credentials()
    plan = Plan(
        registry=registry.resolve(),
        state=(state or registry / "state").resolve(),
        data=data and data.resolve(),
        online_store=online_store,
        host=host,
        ports=choose_ports(host, port_base, {name: ports[f"{name}_port"] for name in DEFAULT_PORTS}),
    )
    kept = bool(os.environ.get("RAY_ADDRESS"))

    async def healthy(address: str) -> bool:
        return await is_serving(address, credentials=tls if address == plan.addresses["gateway"] else None)

    with ExitStack() as held:
        held.enter_context(only_one(plan.state, plan.addresses))
        _prepare(plan)
        live = _live(plan)
        # Once what takes minutes is done: from here on the supervisor removes it whatever happens.
        directory = held.enter_context(passing_directory(kept=kept))
        plan = replace(plan, ray_files=directory)
        ignored = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in ENVIRONMENT)
        if ignored:
            note(f"ignored in the environment, because no service knows them: {', '.join(ignored)}")
        note(f"starting {', '.join(name for stage in STAGES for name in stage)}; logs in {plan.logs}")

        supervisor = Supervisor(
            [[plan.program(name, os.environ) for name in stage] for stage in STAGES],
            healthy=healthy,
            say=note,
            follow=verbose,
            passing=directory,
            patience=Patience(drain_seconds=float(os.environ.get("METAREC_DRAIN_SECONDS") or 20) + 5),
        )
        clean = run_until_signalled(supervisor, lambda: _say_ready(plan, live, time.monotonic() - began, as_json=as_json))
    note("stopped" if clean else "killed")
    return 0 if clean else 130


def _check(registry: Path, data: Path | None) -> None:
    """That the folders are what they are named as, and rules can be kept; says what to do where they are not."""
    if not registry.is_dir():
        raise NotFoundError(f"no registry at '{registry}'; make one with: metarec train --data DIR --out {registry}")
    if (registry / "dataset.json").exists():
        raise InvalidInputError(f"'{registry}' is a dataset, not a registry; --registry is what `metarec train --out` wrote")
    if data is not None and not (data / "dataset.json").exists():
        raise NotFoundError(
            f"no dataset at '{data}'; make one with: metarec data import --out {data} ... or metarec data fetch ml-100k"
        )
    if rules := os.environ.get("METAREC_RULES"):
        # Sooner than from services that end at once and are started again.
        from metarec.ranking.rule_file import read_rules

        read_rules(Path(rules))


def _say_ready(plan: Plan, live: str | None, seconds: float, *, as_json: bool) -> None:
    """The line that everything waits for."""
    line = f"metarec is ready: {', '.join(f'{name} {address}' for name, address in plan.addresses.items())}"
    value = {
        "ready": True,
        "addresses": plan.addresses,
        "checkpoint": live,
        "state": str(plan.state),
        "logs": str(plan.logs),
    }
    note(f"every service is healthy after {seconds:.1f} s; Ctrl-C stops them")
    print(json.dumps(value) if as_json else line, flush=True)


def _prepare(plan: Plan) -> None:
    """Build the feature store and load it online where that has not been done for this dataset."""
    from metarec.features.manifest import StoreManifest, store_name

    found = StoreManifest.read(plan.features) if (plan.features / "store.json").exists() else None
    wanted = _fingerprint(plan.data) if plan.data else None
    if found is None and wanted is None:
        raise NotFoundError(f"no feature store at '{plan.features}'; name the dataset to build it from with --data DIR")
    if wanted is not None and (found is None or found.fingerprint != wanted):
        _run_metarec(plan.online_store, "features", "build", "--data", str(plan.data), "--out", str(plan.features))
        found = None
    # What another kind of online store holds is not known from here; loading it again only adds what is new.
    if found is None or store_name(plan.online_store) not in found.materialized:
        _run_metarec(plan.online_store, "features", "materialize", "--store", str(plan.features))
    else:
        _look_for(plan.online_store)
    database = plan.features / "online.db"
    if plan.online_store == "sqlite" and database.exists() and not os.access(database, os.W_OK):
        raise FailedPreconditionError(
            f"'{database}' cannot be written by this user, and adaptation keeps users' states in it; give that right, or name an "
            "--online-store elsewhere"
        )


def _look_for(online_store: str) -> None:
    """Say that nobody listens where the online store should be: services start without it, and then know nobody."""
    url = urlsplit(online_store)
    try:
        if url.hostname:
            socket.create_connection((url.hostname, url.port or 6379), timeout=REACH_SECONDS).close()
    except OSError as error:
        note(
            f"the online store {url.hostname}:{url.port or 6379} cannot be reached ({error.strerror or error}): until it is, "
            "users are served by the prior, and feedback is refused with UNAVAILABLE"
        )


def _fingerprint(data: Path) -> str:
    """From the manifest alone: opening a dataset reads all of it."""
    try:
        return str(json.loads((data / "dataset.json").read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read ({error}); import the data again", file=str(data / "dataset.json")) from error


def _run_metarec(online_store: str, *arguments: str) -> None:
    """A metarec command as a child: it imports what this process must not. Its progress is shown, its result is not.

    It gets the online store from its environment: arguments, and a password in them, are there for everybody to read.
    """
    command = [*METAREC, *arguments, "--json"]  # without the remarks on what to do next
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment[VARIABLE] = online_store
    status = subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
    if status:
        raise FailedPreconditionError(f"'metarec {' '.join(arguments)}{repeated(online_store)}' failed with status {status}")


def _live(plan: Plan) -> str | None:
    """Id of the live checkpoint; says what to do when there is none."""
    from metarec.training.registry import Registry
    from metarec.training.verdict import promotion

    registry = Registry(plan.registry)
    live, newest = registry.live(), next((info for info in registry.list() if not info.live), None)
    command = promotion(newest, plan.registry) if newest else f"metarec train --data DIR --out {plan.registry} --promote"
    how = f"make one live with: {command}"
    if live is None:
        note(f"no checkpoint is live: the services start, but do not recommend before one is; {how}")
        return None
    try:
        registry.get(live)
    except MetarecError as error:
        note(f"checkpoint '{live}' is live but cannot be used ({error.message}): the services start, but do not recommend; {how}")
    return live
