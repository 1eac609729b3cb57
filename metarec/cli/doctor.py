"""`metarec doctor`: checks the machine, the installation and, where named, a registry and a dataset, and says what to do."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from metarec.cli.checks import Finding, check_disk, check_environment, check_memory, check_packages, check_python, check_ray
from metarec.cli.checks_data import check_dataset, check_features, check_registry, check_schemas, check_services
from metarec.cli.output import emit, json_option, note, progress
from metarec.cli.plan import LOOPBACK
from metarec.cli.run_lock import running
from services.runtime.settings import DEFAULT_PORTS

COLUMNS = ("check", "status", "detail", "what to do")


@click.command(epilog="Example: metarec doctor --registry registry --data data/ml-100k")
@click.option(
    "--registry",
    type=click.Path(path_type=Path),
    envvar="METAREC_REGISTRY",
    help="Check its checkpoints and its feature store, and the services that `metarec up` runs on it.  [env: METAREC_REGISTRY]",
)
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="METAREC_DATA", help="Check this dataset directory.  [env: METAREC_DATA]"
)
@click.option("--state", type=click.Path(path_type=Path), help="State directory of `metarec up`.  [default: REGISTRY/state]")
@click.option(
    "--online-store",
    default="sqlite",
    envvar="METAREC_ONLINE_STORE",
    show_default=True,
    help="Online feature store: 'sqlite' or redis://HOST:PORT/DB.  [env: METAREC_ONLINE_STORE]",
)
@click.option("--port-base", type=click.IntRange(1, 65531), help="Where `metarec up --port-base` puts the services.")
@json_option
def doctor(
    registry: Path | None, data: Path | None, state: Path | None, online_store: str, port_base: int | None, as_json: bool
) -> int:
    """Check this machine and say what to do; exits with status 1 when something fails."""
    with progress("looking", quiet=as_json):
        findings = [*_machine(registry, data), *_contents(registry, data, online_store), *_services(registry, state, port_base)]
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    value = {"ok": not failed, "checks": [asdict(finding) for finding in findings]}
    emit(value, as_json=as_json, rows=[_row(finding) for finding in findings], columns=_columns(findings))
    if not as_json:
        note(f"{len(findings) - failed - warned} fine, {warned} to look at, {failed} to repair")
    return 1 if failed else 0


def _machine(registry: Path | None, data: Path | None) -> Iterator[Finding]:
    yield from check_python()
    yield from check_packages()
    yield from check_memory()
    yield from check_disk(*[path for path in (registry, data) if path is not None], Path.cwd())
    yield from check_ray(os.environ)
    yield from check_environment(os.environ)


def _contents(registry: Path | None, data: Path | None, online_store: str) -> Iterator[Finding]:
    if data is not None:
        yield from check_dataset(data)
    if registry is not None:
        yield from check_registry(registry)
    if registry is not None and registry.is_dir():
        yield from check_features(registry / "features", online_store)
        yield from check_schemas(registry, data)


def _services(registry: Path | None, state: Path | None, port_base: int | None) -> Iterator[Finding]:
    place = state or (registry / "state" if registry else None)
    run = running(place) if place else None
    if run is not None:
        yield Finding(check="up", status="ok", detail=f"process {run.process} runs the services")
        yield from check_services(run.addresses, started=True)
        return
    ports = {name: port if port_base is None else port_base + k for k, (name, port) in enumerate(DEFAULT_PORTS.items())}
    yield from check_services({name: f"{LOOPBACK}:{port}" for name, port in ports.items()}, started=False)


def _row(finding: Finding) -> dict[str, object]:
    return dict(zip(COLUMNS, (finding.check, finding.status, finding.detail, finding.advice), strict=True))


def _columns(findings: Sequence[Finding]) -> Sequence[str]:
    return COLUMNS if any(finding.advice for finding in findings) else COLUMNS[:-1]
