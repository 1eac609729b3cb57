"""Predictive intervals of a trained closed-form head, made as wide as held-out users show they should be.

The two scales of predictive variances are learned along with everything else (metarec.meta.alpaca), which takes thousands of
steps: on a small dataset they end near where they began. Where held-out users show it, both are multiplied by the s for which

    mean over users of the mean over rows of |2 Phi(z / sqrt(s)) - 1| = 1/2

z being errors in predictive deviations: on average over all levels, as many labels then lie within the central interval as the
level says (the folded probability integral transform, Czado, Gneiting & Held 2009). No mean depends on it.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from metarec.meta.prior import Head
from metarec.training.heads import episode_config, head_seed
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.validation import validation_sampler

NAME = "predict.log_scale"
MIN_USERS = 10
DRAWS = 4
"""Episodes of each held-out user, with supports of all sizes."""
OFF = 0.03
"""A mean level that is off by less than this is left alone, as is one within two standard errors over users."""
MOST = 100.0
"""Variances are multiplied or divided by this at most."""

Doubles = NDArray[np.float64]


def calibrated(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> Head:
    """The head with wider or narrower intervals; as it is where held-out users are few or show no need, or it has no scales."""
    if NAME not in head.theta or head.kind != "user":
        return head
    z_TN = _errors(inputs, recipe, head, seed)
    if len(z_TN) < MIN_USERS:
        return head
    ratio = variance_ratio(z_TN)
    return head if ratio == 1 else replace(head, theta={**head.theta, NAME: head.theta[NAME] + float(np.log(ratio))})


def variance_ratio(z_TN: list[Doubles]) -> float:
    """What variances must be multiplied by, given each user's errors in predictive deviations; 1 where they will do."""

    def off(ratio: float) -> Doubles:
        return np.array([np.abs(2 * ndtr(z_N / np.sqrt(ratio)) - 1).mean() - 0.5 for z_N in z_TN])

    now_T = off(1.0)
    if abs(now_T.mean()) <= max(OFF, 2 * float(now_T.std(ddof=1)) / np.sqrt(len(now_T))):
        return 1.0
    low, high = 1 / MOST, MOST
    if float(off(low).mean()) <= 0:
        return low
    if float(off(high).mean()) >= 0:
        return high
    return float(brentq(lambda ratio: float(off(ratio).mean()), low, high))


def _errors(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> list[Doubles]:
    """Errors of each held-out user's query rows, all draws together, over predictive deviations."""
    tables = inputs.tables(recipe.kind)
    layout = inputs.layout(recipe.kind, validation=True)
    sampler = validation_sampler(layout, tables, episode_config(recipe), head_seed(seed, recipe.target), recipe.validation_tasks)
    head = head.prepared(tables.rows)
    found: dict[int, list[Doubles]] = {}
    with torch.no_grad():
        for tasks in (tasks for draw in range(DRAWS) for tasks in sampler.epoch(draw)):
            fast = head.learner.adapt(head.model, head.theta, tasks.support)
            said = head.learner.predict(head.model, head.theta, fast, tasks.query)
            if said.variance_TQ is None:
                return []
            z_TQ = (tasks.query.label_TN - said.mean_TQ) / said.variance_TQ.clamp_min(1e-12).sqrt()
            for place, task in enumerate(tasks.query.task_T.tolist()):
                found.setdefault(task, []).append(z_TQ[place][tasks.query.mask_TN[place]].double().numpy())
    return [np.concatenate(parts) for parts in found.values() if sum(map(len, parts))]
