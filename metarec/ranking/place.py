"""Lays out a list place by place: pins where they belong, quotas kept, the best of what is allowed everywhere else.

Greedy, so that the order of scores (or of marginal relevance) is disturbed as late and as little as a rule demands: a minimum is
only enforced when the places left are as many as items still lacking, a maximum by passing over what would exceed it. Where that
breaks a quota that could be kept, shares (shares.py) say beforehand what each part of the list must hold.
Certain places may be left to an exploration policy: `advance` stops there and is told what to take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metarec.ranking.diversity import Marginal

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class QuotaPlan:
    """A quota over candidates: which ones it counts."""

    member_C: Bools
    at_least: int = 0
    at_most: int | None = None
    per: int = 0

    def blocks(self, size: int) -> list[range]:
        """The stretches of a list of that many places that are counted apart."""
        length = self.per or size
        return [range(start, min(start + length, size)) for start in range(0, size, length or 1)]

    def least(self, block: range) -> int:
        """The minimum of a block, in proportion where the list ends within it."""
        return self.at_least * len(block) // self.per if self.per else self.at_least


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How many items of each of K kinds each of S parts of a list takes (metarec.ranking.shares), pinned ones apart.

    kind_C: kind of each candidate; start_S: first place of each part, and the list's end; count_KS: the numbers
    """

    kind_C: NDArray[np.int64]
    start_S: NDArray[np.int64]
    count_KS: NDArray[np.int64]

    def part(self, place: int) -> int:
        """The part that a place is in."""
        return int(np.searchsorted(self.start_S, place, side="right")) - 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to lay out: `known_C` tells, by candidate in the order of scores, who is known; unknown ones come last.

    `pins` are candidates by place (0: the first). `slots` are the places for exploration among `pool_C`; with `earned`, only
    while the list holds fewer of `pool_C` than there have been slots. `shares` are what quotas leave to each place where looking
    at one place at a time would break one.
    """

    known_C: Bools
    num_places: int
    pins: Mapping[int, int] = field(default_factory=dict)
    quotas: Sequence[QuotaPlan] = ()
    slots: Sequence[int] = ()
    pool_C: Bools | None = None
    earned: bool = True
    shares: Shares | None = None

    @cached_property
    def all_known(self) -> bool:
        """Whether there is nobody who must come last."""
        return bool(self.known_C.all())


class Layout:
    """A list being laid out. `chosen` are candidates by place; what rules did to them is in the other public attributes."""

    def __init__(self, plan: Plan, marginal: Marginal | None = None) -> None:
        self._plan, self._marginal = plan, marginal
        size = len(plan.known_C)
        self._size = min(plan.num_places, size)
        self._left_KS = None if plan.shares is None else plan.shares.count_KS.copy()
        self._pins = {place: candidate for place, candidate in plan.pins.items() if place < self._size}
        self._left_C = np.ones(size, bool)
        self._left_C[list(self._pins.values())] = False
        self.chosen: list[int] = []
        self.pinned: set[int] = set()
        self.explored: dict[int, int] = {}
        self.raised: set[tuple[int, int]] = set()
        self.held: set[tuple[int, int]] = set()

    def copy(self) -> "Layout":
        """One that goes on independently."""
        other = object.__new__(Layout)
        other._plan, other._size, other._pins = self._plan, self._size, self._pins
        other._marginal = None if self._marginal is None else self._marginal.copy()
        other._left_C, other.chosen = self._left_C.copy(), list(self.chosen)
        other._left_KS = None if self._left_KS is None else self._left_KS.copy()
        other.pinned, other.explored = set(self.pinned), dict(self.explored)
        other.raised, other.held = set(self.raised), set(self.held)
        return other

    def advance(self) -> NDArray[np.int64] | None:
        """Fill places up to the next one for exploration and return the candidates for it; None when the list is complete."""
        plan = self._plan
        while len(self.chosen) < self._size:
            place = len(self.chosen)
            if place in self._pins:
                self.pinned.add(self._pins[place])
                self._take(self._pins[place])
                continue
            shared_C = self._shared(place) if plan.shares is not None else None
            allowed_C = self._allowed(place) if shared_C is None else shared_C
            if not allowed_C.any():
                break
            lacking = self._lacking(place, allowed_C) if plan.quotas and shared_C is None else []
            demanded_C = self._members(lacking) & allowed_C if lacking else allowed_C
            pool = self._pool(place, demanded_C)
            if pool is not None:
                return pool
            best = self._best(demanded_C)
            if lacking and best != self._best(allowed_C):
                self.raised |= {(number, best) for number in lacking if self._plan.quotas[number].member_C[best]}
            if shared_C is not None:
                self._account(best)
            self._take(best)
        # Where candidates end early, what is pinned further down follows at once.
        for place in sorted(self._pins):
            if place >= len(self.chosen) and self._pins[place] not in self.chosen:
                self.pinned.add(self._pins[place])
                self._take(self._pins[place])
        return None

    def explore(self, candidate: int) -> None:
        """Take `candidate` for the place at which `advance` stopped."""
        self.explored[candidate] = len(self.chosen)
        self._take(candidate)

    def _take(self, candidate: int) -> None:
        shares, place = self._plan.shares, len(self.chosen)
        if shares is not None and self._left_KS is not None and self._pins.get(place) != candidate:
            self._left_KS[shares.kind_C[candidate], shares.part(place)] -= 1
        self.chosen.append(candidate)
        self._left_C[candidate] = False
        if self._marginal is not None:
            self._marginal.add(candidate)

    def _best(self, among_C: Bools) -> int:
        if not self._plan.all_known:
            known_C = among_C & self._plan.known_C
            among_C = known_C if known_C.any() else among_C
        if self._marginal is None:
            return int(among_C.argmax())
        return int(np.argmax(np.where(among_C, self._marginal.value_C, -np.inf)))

    def _pool(self, place: int, allowed_C: Bools) -> NDArray[np.int64] | None:
        plan = self._plan
        if place not in plan.slots or plan.pool_C is None:
            return None
        due = sum(slot <= place for slot in plan.slots)
        if plan.earned and int(plan.pool_C[self.chosen].sum()) >= due:
            return None
        pool = np.flatnonzero(allowed_C & plan.pool_C & plan.known_C)
        return pool if len(pool) else None

    def _block(self, quota: QuotaPlan, place: int) -> range:
        """The places that are counted together with `place`."""
        if not quota.per:
            return range(self._size)
        first = place - place % quota.per
        return range(first, min(first + quota.per, self._size))

    def _count(self, quota: QuotaPlan, block: range) -> int:
        """Members in the block, those pinned further down included."""
        placed = self.chosen[block.start : block.stop]
        later = [candidate for place, candidate in self._pins.items() if place in block and place >= len(self.chosen)]
        return int(quota.member_C[placed].sum()) + int(quota.member_C[later].sum())

    def _allowed(self, place: int) -> Bools:
        """Candidates left that exceed no maximum; notes whom a maximum passes over."""
        if not self._plan.quotas:
            return self._left_C
        allowed_C = self._left_C
        full = []
        for number, quota in enumerate(self._plan.quotas):
            if quota.at_most is not None and self._count(quota, self._block(quota, place)) >= quota.at_most:
                allowed_C = allowed_C & ~quota.member_C
                full.append(number)
        if full and self._left_C.any():
            wanted = self._best(self._left_C)
            self.held |= {(number, wanted) for number in full if self._plan.quotas[number].member_C[wanted]}
        return allowed_C

    def _shared(self, place: int) -> Bools | None:
        """Candidates left of which the shares leave one to this place; None without shares."""
        shares = self._plan.shares
        if shares is None or self._left_KS is None:
            return None
        open_C: Bools = self._left_KS[shares.kind_C, shares.part(place)] > 0
        return self._left_C & open_C

    def _account(self, best: int) -> None:
        """Note what shares raise, and whom they pass over."""
        wanted = self._best(self._left_C)
        if best == wanted:
            return
        for number, quota in enumerate(self._plan.quotas):
            if quota.at_least and quota.member_C[best] and not quota.member_C[wanted]:
                self.raised.add((number, best))
            if quota.at_most is not None and quota.member_C[wanted] and not quota.member_C[best]:
                self.held.add((number, wanted))

    def _members(self, numbers: Sequence[int]) -> Bools:
        """Candidates that any of these quotas counts."""
        found_C = np.zeros(len(self._left_C), bool)
        for number in numbers:
            found_C |= self._plan.quotas[number].member_C
        return found_C

    def _lacking(self, place: int, allowed_C: Bools) -> list[int]:
        """The quotas whose minimum must be served now: none, until the places left are as many as what is lacking."""
        lacking: dict[int, int] = {}
        free = self._size
        for number, quota in enumerate(self._plan.quotas):
            if not quota.at_least:
                continue
            block = self._block(quota, place)
            lack = quota.least(block) - self._count(quota, block)
            if lack <= 0 or not (allowed_C & quota.member_C).any():
                continue
            open_places = sum(other not in self._pins for other in range(place, block.stop))
            lacking[number] = lack
            free = min(free, open_places)
        return list(lacking) if lacking and sum(lacking.values()) >= free else []

    def missing(self, number: int) -> int:
        """Places that quota `number` lacks in the finished list."""
        quota = self._plan.quotas[number]
        found = (
            quota.least(block) - int(quota.member_C[self.chosen[block.start : block.stop]].sum())
            for block in quota.blocks(self._size)
        )
        return sum(max(0, lack) for lack in found)
