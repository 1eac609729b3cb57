"""Which rules are about a request and its items, and what each of them did to the list."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from metarec.ranking.marks import Mark
from metarec.ranking.place import Layout
from metarec.ranking.rank import RuleEffect
from metarec.ranking.rules import Boost, Effect, Filter, Pin, Quota, Rule, RuleSet

Boosts = Mapping[str, Sequence[RuleEffect]]
"""Item id -> the boosts that it gets."""


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """The rules of a request: places of those that are about it in `rules`, and the marks of its candidates. `added` are
    candidates that nobody proposed, taken in for a pin: a filter that forbids one removes nothing."""

    rules: RuleSet = field(default_factory=RuleSet)
    active: tuple[int, ...] = ()
    marks: Mapping[str, Mark] = field(default_factory=dict)
    added: Collection[str] = ()

    @cached_property
    def here(self) -> list[tuple[int, Rule]]:
        """The rules about this request and their places, in the order of the file."""
        return [(place, self.rules.rules[place]) for place in self.active]

    @property
    def quotas(self) -> list[tuple[int, Quota]]:
        """Those that are quotas."""
        return [(place, rule) for place, rule in self.here if isinstance(rule, Quota)]

    def hit(self, place: int, item_id: str) -> bool:
        """Whether rule `place` means the item, for certain."""
        return bool(self.marks[item_id].hits >> place & 1)

    def forbidden(self, item_id: str) -> str | None:
        """Name of the first filter that means the item or may mean it."""
        bits = (self.marks[item_id].hits | self.marks[item_id].unknown) & self._mask(Filter)
        if not bits:
            return None
        return next((rule.name for place, rule in self.here if bits >> place & 1 and isinstance(rule, Filter)), None)

    def boosts(self, item_ids: Sequence[str]) -> dict[str, list[RuleEffect]]:
        """The boosts of those items that get any."""
        mask = self._mask(Boost)
        hit = [item_id for item_id in item_ids if self.marks[item_id].hits & mask] if mask else []
        boosting = [(place, rule) for place, rule in self.here if isinstance(rule, Boost)] if hit else []
        return {
            item_id: [
                RuleEffect(rule=rule.name, effect="boost", boost=rule.add) for place, rule in boosting if self.hit(place, item_id)
            ]
            for item_id in hit
        }

    def _mask(self, kind: type[Rule]) -> int:
        """The bits of the rules of a kind that are about this request."""
        return self._masks.get(kind, 0)

    @cached_property
    def _masks(self) -> dict[type[Rule], int]:
        masks: dict[type[Rule], int] = {}
        for place, rule in self.here:
            masks[type(rule)] = masks.get(type(rule), 0) | 1 << place
        return masks


@dataclass(frozen=True, kw_only=True)
class RuleReport:
    """What one rule did to a list.

    num_removed: items that it removed
    num_changed: items whose score or place it changed
    num_missing: places of the list that it could not fill as it should
    """

    rule: str
    effect: Effect
    num_removed: int = 0
    num_changed: int = 0
    num_missing: int = 0

    def __bool__(self) -> bool:
        return bool(self.num_removed or self.num_changed or self.num_missing)


def effects_of(ruling: Ruling, ids: Sequence[str], boosts: Boosts, layout: Layout | None) -> dict[str, list[RuleEffect]]:
    """What rules did to each item; candidates of `layout` are places in `ids`."""
    found = {item_id: list(effects) for item_id, effects in boosts.items()}
    if layout is None:
        return found
    pins = {rule.item_id: rule.name for _, rule in reversed(ruling.here) if isinstance(rule, Pin)}
    for candidate in sorted(layout.pinned):
        found.setdefault(ids[candidate], []).append(RuleEffect(rule=pins[ids[candidate]], effect="pin"))
    for number, candidate in sorted(layout.raised | layout.held):
        _, quota = ruling.quotas[number]
        found.setdefault(ids[candidate], []).append(RuleEffect(rule=quota.name, effect="quota"))
    return found


def reports_of(
    ruling: Ruling, removed: Mapping[str, str], ids: Sequence[str], boosts: Boosts, layout: Layout | None, num_places: int
) -> tuple[RuleReport, ...]:
    """What each rule did, those left out that did nothing. `removed` are the items gone, with the filter that took each."""
    pinned = set() if layout is None else {ids[candidate] for candidate in layout.pinned}
    quotas = {place: number for number, (place, _) in enumerate(ruling.quotas)}
    found = []
    for place, rule in ruling.here:
        gone = changed = missing = 0
        if isinstance(rule, Filter):
            gone = sum(name == rule.name and item_id not in ruling.added for item_id, name in removed.items())
        elif isinstance(rule, Boost):
            changed = sum(effect.rule == rule.name for effects in boosts.values() for effect in effects)
        elif isinstance(rule, Pin) and rule.place <= num_places:
            changed = int(rule.item_id in pinned)
            missing = 1 - changed
        elif isinstance(rule, Quota) and layout is not None:
            changed = len({candidate for number, candidate in layout.raised | layout.held if number == quotas[place]})
            missing = layout.missing(quotas[place])
        report = RuleReport(rule=rule.name, effect=rule.effect, num_removed=gone, num_changed=changed, num_missing=missing)
        if report:
            found.append(report)
    return tuple(found)
