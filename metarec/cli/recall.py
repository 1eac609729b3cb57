"""`metarec recall`: how much of the exact answer the recall stage finds."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import emit, json_option, note, print_table, progress

if TYPE_CHECKING:
    from metarec.evaluation.recall_report import RecallReport


@click.group()
def recall() -> None:
    """Look at the recall stage."""


def parse_ks(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """`10,50` as numbers in rising order."""
    try:
        return tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        raise click.BadParameter(f"'{value}' must be numbers such as 10 or 10,50,100") from None


@recall.command(epilog="Example: metarec recall report --checkpoint registry --data data/ml-100k --k 10,100")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint directory, or a registry: its live, else its newest checkpoint.",
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset directory that it was trained on.")
@click.option("--k", "ks", callback=parse_ks, default="10,50,100", show_default=True, help="How many of the exact best.")
@click.option(
    "--candidates", type=click.IntRange(1, 2000), default=200, show_default=True, help="How many candidates are retrieved."
)
@click.option("--users", type=click.IntRange(1), default=500, show_default=True, help="Most held-out users to look at.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draw of users.")
@json_option
def report(checkpoint: Path, data: Path, ks: tuple[int, ...], candidates: int, users: int, seed: int, as_json: bool) -> None:
    """Recall of the merged sources, of the personal source's part and of the approximate index, against exact search over the
    whole catalogue, on users that training held out: the earlier half of what they did is known."""
    from metarec.cli.evaluate_inputs import Loaded
    from metarec.data.dataset import Dataset
    from metarec.evaluation.recall_report import held_out_cases, recall_report

    dataset = Dataset.open(data)
    loaded = Loaded.open(checkpoint, dataset)
    _, held = loaded.split(dataset)
    cases = held_out_cases(held, max_users=users, seed=seed)
    with progress("recall") as advance:
        found = recall_report(loaded.prior, cases, ks=ks, num_candidates=candidates, progress=advance)
    facts = {"checkpoint": loaded.facts["id"], "data": str(data), "seed": seed}
    if as_json:
        emit({**facts, **asdict(found)}, as_json=True)
        return
    _show(found, str(loaded.facts["id"]))


def _show(found: "RecallReport", checkpoint: str) -> None:
    rows: list[dict[str, object]] = [
        {"k": at.k, "merged sources": at.merged, "by personal": at.personal, "approximate index": at.approximate}
        for at in found.at
    ]
    title = (
        f"{checkpoint}: share of the exact k best of {found.num_items} items among {found.num_candidates} candidates, "
        f"{found.num_users} held-out users"
    )
    print_table(rows, title=title)
    shares: list[dict[str, object]] = [
        {
            "source": share.source,
            "of candidates": share.candidates,
            f"of the exact {found.at[-1].k} best": share.exact_best,
            "of what users took next": share.taken_next,
        }
        for share in found.sources
    ]
    total = {name: sum(float(str(row[name])) for row in shares) for name in list(shares[0])[1:]}
    print_table([*shares, {"source": "merged", **total}], title="by the source that proposed an item first")
    note(
        f"of what users took next, {found.num_candidates} candidates hold {found.taken_next_merged:.4f} merged "
        f"and {found.taken_next_exact:.4f} by exact search alone"
    )
    note("items upserted since training are not part of this: the source 'fresh' has none")
