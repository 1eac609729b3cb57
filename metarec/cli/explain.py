"""`metarec explain`: the score of an item for a user as terms that add up to it."""

from dataclasses import asdict
from pathlib import Path

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import grade, read_weights, weight_option

MEANINGS = {
    "global": "common to all",
    "item": "what everybody gives the item",
    "profile": "what the profile predicts",
    "support": "your interaction",
    "scenario": "common to the scenario",
}


@click.command(epilog="Example: metarec explain 42 50 --data data/ml-100k")
@click.argument("user")
@click.argument("item")
@click.option("--scenario", default="", help="The scenario.  [default: the default scenario]")
@weight_option
@data_option
@address_option("gateway")
@address_option("recall")
@timeout_option
@json_option
def explain(
    user: str,
    item: str,
    scenario: str,
    weights: tuple[str, ...],
    data: Path | None,
    gateway: str | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Explain the score of ITEM for USER: exact terms, largest first, which add up to the score."""
    titles = Titles(data)
    with connect(gateway=gateway, recall=recall) as client:
        found = client.explain(user, item, scenario=scenario, target_weights=read_weights(weights) or None, timeout=timeout)
        titles.look_up([item, *(part.item_id for part in found.contributions)], client)
    rows: list[dict[str, object]] = [
        {
            "term": f"rule {part.rule}" if part.kind == "rule" else MEANINGS[part.kind],
            "item": part.item_id or None,
            **titles.column(part.item_id),
            "label": grade(part.label) if part.kind == "support" else None,
            "adds": part.value,
        }
        for part in found.contributions
    ]
    blank = {"title": None} if titles.known else {}
    total = sum(part.value for part in found.contributions)
    rows.append({"term": "sum", "item": None, **blank, "label": None, "adds": total})
    value = {**asdict(found), "residual": found.residual, **titles.column(item)}
    name = titles.column(item).get("title") or f"item {item}"
    emit(value, as_json=as_json, rows=rows, title=f"{name} for user {user}: score {found.score:.4f} ({found.shots} interactions)")
    for degraded in found.degradations:
        note(f"degraded: {degraded.stage} failed ({degraded.reason}); instead: {degraded.fallback}")
    for rule in found.rules:
        if rule.effect != "boost":
            note(f"rule {rule.rule} ({rule.effect}) is about this item")
