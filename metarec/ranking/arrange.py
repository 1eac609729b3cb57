"""From candidates to the list that is shown: scores, then rules, diversity and exploration, and an account of what each changed.

Filters come first and are kept whatever follows. Boosts change scores. Pins, quotas, diversity and exploration change places, not
scores, so that scores stay exact and a list need not be in their order.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metarec.ranking.account import RuleReport, Ruling, effects_of, reports_of
from metarec.ranking.contract import ListEngine
from metarec.ranking.diversity import DiversityReport, Marginal, mean_similarity
from metarec.ranking.explore import Exploration, explored, num_draws, seed_of
from metarec.ranking.place import Layout, Plan, QuotaPlan
from metarec.ranking.rank import RankedItem, by_score
from metarec.ranking.rules import Pin
from metarec.ranking.shares import shares_for

AdaptedT = TypeVar("AdaptedT")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The list that is wanted.

    num_items: its length; 0: all candidates
    emerging: the candidates that exploration is for
    diversity: 0 (none) to 1
    cold: whether exploration is for all candidates, because little is known of the user
    request_id: seeds exploration's draws
    """

    num_items: int = 0
    emerging: Collection[str] = ()
    diversity: float = 0.0
    exploration: Exploration = field(default_factory=lambda: Exploration(share=0))
    cold: bool = False
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A list, and what rules (but those that did nothing) and diversity did to it."""

    items: tuple[RankedItem, ...] = ()
    rules: tuple[RuleReport, ...] = ()
    diversity: DiversityReport | None = None


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A list by places in the order of scores; `layout` is None where that order is the list."""

    chosen: Sequence[int]
    propensities: Sequence[float]
    layout: Layout | None = None
    diversity: DiversityReport | None = None


def arrange(
    engine: ListEngine[AdaptedT], adapted: AdaptedT, item_ids: Sequence[str], wish: Wish, ruling: Ruling | None = None
) -> Arranged:
    """The list of `wish` from these candidates, under the rules of `ruling`, whose marks must cover them."""
    ruling = ruling or Ruling()
    distinct = list(dict.fromkeys(item_ids))
    if not distinct:
        return Arranged(rules=reports_of(ruling, {}, [], {}, None, wish.num_items))
    # Of all at once, before any is removed: an engine may have scored a whole batch of users.
    every, knows = engine.scores(adapted, distinct).tolist(), engine.knows(adapted, distinct).tolist()
    removed: dict[str, str] = {}
    if ruling.active:
        removed = {item_id: name for item_id in distinct if (name := ruling.forbidden(item_id)) is not None}
    kept = [place for place, item_id in enumerate(distinct) if item_id not in removed]
    names, plain, familiar = (
        [distinct[place] for place in kept],
        [every[place] for place in kept],
        [knows[place] for place in kept],
    )
    by_model = by_score(names, plain, familiar)
    before = {names[place]: number for number, place in enumerate(by_model, 1)}
    boosts = ruling.boosts(names)
    boosted = [value + sum(effect.boost for effect in boosts.get(name, ())) for name, value in zip(names, plain, strict=True)]
    order = by_score(names, boosted, familiar) if boosts else by_model
    ids = [names[place] for place in order]
    scores = [boosted[place] for place in order]
    known = [familiar[place] for place in order]
    plain_C = np.array([plain[place] for place in order], np.float32)
    made = _make(engine, adapted, ids, np.array(scores, np.float32), plain_C, _plan(ruling, ids, known, wish), wish)
    effects = effects_of(ruling, ids, boosts, made.layout)
    items = tuple(
        RankedItem(
            item_id=ids[place],
            score=scores[place],
            known=known[place],
            rank_before=before[ids[place]],
            effects=tuple(effects.get(ids[place], ())),
            propensity=propensity,
            explored=made.layout is not None and place in made.layout.explored,
        )
        for place, propensity in zip(made.chosen, made.propensities, strict=True)
    )
    reports = reports_of(ruling, removed, ids, boosts, made.layout, wish.num_items or len(ids))
    return Arranged(items=items, rules=reports, diversity=made.diversity)


def _plan(ruling: Ruling, ids: Sequence[str], known: Sequence[bool], wish: Wish) -> Plan | None:
    """What the list must be besides in the order of scores; None when that is all."""
    num_places = min(wish.num_items or len(ids), len(ids))
    place_of = {item_id: place for place, item_id in enumerate(ids) if known[place]}
    pins: dict[int, int] = {}
    for _, rule in ruling.here:
        if isinstance(rule, Pin) and rule.item_id in place_of and place_of[rule.item_id] not in pins.values():
            pins.setdefault(rule.place - 1, place_of[rule.item_id])
    quotas = [
        QuotaPlan(
            member_C=np.array([ruling.hit(place, item_id) for item_id in ids], bool),
            at_least=rule.at_least,
            at_most=rule.at_most,
            per=rule.per,
        )
        for place, rule in ruling.quotas
    ]
    known_C = np.array(known, bool)
    slots = wish.exploration.slots(wish.num_items)
    pool_C = known_C & (wish.cold or np.array([item_id in wish.emerging for item_id in ids], bool)) if slots else None
    if pool_C is None or not pool_C.any():
        slots = ()
    if not ids or not (pins or quotas or slots or wish.diversity):
        return None
    return Plan(
        known_C=known_C, num_places=num_places, pins=pins, quotas=quotas, slots=slots, pool_C=pool_C, earned=not wish.cold
    )


def _make(
    engine: ListEngine[AdaptedT],
    adapted: AdaptedT,
    ids: Sequence[str],
    score_C: NDArray[np.float32],
    plain_C: NDArray[np.float32],
    plan: Plan | None,
    wish: Wish,
) -> _Made:
    if plan is None:
        size = min(wish.num_items or len(ids), len(ids))
        return _Made(chosen=range(size), propensities=[1.0] * size)
    spread = engine.spread(adapted, ids, cold=wish.cold) if plan.slots else None

    draws = num_draws(plan.num_places)

    def lay_out(layout: Layout, draws: int) -> tuple[Layout, Sequence[float]]:
        if spread is None:
            layout.advance()
            return layout, [1.0] * len(layout.chosen)
        return explored(layout, wish.exploration.policy, score_C, spread, seed_of(wish.request_id), draws)

    unit_CE = engine.directions(adapted, ids) if wish.diversity else None
    marginal = None if unit_CE is None else Marginal(wish.diversity, score_C, unit_CE, plain_C)
    plan = _kept(plan, marginal)
    layout, propensities = lay_out(Layout(plan, None if marginal is None else marginal.copy()), draws)
    if unit_CE is None:
        return _Made(chosen=layout.chosen, propensities=propensities, layout=layout)
    # Of the list without diversity only what is shown counts, by the same draw.
    plain, _ = lay_out(Layout(_kept(replace(plan, shares=None), None)), 0)
    report = DiversityReport(
        strength=wish.diversity,
        similarity_before=mean_similarity(unit_CE[plain.chosen]),
        similarity_after=mean_similarity(unit_CE[layout.chosen]),
        score_traded=float(score_C[plain.chosen].mean() - score_C[layout.chosen].mean()),
    )
    return _Made(chosen=layout.chosen, propensities=propensities, layout=layout, diversity=report)


def _kept(plan: Plan, marginal: Marginal | None) -> Plan:
    """The plan with shares where the greedy list breaks quotas that can be kept."""
    if not plan.quotas:
        return plan
    greedy = Layout(replace(plan, slots=()), None if marginal is None else marginal.copy())
    greedy.advance()
    return replace(plan, shares=shares_for(plan, greedy))
