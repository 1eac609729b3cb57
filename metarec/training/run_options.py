"""Settings of a training run that do not change what it computes: workers, devices, threads."""

import os
from dataclasses import dataclass, replace

from metarec.errors import ConfigError
from metarec.training.recipe import Recipe

MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of a run that do not change what it computes (up to floating-point summation).

    `threads` is the sum over workers, 0 means the machine's cores up to 8; `online` the feature store's online store.
    """

    workers: int = 0
    device: str = "cpu"
    threads: int = 0
    resume: bool = True
    job_id: str = ""
    online: str = "sqlite"

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers must be 0 (in process) or more, not {self.workers}", field="workers")
        if self.device not in ("cpu", "gpu"):
            raise ConfigError(f"device must be 'cpu' or 'gpu', not '{self.device}'", field="device")
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 (automatic) or more, not {self.threads}", field="threads")

    @property
    def threads_per_worker(self) -> int:
        """Torch threads of each process."""
        return max(1, (self.threads or min(MAX_THREADS, os.cpu_count() or 1)) // max(1, self.workers))


def check_device(options: RunOptions) -> None:
    """ConfigError when this machine lacks the GPUs asked for; a cluster at RAY_ADDRESS has machines of its own."""
    if options.device != "gpu" or (options.workers and os.environ.get("RAY_ADDRESS")):
        return
    import torch

    needed, found = max(1, options.workers), torch.cuda.device_count()
    if found < needed:
        raise ConfigError(
            f"device 'gpu' needs {needed} CUDA {'device' if needed == 1 else 'devices'} and this machine has {found}; use 'cpu'",
            field="device",
        )


def enough_shards(recipe: Recipe, workers: int) -> Recipe:
    """The recipe with a gradient shard for every worker, where it has fewer."""
    heads = tuple(replace(head, gradient_shards=max(head.gradient_shards, workers)) for head in recipe.heads)
    return replace(recipe, heads=heads)
