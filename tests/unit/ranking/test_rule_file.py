"""Rules files: what is read, and how what is wrong is named."""

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.errors import ConfigError
from metarec.ranking.conditions import All, Ids, Not, OneOf, Range
from metarec.ranking.rule_file import parse_rules, read_rules
from metarec.ranking.rules import Boost, Filter, Pin, Quota, RuleSet

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

GOOD = """
rules:
  - name: no-horror-for-children
    effect: filter
    items: {field: genres, in: [horror]}
    when:
      user: {field: age, range: {to: 17}}
      scenario: [home, ""]
  - name: push-dramas
    effect: boost
    add: 0.3
    items:
      - {field: genres, equals: drama}
      - not: {ids: ["i1"]}
  - name: film-of-the-week
    effect: pin
    item: "i7"
    place: 1
  - name: few-comedies
    effect: quota
    at_most: 2
    per: 10
    items: {field: genres, equals: comedy}
"""


def one(**changes: str) -> str:
    """A file of one boost, some of whose lines are replaced ("" leaves one out)."""
    lines = {"name": "push", "effect": "boost", "add": "0.3", "items": "{field: genres, equals: drama}"} | changes
    return "rules:\n  - " + "\n    ".join(f"{name}: {value}" for name, value in lines.items() if value)


def two(first: str, second: str) -> str:
    return f"rules:\n  - {{name: one, {first}}}\n  - {{name: two, {second}}}"


def test_a_file_is_read_as_written(tmp_path: Path, tiny_dataset: "Dataset") -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD)
    rules = read_rules(path)
    children, dramas, week, comedies = rules.rules
    assert isinstance(children, Filter)
    assert children.scenarios == {"home", ""}
    assert children.user == Range(field="age", high=17)
    assert isinstance(dramas, Boost)
    assert dramas.items == All(parts=(OneOf(field="genres", values=frozenset({"drama"})), Not(of=Ids(ids=frozenset({"i1"})))))
    assert week == Pin(name="film-of-the-week", items=Ids(ids=frozenset({"i7"})), item_id="i7", place=1)
    assert isinstance(comedies, Quota)
    assert (comedies.at_least, comedies.at_most, comedies.per) == (0, 2, 10)
    assert len(rules.version) == 16
    assert rules.reads_items
    assert rules.reads_users
    rules.check(tiny_dataset.schema)


