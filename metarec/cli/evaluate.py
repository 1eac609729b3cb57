"""`metarec evaluate`: a checkpoint beside the plain baselines, in time order, on held-out users, or on any file of episodes.

Options and their rules are in evaluate_options, what is shown and written in evaluate_output, each way of evaluating in a module
of its own: evaluate_protocols, evaluate_ablation, evaluate_profiles, evaluate_scenarios.
"""

from pathlib import Path
from typing import Any

import click

from metarec.cli.evaluate_options import HELD_OUT, TEMPORAL, Options, parse_cuts, parse_shots
from metarec.cli.evaluate_output import tell_written, watching, write_json, write_report


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
def evaluate(**given: Any) -> None:
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
    options = Options(**given)
    options.check()
    if options.only_figures:
        _figures(options)
        return
    if options.ablate is not None:
        from metarec.cli.evaluate_ablation import ablation_report

        with watching() as watch:
            outcome = ablation_report(
                options.checkpoint,
                options.data,
                options.episodes,
                options.ablate,
                options.groups,
                seed=options.seed,
                seeds=options.ablate_seeds,
                watch=watch,
            )
    else:
        from metarec.cli.evaluate_protocols import comparison

        outcome = comparison(options)
    write_report(outcome, options.json_path, options.report)
    tell_written(options.json_path, options.scores, options.report)


def _figures(options: Options) -> None:
    """Figures of profiles, or of scenarios."""
    from metarec.cli.evaluate_profiles import profiles_report, show_profiles
    from metarec.cli.evaluate_scenarios import scenario_report, show_scenarios

    where, shots = (options.checkpoint, options.data), options.shots or ()
    with watching() as watch:
        if options.profiles:
            figures = profiles_report(*where, shots, seed=options.seed, watch=watch)
        else:
            figures = scenario_report(*where, shots, leave=options.leave_out, seed=options.seed, watch=watch)
    printed = write_json(figures, options.json_path)
    tell_written(options.json_path)
    if not printed:
        (show_profiles if options.profiles else show_scenarios)(figures)
