"""`metarec adapt`: runs the inner loop for one task and predicts labels, without recording anything."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import feature_option, read_features, read_labels, schema_fields
from metarec.types import TaskKind


@click.command(epilog="Example: metarec adapt --support 50=5 --support 181=4 --query 172 --query 1 --data data/ml-100k")
@click.argument("task", default="")
@click.option("--kind", type=click.Choice(["user", "item"]), default="user", show_default=True, help="What the task is.")
@click.option(
    "--support",
    multiple=True,
    metavar="ID=LABEL",
    help="A row of the support set; repeat for more.  [default: what is recorded for TASK]",
)
@click.option("--query", multiple=True, metavar="ID", help="A row to predict; repeat for more.")
@feature_option
@data_option
@address_option("adaptation")
@address_option("recall")
@timeout_option
@json_option
def adapt(
    task: str,
    kind: str,
    support: tuple[str, ...],
    query: tuple[str, ...],
    features: tuple[str, ...],
    data: Path | None,
    adaptation: str | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Adapt to TASK, the id of a user or an item, and predict. TASK may be left out with --support."""
    if not task and not support:
        raise click.UsageError("give TASK, or a support set with --support ID=LABEL")
    titles = Titles(data if kind == "user" else None)
    fields = schema_fields(data, "users" if kind == "user" else "items")
    with connect(adaptation=adaptation, recall=recall) as client:
        found = client.adapt_task(
            task,
            kind=cast(TaskKind, kind),
            support=read_labels(support, "support"),
            query=query,
            features=read_features(features, fields) or None,
            timeout=timeout,
        )
        titles.look_up(query, client)
    rows = [{"id": row.id, **titles.column(row.id), "mean": row.mean, "stddev": row.stddev} for row in found.predictions]
    emit(asdict(found), as_json=as_json, rows=rows, title=f"adapted to {found.shots} rows (checkpoint {found.checkpoint})")
    if found.unknown_ids:
        note(f"left out of the support set, for nobody knows them: {', '.join(found.unknown_ids)}")
