"""What every training process runs: the heads of a recipe on the inputs of a run directory, reporting through files.

The driver and its workers share one directory and nothing else, so a run looks the same in process, on Ray and after a restart.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor

from metarec.errors import InterruptedRunError, MetarecError
from metarec.training.head_run import train_head
from metarec.training.inputs import Inputs
from metarec.training.progress import Progress, Watch, silent
from metarec.training.recipe import Recipe
from metarec.training.state import StateStore
from metarec.training.stop import StopFile
from metarec.training.surroundings import SAVE_EVERY_STEPS, Alone, Surroundings, Workers

EVENTS = "events.jsonl"
SECONDS_BETWEEN_STEPS = 0.25


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is told; plain data, so that it can travel."""

    run: str
    recipe: dict[str, object]
    seed: int
    device: str
    threads: int
    save_every_steps: int = SAVE_EVERY_STEPS

    def to_dict(self) -> dict[str, object]:
        """JSON-able; `Assignment(**...)` reads it back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The workers of an initialised torch process group."""

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> None:
        """All-reduce; its ring gives every worker the same bits."""
        torch.distributed.all_reduce(tensor)


class EventFile:
    """Progress as lines of a file, for a driver in another process; steps are thinned out, nothing else is."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0

    def __call__(self, progress: Progress) -> None:
        """Append one line."""
        now = time.monotonic()
        if progress.metrics or progress.stage != "train" or now - self._last >= SECONDS_BETWEEN_STEPS:
            self._last = now
            with self._path.open("a") as file:
                file.write(json.dumps(progress.to_dict()) + "\n")


def work(assignment: Assignment, watch: Watch | None = None) -> dict[str, str]:
    """Train every head that is not finished; says how it ended: `{}`, or the kind and message of the error it stopped with.

    Errors are returned, not raised: Ray would take them for a worker's death and try again.
    """
    torch.use_deterministic_algorithms(True, warn_only=assignment.device == "gpu")
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    workers: Workers = (
        ProcessGroup(rank=torch.distributed.get_rank(), size=torch.distributed.get_world_size()) if group else Alone()
    )
    directory = Path(assignment.run)
    if watch is None:
        watch = EventFile(directory / EVENTS) if workers.rank == 0 else silent
    around = Surroundings(
        workers=workers,
        store=StateStore(directory),
        watch=watch,
        stopped=StopFile(directory).requested,
        device=assignment.device,
        threads=assignment.threads,
        save_every_steps=assignment.save_every_steps,
    )
    try:
        inputs = Inputs.load(directory)
        for head in Recipe.from_dict(assignment.recipe).heads:
            train_head(inputs, head, assignment.seed, around)
    except InterruptedRunError as error:
        return {"interrupted": error.message}
    except MetarecError as error:
        return {"failed": error.message}
    return {}


def ray_worker(config: dict[str, object]) -> dict[str, str]:
    """`work` as Ray Train calls it, in a process of its own."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return work(Assignment(**config))  # type: ignore[arg-type]  # written by Assignment.to_dict
