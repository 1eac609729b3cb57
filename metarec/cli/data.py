"""`metarec data`: fetch public datasets, import one's own, look at what is in one."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.data_merge import merge
from metarec.cli.data_tables import overview, print_import, print_report
from metarec.cli.output import emit, json_option, note, print_json, print_table, progress
from metarec.errors import AlreadyExistsError, DataError, InvalidInputError

if TYPE_CHECKING:
    from metarec.data.files import Files

file_type = click.Path(path_type=Path)
data_option = click.option("--data", "path", type=file_type, required=True, help="Dataset directory.")
out_option = click.option(
    "--out", type=file_type, required=True, help="Dataset directory to write; one that is there is replaced."
)


@click.group()
def data() -> None:
    """Fetch, import and inspect datasets."""


@data.command(epilog="Example: metarec data fetch ml-100k --out data/ml-100k")
@click.argument("name")
@out_option
@click.option(
    "--cache",
    type=file_type,
    envvar="METAREC_CACHE",
    help="Where downloads are kept.  [env: METAREC_CACHE; default: ~/.cache/metarec]",
)
@json_option
def fetch(name: str, out: Path, cache: Path | None, as_json: bool) -> None:
    """Download a public dataset and import it. NAME: ml-100k (MovieLens-100K, for research use).

    The files are checked against pinned SHA-256 sums. Does nothing when OUT holds the dataset already.
    """
    from metarec.data import fetching

    dataset = fetching.public_dataset(name)
    found = fetching.already_there(dataset, out)
    if found is not None:
        note(f"'{out}' already holds {name}; nothing to do")
        summary = {
            "path": str(out),
            "fingerprint": found.fingerprint,
            "users": len(found.user_ids),
            "items": len(found.item_ids),
            "interactions": len(found.interactions),
        }
        emit(summary, as_json=as_json)
        return
    with progress(f"fetching {name}") as advance:
        imported = fetching.fetch(dataset, out, cache=cache, progress=lambda done, text: advance(round(100 * done), 100, text))
    print_import(imported, as_json)


@data.command(
    "import",
    epilog="""\b
Examples:
  metarec data import --interactions ratings.csv --users users.csv --items items.csv --infer --schema schema.yaml
  metarec data import --interactions ratings.csv --users users.csv --items items.csv --schema schema.yaml --out data/mine
""",
)
@click.option("--interactions", type=file_type, required=True, help="CSV or Parquet: who did what with which item.")
@click.option(
    "--users",
    type=file_type,
    multiple=True,
    help="CSV or Parquet: one row per user; repeat it for files with more fields.  [default: the ids in the interactions]",
)
@click.option(
    "--items",
    type=file_type,
    multiple=True,
    help="CSV or Parquet: one row per item; repeat it for files with more fields.  [default: the ids in the interactions]",
)
@click.option("--graph", type=file_type, help="Knowledge graph, CSV or Parquet with columns head, relation, tail.")
@click.option(
    "--links", type=file_type, help="Entity of each item, CSV or Parquet with columns item_id (as in the schema), entity."
)
@click.option("--schema", "schema_path", type=file_type, help="What the columns mean (YAML; docs/data.md).")
@click.option("--out", type=file_type, help="Dataset directory to write; one that is there is replaced.")
@click.option(
    "--infer", is_flag=True, help="Write a draft of the schema (to --schema, or to standard output) and import nothing."
)
@click.option(
    "--where",
    metavar="COLUMN=VALUE",
    multiple=True,
    help="Import only interactions with this value; repeat for more columns (all must hold) or more values (any may).",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    help="Share of bad rows of a file to drop before refusing it.  [default: 0.01; 0 for rows that cannot be parsed or decoded]",
)
@click.option(
    "--missing",
    metavar="TEXT",
    multiple=True,
    help="What stands for a missing value, beside nothing at all; repeatable.  [default: NA N/A NaN nan null NULL \\N]",
)
@click.option("--all-positive", is_flag=True, help="There is no label column: every event counts as 1 (binary label).")
@click.option("--delimiter", help="Delimiter of CSV files; 'tab' for a tab.  [default: told from the header]")
@click.option("--encoding", default="utf-8", show_default=True, help="Encoding of CSV files, such as latin-1.")
@json_option
def import_(
    interactions: Path,
    users: Sequence[Path],
    items: Sequence[Path],
    graph: Path | None,
    links: Path | None,
    schema_path: Path | None,
    out: Path | None,
    infer: bool,
    where: Sequence[str],
    max_bad: float | None,
    missing: Sequence[str],
    all_positive: bool,
    delimiter: str | None,
    encoding: str,
    as_json: bool,
) -> None:
    """Check and clean CSV or Parquet files and write a dataset directory.

    Reports what was dropped or changed and why; refuses a file that is too bad, naming column and row. Nothing is written unless
    all of it went well.
    """
    from metarec.data.columns import MISSING
    from metarec.data.files import Files
    from metarec.data.importing import ImportSettings, import_dataset
    from metarec.data.schema import Schema

    files = Files(
        interactions=interactions,
        users=users[0] if users else None,
        items=items[0] if items else None,
        graph=graph,
        links=links,
        more_users=tuple(users[1:]),
        more_items=tuple(items[1:]),
    )
    settings = ImportSettings(
        max_bad=max_bad,
        where=_where(where),
        missing=tuple(missing) or MISSING,
        delimiter="\t" if delimiter in ("tab", "\\t") else delimiter,
        encoding=encoding,
        all_positive=all_positive,
    )
    if infer:
        if out is not None:
            raise click.UsageError("--infer only drafts a schema: leave --out out, check the draft, then import with it")
        _infer(files, schema_path, settings.delimiter, encoding)
        return
    if schema_path is None or out is None:
        raise click.UsageError(
            "give --schema and --out; a draft of the schema is written by the same command with --infer instead of --out"
        )
    schema = Schema.read(schema_path)
    with progress("importing") as advance:
        imported = import_dataset(files, schema, out, settings, progress=lambda done, text: advance(round(100 * done), 100, text))
    print_import(imported, as_json)


@data.command(epilog="Example: metarec data show --data data/ml-100k")
@data_option
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show what is in a dataset: counts, fields and their missing values, labels, time range."""
    from metarec.data.dataset import Dataset
    from metarec.data.summary import summarise

    summary = summarise(Dataset.open(path))
    if as_json:
        print_json(summary)
        return
    print_table(overview(summary), title=str(path))
    print_table([{"label": name, "events": count} for name, count in summary["label"]["histogram"].items()])
    if summary["scenarios"]:
        print_table([{"scenario": name, "events": count} for name, count in summary["scenarios"].items()])
    fields = [{**field, "missing": f"{field['missing']:,} ({field['missing_share']:.1%})"} for field in summary["fields"]]
    if fields:
        print_table(fields, columns=["table", "field", "kind", "missing", "distinct", "example"])


