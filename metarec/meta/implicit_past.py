"""How much weight rows of a support set get, asked of the training part's own past (Dawid 1984).

How fast a task should leave its prior depends on how much is known of how tasks differ, on how rows come about and on what low
labels mean: no setting suits every data set. Where there are timestamps, the start of `alpaca_implicit` is therefore made at
several times of the training part as if that were all, and asked for the tasks that begin after each of them, by their first
rows, and for those that go on. Training starts from USUAL, what suits rows in time order best, or from the candidate with the
best nDCG@20 where that is better by one standard error: the best of a dozen on a few hundred tasks is mostly luck.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.models.catalogue_start import MIN_TASKS, STAGES, TOP, Asked, past_cuts
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Batch, Tables
from metarec.tasks.layout import TaskLayout

NOISES = (0.5, 1.0, 2.0)
LOWEST = (0.5, 1.0)
TRUSTS = (0.7, 1.0)
"""Candidates, as multiples of the learner's settings; the first of each is kept unless others are shown to be better."""

ASKED = STAGES[1:5]
"""Support sizes at which tasks that begin are asked."""

MAX_SCORES = 2_000_000
"""Most scores of one candidate, stage and cut: fewer tasks are asked where the catalogue is large."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = Callable[[MetaParams, Batch], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Multiples of the learner's noise, of the target of its lowest label, and of its trust."""

    noise: float
    lowest: float
    trust: float

    def applied(self, theta: MetaParams) -> MetaParams:
        """Theta with this evidence; targets between the lowest label's and the highest one's stay equally spaced."""
        positive_L = theta["solve.log_positive"].exp()
        low, high = float(positive_L[0]) * self.lowest, float(positive_L[-1])
        return {
            **theta,
            "solve.log_confidence": theta["solve.log_confidence"] - math.log(self.noise),
            "solve.log_unobserved": theta["solve.log_unobserved"] - math.log(self.noise),
            "solve.log_positive": torch.linspace(low, high, len(positive_L), dtype=positive_L.dtype).log(),
            "solve.log_trust": theta["solve.log_trust"] + math.log(self.trust),
        }


CANDIDATES = tuple(Evidence(noise=n, lowest=low, trust=t) for t, low, n in product(TRUSTS, LOWEST, NOISES))
USUAL = CANDIDATES[0]
AS_SET = Evidence(noise=1.0, lowest=1.0, trust=1.0)
"""The learner's settings as they are: what stands where nothing can be asked."""


def choose_evidence(
    layout: TaskLayout, tables: Tables, start: Callable[[TaskLayout], MetaParams], scores: Scores
) -> tuple[Evidence, dict[Evidence, float]]:
    """The candidate to start from, and the nDCG@20 of each: means over tasks, then over support sizes and tasks that go on.

    start: theta as it would be with these interactions alone
    scores: of all rows (A, I) for the tasks of a support batch

    AS_SET and no figures where there are no timestamps or fewer than MIN_TASKS are asked.
    """
    if not layout.has_timestamps:
        return AS_SET, {}
    found_G: list[list[Floats]] = [[] for _ in range(len(ASKED) + 1)]
    for past in past_cuts(layout):
        groups = [(past.new, np.full(len(layout), shots)) for shots in ASKED] + [(past.old, past.held_T)]
        tests = [capped(part, shots_T, layout.num_rows) for part, shots_T in groups]
        if not any(len(test.task_T) for test in tests):
            continue
        theta = start(past.before)
        for group, ((part, shots_T), test) in enumerate(zip(groups, tests, strict=True)):
            if not len(test.task_T):
                continue
            support = support_of(part, test.task_T, shots_T, tables)
            found_G[group].append(np.stack([gains(test, scores(one.applied(theta), support)) for one in CANDIDATES]))
    groups_CA = [np.concatenate(parts, 1) for parts in found_G if parts]
    if sum(gain_CA.shape[1] for gain_CA in groups_CA) < MIN_TASKS:
        return AS_SET, {}
    mean_C = np.mean([gain_CA.mean(1) for gain_CA in groups_CA], 0)
    best = int(np.round(mean_C, 9).argmax())
    # Of a mean over groups; that the same tasks are asked at several support sizes makes it a little too small.
    error = float(np.sqrt(sum((one[best] - one[0]).var() / one.shape[1] for one in groups_CA))) / len(groups_CA)
    chosen = CANDIDATES[best] if mean_C[best] - mean_C[0] > error else USUAL
    return chosen, dict(zip(CANDIDATES, mean_C.tolist(), strict=True))


def capped(part: TaskLayout, shots_T: Ints, num_rows: int, most_tasks: int = MAX_SCORES) -> Asked:
    """The tasks to ask, evenly thinned where there are too many."""
    task_T = Asked.tasks(part, shots_T)
    most = max(1, min(most_tasks, MAX_SCORES // max(1, num_rows)))
    if len(task_T) > most:
        task_T = task_T[np.linspace(0, len(task_T) - 1, most).astype(np.int64)]
    return Asked.of(part, shots_T, task_T)


def support_of(part: TaskLayout, task_A: Ints, shots_T: Ints, tables: Tables) -> Batch:
    """The first rows of these tasks, padded."""
    place_AS = part.start_T1[task_A, None] + np.arange(max(1, int(shots_T[task_A].max())))
    mask_AS = place_AS < (part.start_T1[task_A] + shots_T[task_A])[:, None]
    at_AS = np.where(mask_AS, place_AS, 0)
    return Batch(
        tables=tables,
        task_T=torch.from_numpy(task_A),
        row_TN=torch.from_numpy(np.where(mask_AS, part.row_N[at_AS], 0)),
        label_TN=torch.from_numpy(np.where(mask_AS, part.label_N[at_AS], 0).astype(np.float32)),
        mask_TN=torch.from_numpy(mask_AS),
        timestamp_TN=torch.from_numpy(np.where(mask_AS, part.timestamp_N[at_AS], 0.0)),
    )


def gains(test: Asked, score_AI: torch.Tensor) -> Floats:
    """nDCG@20 (A,) of the tasks, without what they hold."""
    free_AI = score_AI.masked_fill(torch.from_numpy(test.held_AI), -math.inf)
    top_AN = free_AI.topk(min(TOP, free_AI.shape[1]), 1).indices.numpy()
    hit_AN = np.take_along_axis(test.target_AI, top_AN, 1)
    discount_N = 1 / np.log2(np.arange(top_AN.shape[1]) + 2)
    best_A = np.cumsum(discount_N)[np.minimum(test.target_AI.sum(1), len(discount_N)) - 1]
    gain_A: Floats = (hit_AN * discount_N).sum(1) / best_A
    return gain_A
