"""The state of a run that can be killed at any moment: one safetensors file per head, replaced atomically.

Randomness needs no state here: episodes are a function of (seed, epoch) and every gradient's generator is seeded from
(seed, epoch, step, shard). What remains is theta, the optimiser's moments, the best theta so far, and where the run is.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from torch import Tensor

from metarec.errors import CorruptCheckpointError
from metarec.models.contract import MetaParams, trainable
from metarec.training.files import write_atomically
from metarec.training.optimizer import Adam
from metarec.training.tensors import read_tensors, tensor_bytes

EpochMetrics = dict[str, float]


@dataclass(kw_only=True)
class HeadState:
    """Where the training of one head is: `epoch` and `step` are the next ones to run; sums are of the unfinished epoch.

    `lowest_T` are the validation losses of the tasks after `lowest_epoch`, whose mean is the lowest; `best` is theta after
    `best_epoch`, the last one that was not shown to be worse. `members` are the best thetas of trainings that have ended, where
    a head is made of several; all else but `history` is of the one that runs. Of a finished state `best` is what all make
    together, and `metrics` are its figures.
    """

    theta: MetaParams
    optimizer: Adam
    best: MetaParams
    epoch: int = 0
    step: int = 0
    lowest_T: Tensor | None = None
    lowest_epoch: int = -1
    best_epoch: int = -1
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    finished: bool = False
    members: list[MetaParams] = field(default_factory=list)
    metrics: EpochMetrics = field(default_factory=dict)
    history: list[EpochMetrics] = field(default_factory=list)


PLAIN = tuple(f.name for f in fields(HeadState) if f.name not in {"theta", "optimizer", "best", "lowest_T", "members"})


class StateStore:
    """The states of a run's heads below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, target: str) -> Path:
        """File of one head."""
        return self.directory / f"state.{target}.safetensors"

    def save(self, target: str, state: HeadState) -> None:
        """Replace the head's saved state; a finished head keeps only its best theta."""
        groups = {"best": state.best}
        if not state.finished:
            groups |= {"theta": trainable(state.theta), "mean": state.optimizer.mean, "square": state.optimizer.square}
            groups["lowest"] = {} if state.lowest_T is None else {"loss": state.lowest_T}
            groups |= {f"member {number}": theta for number, theta in enumerate(state.members)}
        tensors = {f"{group}/{name}": tensor for group, part in groups.items() for name, tensor in part.items()}
        plain = asdict_plain(state) | {"optimizer_steps": state.optimizer.steps}
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(target), tensor_bytes(tensors, {"state": json.dumps(plain)}))

    def load(self, target: str) -> HeadState | None:
        """The head's saved state, or None. CorruptCheckpointError when it is damaged."""
        path = self.path(target)
        if not path.exists():
            return None
        tensors, metadata = read_tensors(path)
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = tensor
        try:
            plain = json.loads(metadata["state"])
            steps = plain.pop("optimizer_steps")
            optimizer = Adam(mean=groups.get("mean", {}), square=groups.get("square", {}), steps=steps)
            best = groups.get("best", {})
            lowest_T = groups.get("lowest", {}).get("loss")
            members = [groups[f"member {number}"] for number in range(sum(name.startswith("member ") for name in groups))]
            theta = groups.get("theta", best)
            return HeadState(theta=theta, optimizer=optimizer, best=best, lowest_T=lowest_T, members=members, **plain)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptCheckpointError(
                f"saved state '{path}' cannot be read: {error}; run again with --no-resume", metadata={"file": path.name}
            ) from error


def asdict_plain(state: HeadState) -> dict[str, object]:
    """The part of a state that is not tensors."""
    return {name: getattr(state, name) for name in PLAIN}
