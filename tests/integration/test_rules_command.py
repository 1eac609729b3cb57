"""`metarec rules check`: what services would keep, what they would not, and which items each rule means."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from metarec.cli.main import main
from metarec.cli.rules import rules

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

RULES = """
rules:
  - {name: no-horror, effect: filter, items: {field: genres, equals: horror}, when: {scenario: ["", kids]}}
  - {name: push, effect: boost, add: -0.5, items: {ids: [i1, nowhere]}}
  - {name: week, effect: pin, item: i5, place: 2, when: {user: {field: gender, equals: F}}}
  - {name: few, effect: quota, at_least: 1, at_most: 2, per: 10, items: {field: year, range: {from: 3000}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path / "rules.yaml"


@pytest.fixture(scope="module")
def data(tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rules") / "data"
    tiny_dataset.save(directory)
    return directory


def test_a_good_file_is_shown_with_the_items_that_it_means(path: Path, data: Path) -> None:
    result = CliRunner().invoke(rules, ["check", str(path), "--data", str(data), "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["rules"]
    assert [(row["rule"], row["items"]) for row in shown] == [("no-horror", 15), ("push", 1), ("week", 1), ("few", 0)]
    assert [row["does"] for row in shown] == [None, "-0.5", "item i5 at 2", "at least 1, at most 2 of every 10"]
    assert [row["scenarios"] for row in shown] == ["(default), kids", "all", "all", "all"]
    assert [row["users"] for row in shown] == ["all", "all", "some", "all"]
    assert "rule few means no item" in result.stderr
    assert "rule no-horror is for scenarios without events in" in result.stderr
    assert result.stderr.rstrip().endswith(": 'kids'"), "the default scenario is not warned of"


def test_a_registry_checks_fields_and_without_either_they_go_unchecked(path: Path, tiny_registry: Path) -> None:
    result = CliRunner().invoke(rules, ["check", str(path), "--registry", str(tiny_registry)])
    assert result.exit_code == 0, result.output
    assert "4 rules" in result.stdout
    assert "fields were not checked" in CliRunner().invoke(rules, ["check", str(path)]).stderr


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("genres", "genre"), "rule 'no-horror', rules[0].items: the schema has no field 'genre'"),
        (("effect: pin", "effect: pinn"), "rule 'week', rules[2].effect: must be one of"),
        (("[i1, nowhere]", "[i1, 5]"), "rule 'push', rules[1].items.ids: must be a text"),
    ],
)
def test_a_bad_file_exits_with_2_and_names_rule_and_field(
    path: Path, data: Path, change: tuple[str, str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(RULES.replace(*change))
    with pytest.raises(SystemExit) as exit_:
        main(["rules", "check", str(path), "--data", str(data)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: rules file '{path}': ")
    assert problem in error


def test_both_sources_at_once_are_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["rules", "check", str(path), "--data", "a", "--registry", "b"])
    assert exit_.value.code == 2
