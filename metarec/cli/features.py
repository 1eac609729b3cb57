"""`metarec features`: build the feature store of a dataset, load it online, and look at what serving reads."""

from datetime import UTC, datetime
from pathlib import Path

import click

from metarec.cli.online import reaching, repeated
from metarec.cli.output import emit, json_option, note, progress
from metarec.errors import InvalidInputError, NotFoundError
from metarec.features.store import FeatureStore
from metarec.types import Features

store_option = click.option(
    "--store",
    "path",
    type=click.Path(path_type=Path),
    envvar="METAREC_FEATURES",
    required=True,
    help="Feature store directory.  [env: METAREC_FEATURES]",
)
online_option = click.option(
    "--online",
    default="sqlite",
    envvar="METAREC_ONLINE_STORE",
    show_default=True,
    help="Online store: 'sqlite' or redis://HOST:PORT/DB.  [env: METAREC_ONLINE_STORE]",
)


@click.group()
def features() -> None:
    """Build and read the feature store."""


@features.command(epilog="Example: metarec features build --data data/ml-100k --out data/features")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset directory.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Feature store directory to write.")
@online_option
@json_option
def build(data: Path, out: Path, online: str, as_json: bool) -> None:
    """Write the offline tables of a dataset and declare its views; does nothing when they are there already."""
    from metarec.data.dataset import Dataset

    dataset = Dataset.open(data)
    with progress("building the feature store"):
        store = FeatureStore.build(dataset, out, online)
        store.close()
    summary = {
        "store": str(out),
        "fingerprint": store.fingerprint,
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
    }
    emit(summary, as_json=as_json)
    if not as_json:
        note(f"load it online with: metarec features materialize --store {out}{repeated(online)}")


@features.command(epilog="Example: metarec features materialize --store data/features --end 1998-04-01")
@store_option
@click.option("--end", help="Load what was known at this time (ISO 8601, UTC where it has no zone).  [default: now]")
@click.option("--restart", is_flag=True, help="Load everything again; undoes profiles and contents written since.")
@online_option
@json_option
def materialize(path: Path, end: str | None, restart: bool, online: str, as_json: bool) -> None:
    """Load the online store from the offline tables; continues where the last call ended."""
    until = datetime.now(UTC) if end is None else _time(end)
    with progress("opening the feature store"), reaching(online):
        store = FeatureStore.open(path, online)
    with progress("loading views") as advance, reaching(online):
        store.materialize(until.timestamp(), restart=restart, progress=advance)
    store.close()
    emit({"store": str(path), "until": until.isoformat(timespec="seconds")}, as_json=as_json)


@features.command(epilog="Example: metarec features get --store data/features --user 42 --json")
@store_option
@click.option("--user", help="Id of a user.")
@click.option("--item", help="Id of an item.")
@online_option
@json_option
def get(path: Path, user: str | None, item: str | None, online: str, as_json: bool) -> None:
    """Show what serving reads about a user or an item."""
    if (user is None) == (item is None):
        raise click.UsageError("give either --user or --item")
    with progress("opening the feature store", quiet=as_json), reaching(online):
        store = FeatureStore.open(path, online)
    try:
        with reaching(online):
            values = _user(store, user) if user is not None else _item(store, item or "")
    finally:
        store.close()
    emit(values, as_json=as_json)


def _user(store: FeatureStore, user_id: str) -> dict[str, object]:
    found = store.read_user(user_id)
    if found is None:
        raise NotFoundError(f"no user '{user_id}' in the online store; new data is loaded by `metarec features materialize`")
    values: dict[str, object] = {"user": user_id, **_shown(found.features or {})}
    if found.stats is not None:
        values |= {"interactions": found.stats.count, "mean_label": found.stats.mean_label}
    if found.adaptation is not None:
        values |= {"shots": found.shots, "checkpoint": found.checkpoint, "fast_weights_bytes": len(found.adaptation)}
    return values


def _item(store: FeatureStore, item_id: str) -> dict[str, object]:
    item = store.read_items([item_id]).get(item_id)
    if item is None:
        raise NotFoundError(f"no item '{item_id}' in the online store; new data is loaded by `metarec features materialize`")
    values: dict[str, object] = {"item": item_id, **_shown(item.features), "revision": item.revision}
    stats = store.read_item_stats([item_id]).get(item_id)
    if stats is not None:
        values |= {"interactions": stats.count, "mean_label": stats.mean_label}
    return values


def _shown(values: Features) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInputError(f"'{text}' is no time; write it as 1998-04-01 or 1998-04-01T12:00:00Z", field="end") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
