"""What a run tells whoever watches it: steps as they pass and the metrics of each epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` of `steps` in `epoch` of `epochs` (both count from 1) of head `target`; `metrics` only when the epoch has ended.

    `stage` names what happens where it is no outer step: features, encoder, workers, waiting, early_stop, stopping, blend,
    profiles, gate, publish; `note` says more where there is more to say.
    """

    stage: str = "train"
    target: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {**asdict(self), "metrics": dict(self.metrics)}


class Watch(Protocol):
    """Receives progress."""

    def __call__(self, progress: Progress) -> None:
        """Take note of it; must be quick and must not raise."""
        ...


def silent(progress: Progress) -> None:
    """Watches nothing."""


def early_stop_note(epochs: int, planned: int, best: int) -> str:
    """What to say of a head that ended before its last epoch."""
    return f"stopped early after epoch {epochs} of {planned}: validation was best in epoch {best}"