def test_the_version_follows_the_text_and_an_empty_list_is_no_rules() -> None:
    assert parse_rules(GOOD).version == parse_rules(GOOD).version != parse_rules(GOOD + "\n# changed").version
    empty = parse_rules("rules: []")
    assert not empty
    assert empty == RuleSet(path="rules.yaml")


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("", "rules", "must be a mapping"),
        ("rules: {}", "rules", "a list"),
        ("rules: []\nrule: []", "rule", "unknown field 'rule'"),
        ("rules: [", "rules", "is no YAML"),
        ("rules: [2024-13-45]", "rules", "is no YAML"),
        (one(items="&x {not: *x}"), "rules", "cannot be read"),
        (one(add="1" * 400), "rules", "cannot be read"),
        ("rules: [3]", "rules[0]", "not 3"),
        ("rules:\n  - {name: a, name: b}", "rules", "'name' comes twice"),
        (one(name="a b"), "rules[0].name", "letters"),
        (one(name="-a"), "rules[0].name", "first"),
        (one(name="推" * 65), "rules[0].name", "1 to 64"),
        (one(name=""), "rules[0].name", "not None"),
        (one(effect="boots"), "rules[0].effect", "not 'boots'"),
        (one(weight="3"), "rules[0].weight", "is unknown"),
        (one(place="3"), "rules[0].place", "is unknown"),
        (one(add=""), "rules[0].add", "is missing"),
        (one(add="much"), "rules[0].add", "finite number, not 'much'"),
        (one(add=".nan"), "rules[0].add", "finite number"),
        (one(add="0"), "rules[0].add", "changes nothing"),
        (one(items=""), "rules[0].items", "is missing"),
        (one(items="drama"), "rules[0].items", "must be a condition"),
        (one(items="[]"), "rules[0].items", "at least one entry"),
        (one(items="{field: genres}"), "rules[0].items", "asks 0 questions"),
        (one(items="{field: genres, in: [a], equals: b}"), "rules[0].items", "asks 2 questions"),
        (one(items="{field: genres, like: a}"), "rules[0].items.like", "is unknown"),
        (one(items="{genres: a}"), "rules[0].items", "names a field"),
        (one(items="{field: 3, equals: a}"), "rules[0].items.field", 'write it in quotes: "3"'),
        (one(items="{field: genres, equals: yes}"), "rules[0].items.equals", "in quotes"),
        (one(items="{field: genres, in: []}"), "rules[0].items.in", "at least one entry"),
        (one(items="{field: year, range: {from: 3, to: 2}}"), "rules[0].items.range", "from 3 is above to 2"),
        (one(items="{field: year, range: {above: 2}}"), "rules[0].items.range.above", "is unknown"),
        (one(items="{field: year, range: 2}"), "rules[0].items.range", "from, to"),
        (one(items="{field: year, missing: no way}"), "rules[0].items.missing", "true or false"),
        (one(items="{ids: [50]}"), "rules[0].items.ids", 'write it in quotes: "50"'),
        (one(items="{any: [{ids: [a]}, {not: 3}]}"), "rules[0].items.any[1].not", "must be a condition"),
        (one(when="{}"), "rules[0].when", "scenario, user"),
        (one(when="{users: {ids: [a]}}"), "rules[0].when.users", "is unknown"),
        (one(when="{scenario: [3]}"), "rules[0].when.scenario", "must be a text"),
        ("rules:\n  - {name: p, effect: pin, item: a, place: 0}", "rules[0].place", "at least 1"),
        ("rules:\n  - {name: p, effect: pin, item: 50, place: 1}", "rules[0].item", "in quotes"),
        ("rules:\n  - {name: q, effect: quota, items: {ids: [a]}}", "rules[0]", "at_least or at_most"),
        ("rules:\n  - {name: q, effect: quota, at_most: 0, items: {ids: [a]}}", "rules[0].at_most", "at least 1"),
        ("rules:\n  - {name: q, effect: quota, at_least: 0, items: {ids: [a]}}", "rules[0].at_least", "leave it out"),
        ("rules:\n  - {name: q, effect: quota, at_least: 3, at_most: 2, items: {ids: [a]}}", "rules[0].at_least", "at_most 2"),
        ("rules:\n  - {name: q, effect: quota, at_least: 3, per: 2, items: {ids: [a]}}", "rules[0].at_least", "2 places"),
    ],
)
def test_what_is_wrong_is_named_with_file_rule_and_field(text: str, field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(text, "shop/rules.yaml")
    assert caught.value.field == field
    assert "rules file 'shop/rules.yaml'" in caught.value.message
    assert problem in caught.value.message
    if field.startswith("rules[0].") and field != "rules[0].name":
        assert "rule '" in caught.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (one() + "\n" + one().partition("\n")[2], "name of an earlier rule"),
        (two("effect: pin, item: a, place: 1", "effect: pin, item: b, place: 1"), "both want place 1"),
        (two("effect: pin, item: a, place: 1", "effect: pin, item: a, place: 2"), "at places 1 and 2"),
        (two("effect: pin, item: a, place: 1", "effect: filter, items: {ids: [a]}"), "removed by 'two'"),
        (
            two(
                "effect: pin, item: a, place: 1, when: {user: {field: s, equals: kids}}",
                "effect: pin, item: b, place: 1, when: {scenario: home}",
            ),
            "both want place 1",
        ),
        (
            two("effect: quota, at_least: 3, items: {ids: [a]}", "effect: quota, at_most: 2, items: {ids: [a]}"),
            "at least 3 ('one') and at most 2 ('two')",
        ),
    ],
)
def test_rules_that_exclude_each_other_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="rules\\[1\\]") as caught:
        parse_rules(text)
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("scenario: home", "scenario: [kids, search]"),
        ("user: {field: s, equals: kids}", "user: {field: s, equals: adults}"),
        ("user: {field: age, range: {to: 17}}", "user: {field: age, range: {from: 18}}"),
    ],
)
def test_pins_of_one_place_for_different_requests_go_together(first: str, second: str) -> None:
    pins = [f"effect: pin, item: {item}, place: 1, when: {{{when}}}" for item, when in (("a", first), ("b", second))]
    assert len(parse_rules(two(*pins)).rules) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"items": "{field: genre, equals: drama}"}, "items: the schema has no field 'genre'; it has: genres, title, year"),
        ({"items": "{not: {field: year, equals: '1995'}}"}, "numeric and takes numbers"),
        ({"when": "{user: {field: agee, missing: true}}"}, "when.user: the schema has no field 'agee'"),
        ({"when": "{user: {field: gender, range: {from: 1}}}"}, "only numeric fields have ranges"),
    ],
)
def test_fields_are_checked_against_the_schema(changes: dict[str, str], problem: str, tiny_dataset: "Dataset") -> None:
    rules = parse_rules(one(**changes))
    with pytest.raises(ConfigError, match="rule 'push', rules\\[0\\]") as caught:
        rules.check(tiny_dataset.schema)
    assert problem in caught.value.message


@pytest.mark.parametrize("name", ["推茶叶", "हिन्दी-फ़िल्म", "v1.2_b"])
def test_names_are_of_any_script(name: str) -> None:
    assert parse_rules(one(name=name)).rules[0].name == unicodedata.normalize("NFC", name)


def test_values_are_spelled_as_imported_data_is() -> None:
    for written in ("Cafe\u0301", '" Café "', '"Cafe\\u0301"'):
        (rule,) = parse_rules(one(items=f"{{field: brand, equals: {written}}}")).rules
        assert rule.items == OneOf(field="brand", values=frozenset({"Café"}))
    (rule,) = parse_rules(one(items='{ids: [" Cafe\u0301"]}')).rules
    assert rule.items == Ids(ids=frozenset({"Café"}))


def test_a_missing_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rules file"):
        read_rules(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"rules: [\xff]")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rules(tmp_path / "latin.yaml")


def test_a_rule_is_about_its_scenarios_and_users() -> None:
    rules = parse_rules(GOOD)
    assert rules.for_request("home", "u", {"age": 12.0}) == (0, 1, 2, 3)
    assert rules.for_request("home", "u", {"age": 30.0}) == (1, 2, 3)
    assert rules.for_request("search", "u", {"age": 12.0}) == (1, 2, 3)
    assert rules.for_request("home", "u", None) == (0, 1, 2, 3), "a filter that cannot be decided is kept"
    boost = parse_rules(one(when="{user: {field: age, range: {to: 17}}}"))
    assert boost.for_request("", "u", None) == (), "a boost that cannot be decided is not"
