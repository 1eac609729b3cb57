"""`metarec jobs`: meta-training jobs of the training service."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note
from metarec.cli.values import iso

if TYPE_CHECKING:
    from metarec.client import Client, TrainingJob
    from metarec.client.results import LauncherName

POLL_SECONDS = 1.0


@click.group()
def jobs() -> None:
    """Create, list, watch and cancel training jobs."""


@jobs.command(epilog="Example: metarec jobs create --data data/ml-100k --recipe alpaca --watch")
@click.option("--data", default="", help="Dataset directory, as the job sees it.  [default: the service's METAREC_DATA]")
@click.option("--recipe", default="", help="Name of the recipe.  [default: the default recipe]")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Ray Train workers; 0 trains in process.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray_jobs", "kuberay"]),
    help="Where it runs.  [default: the service's METAREC_LAUNCHER]",
)
@click.option("--request-id", default="", help="Calling again with the same id returns the first call's job.")
@click.option("--watch", is_flag=True, help="Follow the job until it ends.")
@address_option("training")
@timeout_option
@json_option
def create(
    data: str,
    recipe: str,
    workers: int,
    seed: int,
    launcher: str | None,
    request_id: str,
    watch: bool,
    training: str | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Start a meta-training job; exits with 1 when a watched job fails."""
    with connect(training=training) as client:
        job = client.create_training_job(
            data=data,
            recipe=recipe,
            num_workers=workers,
            seed=seed,
            launcher=cast("LauncherName", launcher or ""),
            request_id=request_id,
            timeout=timeout,
        )
        if watch:
            job = _follow(client, job, timeout)
    return _emit(job, as_json, ended=watch)


@jobs.command(epilog="Example: metarec jobs get 3f2a")
@click.argument("job")
@address_option("training")
@timeout_option
@json_option
def get(job: str, training: str | None, timeout: float | None, as_json: bool) -> None:
    """Show one job."""
    with connect(training=training) as client:
        _emit(client.get_training_job(job, timeout=timeout), as_json)


@jobs.command("list", epilog="Example: metarec jobs list --limit 10")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most jobs to list.")
@click.option("--page-token", default="", help="Continue where an earlier list ended.")
@address_option("training")
@timeout_option
@json_option
def list_jobs(limit: int, page_token: str, training: str | None, timeout: float | None, as_json: bool) -> None:
    """List jobs, newest first."""
    with connect(training=training) as client:
        page = client.list_training_jobs(page_size=limit, page_token=page_token, timeout=timeout)
    rows = [
        {"job": job.id, "state": job.state, "recipe": job.recipe or None, "launcher": job.launcher, "data": job.data}
        | {"created": iso(job.created), "checkpoint": job.checkpoint or None}
        for job in page.items
    ]
    value = {"training_jobs": [asdict(job) for job in page.items], "next_page_token": page.next_page_token}
    emit(value, as_json=as_json, rows=rows, title=f"{len(rows)} jobs")
    if page.next_page_token:
        note(f"there are more: --page-token {page.next_page_token}")


@jobs.command(epilog="Example: metarec jobs cancel 3f2a")
@click.argument("job")
@address_option("training")
@timeout_option
@json_option
def cancel(job: str, training: str | None, timeout: float | None, as_json: bool) -> None:
    """Ask a job to stop."""
    with connect(training=training) as client:
        _emit(client.cancel_training_job(job, timeout=timeout), as_json)


@jobs.command(epilog="Example: metarec jobs watch 3f2a")
@click.argument("job")
@address_option("training")
@timeout_option
@json_option
def watch(job: str, training: str | None, timeout: float | None, as_json: bool) -> int:
    """Follow a job until it ends; exits with 1 unless it succeeded."""
    with connect(training=training) as client:
        found = _follow(client, client.get_training_job(job, timeout=timeout), timeout)
    return _emit(found, as_json, ended=True)


def _follow(client: "Client", job: "TrainingJob", timeout: float | None) -> "TrainingJob":
    from metarec.client.results import FINAL_STATES

    state = ""
    while True:
        if job.state != state:
            state = job.state
            note(f"job {job.id}: {state}")
        if state in FINAL_STATES:
            return job
        time.sleep(POLL_SECONDS)
        job = client.get_training_job(job.id, timeout=timeout)


def _emit(job: "TrainingJob", as_json: bool, *, ended: bool = False) -> int:
    value = asdict(job)
    shown = {name: part for name, part in value.items() if part not in ("", None)}
    shown |= {"created": iso(job.created), **({"ended": iso(job.ended)} if job.ended is not None else {})}
    emit(value if as_json else shown, as_json=as_json)
    return 1 if ended and job.state != "succeeded" else 0
