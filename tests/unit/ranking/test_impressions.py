"""The impression log as a file: lines that are read back, lines that are not, and what propensities are for."""

import logging
from pathlib import Path

import numpy as np
import pytest

from metarec.errors import DataError
from metarec.ranking.explore import Spread, explored, seed_of
from metarec.ranking.impressions import Impression, Shown, read_impressions, user_key
from metarec.ranking.place import Layout, Plan


def impression(request_id: str, *shown: Shown) -> Impression:
    return Impression(request_id=request_id, time=12.5, user=user_key("ann"), items=shown, scenario="home", checkpoint="c-1")


def test_lines_are_read_back_and_a_retry_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = impression("r1", Shown(item_id="ö", score=1.5, propensity=0.25, explored=True, source="fresh"))
    second = impression("r2")
    path = tmp_path / "log.jsonl"
    path.write_text(first.to_line() + '{"format":1,"requ\n' + first.to_line() + "\n" + second.to_line() + '{"format": 2}\n[]\n')
    with caplog.at_level(logging.WARNING):
        assert list(read_impressions(path)) == [first, second]
    assert "3 lines" in caplog.text
    with pytest.raises(DataError, match="cannot be read"):
        list(read_impressions(tmp_path / "none.jsonl"))


def test_the_log_does_not_name_users() -> None:
    assert "ann" not in impression("r").to_line()
    assert user_key("ann") == user_key("ann") != user_key("bob")
    assert len(user_key("ann")) == 16


def test_logged_propensities_make_estimates_of_another_policy_right(tmp_path: Path) -> None:
    """Inverse propensity scoring: from a log of Thompson sampling, the reward of showing one item always."""
    mean_C, reward_C = np.array([0.0, 0.5, 1.0], np.float32), np.array([0.9, 0.2, 0.5])
    spread = Spread(user_CK=np.zeros((3, 0), np.float32), own_C=np.ones(3, np.float32))
    path = tmp_path / "log.jsonl"
    with path.open("w") as log:
        for number in range(1500):
            start = Layout(Plan(known_C=np.ones(3, bool), num_places=1, slots=(0,), pool_C=np.ones(3, bool), earned=False))
            layout, (propensity,) = explored(start, "thompson", mean_C, spread, seed_of(f"r{number}"), 200)
            shown = Shown(item_id=str(layout.chosen[0]), score=0.0, propensity=propensity)
            log.write(impression(f"r{number}", shown).to_line())
    logged = [entry.items[0] for entry in read_impressions(path)]
    naive = np.mean([reward_C[int(shown.item_id)] for shown in logged])
    for candidate in range(3):
        weighed = np.mean([reward_C[candidate] / shown.propensity * (shown.item_id == str(candidate)) for shown in logged])
        assert weighed == pytest.approx(reward_C[candidate], abs=0.12)
    assert abs(naive - reward_C[0]) > 0.3
