"""`metarec checkpoints`: what the training service, or a registry directory without any service, holds and has live."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from metarec.cli.connection import Command, address_option, connect
from metarec.cli.output import emit, json_option, note
from metarec.cli.values import figure, iso
from metarec.errors import NotFoundError

if TYPE_CHECKING:
    from metarec.client import Checkpoint, Client
    from metarec.training.registry import CheckpointInfo, Registry

MAX_PAGE = 1000


class Source(Protocol):
    """Where checkpoints are: the same four questions to a service and to a directory. Each answers plain values."""

    def list(self, limit: int) -> Sequence[Mapping[str, object]]:
        """Checkpoints, newest first."""
        ...

    def get(self, checkpoint: str) -> Mapping[str, object]:
        """One checkpoint; `live` is the live one."""
        ...

    def promote(self, checkpoint: str, force: bool) -> Mapping[str, object]:
        """Make it live."""
        ...

    def rollback(self) -> Mapping[str, object]:
        """Make the previous one live."""
        ...


class Service:
    """The training service."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def list(self, limit: int) -> Sequence[Mapping[str, object]]:
        """As Source."""
        return [_plain(one) for one in self._client.list_checkpoints(page_size=limit).items]

    def get(self, checkpoint: str) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._client.get_checkpoint(checkpoint))

    def promote(self, checkpoint: str, force: bool) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._client.promote_checkpoint(checkpoint, force=force))

    def rollback(self) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._client.rollback_checkpoint())


class Directory:
    """A registry directory; services that watch it notice what changes here."""

    def __init__(self, registry: "Registry") -> None:
        self._registry = registry

    def list(self, limit: int) -> Sequence[Mapping[str, object]]:
        """As Source."""
        return [_plain(one) for one in self._registry.list()[:limit]]

    def get(self, checkpoint: str) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._registry.get(checkpoint))

    def promote(self, checkpoint: str, force: bool) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._registry.promote(checkpoint, force=force))

    def rollback(self) -> Mapping[str, object]:
        """As Source."""
        return _plain(self._registry.get(self._registry.rollback()))


def _source_options(command: Command) -> Command:
    text = "Registry directory that `metarec train --out` wrote: work on it without any service."
    registry = click.option("--registry", type=click.Path(path_type=Path), help=text)
    return registry(address_option("training")(command))


@contextmanager
def _open(registry: Path | None, training: str | None) -> Iterator[Source]:
    if registry is None:
        with connect(training=training) as client:
            yield Service(client)
        return
    if training is not None:
        raise click.UsageError("give either --registry or --training")
    from metarec.training.registry import CHECKPOINTS, Registry

    if not (registry / CHECKPOINTS).is_dir():
        raise NotFoundError(f"no registry at '{registry}'; make one with: metarec train --data DIR --out {registry}")
    yield Directory(Registry(registry))


@click.group()
def checkpoints() -> None:
    """List, promote and roll back checkpoints, through the training service or on a registry directory."""


@checkpoints.command("list", epilog="Example: metarec checkpoints list --registry registry")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=50, show_default=True, help="Most checkpoints to list.")
@_source_options
@json_option
def list_checkpoints(limit: int, registry: Path | None, training: str | None, as_json: bool) -> None:
    """List checkpoints, newest first."""
    with _open(registry, training) as source:
        found = source.list(limit)
    rows = [
        {
            "checkpoint": one["id"],
            "live": "live" if one["live"] else "",
            "recipe": one["recipe"],
            "created": _time(one),
            "gate": _gate(one),
            "delta": None if _gate(one) == "not judged" else one["delta"],
        }
        for one in found
    ]
    emit(list(found), as_json=as_json, rows=rows, title=f"{len(rows)} checkpoints")
    if not rows:
        note("train one with: metarec train --data DIR --out REGISTRY")


@checkpoints.command(epilog="Example: metarec checkpoints get live --registry registry --json")
@click.argument("checkpoint")
@_source_options
@json_option
def get(checkpoint: str, registry: Path | None, training: str | None, as_json: bool) -> None:
    """Show CHECKPOINT; `live` is the live one."""
    with _open(registry, training) as source:
        _show(source.get(checkpoint), as_json)


@checkpoints.command(epilog="Example: metarec checkpoints promote c-3-1f2e3d4c --registry registry")
@click.argument("checkpoint")
@click.option("--force", is_flag=True, help="Promote even though it is not better than the plain baselines.")
@_source_options
@json_option
def promote(checkpoint: str, force: bool, registry: Path | None, training: str | None, as_json: bool) -> None:
    """Make CHECKPOINT live; running services load it within a second or two."""
    with _open(registry, training) as source:
        _show(source.promote(checkpoint, force), as_json)


@checkpoints.command(epilog="Example: metarec checkpoints rollback --registry registry")
@_source_options
@json_option
def rollback(registry: Path | None, training: str | None, as_json: bool) -> None:
    """Make the checkpoint live again that was live before the current one; repeat to go further back."""
    with _open(registry, training) as source:
        _show(source.rollback(), as_json)


def _show(checkpoint: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        emit(checkpoint, as_json=True)
        return
    # A service sends maps in no order.
    parts = [dict(sorted(value.items())) for value in checkpoint.values() if isinstance(value, Mapping)]
    left_out = ("metrics", "gate_metrics", "gate_passed")
    shown = {name: value for name, value in checkpoint.items() if name not in left_out and value != ""}
    shown |= {"created": _time(checkpoint), "live": "yes" if checkpoint["live"] else "no", "gate": _gate(checkpoint)}
    if shown["gate"] == "not judged":
        shown["delta"] = None
    emit({**shown, **{name: figure(name, value) for part in parts for name, value in part.items()}}, as_json=False)


def _plain(checkpoint: "Checkpoint | CheckpointInfo") -> dict[str, object]:
    """What both sources know; the rest of a registry entry is for machines on that machine."""
    known = asdict(checkpoint)
    names = ("id", "recipe", "created", "live", "gate_passed", "delta", "schema_hash", "data_fingerprint")
    return {name: known[name] for name in (*names, "metrics", "gate_metrics")}


def _gate(checkpoint: Mapping[str, object]) -> str:
    if checkpoint["gate_passed"]:
        return "passed"
    return "not passed" if checkpoint["gate_metrics"] else "not judged"


def _time(checkpoint: Mapping[str, object]) -> str | None:
    created = checkpoint["created"]
    return iso(created) if isinstance(created, float) else None
