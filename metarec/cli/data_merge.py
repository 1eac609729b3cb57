"""`metarec data merge`: several datasets become one whose scenarios they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from metarec.cli.data_tables import print_import
from metarec.cli.output import json_option, progress

SHARING = click.Choice(["shared", "separate"])


@click.command(epilog="Example: metarec data merge web=data/web app=data/app --out data/both")
@click.argument("sources", nargs=-1, required=True, metavar="NAME=PATH...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Dataset directory to write; one that is there is replaced.",
)
@click.option(
    "--users",
    type=SHARING,
    default="shared",
    show_default=True,
    help="shared: equal ids are one user; separate: each source has its own, whose ids become NAME:ID.",
)
@click.option("--items", type=SHARING, default="shared", show_default=True, help="The same for items.")
@json_option
def merge(sources: Sequence[str], out: Path, users: str, items: str, as_json: bool) -> None:
    """Merge imported datasets into one whose scenarios they are.

    NAME is the scenario of all events of the dataset at PATH. Fields with the same name must be of one kind, and labels of one
    kind and range. Learners train on all sources together; what users of each have in common becomes its scenario's shift.
    """
    from metarec.data.dataset import Dataset
    from metarec.data.merged_tables import Sharing
    from metarec.data.merging import MergeSettings, merge_datasets

    paths: dict[str, Path] = {}
    for source in sources:
        name, equals, path = source.partition("=")
        if not equals or not path:
            raise click.UsageError(f"'{source}' must be NAME=PATH, for example web=data/web")
        if name in paths:
            raise click.UsageError(f"'{name}' is given twice; every source needs a name of its own")
        paths[name] = Path(path)
        if paths[name].resolve() == out.resolve():
            raise click.UsageError(f"--out '{out}' is source '{name}', which the result would replace; choose another one")
    settings = MergeSettings(users=cast(Sharing, users), items=cast(Sharing, items))
    with progress("merging") as advance:
        datasets = {name: Dataset.open(path) for name, path in paths.items()}
        imported = merge_datasets(datasets, out, settings, progress=lambda done, text: advance(round(100 * done), 100, text))
    print_import(imported, as_json)
