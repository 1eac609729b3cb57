"""Are predictive intervals as wide as they should be? A reliability table and the expected calibration error.

For each nominal level c, the share of labels inside the central interval of probability c. Whole grades are seen as rounded
(metarec.meta.point_estimates): the probability mass of the observed grade counts by the part of it that lies inside, which is the
expectation of the randomised probability integral transform (Czado, Gneiting & Held 2009). For binary labels the table compares
predicted probabilities with observed shares in bins (Guo et al. 2017, eq. 3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from metarec.evaluation.metrics import LabelScale, Predictions

Floats = NDArray[np.float64]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NUM_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`expected` against `observed` shares; `error` is their mean absolute difference, weighted by `count` (rows in each bin).

    kind: `intervals` (expected = nominal level) or `probabilities` (expected = mean predicted probability of a bin)
    """

    kind: str
    expected: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]
    error: float

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {
            "kind": self.kind,
            "error": self.error,
            "expected": list(self.expected),
            "observed": list(self.observed),
            "count": list(self.count),
        }


def calibrate(label_Q: Floats, predictions: Predictions, scale: LabelScale) -> Calibration | None:
    """The table of one model over all query rows; None when it predicts neither variances nor probabilities."""
    if not len(label_Q) or predictions.estimate_Q is None:
        return None
    if scale.binary:
        return _probabilities(label_Q, np.clip(predictions.estimate_Q, 0.0, 1.0))
    if predictions.variance_Q is None:
        return None
    return _intervals(label_Q, predictions.score_Q, np.sqrt(np.maximum(predictions.variance_Q, 1e-12)), scale)


def _intervals(label_Q: Floats, mean_Q: Floats, sd_Q: Floats, scale: LabelScale) -> Calibration:
    if scale.integer:
        # The lowest and highest grade take all of their tail.
        low_Q = np.where(label_Q <= scale.minimum, 0.0, ndtr((label_Q - 0.5 - mean_Q) / sd_Q))
        high_Q = np.where(label_Q >= scale.maximum, 1.0, ndtr((label_Q + 0.5 - mean_Q) / sd_Q))
    else:
        low_Q = high_Q = ndtr((label_Q - mean_Q) / sd_Q)
    observed = []
    for level in LEVELS:
        begin, end = (1 - level) / 2, (1 + level) / 2
        inside_Q = np.minimum(high_Q, end) - np.maximum(low_Q, begin)
        mass_Q = high_Q - low_Q
        point_Q = ((low_Q >= begin) & (low_Q <= end)).astype(np.float64)
        share_Q = np.divide(np.maximum(inside_Q, 0.0), mass_Q, out=point_Q, where=mass_Q > 1e-12)
        observed.append(float(share_Q.mean()))
    error = float(np.abs(np.array(observed) - np.array(LEVELS)).mean())
    return Calibration(
        kind="intervals", expected=LEVELS, observed=tuple(observed), count=(len(label_Q),) * len(LEVELS), error=error
    )


def _probabilities(label_Q: Floats, probability_Q: Floats) -> Calibration:
    bin_Q = np.minimum((probability_Q * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    count_B = np.bincount(bin_Q, minlength=NUM_BINS)
    used = np.flatnonzero(count_B)
    expected = np.bincount(bin_Q, probability_Q, NUM_BINS)[used] / count_B[used]
    observed = np.bincount(bin_Q, label_Q, NUM_BINS)[used] / count_B[used]
    error = float((count_B[used] * np.abs(expected - observed)).sum() / len(label_Q))
    return Calibration(
        kind="probabilities",
        expected=tuple(expected.tolist()),
        observed=tuple(observed.tolist()),
        count=tuple(count_B[used].tolist()),
        error=error,
    )
