"""Reads a rules file (YAML) and refuses what it cannot keep, naming file, rule and field. docs/rules.md describes the format."""

import hashlib
import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

from metarec.data.spelling import spelled
from metarec.errors import ConfigError
from metarec.ranking.conditions import All, AnyOf, Condition, Ids, Missing, Not, OneOf, Range, Scalar
from metarec.ranking.rules import Boost, Filter, Pin, Quota, Rule, RuleSet, check_contradictions, rule_error

MAX_RULES = 1000
MAX_NAME = 64
PUNCTUATION = "_.-"
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "filter": ("items",),
    "boost": ("items", "add"),
    "pin": ("item", "place"),
    "quota": ("items", "at_least", "at_most", "per"),
}
"""What a rule of each effect may set besides name, effect and when."""
TESTS = ("equals", "in", "range", "missing")


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice: YAML would keep the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.YAMLError(f"line {node.value[place][0].start_mark.line + 1}: '{key}' comes twice")
        return cast(dict[object, object], super().construct_mapping(node, deep=deep))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text in the spelling of imported data."""
        return spelled(str(self.construct_scalar(node)))


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def read_rules(path: Path) -> RuleSet:
    """The rules in a file. ConfigError names the file, the rule and the field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no rules file '{path}'", field="rules") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rules file '{path}' cannot be read: {error}", field="rules") from error
    return parse_rules(text, str(path))


def parse_rules(text: str, path: str = "rules.yaml") -> RuleSet:
    """The rules in a text; `path` is for messages."""
    try:
        data = yaml.load(text, _Loader)  # derives from the safe loader
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:  # a date that is none, a number that is none ...
        raise ConfigError(f"rules file '{path}' is no YAML: {error}", field="rules") from error
    try:
        return _read(data, text, path)
    except (OverflowError, RecursionError) as error:  # a number of 400 digits, an alias to itself
        raise ConfigError(f"rules file '{path}' holds what cannot be read: {error}", field="rules") from error


def _read(data: object, text: str, path: str) -> RuleSet:
    if not isinstance(data, Mapping) or not isinstance(data.get("rules"), list):
        raise ConfigError(f"rules file '{path}' must be a mapping with `rules`, a list", field="rules")
    for key in data:
        if key != "rules":
            raise ConfigError(f"rules file '{path}': unknown field '{key}'; it has `rules` alone", field=str(key))
    if len(data["rules"]) > MAX_RULES:
        raise ConfigError(f"rules file '{path}' has {len(data['rules'])} rules; at most {MAX_RULES} are read", field="rules")
    rules = tuple(_Reader(path, place, entry).rule() for place, entry in enumerate(data["rules"]))
    version = hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if rules else ""
    found = RuleSet(rules=rules, version=version, path=path)
    check_contradictions(found)
    return found


def _is_name(name: str) -> bool:
    """Letters of any script with their marks, digits and PUNCTUATION, a letter or digit first."""
    rest = (char.isalnum() or char in PUNCTUATION or unicodedata.category(char).startswith("M") for char in name)
    return 0 < len(name) <= MAX_NAME and name[0].isalnum() and all(rest)