@data.command(epilog="Example: metarec data report --data data/ml-100k")
@data_option
@json_option
def report(path: Path, as_json: bool) -> None:
    """Show what import dropped, imputed or changed when it made a dataset, and why (import.json)."""
    from metarec.data.dataset import Dataset

    dataset = Dataset.open(path)
    try:
        facts = json.loads((dataset.path / "import.json").read_bytes())
    except FileNotFoundError:
        raise DataError("has no import.json: it was not made by an import", file=str(path)) from None
    except ValueError as error:
        raise DataError(f"cannot be read ({error})", file=str(path / "import.json")) from error
    if as_json:
        print_json(facts)
    else:
        print_report(facts["tables"], facts["findings"])


@data.command(epilog="Example: metarec data verify --data data/ml-100k")
@data_option
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check that a dataset is whole and unchanged since its import."""
    from metarec.data.contents import fingerprint
    from metarec.data.dataset import Dataset

    dataset = Dataset.open(path)
    with progress("reading"):
        found = fingerprint(path, dataset.schema, dataset.interactions.scenarios)
    if found != dataset.fingerprint:
        raise DataError(
            f"contents have fingerprint {found}, dataset.json says {dataset.fingerprint}: files were changed; import again",
            file=str(path),
        )
    emit({"path": str(path), "fingerprint": found, "intact": True}, as_json=as_json)


data.add_command(merge)


def _where(conditions: Sequence[str]) -> dict[str, frozenset[str]]:
    allowed: dict[str, set[str]] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column.strip():
            raise click.UsageError(f"--where '{condition}' must be COLUMN=VALUE")
        allowed.setdefault(column.strip(), set()).add(value.strip())
    return {column: frozenset(found) for column, found in allowed.items()}


def _infer(files: "Files", schema_path: Path | None, delimiter: str | None, encoding: str) -> None:
    from metarec.data.inference import draft_schema

    if schema_path is not None and schema_path.exists():
        raise AlreadyExistsError(f"'{schema_path}' exists already; give another --schema, or leave it out to print the draft")
    with progress("looking at the files", quiet=schema_path is None):
        draft = draft_schema(files, delimiter=delimiter, encoding=encoding)
    if schema_path is None:
        sys.stdout.write(draft)
        return
    try:
        schema_path.write_text(draft, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"cannot write '{schema_path}': {error.strerror}", field="schema") from error
    note(f"draft schema written to '{schema_path}'; check it, then run the command again with --out instead of --infer")
