"""What `metarec evaluate` shows and writes: progress, tables, JSON and the HTML report."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import note, print_json, print_table, progress

if TYPE_CHECKING:
    from metarec.evaluation.results import Report

Watch = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def watching() -> Iterator[Watch]:
    """Shows what is being done: in place on a terminal, else a line every ten seconds at most."""
    if not sys.stderr.isatty():
        last = -math.inf

        def tell(what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                note(f"evaluating: {what}")

        yield tell
        return
    steps = count(1)
    with progress("evaluating") as advance:
        yield lambda what: advance(next(steps), None, what)


def write_json(value: object, json_path: str | None) -> bool:
    """Write to the file, or print for `-`; whether it was printed, in place of tables."""
    if json_path == "-":
        print_json(value)
        return True
    if json_path is not None:
        path = Path(json_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1))
    return False


def write_report(report: "Report", json_path: str | None, html: Path | None) -> None:
    """The HTML page and the JSON where they are asked for, and the tables unless the JSON is printed."""
    if html is not None:
        from metarec.evaluation.html_report import render

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render(report))
    if not write_json(report.to_dict(), json_path):
        _show(report)


def tell_written(json_path: str | None, *paths: Path | None) -> None:
    """Name the files that were written."""
    for path in (*paths, Path(json_path) if json_path not in (None, "-") else None):
        if path is not None:
            note(f"wrote {path}")


def _show(report: "Report") -> None:
    """Tables for people: a curve as one table per headline metric, other protocols with all their models and metrics."""
    from metarec.evaluation.tables import ablation_table, curve_table, headline, main_table

    curves = report.curves()
    tables = [main_table(p) for p in report.protocols if p.shots is None or p.base not in curves]
    tables += [curve_table(base, points, metric) for base, points in curves.items() for metric in headline(points[-1])]
    tables += [ablation_table(found) for found in report.ablations]
    for table in tables:
        print_table(table.rows, title=table.title)
        if table.note:
            click.echo(table.note)
        click.echo()
    for line in report.notes:
        note(f"note: {line}")
