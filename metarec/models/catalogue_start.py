"""Where the catalogue scorer starts: the moments of what the training tasks hold.

Each training task is a draw from the prior over tasks. With X the binary matrix of tasks and rows, the mean of its rows estimates
how likely a task holds a row, and the leading principal axes of the centred X its covariance (Eckart & Young 1936): the prior of
a linear Gaussian model, whose posterior mean is the best linear predictor of what else a task holds.

Two things move the mean. What people take first is not what they take later, so it is estimated apart for tasks that hold 0, 1,
3, ... rows already (`STAGES`). And taste moves on, so it may lean on recent tasks: by how much is asked of the tasks to come, at
several times of the training part (Dawid 1984).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, svds

from metarec.tasks.layout import TaskLayout

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STAGES = (0, 1, 3, 5, 10, 20, 40)
"""Numbers of rows a task holds already; shares are interpolated between two of them. The last is for tasks that go on later."""

CUTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the rows, in time order, between which new tasks are asked."""

FRACTIONS = (0.03, 0.06, 0.12, 0.25, 0.5)
"""Candidates of recency: an interaction weighs exp(-age / this share of all), its age being the number of newer ones."""

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidate weights of the recent shares beside those of all time."""

SHRINKAGE = 5.0
"""Tasks below which a stage keeps to the one before it."""

MIN_ROWS, MIN_TASKS, TOP = 5, 20, 20

DENSE = 4_000_000
"""Entries up to which a table is decomposed as a whole."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """`phi_ID`: phi phi' is the covariance of rows, as far as D axes go; `place_TD`: the tasks' coordinates, of variance 1 each.

    `task_T` are the tasks that have rows, in the order of `place_TD`.
    """

    phi_ID: Floats
    place_TD: Floats
    task_T: Ints


def principal_axes(layout: TaskLayout, dim: int) -> Axes:
    """The `dim` leading axes of what tasks hold; axes beyond what the data has are 0."""
    task_T, task_N = np.unique(layout.row_tasks, return_inverse=True)
    size = (len(task_T), layout.num_rows)
    held_TI = sp.csr_matrix((np.ones(len(task_N)), (task_N, layout.row_N)), size)
    phi_ID, place_TD = np.zeros((size[1], dim)), np.zeros((size[0], dim))
    rank = min(dim, min(size) - 1)
    mean_I = np.asarray(held_TI.mean(0)).ravel() if len(task_T) else np.zeros(size[1])
    if rank < 1 or not (mean_I * (1 - mean_I)).sum() > 1e-9:  # nothing in which tasks differ
        return Axes(phi_ID=phi_ID, place_TD=place_TD, task_T=task_T)
    left_TR, value_R, right_RI = leading_vectors(held_TI, mean_I, rank)
    root = np.sqrt(size[0])
    phi_ID[:, : len(value_R)] = right_RI.T * (value_R / root)
    place_TD[:, : len(value_R)] = left_TR * root
    return Axes(phi_ID=phi_ID, place_TD=place_TD, task_T=task_T)


def leading_vectors(table_TI: "sp.csr_matrix", mean_I: Floats, rank: int) -> tuple[Floats, Floats, Floats]:
    """Left (T, R) and right (R, I) singular vectors of the table less `mean_I`, with the values between them, the largest first.

    R is `rank` or, where values vanish, less. The sign of a pair is free: the right one's sum is not negative.
    """
    left_TR, value_R, right_RI = _largest(table_TI, mean_I, rank)
    order = np.argsort(-value_R)[: int((value_R > 1e-6 * value_R.max()).sum())]
    sign_R = np.where(right_RI[order].sum(1) < 0, -1.0, 1.0)
    return left_TR[:, order] * sign_R, value_R[order], right_RI[order] * sign_R[:, None]


def _largest(held_TI: "sp.csr_matrix", mean_I: Floats, rank: int) -> tuple[Floats, Floats, Floats]:
    """Singular vectors and values of the centred table, the `rank` largest ones."""
    size = held_TI.shape
    if size[0] * size[1] <= DENSE:
        # Equal singular values leave a rotation open, and the iteration's differs from call to call. The leading eigenvectors of
        # the smaller Gram matrix are ten times as fast as all singular vectors.
        centred_TI = held_TI.toarray() - mean_I
        wide = size[0] <= size[1]
        gram = centred_TI @ centred_TI.T if wide else centred_TI.T @ centred_TI
        square_R, side_R = eigh(gram, subset_by_index=[len(gram) - rank, len(gram) - 1])
        value_R = np.sqrt(np.maximum(square_R[::-1], 0.0))
        near, far = side_R[:, ::-1], np.maximum(value_R, 1e-9 * value_R[0])
        return (near, value_R, near.T @ centred_TI / far[:, None]) if wide else (centred_TI @ near / far, value_R, near.T)
    centred = LinearOperator(
        size,
        matvec=lambda x: held_TI @ x - mean_I @ x,
        rmatvec=lambda x: held_TI.T @ x - mean_I * x.sum(),
        matmat=lambda x: held_TI @ x - mean_I @ x,
        rmatmat=lambda x: held_TI.T @ x - np.outer(mean_I, x.sum(0)),
        dtype=np.float64,
    )
    found: tuple[Floats, Floats, Floats] = svds(centred, k=rank, v0=np.linspace(1.0, 2.0, min(size)))
    return found


Recency = list[tuple[float, float]]
"""An entry of FRACTIONS and one of MIXES for each stage."""


def shares(layout: TaskLayout, recency: Recency | None = None) -> Floats:
    """Share (K, I) of tasks at each stage that come to hold a row, of those that do not yet.

    Without timestamps there are no stages: the share of tasks that hold the row, K times. `recency` is chosen unless it is given.
    """
    plain_N = np.ones(len(layout.row_N))
    if not layout.has_timestamps:
        return np.repeat(_shares(layout, plain_N, (0,)), len(STAGES), 0)
    plain_KI = _shares(layout, plain_N, STAGES)
    age_N = _ages(layout)
    for stage, (fraction, mix) in enumerate(choose_recency(layout) if recency is None else recency):
        if mix:
            recent_I = _shares(layout, np.exp(-age_N / (fraction * len(age_N))), STAGES[: stage + 1])[-1]
            plain_KI[stage] += mix * (recent_I - plain_KI[stage])
    return plain_KI


@dataclass(frozen=True, kw_only=True)
class PastCut:
    """A time of a layout: the rows `before`; those of tasks that begin until the next cut (`new`).

    `old` are all rows until then of tasks that began earlier, of which each held `held_T` before the cut.
    """

    before: TaskLayout
    new: TaskLayout
    old: TaskLayout
    held_T: Ints


def past_cuts(layout: TaskLayout) -> Iterator[PastCut]:
    """The layout at CUTS; all parts have the tasks and rows of the whole."""
    age_N, count, full = _ages(layout), len(layout.row_N), layout.counts > 0
    oldest_N = np.repeat(age_N[layout.start_T1[:-1][full]], layout.counts[full])
    for low, high in pairwise(CUTS):
        start, end = (1 - low) * count, (1 - high) * count
        yield PastCut(
            before=layout.where(age_N >= start),
            new=layout.where((oldest_N < start) & (age_N >= end)),
            old=layout.where((oldest_N >= start) & (age_N >= end)),
            held_T=np.bincount(layout.row_tasks[age_N >= start], minlength=len(layout)),
        )


def choose_recency(layout: TaskLayout) -> Recency:
    """Per stage the entries of FRACTIONS and MIXES with the best nDCG@20 over tasks that begin after a cut, asked at that stage
    by what was before the cut; the last stage over tasks that go on after it.

    No recency (0 in the mix) where fewer than MIN_TASKS can be asked, and at the last stage unless it is better by one standard
    error: what tasks hold already tells most about those that go on, and shares that lean on few recent ones get in its way.
    """
    candidates = [(fraction, mix) for mix in MIXES for fraction in FRACTIONS]  # the first one has no recency
    found: list[list[Floats]] = [[] for _ in STAGES]
    for past in past_cuts(layout):
        before, old_N = past.before, _ages(past.before)
        plain_KI = _shares(before, np.ones(len(old_N)), STAGES)
        tests = [*(Asked.of(past.new, np.full(len(layout), stage)) for stage in STAGES[:-1]), Asked.of(past.old, past.held_T)]
        recent = {f: _shares(before, np.exp(-old_N / (f * max(1, len(old_N)))), STAGES) for f in FRACTIONS}
        for stage, (test, plain_I) in enumerate(zip(tests, plain_KI, strict=True)):
            mixed = [(1 - mix) * plain_I + mix * recent[fraction][stage] for fraction, mix in candidates]
            found[stage].append(np.stack([test.gains(score_I) for score_I in mixed]))
    return [
        candidates[best_candidate(np.concatenate(parts, 1), sure=stage == len(STAGES) - 1)] for stage, parts in enumerate(found)
    ]


def best_candidate(gain_CA: Floats, *, sure: bool) -> int:
    """The candidate with the best mean over tasks.

    The first one where it is as good, where there are fewer than MIN_TASKS, and, to be `sure`, where the best is not better by
    one standard error.
    """
    asked = gain_CA.shape[1]
    if asked < MIN_TASKS:
        return 0
    best = int(np.round(gain_CA.mean(1), 9).argmax())
    better_A = gain_CA[best] - gain_CA[0]
    return 0 if sure and not better_A.mean() > better_A.std() / np.sqrt(asked) else best


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Tasks asked after their first rows: which rows they hold (A, I) and which are to be found (A, I)."""

    task_T: Ints
    held_AI: NDArray[np.bool_]
    target_AI: NDArray[np.bool_]

    @staticmethod
    def tasks(layout: TaskLayout, shots_T: Ints) -> Ints:
        """Those with MIN_ROWS rows or more after their first `shots_T`."""
        return np.flatnonzero(layout.counts >= shots_T + MIN_ROWS)

    @staticmethod
    def of(layout: TaskLayout, shots_T: Ints, task_T: Ints | None = None) -> "Asked":
        """These tasks after their first `shots_T`, by default all there are to ask."""
        task_T = Asked.tasks(layout, shots_T) if task_T is None else task_T
        place_T = np.full(len(layout), -1)
        place_T[task_T] = np.arange(len(task_T))
        held_N = ranks(layout) < shots_T[layout.row_tasks]
        held_AI = np.zeros((len(task_T), layout.num_rows), bool)
        target_AI = held_AI.copy()
        for table_AI, part_N in ((held_AI, held_N), (target_AI, ~held_N)):
            chosen_N = part_N & (place_T[layout.row_tasks] >= 0)
            table_AI[place_T[layout.row_tasks[chosen_N]], layout.row_N[chosen_N]] = True
        return Asked(task_T=task_T, held_AI=held_AI, target_AI=target_AI)

    def gains(self, score_I: Floats) -> Floats:
        """nDCG@20 (A,) of one ranking, without what each task holds."""
        most = int(self.held_AI.sum(1).max(initial=0))
        top = np.argsort(-score_I, kind="stable")[: TOP + most]
        free_AN = ~self.held_AI[:, top]
        place_AN = np.cumsum(free_AN, 1)
        discount_N = np.append(1 / np.log2(np.arange(TOP) + 2), np.zeros(most + 1))
        hit_AN = self.target_AI[:, top] & free_AN
        best_A = np.cumsum(discount_N)[np.minimum(self.target_AI.sum(1), TOP) - 1]
        gain_A: Floats = (hit_AN * discount_N[place_AN - 1]).sum(1) / best_A
        return gain_A


