"""The promotion gate, as training sees it. How it is computed comes from outside, since training may not import evaluation."""

from typing import TYPE_CHECKING, Protocol

from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.meta.prior import Prior

__all__ = ["Gate", "GateReport"]


class Gate(Protocol):
    """Judges a prior on users it was not trained on."""

    def __call__(self, prior: "Prior", train: "Dataset", validation: "Dataset") -> GateReport:
        """Fit the plain baselines on `train`, compare them with `prior` on tasks of the users in `validation`."""
        ...
