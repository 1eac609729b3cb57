"""Point estimates from a predictive mean and variance: the mean for squared error, the median for absolute error.

Labels on an integer scale have a discrete predictive distribution. Seen as a rounded Gaussian (an ordered probit,
McCullagh 1980, with cuts half-way between grades by default), P(y <= k) = Phi((cut_k - mean) / sd), and the estimate that
minimises expected absolute error is its median: the smallest k with P(y <= k) >= 1/2, the grade whose cuts enclose the mean.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from metarec.errors import InvalidInputError

Float = NDArray[np.floating]


def grade_probabilities(
    mean_N: Float, variance_N: Float, *, minimum: float, maximum: float, cuts_K: Float | None = None
) -> NDArray[np.float64]:
    """P(y = minimum + k) as (..., K + 1) for the integer grades minimum..maximum; `cuts_K` (K,) ascending, default half-way."""
    cuts = _cuts(minimum, maximum, cuts_K)
    sd = np.sqrt(np.maximum(np.asarray(variance_N, np.float64), 1e-12))[..., None]
    below = ndtr((cuts - np.asarray(mean_N, np.float64)[..., None]) / sd)
    return np.diff(np.concatenate([np.zeros_like(below[..., :1]), below, np.ones_like(below[..., :1])], -1), axis=-1)


def median_grade(
    mean_N: Float, variance_N: Float | None = None, *, minimum: float, maximum: float, cuts_K: Float | None = None
) -> NDArray[np.float64]:
    """Median of the discrete predictive distribution: an integer grade of minimum..maximum for each mean.

    The variance does not move the median of a rounded symmetric distribution; it is accepted so that callers need not know.
    """
    cuts = _cuts(minimum, maximum, cuts_K)
    return np.asarray(minimum + np.searchsorted(cuts, np.asarray(mean_N, np.float64), side="right"), np.float64)


def _cuts(minimum: float, maximum: float, cuts_K: Float | None) -> NDArray[np.float64]:
    if maximum <= minimum or float(minimum) != round(minimum) or float(maximum) != round(maximum):
        raise InvalidInputError(f"grades from {minimum} to {maximum} are not an integer scale; use the mean", field="label")
    if cuts_K is None:
        return np.arange(round(minimum), round(maximum), dtype=np.float64) + 0.5
    cuts = np.asarray(cuts_K, np.float64)
    if len(cuts) != round(maximum) - round(minimum) or np.any(np.diff(cuts) < 0):
        raise InvalidInputError(
            f"{len(cuts)} cuts do not separate the grades {minimum}..{maximum} in ascending order", field="cuts"
        )
    return cuts
