"""`metarec users`: stores and completes profiles, shows what was recorded of a user, and forgets users."""

from dataclasses import asdict
from pathlib import Path

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note, progress
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import feature_option, grade, iso, read_entities, read_features, read_labels, schema_fields, schema_option
from metarec.types import User

BATCH = 1000


@click.group()
def users() -> None:
    """Upsert and delete users, complete their profiles, list their interactions."""


@users.command(epilog="Example: metarec users upsert 42 --feature age=30\n\nExample: metarec users upsert --file users.json")
@click.argument("user", required=False)
@feature_option
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="JSON or YAML list of {user_id, features: {name: value}} in place of USER; - reads standard input.",
)
@schema_option
@address_option("gateway")
@timeout_option
@json_option
def upsert(
    user: str | None,
    features: tuple[str, ...],
    path: Path | None,
    data: Path | None,
    gateway: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Add USER or replace their profile. Fields not given are unknown."""
    given = [User(user_id=name, features=found) for name, found in read_entities("user", user, features, path, data)]
    stored = 0
    with connect(gateway=gateway) as client, progress("upserting", quiet=len(given) <= BATCH) as advance:
        for first in range(0, len(given), BATCH):
            stored += client.upsert_users(given[first : first + BATCH], timeout=timeout)
            advance(stored, len(given))
    emit({"num_upserted": stored}, as_json=as_json, rows=[], title=f"stored {stored} {'user' if stored == 1 else 'users'}")


@users.command(epilog="Example: metarec users delete 42 --yes")
@click.argument("user")
@click.option("--allow-missing", is_flag=True, help="Succeed even when nobody knows the user.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@address_option("gateway")
@timeout_option
@json_option
def delete(user: str, allow_missing: bool, yes: bool, gateway: str | None, timeout: float | None, as_json: bool) -> None:
    """Forget USER: profile, interactions and fast weights. It cannot be undone.

    Lines of the log of impressions stay (docs/serving.md says how to take them out).
    """
    if not yes:
        click.confirm(f"forget user '{user}' and all their interactions?", abort=True, err=True)
    with connect(gateway=gateway) as client:
        deleted = client.delete_user(user, allow_missing=allow_missing, timeout=timeout)
    title = f"forgot user '{user}' and {deleted} {'interaction' if deleted == 1 else 'interactions'}"
    emit({"user": user, "num_interactions_deleted": deleted}, as_json=as_json, rows=[], title=title)


@users.command(epilog="Example: metarec users history 42 --limit 20 --data data/ml-100k")
@click.argument("user")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most interactions to list.")
@click.option("--page-token", default="", help="Continue where an earlier list ended.")
@data_option
@address_option("adaptation")
@timeout_option
@json_option
def history(
    user: str,
    limit: int,
    page_token: str,
    data: Path | None,
    adaptation: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """List what was recorded of USER, newest first."""
    titles = Titles(data)
    with connect(adaptation=adaptation) as client:
        page = client.list_interactions(user, page_size=limit, page_token=page_token, timeout=timeout)
    further = any(event.labels for event in page.items)
    rows = [
        {
            "time": iso(event.timestamp),
            "item": event.item_id,
            **titles.column(event.item_id),
            "label": grade(event.label),
            **({"labels": ", ".join(f"{name}={label:g}" for name, label in event.labels.items())} if further else {}),
            "scenario": event.scenario or None,
            "event": event.event_id,
        }
        for event in page.items
    ]
    value = {"interactions": [asdict(event) for event in page.items], "next_page_token": page.next_page_token}
    emit(value, as_json=as_json, rows=rows, title=f"user {user}")
    if page.next_page_token:
        note(f"there are more: --page-token {page.next_page_token}")


@users.command(
    "infer-profile",
    short_help="Complete the profile of USER from what they did.",
    epilog="Example: metarec users infer-profile 42\n\n"
    "Example: metarec users infer-profile --support 50=5 --support 181=4 --feature gender=F --data data/ml-100k",
)
@click.argument("user", default="")
@click.option(
    "--support",
    multiple=True,
    metavar="ID=LABEL",
    help="An item with its label; repeat for more.  [default: what is recorded of USER]",
)
@feature_option
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Values of each field in the table.")
@schema_option
@address_option("gateway")
@timeout_option
@json_option
def infer_profile(
    user: str,
    support: tuple[str, ...],
    features: tuple[str, ...],
    top: int,
    data: Path | None,
    gateway: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Complete the profile of USER from what they did, with probabilities. Nothing is stored.

    --feature says which fields are known, in place of the stored profile. USER may be left out with --support or --feature.
    """
    if not user and not support and not features:
        raise click.UsageError("give USER, or what is known of somebody with --support and --feature")
    with connect(gateway=gateway) as client:
        found = client.infer_profile(
            user,
            support=read_labels(support, "support"),
            features=read_features(features, schema_fields(data, "users")) or None,
            timeout=timeout,
        )
    rows: list[dict[str, object]] = []
    for field in found.fields:
        rows += [
            {
                "field": field.name,
                "value": likely.value or "(any other)",
                "probability": likely.probability,
                "known": "as given" if field.observed else "inferred",
            }
            for likely in field.values[: None if field.observed else top]
        ]
        if not field.values:
            rows.append({"field": field.name, "value": None, "probability": None, "known": "as given" if field.observed else "-"})
    title = f"{f'user {user}' if user else 'somebody'} after {found.shots} interactions (checkpoint {found.checkpoint})"
    emit(asdict(found), as_json=as_json, rows=rows, title=title)
    if found.unknown_ids:
        note(f"left out, for nobody knows them: {', '.join(found.unknown_ids)}")