class _Reader:
    """Reads one rule; every error says where it is."""

    def __init__(self, path: str, place: int, entry: object) -> None:
        self._path, self._at, self._name = path, f"rules[{place}]", ""
        if not isinstance(entry, Mapping):
            raise self._error("", f"must be a mapping with name and effect, not {entry!r}")
        name = entry.get("name")
        if not isinstance(name, str) or not _is_name(name):
            raise self._error(
                "name", f"must be 1 to {MAX_NAME} letters, digits, '_', '.' or '-', a letter or digit first, not {name!r}"
            )
        self._name, self._entry = name, entry

    def rule(self) -> Rule:
        """The rule."""
        effect = self._entry.get("effect")
        if not isinstance(effect, str) or effect not in SETTINGS:
            raise self._error("effect", f"must be one of {', '.join(SETTINGS)}, not {effect!r}")
        allowed = ("name", "effect", "when", *SETTINGS[effect])
        self._known(self._entry, allowed, "")
        scenarios, user = self._when(self._entry.get("when"))
        if effect == "pin":
            item_id = self._text(self._needed("item"), "item")
            return Pin(
                name=self._name,
                scenarios=scenarios,
                user=user,
                items=Ids(ids=frozenset({item_id})),
                item_id=item_id,
                place=self._whole(self._needed("place"), "place", least=1),
            )
        items = self._conditions(self._needed("items"), "items")
        if effect == "filter":
            return Filter(name=self._name, scenarios=scenarios, user=user, items=items)
        if effect == "boost":
            add = self._number(self._needed("add"), "add")
            if add == 0:
                raise self._error("add", "must not be 0, which changes nothing")
            return Boost(name=self._name, scenarios=scenarios, user=user, items=items, add=add)
        at_least, at_most, per = self._quota()
        return Quota(name=self._name, scenarios=scenarios, user=user, items=items, at_least=at_least, at_most=at_most, per=per)

    def _quota(self) -> tuple[int, int | None, int]:
        if "at_least" not in self._entry and "at_most" not in self._entry:
            raise self._error("", "a quota needs at_least or at_most")
        at_least = self._whole(self._entry.get("at_least", 0), "at_least", least=0)
        at_most = self._whole(self._entry["at_most"], "at_most", least=1) if "at_most" in self._entry else None
        per = self._whole(self._entry["per"], "per", least=1) if "per" in self._entry else 0
        if "at_least" in self._entry and at_least == 0:
            raise self._error("at_least", "must be 1 or more; leave it out")
        if at_most is not None and at_least > at_most:
            raise self._error("at_least", f"is {at_least}, more than at_most {at_most}")
        if per and at_least > per:
            raise self._error("at_least", f"is {at_least}, more than the {per} places of `per`")
        return at_least, at_most, per

    def _when(self, when: object) -> tuple[frozenset[str] | None, Condition | None]:
        if when is None:
            return None, None
        if not isinstance(when, Mapping) or not when:
            raise self._error("when", "must be a mapping with scenario, user or both")
        self._known(when, ("scenario", "user"), "when.")
        scenarios = None
        if "scenario" in when:
            named = when["scenario"] if isinstance(when["scenario"], list) else [when["scenario"]]
            # The default scenario has the empty name.
            scenarios = frozenset(self._text(name, "when.scenario", empty=True) for name in self._list(named, "when.scenario"))
        return scenarios, self._conditions(when["user"], "when.user") if "user" in when else None

    def _conditions(self, value: object, at: str) -> Condition:
        """One condition, or a list of which all must hold."""
        if isinstance(value, list):
            parts = [self._condition(part, f"{at}[{place}]") for place, part in enumerate(self._list(value, at))]
            return parts[0] if len(parts) == 1 else All(parts=tuple(parts))
        return self._condition(value, at)

    def _condition(self, value: object, at: str) -> Condition:
        if not isinstance(value, Mapping):
            raise self._error(at, f"must be a condition such as {{field: genre, in: [drama]}}, not {value!r}")
        keys = set(value)
        if keys == {"ids"}:
            return Ids(ids=frozenset(self._text(part, f"{at}.ids") for part in self._list(value["ids"], f"{at}.ids")))
        if keys == {"not"}:
            return Not(of=self._conditions(value["not"], f"{at}.not"))
        for name, kind in (("all", All), ("any", AnyOf)):
            if keys == {name}:
                parts = self._list(value[name], f"{at}.{name}")
                return kind(parts=tuple(self._condition(part, f"{at}.{name}[{n}]") for n, part in enumerate(parts)))
        if "field" not in keys:
            raise self._error(at, "a condition is one of ids, not, any, all, or names a field")
        self._known(value, ("field", *TESTS), f"{at}.")
        field = self._text(value["field"], f"{at}.field")
        tests = [name for name in TESTS if name in value]
        if len(tests) != 1:
            raise self._error(at, f"asks {len(tests)} questions of field '{field}'; it takes one of {', '.join(TESTS)}")
        (test,) = tests
        return self._test(field, test, value[test], f"{at}.{test}")

    def _test(self, field: str, test: str, value: object, at: str) -> Condition:
        if test == "missing":
            if not isinstance(value, bool):
                raise self._error(at, f"must be true or false, not {value!r}")
            return Missing(field=field, missing=value)
        if test == "range":
            if not isinstance(value, Mapping) or not value:
                raise self._error(at, "must be a mapping with from, to or both")
            self._known(value, ("from", "to"), f"{at}.")
            low = self._number(value["from"], f"{at}.from") if "from" in value else -math.inf
            high = self._number(value["to"], f"{at}.to") if "to" in value else math.inf
            if low > high:
                raise self._error(at, f"from {low:g} is above to {high:g}")
            return Range(field=field, low=low, high=high)
        values = [value] if test == "equals" else self._list(value, at)
        return OneOf(field=field, values=frozenset(self._scalar(part, at) for part in values))

    def _needed(self, name: str) -> object:
        if name not in self._entry:
            raise self._error(name, f"is missing; a {self._entry['effect']} needs it")
        return self._entry[name]

    def _known(self, mapping: Mapping[object, object], names: tuple[str, ...], prefix: str) -> None:
        for key in mapping:
            if key not in names:
                raise self._error(f"{prefix}{key}", f"is unknown; known here: {', '.join(names)}")

    def _list(self, value: object, at: str) -> list[object]:
        if not isinstance(value, list) or not value:
            raise self._error(at, f"must be a list with at least one entry, not {value!r}")
        return value

    def _scalar(self, value: object, at: str) -> Scalar:
        if isinstance(value, bool) or value is None:
            raise self._error(at, f"must be a text or a number, not {value!r}; write words such as yes and no in quotes")
        return value if isinstance(value, str) else self._number(value, at)

    def _text(self, value: object, at: str, *, empty: bool = False) -> str:
        if not isinstance(value, str) or not (value or empty):
            hint = f'; write it in quotes: "{value}"' if isinstance(value, int | float) else ""
            raise self._error(at, f"must be a text, not {value!r}{hint}")
        return value

    def _number(self, value: object, at: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._error(at, f"must be a finite number, not {value!r}")
        return float(value)

    def _whole(self, value: object, at: str, *, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._error(at, f"must be a whole number of at least {least}, not {value!r}")
        return value

    def _error(self, at: str, problem: str) -> ConfigError:
        return rule_error(self._path, self._name, f"{self._at}.{at}" if at else self._at, problem)
