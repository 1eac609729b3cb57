"""`metarec items`: lists, shows and upserts items of the running catalogue."""

from dataclasses import asdict
from pathlib import Path

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note, progress
from metarec.cli.values import feature_option, read_entities, schema_option
from metarec.types import Features, Item

BATCH = 1000


@click.group()
def items() -> None:
    """List, get and upsert items."""


@items.command("list", epilog="Example: metarec items list --limit 20")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most items to list.")
@click.option("--page-token", default="", help="Continue where an earlier list ended.")
@address_option("recall")
@timeout_option
@json_option
def list_items(limit: int, page_token: str, recall: str | None, timeout: float | None, as_json: bool) -> None:
    """List the catalogue, ordered by item id."""
    found: list[Item] = []
    total: int | None = None
    with connect(recall=recall) as client, progress("listing", quiet=limit <= BATCH) as advance:
        while len(found) < limit:
            page = client.list_items(page_size=min(limit - len(found), BATCH), page_token=page_token, timeout=timeout)
            found.extend(page.items)
            page_token, total = page.next_page_token, page.total_size
            advance(len(found), min(limit, total or limit))
            if not page_token:
                break
    value = {"items": [asdict(item) for item in found], "next_page_token": page_token, "total_size": total}
    rows = [_row(item) for item in found]
    emit(value, as_json=as_json, rows=rows, title=f"{len(found)} of {total} items")
    if page_token:
        note(f"there are more: --limit {2 * limit}, or --page-token {page_token}")


@items.command(epilog="Example: metarec items get 50 --json")
@click.argument("item")
@address_option("recall")
@timeout_option
@json_option
def get(item: str, recall: str | None, timeout: float | None, as_json: bool) -> None:
    """Show one item."""
    with connect(recall=recall) as client:
        found = client.get_item(item, timeout=timeout)
    if as_json:
        emit(asdict(found), as_json=True)
    else:
        emit({"item": found.item_id, **_shown(found.features), "revision": found.revision}, as_json=False)


@items.command(epilog="Examples: metarec items upsert m-1 --feature title=Alien --feature genre='[\"horror\"]'    "
    "metarec items upsert --file items.yaml")  # fmt: skip
@click.argument("item", required=False)
@feature_option
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="JSON or YAML list of {item_id, features: {name: value}} in place of ITEM; - reads standard input.",
)
@schema_option
@address_option("gateway")
@timeout_option
@json_option
def upsert(
    item: str | None,
    features: tuple[str, ...],
    path: Path | None,
    data: Path | None,
    gateway: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Add ITEM or replace its content; it can be recommended when this returns. Fields not given are unknown."""
    given = [Item(item_id=name, features=found) for name, found in read_entities("item", item, features, path, data)]
    stored: list[Item] = []
    with connect(gateway=gateway) as client, progress("upserting", quiet=len(given) <= BATCH) as advance:
        for first in range(0, len(given), BATCH):
            stored.extend(client.upsert_items(given[first : first + BATCH], timeout=timeout))
            advance(len(stored), len(given))
    rows = [{"item": one.item_id, "revision": one.revision} for one in stored]
    emit([asdict(one) for one in stored], as_json=as_json, rows=rows, title=f"stored {len(stored)} items")


def _row(item: Item) -> dict[str, object]:
    text = ", ".join(f"{name}={value}" for name, value in _shown(item.features).items())
    return {"item": item.item_id, "revision": item.revision, "features": text if len(text) <= 100 else text[:97] + "..."}


def _shown(features: Features) -> dict[str, object]:
    shown: dict[str, object] = {}
    for name, value in features.items():
        if isinstance(value, tuple):
            parts = [part if isinstance(part, str) else f"{part:.4g}" for part in value[:6]]
            shown[name] = "|".join(parts) + ("|..." if len(value) > 6 else "")
        elif value is not None:
            shown[name] = value
    return shown
