"""Ray Train: the same work in this process (0 workers, no cluster) or in N processes of a Ray cluster (gloo or NCCL among them).

With tuning.py the only file of the library that imports ray, and only when training starts. Workers report through the run
directory: Ray's own report() is a barrier of seconds. The cluster is the one of RAY_ADDRESS (set inside Ray jobs) or a local one
for this run.
"""

import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarec.errors import FailedPreconditionError, InterruptedRunError, MetarecError, UnavailableError
from metarec.training.progress import Progress, Watch
from metarec.training.ray_files import passing_directory
from metarec.training.stop import StopFile
from metarec.training.worker import EVENTS, Assignment, ray_worker, work

POLL_SECONDS = 0.1
WORKER_RESTARTS = 2
"""How often a worker that died is replaced; the run then goes on from its saved state."""


def run_heads(assignment: Assignment, *, workers: int, watch: Watch, stop: StopFile) -> None:
    """Train through Ray Train until every head is finished.

    Raises InterruptedRunError when stopped, FailedPreconditionError when training fails, UnavailableError when Ray does.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    outcome = _in_process(assignment, watch, stop) if workers == 0 else _on_cluster(assignment, workers, watch, stop)
    if "interrupted" in outcome:
        raise InterruptedRunError(f"{outcome['interrupted']}; run the same command again to go on from there")
    if "failed" in outcome:
        raise FailedPreconditionError(outcome["failed"])


def _in_process(assignment: Assignment, watch: Watch, stop: StopFile) -> dict[str, str]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    quiet()
    trainer = TorchTrainer(
        lambda: work(assignment, watch),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="train", storage_path=str(Path(assignment.run) / "ray")),
    )
    with stop.on_signals(lambda: watch(Progress(stage="stopping"))):
        return dict(trainer.fit().return_value)


def _on_cluster(assignment: Assignment, workers: int, watch: Watch, stop: StopFile) -> dict[str, str]:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    outcome: dict[str, str] = {}
    failure: list[BaseException] = []
    with cluster(workers), stop.on_signals(lambda: watch(Progress(stage="stopping"))):
        quiet()
        _say_what_is_missing(assignment.device, workers, watch)
        trainer = TorchTrainer(
            ray_worker,
            train_loop_config=assignment.to_dict(),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=assignment.device == "gpu"),
            run_config=RunConfig(
                name="train",
                storage_path=str(Path(assignment.run) / "ray"),
                failure_config=FailureConfig(max_failures=WORKER_RESTARTS),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )

        def fit() -> None:
            try:
                outcome.update(trainer.fit().return_value)
            except BaseException as error:  # handed to the main thread, which raises it
                failure.append(error)

        # Not in the main thread: there Ray would answer Ctrl-C by killing the workers before they have saved anything.
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        events = Path(assignment.run) / EVENTS
        offset = events.stat().st_size if events.exists() else 0
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            offset = _forward(events, offset, watch)
        _forward(events, offset, watch)
    for error in failure:
        if isinstance(error, MetarecError | KeyboardInterrupt):
            raise error
        if isinstance(error, TrainingFailedError | RayError):
            raise UnavailableError(
                f"ray train gave up after {WORKER_RESTARTS} restarts: {cause(error)}; run the same command again to resume"
            ) from error
        raise error
    return outcome


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """A connection to Ray: the one there is, the cluster of RAY_ADDRESS, or a local cluster that ends with the block."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    # "local", or Ray would join whatever cluster someone has started on this machine.
    local = {} if address else {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
    with passing_directory(kept=bool(address)) as directory:
        files = {} if directory is None else {"_temp_dir": str(directory)}
        try:
            ray.init(address=address or "local", **local, **files, **quiet)
        except (ConnectionError, RuntimeError, OSError) as error:
            where = f"ray cluster '{address}'" if address else "a local ray cluster"
            raise UnavailableError(f"{where} cannot be used: {error}; try --workers 0, or 'metarec doctor'") from error
        try:
            yield
        finally:
            ray.shutdown()


def _say_what_is_missing(device: str, workers: int, watch: Watch) -> None:
    """Ray waits, silently and for ever, for what a cluster lacks, since it may grow."""
    import ray

    have = ray.cluster_resources()
    for resource in ("CPU", "GPU") if device == "gpu" else ("CPU",):
        if have.get(resource, 0) < workers:
            lack = f"for the cluster to grow: {workers} workers need {workers} {resource}, it has {have.get(resource, 0):g}"
            watch(Progress(stage="waiting", note=lack))


def _forward(events: Path, offset: int, watch: Watch) -> int:
    """Hand new whole lines of the event file to `watch`; returns where the next ones start."""
    if not events.exists():
        return offset
    with events.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    for line in data[:end].splitlines():
        watch(Progress(**json.loads(line)))
    return offset + end


def cause(error: BaseException) -> str:
    """The innermost message: Ray wraps what happened in several layers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def quiet() -> None:
    """Keep Ray's notes to developers off the user's terminal; warnings and errors of Ray still land in its log files."""
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray Train 2.60 copies Ray Data's own deprecated settings, and shows what Python would hide.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
