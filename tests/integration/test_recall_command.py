"""`metarec recall report` as people run it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.cli.main import main

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["recall", "report", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture
def arguments(tiny_registry: Path, tiny_dataset: "Dataset") -> list[object]:
    return ["--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--candidates", 20]


def test_a_table_for_people_and_json_for_machines(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, "--k", "5,10") == 0
    shown = capsys.readouterr()
    assert "approximate index" in shown.out
    assert "personal" in shown.out
    assert "of what users took next, 20 candidates hold" in shown.err
    assert run(*arguments, "--k", "5,10", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [at["k"] for at in found["at"]] == [5, 10]
    assert all(0 <= at["merged"] <= 1 for at in found["at"])
    assert [share["source"] for share in found["sources"]] == ["personal", "fresh", "content", "popular"]
    assert found["num_users"] == 8, "the users that training held out"


def test_more_than_the_candidates_hold_is_wrong_usage(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, "--k", "30") == 2
    assert "k must be 1 to the 20 candidates" in capsys.readouterr().err
    assert run(*arguments, "--k", "ten") == 2
