"""`metarec train`: meta-train on a dataset directory, judge the result beside the plain baselines, publish it to a registry."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import json_option, note, print_error, print_table
from metarec.data.schema import Schema
from metarec.errors import InterruptedRunError
from metarec.features.manifest import shown
from metarec.training.recipe import Recipe
from metarec.training.recipes import ABOUT, DEFAULT_RECIPE, RECIPES, TARGETS_RECIPE, get_recipe

if TYPE_CHECKING:
    from metarec.training.gate import Gate

EXIT_INTERRUPTED = 130


def list_recipes(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the recipes and exit."""
    if not value or ctx.resilient_parsing:
        return
    rows = [
        {
            "recipe": recipe.name + (" (default)" if recipe.name == DEFAULT_RECIPE else ""),
            "head": head.target,
            "learner": head.learner,
            "model": head.model,
            "epochs": head.epochs,
            "about": ABOUT[recipe.name],
        }
        for recipe in RECIPES.values()
        for head in recipe.heads
    ]
    print_table(rows)
    ctx.exit()


def parse_settings(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`PATH=VALUE` pairs as a mapping."""
    settings: dict[str, str] = {}
    for text in values:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise click.BadParameter(f"'{text}' must have the form PATH=VALUE, for example epochs=6 or explicit.learner.l2_id=1")
        settings[path.strip()] = value.strip()
    return settings


@click.command(
    epilog="Example: metarec train --data data/ml-100k --out registry --promote\n\n\n"
    "\b\nRecipes:\n" + "\n".join(f"  {name:<{max(map(len, ABOUT))}}  {about}" for name, about in ABOUT.items())
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset directory.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Registry directory; made when it does not exist.",
)
@click.option(
    "--recipe",
    default="",
    help=f"Name of a recipe (see --list-recipes).  [default: {DEFAULT_RECIPE}; {TARGETS_RECIPE} where the schema has targets]",
)
@click.option("--set", "settings", multiple=True, callback=parse_settings, metavar="PATH=VALUE", help="Override a setting.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Ray Train workers; 0: in this process.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="What workers compute on.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads over all workers; 0: the cores, up to 8.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with an unfinished run of these settings.")
@click.option("--gate/--no-gate", "judge", default=True, show_default=True, help="Judge the result beside plain baselines.")
@click.option("--promote", is_flag=True, help="Make the checkpoint live if it passes the gate.")
@click.option("--force", is_flag=True, help="With --promote: make it live whatever the gate says.")
@click.option("--job-id", default="", help="Recorded in the checkpoint, so that a job finds its result.")
@click.option(
    "--online",
    default="sqlite",
    envvar="METAREC_ONLINE_STORE",
    show_default=True,
    help="Online feature store: 'sqlite' or redis://HOST:PORT/DB.  [env: METAREC_ONLINE_STORE]",
)
@click.option("--list-recipes", is_flag=True, is_eager=True, expose_value=False, callback=list_recipes, help="Show the recipes.")
@json_option
@click.pass_context
def train(
    ctx: click.Context,
    data: Path,
    out: Path,
    recipe: str,
    settings: dict[str, str],
    workers: int,
    device: str,
    threads: int,
    seed: int,
    resume: bool,
    judge: bool,
    promote: bool,
    force: bool,
    job_id: str,
    online: str,
    as_json: bool,
) -> None:
    """Meta-train on a dataset and publish a checkpoint.

    The same command after a kill, a crash or Ctrl-C goes on where training was and gives the same result.
    """
    if force and not promote:
        raise click.UsageError("--force only means something with --promote")
    chosen = get_recipe(recipe, several_targets=_several_targets(data)).override(settings)
    from metarec.cli.train_display import TrainDisplay
    from metarec.cli.train_report import report
    from metarec.training.registry import Registry
    from metarec.training.run import train as run_training
    from metarec.training.run_options import RunOptions
    from metarec.training.verdict import promotion

    options = RunOptions(workers=workers, device=device, threads=threads, resume=resume, job_id=job_id, online=online)
    try:
        with TrainDisplay() as display:
            checkpoint = run_training(
                data, chosen, out=out, seed=seed, gate=_gate(chosen) if judge else None, progress=display, options=options
            )
    except InterruptedRunError as error:
        print_error(error.message)
        note(f"resume with: {_command()}")
        ctx.exit(EXIT_INTERRUPTED)
    registry = Registry(out)
    info = registry.get(checkpoint)
    refusal = ""
    if promote:
        from metarec.errors import GateNotPassedError

        try:
            info = registry.promote(checkpoint, force=force)
        except GateNotPassedError as error:
            refusal = error.message
    report(info, display.notes, as_json=as_json)
    where = f"{info.id} --registry {shlex.quote(str(out))}"
    if refusal:
        print_error(refusal)
        note(f"every figure again: metarec checkpoints get {where}")
        note(f"make it live all the same: metarec checkpoints promote {where} --force")
        ctx.exit(1)
    if not as_json and not info.live:
        note(f"make it live with: {promotion(info, out)}")


def _several_targets(data: Path) -> bool:
    """Whether a dataset directory has further targets; a directory that is none is told about by training itself."""
    path = data / "schema.yaml"
    return path.exists() and bool(Schema.read(path).targets)


def _gate(recipe: Recipe) -> "Gate":
    """The gate of the evaluation package; loading it costs seconds, so only when it is wanted."""
    from metarec.evaluation.gate import DefaultGate
    from metarec.training.loop import fit

    ranking = tuple(head for head in recipe.heads if head.target == "implicit")
    if not ranking:
        return DefaultGate()
    return DefaultGate(retrain=lambda train, seed: fit(train, replace(recipe, heads=ranking), seed=seed))


def _command() -> str:
    """This command line, without what would make it start anew, and without the password of an online store."""
    words = [shown(word) if "://" in word else word for word in sys.argv[1:] if word != "--no-resume"]
    return shlex.join(["metarec", *words])
