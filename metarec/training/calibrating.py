"""Predictive intervals of a trained closed-form head, made as wide as held-out users show they should be.

The two scales of predictive variances are learned along with everything else (metarec.meta.alpaca), which takes thousands of
steps: on a small dataset they end near where they began. Where held-out users show it, both are multiplied by the s for which

    mean over users of the mean over rows of |2 Phi(z / sqrt(s)) - 1| = 1/2

z being errors in predictive deviations (of whole grades the mean over the mass that is theirs): on average over all levels, as
many labels then lie within the central interval as the level says (the folded probability integral transform, Czado, Gneiting &
Held 2009). No mean depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from metarec.meta.prior import Head
from metarec.tasks.sampler import EpisodeSampler
from metarec.training.asking import answers, episodes
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe

NAME = "predict.log_scale"
MIN_USERS = 10
OFF = 0.03
"""A mean level that is off by less than this is left alone, as is one within two standard errors over users."""
MOST = 100.0
"""Variances are multiplied or divided by this at most."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Labels of one user's query rows (N,), and their predictive means and deviations."""

    label_N: Doubles
    mean_N: Doubles
    sd_N: Doubles


def calibrated(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> Head:
    """The head with wider or narrower intervals; as it is where held-out users are few or show no need, or it has no scales."""
    if NAME not in head.theta or head.kind != "user":
        return head
    asked_T = _asked(head, episodes(inputs, recipe, seed, validation=True))
    if len(asked_T) < MIN_USERS:
        return head
    ratio = variance_ratio(asked_T, whole_grades(inputs.layout("user", validation=False).label_N))
    return head if ratio == 1 else replace(head, theta={**head.theta, NAME: head.theta[NAME] + float(np.log(ratio))})


def whole_grades(label_N: NDArray[np.floating]) -> tuple[float, float] | None:
    """The lowest and the highest of labels that are all whole; None where some are not."""
    label_N = np.asarray(label_N, np.float64)
    return (float(label_N.min()), float(label_N.max())) if len(label_N) and bool((label_N == label_N.round()).all()) else None


def variance_ratio(asked_T: Sequence[Asked], grades: tuple[float, float] | None = None) -> float:
    """What variances must be multiplied by; 1 where they will do. `grades` are the ends of labels that are whole."""

    def off(ratio: float) -> Doubles:
        return np.array([mean_level(asked, ratio, grades) - 0.5 for asked in asked_T])

    now_T = off(1.0)
    if abs(now_T.mean()) <= max(OFF, 2 * float(now_T.std(ddof=1)) / np.sqrt(len(now_T))):
        return 1.0
    low, high = 1 / MOST, MOST
    if float(off(low).mean()) <= 0:
        return low
    if float(off(high).mean()) >= 0:
        return high
    return float(brentq(lambda ratio: float(off(ratio).mean()), low, high))


def mean_level(asked: Asked, ratio: float, grades: tuple[float, float] | None) -> float:
    """Mean over rows of the level of the central interval that ends at the label, variances being multiplied by `ratio`.

    A whole grade is a rounded label and the ends take all of their tails, as where intervals are judged
    (metarec.evaluation.calibration): its level is the mean over the probability mass that is its own.
    """
    sd_N = asked.sd_N * np.sqrt(ratio)
    half = 0.0 if grades is None else 0.5
    low_N, high_N = (ndtr((asked.label_N + side - asked.mean_N) / sd_N) for side in (-half, half))
    if grades is not None:
        low_N = np.where(asked.label_N <= grades[0], 0.0, low_N)
        high_N = np.where(asked.label_N >= grades[1], 1.0, high_N)
    from_N, to_N = 2 * low_N - 1, 2 * high_N - 1
    # The mean of |v| over v from `from` to `to`.
    both_N = (from_N**2 + to_N**2) / (2 * np.maximum(to_N - from_N, 1e-12))
    return float(np.where(from_N * to_N < 0, both_N, np.abs(from_N + to_N) / 2).mean())


def _asked(head: Head, sampler: EpisodeSampler) -> list[Asked]:
    """The query rows of each held-out user, all draws together; empty where the head predicts no variances."""
    found: dict[int, list[Doubles]] = {}
    for tasks, said in answers(head, sampler):
        if said.variance_TQ is None:
            return []
        sd_TQ = said.variance_TQ.clamp_min(1e-12).sqrt()
        rows_TQ3 = torch.stack([tasks.query.label_TN.to(sd_TQ.dtype), said.mean_TQ, sd_TQ], -1).double()
        for place, task in enumerate(tasks.query.task_T.tolist()):
            found.setdefault(task, []).append(rows_TQ3[place][tasks.query.mask_TN[place]].numpy())
    users = (np.concatenate(parts) for parts in found.values())
    return [Asked(label_N=rows_N3[:, 0], mean_N=rows_N3[:, 1], sd_N=rows_N3[:, 2]) for rows_N3 in users if len(rows_N3)]
