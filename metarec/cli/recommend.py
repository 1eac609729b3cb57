"""`metarec recommend`: what the gateway recommends to a user."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import feature_option, read_features, read_weights, schema_fields, weight_option

if TYPE_CHECKING:
    from metarec.client import RecommendedItem


@click.command(epilog="Example: metarec recommend 42 --num-items 5 --data data/ml-100k")
@click.argument("user")
@click.option("-n", "--num-items", type=click.IntRange(1, 200), default=10, show_default=True, help="How many items.")
@click.option("--scenario", default="", help="The scenario.  [default: the default scenario]")
@click.option("--exclude", multiple=True, metavar="ITEM", help="An item never to return; repeat for more.")
@click.option("--include-seen", is_flag=True, help="Items the user has interacted with may be returned.")
@click.option("--diversity", type=click.FloatRange(0, 1), help="Strength of diversity, 0 to 1.  [default: the service's]")
@click.option("--exploration", type=click.FloatRange(0, 1), help="Most places to explore, as a share.  [default: the service's]")
@weight_option
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
    diversity: float | None,
    exploration: float | None,
    weights: tuple[str, ...],
    features: tuple[str, ...],
    data: Path | None,
    gateway: str | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Recommend items to USER. A user nobody knows gets the meta-learned prior; --feature gives a profile for this call alone.

    `was` is an item's place by its score alone, `why` what moved it: rules, diversity, or exploration with its probability.
    """
    titles = Titles(data)
    with connect(gateway=gateway, recall=recall) as client:
        answer = client.recommend(
            user,
            num_items=num_items,
            scenario=scenario,
            exclude=exclude,
            include_seen=include_seen,
            diversity=diversity,
            exploration=exploration,
            target_weights=read_weights(weights) or None,
            features=read_features(features, schema_fields(data, "users")) or None,
            timeout=timeout,
        )
        titles.look_up((item.item_id for item in answer.items), client)
    touched = any(item.rank_before not in (0, place) or item.rules for place, item in enumerate(answer.items, 1))
    rows = [
        {
            "#": place,
            "item": item.item_id,
            **titles.column(item.item_id),
            "score": item.score,
            "source": item.source,
            **({"was": item.rank_before or None, "why": _why(item) or None} if touched else {}),
        }
        for place, item in enumerate(answer.items, 1)
    ]
    value = asdict(answer)
    value["items"] = [{**asdict(item), **titles.column(item.item_id)} for item in answer.items]
    shots = f"{answer.shots} interactions" if answer.shots else "cold start"
    emit(value, as_json=as_json, rows=rows, title=f"user {user} ({shots}, checkpoint {answer.checkpoint or 'none'})")
    for part in answer.degradations:
        note(f"degraded: {part.stage} failed ({part.reason}); instead: {part.fallback}")
    for rule in answer.rules:
        counts = {"removed": rule.num_removed, "changed": rule.num_changed, "could not fill": rule.num_missing}
        note(f"rule {rule.rule} ({rule.effect}): " + ", ".join(f"{what} {count}" for what, count in counts.items() if count))
    if answer.diversity is not None:
        found = answer.diversity
        note(
            f"diversity {found.strength:g}: mean likeness {found.similarity_before:.3f} -> {found.similarity_after:.3f}, "
            f"for {found.score_traded:.4f} of the mean score"
        )


def _why(item: "RecommendedItem") -> str:
    """What moved an item, in words."""
    parts = [f"{rule.rule} {rule.boost:+g}" if rule.effect == "boost" else rule.rule for rule in item.rules]
    if item.explored:
        parts.append(f"explored (p={item.propensity:.2f})")
    return ", ".join(parts)
