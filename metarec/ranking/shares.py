"""How many items of each kind every part of a list must hold for its quotas to be kept: where the greedy list breaks one.

The greedy list (place.py) looks at one place at a time, so that quotas over the same items or over different stretches, or a
maximum beside a minimum, may leave the last places without an item that all of them allow. Whether a list keeps them depends on
how many of each kind it holds where: kinds are items that the same quotas count, parts the places between two ends of blocks.
That is a small integer program. Of all solutions with the least that is missing it takes the one nearest to the greedy list, by
the rank of what has to come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarec.ranking.place import Layout, Plan, Shares

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_SECONDS = 0.5
"""A list is not worth more: then it stays greedy."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """K kinds by S parts of the list: the kind of each candidate, the first place of each part (and the list's end), and which
    quotas count a kind (Q, K)."""

    kind_C: Ints
    start_S: Ints
    counts_QK: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """K, S."""
        return self.counts_QK.shape[1], len(self.start_S) - 1


def shares_for(plan: Plan, greedy: Layout) -> Shares | None:
    """The shares of a list that is fuller than the finished list `greedy` of `plan`, or misses less of its minimums; None when
    there is none."""
    missing = sum(greedy.missing(number) for number in range(len(plan.quotas)))
    size = min(plan.num_places, len(plan.known_C))
    complete = len(greedy.chosen) == size
    if not plan.quotas or (complete and missing <= _unavoidable(plan, size)):
        return None
    parts = _parts(plan, size)
    found = _solved(plan, parts, size, greedy)
    if found is None or (complete and found[1] >= missing):
        return None
    return Shares(kind_C=parts.kind_C, start_S=parts.start_S, count_KS=found[0])


def _unavoidable(plan: Plan, size: int) -> int:
    """What minimums miss in every list, because there are too few items of theirs."""
    total = 0
    for quota in plan.quotas:
        wanted = sum(quota.least(block) for block in quota.blocks(size))
        total += max(0, wanted - int(quota.member_C.sum()))
    return total


def _parts(plan: Plan, size: int) -> _Parts:
    member_QC = np.array([quota.member_C for quota in plan.quotas], bool)
    kinds_QK, kind_C = np.unique(member_QC, axis=1, return_inverse=True)
    ends = {0, size, *(block.start for quota in plan.quotas for block in quota.blocks(size))}
    return _Parts(kind_C=np.asarray(kind_C, np.int64).reshape(-1), start_S=np.array(sorted(ends), np.int64), counts_QK=kinds_QK)


def _solved(plan: Plan, parts: _Parts, size: int, greedy: Layout) -> tuple[Ints, int] | None:
    """Counts (K, S) without what is pinned, and how much of the minimums they miss; None when no list is full."""
    # Half a second to import, and hardly a list needs it.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, vstack

    (num_kinds, num_parts), pins = parts.shape, {place: c for place, c in plan.pins.items() if place < size}
    cells = num_kinds * num_parts
    blocks = [(number, block) for number, quota in enumerate(plan.quotas) for block in quota.blocks(size)]
    # Variables: counts, what exceeds those of the greedy list, and what each block's minimum misses.
    width = 2 * cells + len(blocks)
    rows: list[Floats] = []
    bounds: list[tuple[float, float]] = []

    def add(cell_KS: NDArray[np.bool_], low: float, high: float, *, slack: int | None = None) -> None:
        row = np.zeros(width)
        row[:cells] = cell_KS.ravel()
        if slack is not None:
            row[2 * cells + slack] = 1
        rows.append(row)
        bounds.append((low, high))

    pinned_KS, pinned_C = np.zeros((num_kinds, num_parts), np.int64), np.zeros(len(parts.kind_C), bool)
    for place, candidate in pins.items():
        pinned_KS[parts.kind_C[candidate], np.searchsorted(parts.start_S, place, side="right") - 1] += 1
        pinned_C[candidate] = True
    all_KS = np.ones((num_kinds, num_parts), bool)
    for part, length in enumerate(np.diff(parts.start_S).tolist()):
        open_places = length - int(pinned_KS[:, part].sum())
        add(all_KS & (np.arange(num_parts) == part), open_places, open_places)
    available_K = np.bincount(parts.kind_C[~pinned_C], minlength=num_kinds)
    for kind, available in enumerate(available_K.tolist()):
        add(all_KS & (np.arange(num_kinds) == kind)[:, None], 0, available)
    for slack, (number, block) in enumerate(blocks):
        quota = plan.quotas[number]
        within_S = (parts.start_S[:-1] >= block.start) & (parts.start_S[:-1] < block.stop)
        cell_KS = parts.counts_QK[number][:, None] & within_S
        there = int(pinned_KS[cell_KS].sum())
        add(cell_KS, quota.least(block) - there, np.inf, slack=slack)
        if quota.at_most is not None:
            add(cell_KS, 0, max(quota.at_most - there, 0))
    taken_KS = _taken(parts, greedy) - pinned_KS
    bounds.extend((-np.inf, float(count)) for count in taken_KS.ravel())
    exceeding = hstack([eye_array(cells), -eye_array(cells), csr_array((cells, len(blocks)))])
    cost = np.zeros(width)
    cost[cells : 2 * cells] = np.repeat(_price(parts, greedy), num_parts)
    cost[2 * cells :] = 4.0 * (size + 1)
    low, high = zip(*bounds, strict=True)
    solved = milp(
        cost,
        constraints=LinearConstraint(vstack([csr_array(np.array(rows)), exceeding], format="csr"), low, high),
        integrality=np.concatenate([np.ones(cells), np.zeros(width - cells)]),
        bounds=Bounds(0, np.inf),
        options={"time_limit": MAX_SECONDS},
    )
    if solved.x is None:
        return None
    count_KS = np.rint(solved.x[:cells]).astype(np.int64).reshape(num_kinds, num_parts)
    return count_KS, round(float(solved.x[2 * cells :].sum()))


def _taken(parts: _Parts, greedy: Layout) -> Ints:
    taken_KS = np.zeros(parts.shape, np.int64)
    for place, candidate in enumerate(greedy.chosen):
        taken_KS[parts.kind_C[candidate], np.searchsorted(parts.start_S, place, side="right") - 1] += 1
    return taken_KS


def _price(parts: _Parts, greedy: Layout) -> Sequence[float]:
    """What one item more of each kind costs: 1, and its rank from 0 to 1."""
    size = len(parts.kind_C)
    left_C = np.ones(size, bool)
    left_C[greedy.chosen] = False
    next_K = [np.flatnonzero(left_C & (parts.kind_C == kind)) for kind in range(parts.shape[0])]
    return [1.0 + (int(places[0]) / size if len(places) else 1.0) for places in next_K]
