"""`metarec recommend`: what the gateway recommends to a user."""

from dataclasses import asdict
from pathlib import Path

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import feature_option, read_features, schema_fields


@click.command(epilog="Example: metarec recommend 42 --num-items 5 --data data/ml-100k")
@click.argument("user")
@click.option("-n", "--num-items", type=click.IntRange(1, 200), default=10, show_default=True, help="How many items.")
@click.option("--scenario", default="", help="The scenario.  [default: the default scenario]")
@click.option("--exclude", multiple=True, metavar="ITEM", help="An item never to return; repeat for more.")
@click.option("--include-seen", is_flag=True, help="Items the user has interacted with may be returned.")
@feature_option
@data_option
@address_option("gateway")
@address_option("recall")
@timeout_option
@json_option
def recommend(
    user: str,
    num_items: int,
    scenario: str,
    exclude: tuple[str, ...],
    include_seen: bool,
    features: tuple[str, ...],
    data: Path | None,
    gateway: str | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Recommend items to USER. A user nobody knows gets the meta-learned prior; --feature gives a profile for this call alone."""
    titles = Titles(data)
    with connect(gateway=gateway, recall=recall) as client:
        answer = client.recommend(
            user,
            num_items=num_items,
            scenario=scenario,
            exclude=exclude,
            include_seen=include_seen,
            features=read_features(features, schema_fields(data, "users")) or None,
            timeout=timeout,
        )
        titles.look_up((item.item_id for item in answer.items), client)
    rows = [
        {"#": place, "item": item.item_id, **titles.column(item.item_id), "score": item.score, "source": item.source}
        for place, item in enumerate(answer.items, 1)
    ]
    value = asdict(answer)
    value["items"] = [{**asdict(item), **titles.column(item.item_id)} for item in answer.items]
    shots = f"{answer.shots} interactions" if answer.shots else "cold start"
    emit(value, as_json=as_json, rows=rows, title=f"user {user} ({shots}, checkpoint {answer.checkpoint or 'none'})")
    for part in answer.degradations:
        note(f"degraded: {part.stage} failed ({part.reason}); instead: {part.fallback}")
