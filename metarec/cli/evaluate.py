"""`metarec evaluate`: a checkpoint beside the plain baselines, in time order, on held-out users, or on any file of episodes."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from metarec.cli.output import note, print_json, print_table, progress

if TYPE_CHECKING:
    from metarec.cli.evaluate_inputs import Loaded
    from metarec.data.dataset import Dataset
    from metarec.evaluation.ablation import Mode
    from metarec.evaluation.evaluate import Evaluation
    from metarec.evaluation.results import ProtocolResult, Report
    from metarec.meta.prior import Prior
    from metarec.training.progress import Progress
    from metarec.training.recipes import Recipe
    from metarec.types import TaskKind

Watch = Callable[[str], None]

DEFAULT_SHOTS = (0, 1, 3, 5, 10)
TEMPORAL, HELD_OUT = "temporal", "held-out"
SECONDS_BETWEEN_LINES = 10.0


def parse_shots(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`0,1,5` as numbers in rising order."""
    if value is None:
        return None
    try:
        shots = sorted({int(part) for part in value.split(",")})
    except ValueError:
        shots = [-1]
    if shots[0] < 0:
        raise click.BadParameter(f"'{value}' must be numbers of support rows such as 5 or 0,1,3,5,10")
    return tuple(shots)


def parse_cuts(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """`0.8,0.9` as numbers."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' must be shares of all interactions such as 0.9 or 0.5,0.7,0.9") from None


@click.command(
    epilog="Example: metarec evaluate --checkpoint registry --data data/ml-100k --report report.html\n\n"
    "Example: metarec evaluate --checkpoint registry --data data/ml-1m --episodes test.parquet --shots 0,1,5 --json -\n\n"
    "Example: metarec evaluate --checkpoint registry --data data/ml-100k --ablate retrain --group text --group graph\n\n"
    "Example: metarec evaluate --checkpoint registry --data data/both --kind scenario --leave-out"
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint directory, or a registry: its live, else its newest checkpoint.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Dataset directory: training data, profiles, contents."
)
@click.option("--episodes", type=click.Path(path_type=Path), help="Score this file of episodes (CSV or Parquet).")
@click.option(
    "--kind",
    type=click.Choice(["user", "item", "scenario"]),
    default="user",
    show_default=True,
    help="Whose tasks the episodes are: those of users, or of items (emerging items, whose rows are users). scenario: held-out "
    "users in the dataset's scenarios, with and without what others do there.",
)
@click.option(
    "--leave-out",
    is_flag=True,
    help="With --kind scenario: train anew without each scenario, and learn it from 0, 100, 1,000 and 10,000 interactions.",
)
@click.option(
    "--shots", callback=parse_shots, metavar="K[,K...]", help="Show models only the first K support rows of an episode."
)
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice([TEMPORAL, HELD_OUT]),
    multiple=True,
    help="What to run without --episodes, or beside it.  [default: both, temporal where there are timestamps]",
)
@click.option("--cuts", callback=parse_cuts, metavar="F[,F...]", help="Cuts in time.  [default: 0.5,0.6,0.7,0.8,0.9]")
@click.option("--joint", type=click.Path(path_type=Path), help="Checkpoint trained without meta-learning, for Delta_joint.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of training at cuts, tuning and bootstrap."
)
@click.option(
    "--ablate",
    type=click.Choice(["retrain", "blank"]),
    help="Show what each group of features contributes: train anew without it, or blank it at prediction (fast).",
)
@click.option(
    "--group", "groups", multiple=True, metavar="GROUP", help="Only this group of --ablate: text, graph, items.FIELD, ..."
)
@click.option("--ablate-seeds", type=click.IntRange(1), default=1, show_default=True, help="Trainings of each group.")
@click.option(
    "--profiles",
    is_flag=True,
    help="Evaluate completed profiles on held-out users and audiences on unseen items, in place of predictions.",
)
@click.option("--alone", is_flag=True, help="With several targets: train on each of them alone too, and show that beside.")
@click.option("--json", "json_path", metavar="FILE", help="Write the results as JSON; - prints them in place of the tables.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write every prediction to this Parquet file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a self-contained HTML report.")
def evaluate(
    checkpoint: Path,
    data: Path,
    episodes: Path | None,
    kind: str,
    leave_out: bool,
    shots: tuple[int, ...] | None,
    protocols: tuple[str, ...],
    cuts: tuple[float, ...] | None,
    joint: Path | None,
    seed: int,
    ablate: "Mode | None",
    groups: tuple[str, ...],
    ablate_seeds: int,
    profiles: bool,
    alone: bool,
    json_path: str | None,
    scores: Path | None,
    report: Path | None,
) -> None:
    """Evaluate a checkpoint beside the plain baselines, which are tuned on training users only.

    With --episodes: that file. Without: recommendation in time order, training anew at every cut (where the dataset has
    timestamps), and k-shot episodes of the users that training held out.

    Where the dataset has several targets, held-out users are asked about each of them.

    With --ablate: only the learner, with and without each group of features, on that file, or else on a fifth of the items
    that it is trained without.

    With --kind scenario: how well it predicts held-out users in each scenario of the dataset, with and without what others do
    there.

    With --profiles: how well it completes profiles after 0, 5, 20 and all interactions (or --shots), and how well it tells the
    audience of items that it is trained without.
    """
    if leave_out and kind != "scenario":
        raise click.UsageError("--leave-out only means something with --kind scenario")
    if profiles or kind == "scenario":
        which = "--profiles" if profiles else "--kind scenario"
        others = (protocols, cuts, joint, scores, report, episodes, ablate, groups, alone, profiles and kind != "user")
        if any(others):
            raise click.UsageError(f"{which} takes only --checkpoint, --data, --shots, --seed and --json")
        from metarec.cli.evaluate_profiles import profiles_report, show_profiles
        from metarec.cli.evaluate_scenarios import scenario_report, show_scenarios

        with _watching() as watch:
            if profiles:
                figures = profiles_report(checkpoint, data, shots or (), seed=seed, watch=watch)
            else:
                figures = scenario_report(checkpoint, data, shots or (), leave=leave_out, seed=seed, watch=watch)
        if json_path not in (None, "-"):
            Path(json_path).parent.mkdir(parents=True, exist_ok=True)
            Path(json_path).write_text(json.dumps(figures, indent=1))
            _tell(json_path)
        if json_path == "-":
            print_json(figures)
        else:
            (show_profiles if profiles else show_scenarios)(figures)
        return
    if alone and (ablate is not None or (HELD_OUT not in protocols and (episodes is not None or protocols))):
        raise click.UsageError("--alone only means something for the protocol 'held-out'")
    if ablate is None and (groups or ablate_seeds > 1):
        raise click.UsageError("--group and --ablate-seeds say more about --ablate; give that too")
    if ablate is not None:
        if protocols or shots or cuts or joint or scores or kind != "user":
            raise click.UsageError("--ablate takes none of --protocol, --shots, --cuts, --joint, --scores and --kind item")
        from metarec.cli.evaluate_ablation import ablation_report

        with _watching() as watch:
            ablated = ablation_report(checkpoint, data, episodes, ablate, groups, seed=seed, seeds=ablate_seeds, watch=watch)
        _write(ablated, json_path, report)
        _tell(json_path, report)
        return
    if kind == "item" and episodes is None:
        raise click.UsageError("--kind item only means something with --episodes")
    if cuts is not None and TEMPORAL not in protocols and (episodes is not None or protocols):
        raise click.UsageError("--cuts only means something for the protocol 'temporal'")
    from metarec.baselines.registry import too_large
    from metarec.cli.evaluate_inputs import Loaded
    from metarec.cli.evaluate_targets import has_targets, not_asked, target_results
    from metarec.data.dataset import Dataset
    from metarec.evaluation.evaluate import Evaluation
    from metarec.evaluation.results import Report
    from metarec.evaluation.scores import ScoreFile

    dataset = Dataset.open(data)
    loaded = Loaded.open(checkpoint, dataset)
    other = None if joint is None else Loaded.open(joint, dataset)
    wanted, notes = _wanted(protocols, episodes, dataset, loaded)
    results: list[ProtocolResult] = []
    with ExitStack() as stack:
        score_file = None if scores is None else stack.enter_context(ScoreFile(scores, dataset.schema))
        watch = stack.enter_context(_watching())
        evaluation = Evaluation(
            prior=loaded.prior,
            dataset=dataset,
            same_data=loaded.same_data,
            joint=None if other is None else other.prior,
            seed=seed,
            scores=score_file,
            watch=watch,
        )
        if episodes is not None:
            found, said = _file(evaluation, episodes, cast("TaskKind", kind), shots)
            results += found
            notes += said
        ks = shots or DEFAULT_SHOTS
        if TEMPORAL in wanted:
            results += _temporal(evaluation, loaded, other, ks, cuts)
        if HELD_OUT in wanted:
            results += evaluation.held_out(*loaded.split(dataset), ks)
            if has_targets(loaded.prior):
                results += (curves := target_results(evaluation, loaded, dataset, ks, alone=alone))
                notes += not_asked(curves, dataset)
            elif alone:
                notes.append("--alone is left out: the checkpoint has one target")
    if left_out := too_large(dataset):
        notes.append(
            f"{' and '.join(left_out)} are left out of top-N protocols: {len(dataset.item_ids)} items are too many for them"
        )
    facts = {**loaded.facts, "data": str(data), "same_data": loaded.same_data}
    settings = {"seed": seed, "episodes": None if episodes is None else str(episodes), "kind": kind, "shots": shots, "cuts": cuts}
    outcome = Report(learner=evaluation.learner, facts=facts, protocols=results, settings=settings, notes=notes)
    _write(outcome, json_path, report)
    _tell(json_path, scores, report)


def _tell(json_path: str | None, *paths: Path | None) -> None:
    for path in (*paths, Path(json_path) if json_path not in (None, "-") else None):
        if path is not None:
            note(f"wrote {path}")


@contextmanager
def _watching() -> Iterator[Watch]:
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


def _wanted(
    protocols: Sequence[str], episodes: Path | None, dataset: "Dataset", loaded: "Loaded"
) -> tuple[tuple[str, ...], list[str]]:
    """The protocols to run beside a file of episodes, and why others are not."""
    if protocols or episodes is not None:
        return tuple(protocols), []
    if not dataset.has_timestamps:
        return (HELD_OUT,), ["not evaluated in time order (P5): the dataset has no timestamps"]
    if not loaded.same_data:
        return (TEMPORAL,), ["not evaluated on held-out users: the checkpoint was trained on other data"]
    return (TEMPORAL, HELD_OUT), []


def _file(
    evaluation: "Evaluation", path: Path, kind: "TaskKind", shots: tuple[int, ...] | None
) -> "tuple[list[ProtocolResult], list[str]]":
    from metarec.evaluation.episode_file import read_episodes

    rows = read_episodes(path, evaluation.dataset.schema, kind)
    # Several numbers of shots make a curve, which stands beside the whole support.
    asked: list[int | None] = [None] if shots is None else list(shots) if len(shots) == 1 else [None, *shots]
    return evaluation.episodes(rows, asked)


def _temporal(
    evaluation: "Evaluation", loaded: "Loaded", other: "Loaded | None", ks: Sequence[int], cuts: Sequence[float] | None
) -> "list[ProtocolResult]":
    from metarec.evaluation.temporal import evaluate_temporal
    from metarec.evaluation.temporal_splits import CUTS
    from metarec.training.loop import fit

    def trainer(recipe: "Recipe") -> "Callable[[Dataset, int], Prior]":
        def show(progress: "Progress") -> None:
            if progress.metrics:
                evaluation.watch(f"{progress.target} epoch {progress.epoch}/{progress.epochs}")

        return lambda train, seed: fit(train, recipe, seed=seed, progress=show)

    trainers = {evaluation.learner: trainer(loaded.ranking_recipe)}
    if other is not None:
        trainers[evaluation.joint_name] = trainer(other.ranking_recipe)
    note(f"in time order: training recipe '{loaded.recipe.name}' anew at each of {len(cuts or CUTS)} cuts; this takes minutes")
    return list(
        evaluate_temporal(
            evaluation.dataset,
            trainers,
            ks,
            cuts or CUTS,
            evaluation.seed,
            progress=evaluation.watch,
            scores=evaluation.scores,
        ).protocols
    )


def _write(report: "Report", json_path: str | None, html: Path | None) -> None:
    value = report.to_dict()
    if html is not None:
        from metarec.evaluation.html_report import render

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render(report))
    if json_path == "-":
        print_json(value)
        return
    if json_path is not None:
        path = Path(json_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1))
    _show(report)


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
