"""`metarec adapt`: runs the inner loop for one task and predicts labels, without recording anything."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.titles import Titles, data_option
from metarec.cli.values import feature_option, read_features, read_labels, read_records, schema_fields
from metarec.client import AdaptedTask
from metarec.errors import InvalidInputError
from metarec.types import AdaptedKind

Rows = list[tuple[str, float] | tuple[str, str, float]]
KINDS = ["user", "item", "scenario", "user-in-scenario"]
EXAMPLES = """Examples:

\b
metarec adapt --support 50=5 --support 181=4 --query 172 --query 1 --data data/ml-100k
metarec adapt --kind item --feature release_year=1997 --support 405=5 --support 13=4 --query 94
metarec adapt kids --kind scenario --query 172 --feature age=9
metarec adapt 42 --kind user-in-scenario --scenario kids --query 172
metarec adapt --kind scenario --file first-ratings.json --query 172"""


@click.command(epilog=EXAMPLES)
@click.argument("task", default="")
@click.option("--kind", type=click.Choice(KINDS), default="user", show_default=True, help="What the task is.")
@click.option(
    "--support",
    multiple=True,
    metavar="ID=LABEL",
    help="A row of the support set; repeat for more. What another user did in a scenario is USER:ITEM=LABEL.  "
    "[default: what is recorded for TASK]",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="JSON or YAML list of {user_id, item_id, label}, what users did in a scenario; - is standard input.",
)
@click.option("--scenario", default="", help="The scenario of a user in one.")
@click.option("--target", default="", help="The target to predict for a user, by column.  [default: the label]")
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
    file: Path | None,
    scenario: str,
    target: str,
    query: tuple[str, ...],
    features: tuple[str, ...],
    data: Path | None,
    adaptation: str | None,
    recall: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Adapt to TASK, the id of a user or an item or the name of a scenario, and predict. TASK may be left out with --support.

    A scenario predicts for a user who is new in it, whose profile --feature tells.
    """
    in_scenario = kind in ("scenario", "user-in-scenario")
    if not in_scenario and (file is not None or scenario):
        raise click.UsageError("--file and --scenario are for --kind scenario and user-in-scenario")
    if kind == "scenario" and scenario:
        raise click.UsageError("name the scenario as TASK; --scenario is for --kind user-in-scenario")
    if not task and not support and file is None:
        raise click.UsageError("give TASK, or a support set with --support ID=LABEL")
    rows = _rows(support, file, in_scenario, own=kind == "user-in-scenario")
    titles = Titles(data if kind != "item" else None)
    fields = schema_fields(data, "items" if kind == "item" else "users")
    with connect(adaptation=adaptation, recall=recall) as client:
        found = client.adapt_task(
            task,
            kind=cast(AdaptedKind, kind.replace("-", "_")),
            support=rows,
            query=query,
            features=read_features(features, fields) or None,
            scenario=scenario,
            target=target,
            timeout=timeout,
        )
        titles.look_up(query, client)
    # A learner that tells no deviation must not look as if it were certain.
    shown = [{"id": row.id, **titles.column(row.id), "mean": row.mean, "stddev": row.stddev or None} for row in found.predictions]
    emit(asdict(found), as_json=as_json, rows=shown, title=_title(found))
    if not query:
        note("nothing was asked for: name what to predict with --query ID")
    if found.unknown_ids:
        note(f"left out of the support set, for nobody knows them: {', '.join(found.unknown_ids)}")


def _title(found: AdaptedTask) -> str:
    title = f"adapted to {found.shots} rows (checkpoint {found.checkpoint})"
    if found.scenario is None:
        return title
    told = found.scenario
    if not told.num_users:
        return f"{title}; nobody has acted in the scenario, so it is the prior"
    return (
        f"{title}; scenario of {told.num_users} users and {told.num_rows} rows, kappa {told.kappa:.2g}, moves labels by "
        f"{told.mean_shift:+.2f} ± {told.stddev_shift:.2f} over the catalogue"
    )


def _rows(support: Sequence[str], file: Path | None, in_scenario: bool, *, own: bool) -> Rows:
    """The rows of the support set, with the user who acted where that is somebody else than the task."""
    rows: Rows = []
    for row_id, label in read_labels(support, "support"):
        user_id, colon, item_id = row_id.partition(":") if in_scenario else ("", "", row_id)
        if in_scenario and not colon and not own:
            raise InvalidInputError(f"'{row_id}' has no user; write USER:ITEM=LABEL, for example 42:50=5", field="support")
        rows.append((user_id, item_id, label) if colon else (row_id, label))
    records = [] if file is None else read_records(file, needed=("user_id", "item_id", "label"), optional=())
    for number, record in enumerate(records, 1):
        try:
            rows.append((str(record["user_id"]), str(record["item_id"]), float(str(record["label"]))))
        except ValueError as error:
            raise InvalidInputError(f"file '{file}', record {number}: {error}", field="file") from error
    return rows
