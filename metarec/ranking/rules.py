"""Rules that an operator puts on top of ranking: filters, boosts, pins and quotas, as values.

A rule says for whom (`when`: scenarios, conditions on the user), for which items, and with what effect. `rule_file` reads rules,
`marks` finds which items they mean, `place` lays out a list by them. Filters are promises: what one may forbid never appears, and
where it cannot be decided (features that could not be read) it counts as forbidden. All other effects need certainty.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from metarec.data.schema import Field, Schema
from metarec.errors import ConfigError
from metarec.ranking.conditions import All, Condition, FieldCondition, Ids, disjoint, known_fields
from metarec.types import Features

Effect = Literal["filter", "boost", "pin", "quota"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What all rules have. `scenarios` None: every scenario ("" is the default one); `user` None: everybody."""

    effect: ClassVar[Effect]

    name: str
    scenarios: frozenset[str] | None = None
    user: Condition | None = None
    items: Condition = field(default_factory=lambda: All(parts=()))

    def applies(self, scenario: str, user_id: str, features: Features | None) -> bool:
        """Whether the rule is about this request; `features` None: the profile could not be read."""
        if self.scenarios is not None and scenario not in self.scenarios:
            return False
        found = True if self.user is None else self.user.holds(user_id, features)
        return self.effect == "filter" if found is None else found

    def apart(self, other: "Rule") -> bool:
        """Whether no request is about both rules."""
        if self.scenarios is not None and other.scenarios is not None and self.scenarios.isdisjoint(other.scenarios):
            return True
        return self.user is not None and other.user is not None and disjoint(self.user, other.user)


@dataclass(frozen=True, kw_only=True)
class Filter(Rule):
    """Its items are never shown."""

    effect = "filter"


@dataclass(frozen=True, kw_only=True)
class Boost(Rule):
    """`add` is added to the score of its items, in units of the score; it may be negative."""

    effect = "boost"
    add: float


@dataclass(frozen=True, kw_only=True)
class Pin(Rule):
    """`item_id` stands at `place` (1: the first), unless a filter, the request or its length forbids it."""

    effect = "pin"
    item_id: str
    place: int


@dataclass(frozen=True, kw_only=True)
class Quota(Rule):
    """Of every `per` places (0: of the whole list) at least and at most so many are for its items."""

    effect = "quota"
    at_least: int = 0
    at_most: int | None = None
    per: int = 0


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    """The rules of one file, in its order. `version` is the digest of its text, "" without rules."""

    rules: tuple[Rule, ...] = ()
    version: str = ""
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.rules)

    @property
    def reads_items(self) -> bool:
        """Whether any rule asks for a feature of an item: without, no content has to be read."""
        return any(True for rule in self.rules for _ in rule.items.fields())

    @property
    def reads_users(self) -> bool:
        """Whether any rule asks for a feature of the user."""
        return any(True for rule in self.rules if rule.user is not None for _ in rule.user.fields())

    def for_request(self, scenario: str, user_id: str, features: Features | None) -> tuple[int, ...]:
        """Places of the rules that are about this request."""
        return tuple(place for place, rule in enumerate(self.rules) if rule.applies(scenario, user_id, features))

    def check(self, schema: Schema) -> None:
        """ConfigError when a rule asks for a field that the schema does not have, or in a way that does not fit its kind."""
        items, users = known_fields(schema.items, graph=schema.graph), known_fields(schema.users)
        for place, rule in enumerate(self.rules):
            self._check(place, rule, "items", rule.items.fields(), items)
            self._check(place, rule, "when.user", () if rule.user is None else rule.user.fields(), users)

    def _check(self, place: int, rule: Rule, side: str, asked: Iterable[FieldCondition], known: Mapping[str, Field]) -> None:
        for condition in asked:
            if condition.field not in known:
                names = ", ".join(sorted(known)) or "none"
                problem: str | None = f"the schema has no field '{condition.field}'; it has: {names}"
            else:
                problem = condition.misfit(known[condition.field])
            if problem is not None:
                raise rule_error(self.path, rule.name, f"rules[{place}].{side}", problem)


def rule_error(path: str, name: str, at: str, problem: str) -> ConfigError:
    """An error that names file, rule and field."""
    who = f"rule '{name}', " if name else ""
    return ConfigError(f"rules file '{path}': {who}{at}: {problem}", field=at, metadata={"file": path, "rule": name})


def check_contradictions(rules: RuleSet) -> None:
    """ConfigError for rules that cannot be kept together: equal names, pins, filters of what is pinned, quotas."""
    for place, rule in enumerate(rules.rules):
        at = f"rules[{place}]"
        for other in rules.rules[:place]:
            if other.name == rule.name:
                raise rule_error(rules.path, rule.name, f"{at}.name", "is the name of an earlier rule too; names must differ")
            if rule.apart(other):
                continue
            problem = _contradiction(rule, other)
            if problem is not None:
                raise rule_error(rules.path, rule.name, at, f"contradicts rule '{other.name}': {problem}")


def _contradiction(rule: Rule, other: Rule) -> str | None:
    if isinstance(rule, Pin) and isinstance(other, Pin):
        if rule.place == other.place and rule.item_id != other.item_id:
            return f"both want place {rule.place}, for items '{other.item_id}' and '{rule.item_id}'; let their `when` differ"
        if rule.place != other.place and rule.item_id == other.item_id:
            return f"item '{rule.item_id}' cannot be at places {other.place} and {rule.place}; let their `when` differ"
    for pin, by in ((rule, other), (other, rule)):
        if isinstance(pin, Pin) and isinstance(by, Filter) and isinstance(by.items, Ids) and pin.item_id in by.items.ids:
            return f"item '{pin.item_id}' is pinned by '{pin.name}' and removed by '{by.name}'"
    if isinstance(rule, Quota) and isinstance(other, Quota) and rule.items == other.items and rule.per == other.per:
        for low, high in ((rule, other), (other, rule)):
            if high.at_most is not None and low.at_least > high.at_most:
                return f"at least {low.at_least} ('{low.name}') and at most {high.at_most} ('{high.name}') of the same items"
    return None
