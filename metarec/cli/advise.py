"""`metarec advise`: look at a dataset, try the learners that suit it within a budget, and recommend one with reasons."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import check_writable, note, print_error, print_json
from metarec.errors import InterruptedRunError

if TYPE_CHECKING:
    from metarec.types import Target

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
EXIT_INTERRUPTED = 130


def parse_budget(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """`90`, `90s`, `5m` or `1h` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f"'{value}' is no time; write 90s, 5m or 1h")
    return float(found[1]) * UNITS[found[2]]


@click.command(
    epilog="Example: metarec advise --data data/ml-100k --budget 5m --plot trials.png\n\n"
    "Example: metarec advise --data data/clicks --budget 20m --out advice --json -"
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset directory.")
@click.option(
    "--budget", callback=parse_budget, default="5m", show_default=True, help="Most wall time: 90s, 5m, 1h. Everything counts."
)
@click.option(
    "--target",
    type=click.Choice(["explicit", "implicit"]),
    help="What learners are compared by: the labels of given items, or the items that users take out of all of them.  "
    "[default: explicit where labels differ]",
)
@click.option("--workers", type=click.IntRange(1), help="Trials side by side, one core each.  [default: the cores]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--max-interactions",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Trials learn from so many interactions at most, of whole users drawn at random.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep what trials found here; the same command then goes on after Ctrl-C.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the trials' curves: FILE.png, .svg or .pdf.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write everything as JSON; - prints it in place of the tables.",
)
@click.pass_context
def advise(
    ctx: click.Context,
    data: Path,
    budget: float,
    target: "Target | None",
    workers: int | None,
    seed: int,
    max_interactions: int,
    out: Path | None,
    plot: Path | None,
    json_path: str | None,
) -> None:
    """Recommend a learner for a dataset, with reasons.

    Looks at what the dataset holds, measures what training each eligible learner costs here, and tries them by successive
    halving on Ray Tune: everyone trains briefly, the best third three times as long, and so on. All are judged on the same
    held-out users, beside the plain baselines, after a few interactions each (k shots).

    Where no trial ends within the budget, the default recipe is recommended and said to be untried.

    Exit status: 0 with a recommendation, 1 without one, 2 for wrong usage, 130 when interrupted.
    """
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"--plot writes .png, .svg or .pdf, not '{plot.name}'")
    from metarec.cli.advise_display import AdviseDisplay
    from metarec.cli.advise_report import order, show, to_json
    from metarec.cli.advise_run import Options, default_slots, run_advice
    from metarec.evaluation.advice_plot import save_curves

    files = {"--plot": plot, "--json": Path(json_path) if json_path not in (None, "-") else None}
    written = [path for path in files.values() if path is not None]
    check_writable(files, {"--out": out})
    with _directory(out) as directory, AdviseDisplay(quiet=json_path == "-") as display:
        options = Options(
            target=target,
            budget=budget,
            slots=workers or default_slots(),
            seed=seed,
            max_interactions=max_interactions,
            directory=directory,
        )
        try:
            found = run_advice(data, options, display.watching)
        except (InterruptedRunError, KeyboardInterrupt):
            print_error("stopped before the trials had ended")
            note(f"the same command {'goes on' if out else 'with --out DIR could go on'} from what has ended")
            ctx.exit(EXIT_INTERRUPTED)
    result = to_json(found, str(data))
    if plot is not None:
        advice, metric = found.advice, found.prepared.judge.metrics[0]
        best = found.floor.best(metric)
        save_curves(
            {name: found.curves[name] for name in order(found) if name in found.curves},
            metric,
            chosen=advice.chosen.outcome.name if advice else "",
            floor=(best, found.floor.metrics[best][metric]) if best else None,
            path=plot,
        )
    if json_path == "-":
        print_json(result)
    else:
        show(found, str(data))
        if json_path is not None:
            Path(json_path).write_text(json.dumps(result, indent=1))
    for path in written:
        note(f"wrote {path}")
    if result["recommendation"] is None:
        print_error("no trial came to its end; the table says why")
        ctx.exit(1)


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    """Where trials are kept: the user's directory, or one that goes away. Ray's files are not kept in either."""
    with tempfile.TemporaryDirectory(prefix="metarec-advise-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary) if out is None else out.resolve()