def _ages(layout: TaskLayout) -> Floats:
    """How many rows of the layout are newer than each one."""
    age_N = np.empty(len(layout.row_N))
    age_N[np.argsort(-layout.timestamp_N, kind="stable")] = np.arange(len(age_N))
    return age_N


def ranks(layout: TaskLayout) -> Ints:
    """How many rows of the same task come before each one."""
    return np.arange(len(layout.row_N)) - np.repeat(layout.start_T1[:-1], layout.counts)


def _shares(layout: TaskLayout, weight_N: Floats, stages: tuple[int, ...]) -> Floats:
    """Weight (K, I) of the tasks of more than k rows that hold a row after their first k, over that of those that do not before.

    A task weighs as much as its newest row.
    """
    size, rank_N = layout.num_rows, ranks(layout)
    weight_T = np.zeros(len(layout))
    np.maximum.at(weight_T, layout.row_tasks, weight_N)
    found: list[Floats] = []
    for stage in stages:
        reach_T = layout.counts > stage
        late_N = rank_N >= stage
        early_N = ~late_N & reach_T[layout.row_tasks]
        late_I = np.bincount(layout.row_N[late_N], weight_N[late_N], minlength=size)
        early_I = np.bincount(layout.row_N[early_N], weight_N[early_N], minlength=size)
        before_I, shrinkage = (found[-1], SHRINKAGE) if found else (0.0, 1e-12)
        rest_I = np.maximum(weight_T[reach_T].sum() - early_I, 0.0)
        found.append((late_I + shrinkage * before_I) / (rest_I + shrinkage))
    return np.stack(found)
