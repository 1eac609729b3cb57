"""Probabilities of binary labels from scores (Platt 1999; with the targets and the safe Newton of Lin, Lin & Weng 2007).

The score of an explicit head on labels 0 and 1 is a regression onto them: linear, so that retrieval and explanations are those of
any other labels, but no probability. One logistic curve, fitted on users that training held out, makes it one: P(label = 1) =
sigmoid(offset + slope * score). Rankings stay as they are, whatever the learner.

A handful of users have a level of their own, and a curve fitted on them is worse for all others than none: below MIN_TASKS the
score, which is a regression onto the label, is taken at its word: the curve is then the one nearest to P = score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from metarec.errors import InvalidInputError

Floats = NDArray[np.float64]

STEPS = 50
TOLERANCE = 1e-8
RIDGE = 1e-9
"""Keeps the Hessian invertible where all scores are equal."""
MIN_TASKS = 40
"""Tasks that it takes to fit a curve on."""
GRID = np.linspace(0.0, 1.0, 5)
"""Scores that always count beside the head's own when it is taken at its word, so that the curve rises whatever these are."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """P(label = 1) = sigmoid(offset + slope * score); `slope` is not negative, so that order is kept.

    `num_tasks` held-out tasks are what it was fitted on, 0 where it was not fitted; None in checkpoints that do not say.
    """

    offset: float
    slope: float
    num_tasks: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.offset) and np.isfinite(self.slope) and self.slope >= 0):
            raise InvalidInputError(
                f"a link of offset {self.offset:g} and slope {self.slope:g} is no probability of a rising score", field="link"
            )

    def probability(self, score: NDArray[np.floating]) -> Floats:
        """Of label 1, in the shape of `score`."""
        found: Floats = expit(self.offset + self.slope * np.asarray(score, np.float64))
        return found

    def variance(self, score: NDArray[np.floating]) -> Floats:
        """Of the label: p (1 - p), all there is to a binary one."""
        probability = self.probability(score)
        return probability * (1 - probability)


def word_link(score_N: Floats) -> Link:
    """The curve nearest to P = score on such scores (cut off at 0 and 1): what they say of themselves, without any label."""
    score_N = np.concatenate([np.asarray(score_N, np.float64), GRID])
    beta_2 = _fitted(score_N, np.clip(score_N, 0, 1), 0.0)
    return Link(offset=float(beta_2[0]), slope=float(beta_2[1]), num_tasks=0)


def fit_link(score_N: Floats, label_N: Floats) -> Link:
    """The curve of largest likelihood on scores and binary labels; the share of ones where scores tell nothing or mislead."""
    score_N, label_N = np.asarray(score_N, np.float64), np.asarray(label_N, np.float64)
    ones = float(label_N.sum())
    zeros = len(label_N) - ones
    # Lin, Lin & Weng 2007, section 2: targets inside (0, 1) keep the curve finite when scores separate the labels.
    target_N = np.where(label_N > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    start = float(np.log((ones + 1) / (zeros + 1)))
    beta_2 = _fitted(score_N, target_N, start)
    if beta_2[1] <= 0:
        return Link(offset=start, slope=0.0)
    return Link(offset=float(beta_2[0]), slope=float(beta_2[1]))


def _fitted(score_N: Floats, target_N: Floats, start: float) -> Floats:
    """Offset and slope (2,) of the smallest cross-entropy to targets in [0, 1]; `start` is the offset to begin with."""
    middle = float(score_N.mean()) if len(score_N) else 0.0
    x_N2 = np.column_stack([np.ones(len(score_N)), score_N - middle])
    beta_2 = np.array([start, 0.0])
    for _ in range(STEPS):
        p_N = expit(x_N2 @ beta_2)
        gradient_2 = x_N2.T @ (p_N - target_N)
        if np.abs(gradient_2).max() < TOLERANCE * max(1, len(score_N)):
            break
        hessian_22 = (x_N2 * (p_N * (1 - p_N))[:, None]).T @ x_N2 + RIDGE * np.eye(2)
        beta_2 = _descend(x_N2, target_N, beta_2, np.linalg.solve(hessian_22, gradient_2))
    return np.array([beta_2[0] - beta_2[1] * middle, beta_2[1]])


def _descend(x_N2: Floats, target_N: Floats, beta_2: Floats, step_2: Floats) -> Floats:
    """A Newton step, halved until the loss does not grow."""
    before = _loss(x_N2, target_N, beta_2)
    for halving in range(30):
        after_2 = beta_2 - step_2 * 0.5**halving
        if _loss(x_N2, target_N, after_2) <= before:
            return after_2
    return beta_2


def _loss(x_N2: Floats, target_N: Floats, beta_2: Floats) -> float:
    score_N = x_N2 @ beta_2
    return float((np.logaddexp(0, score_N) - target_N * score_N).sum())
