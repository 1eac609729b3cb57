"""`metarec rules`: check a rules file before services keep it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import emit, json_option, note

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.data.schema import Schema
    from metarec.ranking.rules import Rule, RuleSet
    from metarec.types import FeatureValue


@click.group()
def rules() -> None:
    """Check rules: filters, boosts, pins and quotas that are put on top of ranking."""


@rules.command(epilog="Example: metarec rules check rules.yaml --data data/ml-100k")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset directory: fields are checked, matching items counted.")
@click.option("--registry", type=click.Path(path_type=Path), help="Registry: fields are checked against its live checkpoint's.")
@json_option
def check(file: Path, data: Path | None, registry: Path | None, as_json: bool) -> None:
    """Check FILE as services do before they keep it, and show its rules. Exit status 2 names the rule and field that is wrong."""
    from metarec.ranking.rule_file import read_rules

    if data is not None and registry is not None:
        raise click.UsageError("give --data or --registry, not both")
    found = read_rules(file)
    dataset = None
    if data is not None:
        from metarec.data.dataset import Dataset

        dataset = Dataset.open(data)
        found.check(dataset.schema)
    elif registry is not None:
        found.check(_live_schema(registry))
    counts = None if dataset is None else _counts(found, dataset)
    rows = [_row(rule, None if counts is None else counts[place]) for place, rule in enumerate(found.rules)]
    title = f"{file}: {len(rows)} rules, version {found.version or 'none'}"
    emit({"file": str(file), "version": found.version, "rules": rows}, as_json=as_json, rows=rows, title=title)
    if data is None and registry is None:
        note("fields were not checked: give --data or --registry")
    for row in rows:
        if row.get("items") == 0:
            note(f"warning: rule {row['rule']} means no item of {data}")
    # Requests without a scenario are in the default one, whatever the data has.
    known = {""} if dataset is None else {"", *dataset.interactions.scenarios}
    for rule in () if dataset is None else found.rules:
        missing = ", ".join(f"'{name}'" for name in sorted((rule.scenarios or known) - known))
        if missing:
            note(f"warning: rule {rule.name} is for scenarios without events in {data}: {missing}")


def _row(rule: "Rule", count: int | None) -> dict[str, object]:
    from metarec.ranking.rules import Boost, Pin, Quota

    details = ""
    if isinstance(rule, Boost):
        details = f"{rule.add:+g}"
    elif isinstance(rule, Pin):
        details = f"item {rule.item_id} at {rule.place}"
    elif isinstance(rule, Quota):
        bounds = [f"at least {rule.at_least}" if rule.at_least else "", "" if rule.at_most is None else f"at most {rule.at_most}"]
        of = f"of every {rule.per}" if rule.per else "of the list"
        details = f"{', '.join(filter(None, bounds))} {of}"
    return {
        "rule": rule.name,
        "effect": rule.effect,
        "does": details or None,
        "scenarios": "all" if rule.scenarios is None else ", ".join(name or "(default)" for name in sorted(rule.scenarios)),
        "users": "all" if rule.user is None else "some",
        **({} if count is None else {"items": count}),
    }


def _live_schema(registry: Path) -> "Schema":
    from metarec.training.registry import Registry

    return Registry(registry).load("live").schema


def _counts(rules: "RuleSet", dataset: "Dataset") -> list[int]:
    """How many items of the dataset each rule means."""
    from metarec.ranking.marks import mark

    counts = [0] * len(rules.rules)
    for item_id, features in _contents(dataset):
        hits = mark(rules, item_id, features).hits
        for place in range(len(counts)):
            counts[place] += hits >> place & 1
    return counts


def _contents(dataset: "Dataset") -> "Iterator[tuple[str, dict[str, FeatureValue]]]":
    """Every item and its features, as the feature store holds them."""
    from metarec.features.graph import GRAPH_FIELD, item_facts
    from metarec.features.sources import plain

    facts = item_facts(dataset.graph)
    fields = dataset.schema.items
    columns = [dataset.items[field.name] for field in fields]
    for item_id, *values in zip(map(str, dataset.item_ids), *columns, strict=True):
        features = {field.name: plain(field.kind, value, field.name) for field, value in zip(fields, values, strict=True)}
        yield item_id, {**features, GRAPH_FIELD: facts.get(item_id)}
