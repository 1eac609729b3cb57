"""Where a head is trained: beside which workers, on which device, and who may watch and stop it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from metarec.training.progress import Watch, silent
from metarec.training.state import StateStore

SAVE_EVERY_STEPS = 50


class Workers(Protocol):
    """The processes that train together."""

    @property
    def rank(self) -> int:
        """0..size - 1."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all workers; the same bits on each of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """Nothing to add."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where and beside whom a head is trained. `stopped` is asked after every step and ends the run at a saved state.

    `threads` are this process's: parts of the gradient side by side, times torch's own threads.
    """

    workers: Workers = Alone()
    store: StateStore | None = None
    watch: Watch = silent
    stopped: Callable[[], bool] = lambda: False
    device: str = "cpu"
    threads: int = 1
    save_every_steps: int = SAVE_EVERY_STEPS
