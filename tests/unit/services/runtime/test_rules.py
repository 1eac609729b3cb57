"""The rules file of a service: read again when it changes, and kept as it was when it goes wrong."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.errors import ConfigError
from services.runtime.rules import RuleBook

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

GOOD = "rules:\n  - {name: push, effect: boost, add: 1, items: {field: genres, equals: drama}}\n"


def write(path: Path, text: str) -> None:
    """Replace the file, with another time even where the clock is coarse."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "rules.yaml", GOOD)
    return tmp_path / "rules.yaml"


def test_without_a_file_there_are_no_rules() -> None:
    book = RuleBook(None)
    assert not book.current(None)
    assert book.degradation() is None


def test_a_service_does_not_start_with_a_file_it_cannot_keep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rules file"):
        RuleBook(tmp_path / "none.yaml")
    write(tmp_path / "bad.yaml", "rules: 3")
    with pytest.raises(ConfigError, match=r"rules file .*bad"):
        RuleBook(tmp_path / "bad.yaml")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(path: Path) -> None:
    book = RuleBook(path)
    first = book.current(None)
    assert book.current(None) is book.current(None)
    assert first.version == book.current(None).version
    write(path, GOOD.replace("add: 1", "add: 2"))
    assert book.current(None).rules[0].add == 2  # type: ignore[attr-defined]  # the file's rule has it


def test_a_file_gone_wrong_leaves_the_rules_before_it_in_force_and_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = RuleBook(path)
    kept = book.current(None).version
    with caplog.at_level(logging.INFO):
        for text in ("rules: [", GOOD.replace("boost", "boots")):
            write(path, text)
            assert book.current(None).version == kept
            found = book.degradation()
            assert found is not None
            assert (found.stage, found.reason) == ("rules", "INVALID_CONFIG")
            assert kept in found.fallback
        for _ in range(3):
            book.current(None)
        path.unlink()
        assert book.current(None).version == kept
        write(path, GOOD)
        assert book.current(None).version == kept
        assert book.degradation() is None
    said = [record.levelname for record in caplog.records]
    assert said == ["WARNING", "WARNING", "WARNING", "INFO"], "once for each state of the file"


def test_fields_are_checked_against_the_live_schema(path: Path, tiny_dataset: "Dataset") -> None:
    book = RuleBook(path)
    assert book.current(tiny_dataset.schema)
    assert book.degradation() is None
    write(path, GOOD.replace("genres", "genre"))
    assert book.current(tiny_dataset.schema).rules[0].items.field == "genres"  # type: ignore[attr-defined]  # the file's rule has it
    assert book.degradation() is not None
    assert book.current(None).rules[0].items.field == "genre", "without a schema nothing speaks against it"  # type: ignore[attr-defined]  # the file's rule has it
