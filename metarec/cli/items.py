"""`metarec items`: lists, shows, upserts and previews items of the running catalogue."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note, print_json, print_table, progress
from metarec.cli.titles import Titles
from metarec.cli.values import feature_option, read_entities, read_features, schema_fields, schema_option
from metarec.types import Features, Item

if TYPE_CHECKING:
    from metarec.client import ItemPreview

BATCH = 1000
MAX_PREVIEWS = 100


@click.group()
def items() -> None:
    """List, get, upsert and preview items."""


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


@items.command(
    short_help="Add ITEM or replace its content.",
    epilog="Example: metarec items upsert m-1 --feature title=Alien --feature genre='[\"horror\"]'\n\n"
    "Example: metarec items upsert --file items.yaml",
)
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
    emit(
        [asdict(one) for one in stored],
        as_json=as_json,
        rows=rows,
        title=f"stored {len(stored)} {'item' if len(stored) == 1 else 'items'}",
    )


@items.command(
    short_help="What to expect of an unseen item.",
    epilog="Example: metarec items preview --feature title=Alien --feature genre='[\"horror\"]'\n\n"
    "Example: metarec items preview --items items.yaml --data data/ml-100k",
)
@feature_option
@click.option(
    "--items",
    "path",
    type=click.Path(path_type=Path),
    help="JSON or YAML list of {item_id, features: {name: value}}; - reads standard input.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Segments at either end of the table.")
@click.option("--neighbours", type=click.IntRange(1, 100), default=5, show_default=True, help="Nearest known items.")
@schema_option
@address_option("recall")
@timeout_option
@json_option
def preview(
    features: tuple[str, ...],
    path: Path | None,
    top: int,
    neighbours: int,
    data: Path | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """What to expect of an unseen item: its mean label, who would like it most, what it is like. Nothing is stored."""
    if (path is None) == (not features):
        raise click.UsageError("give either --feature or --items")
    if path is None:
        given = [Item(item_id="", features=cast(Features, read_features(features, schema_fields(data, "items"))))]
    else:
        given = [Item(item_id=name, features=found) for name, found in read_entities("item", None, (), path, data)]
    titles = Titles(data)
    found: list[ItemPreview] = []
    with connect(recall=recall) as client, progress("previewing", quiet=len(given) <= MAX_PREVIEWS) as advance:
        for first in range(0, len(given), MAX_PREVIEWS):
            part = given[first : first + MAX_PREVIEWS]
            found.extend(client.preview_items(part, num_neighbours=neighbours, timeout=timeout))
            advance(len(found), len(given))
        if not as_json:
            titles.look_up([item_id for one in found for item_id, _ in one.neighbours], client)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        _show(one, top, titles)


def _show(found: "ItemPreview", top: int, titles: Titles) -> None:
    what = "expected label" if found.labels else "score"
    sure = f" +- {found.stddev:.2f}" if found.stddev else ""
    audience = found.audience if len(found.audience) <= 2 * top else (*found.audience[:top], *found.audience[-top:])
    rows = [
        {"field": part.field, "value": part.value, "users": part.num_users, "mean": part.mean, "lift": part.lift,
         "+-": part.lift_stddev or None}
        for part in audience
    ]  # fmt: skip
    print_table(rows, title=f"{found.item_id or 'the item'}: {what} {found.mean:.2f}{sure} (checkpoint {found.checkpoint})")
    near = [{"nearest": item_id, **titles.column(item_id), "cosine": cosine} for item_id, cosine in found.neighbours]
    print_table(near)


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
