"""The promotion gate: what it reports. How it is computed comes from outside, since training may not import evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.meta.prior import Prior


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdict on a checkpoint.

    `delta` is (loss of the best plain baseline - loss of the learner) / loss of the best plain baseline on validation tasks
    (DESIGN 4.3); `passed` says whether it may be promoted without force. `metrics` holds the figures behind it.
    """

    delta: float
    passed: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


class Gate(Protocol):
    """Judges a prior on users it was not trained on."""

    def __call__(self, prior: "Prior", train: "Dataset", validation: "Dataset") -> GateReport:
        """Fit the plain baselines on `train`, compare them with `prior` on tasks of the users in `validation`."""
        ...
