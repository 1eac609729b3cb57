"""What a run tells whoever watches it: steps as they pass and the metrics of each epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` of `steps` in `epoch` of `epochs` in training `member` of `members` of head `target`; all count from 1.

    `metrics` only when the epoch has ended.

    `stage` names what happens where it is no outer step: left_out, features, encoder, workers, waiting, start, early_stop,
    stopping, refit, items, blend, scenarios, learned, profiles, gate, unjudged, publish;
    `note` says more where there is more to say.
    """

    stage: str = "train"
    target: str = ""
    member: int = 1
    members: int = 1
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def where(self) -> str:
        """The place in the training, for people."""
        member = f"member {self.member}/{self.members} " if self.members > 1 else ""
        return f"{member}epoch {self.epoch}/{self.epochs}"

    @property
    def fraction(self) -> tuple[int, int]:
        """Steps behind, of all steps of the head."""
        before = ((self.member - 1) * self.epochs + self.epoch - 1) * self.steps
        return before + self.step, self.members * self.epochs * self.steps

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


def early_stop_note(epochs: int, planned: int, lowest: int, kept: int) -> str:
    """What to say of a head that ended before its last epoch; epochs count from 1."""
    note = f"stopped early after epoch {epochs} of {planned}: validation was best in epoch {lowest}"
    return note if kept == lowest else f"{note}; epoch {kept}, which it does not show to be worse, is kept"
