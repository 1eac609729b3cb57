"""Settings of lists, and a service that does not start with rules it cannot keep."""

from pathlib import Path

import pytest

from metarec.errors import ConfigError
from metarec.ranking.explore import Exploration
from services.ranking.lists import ListSettings, Task
from services.ranking.local import serving
from services.ranking.wire import Request
from services.runtime.settings import Settings


def test_lists_are_as_the_service_is_set() -> None:
    assert (
        ListSettings.of(Settings(service="ranking"))
        == ListSettings()
        == ListSettings(diversity=0.0, exploration=Exploration(share=0.1, policy="ucb", cold_shots=0))
    )
    settings = Settings(
        service="ranking", diversity=0.3, exploration=0.2, exploration_policy="thompson", exploration_cold_shots=5
    )
    assert ListSettings.of(settings) == ListSettings(
        diversity=0.3, exploration=Exploration(share=0.2, policy="thompson", cold_shots=5)
    )


def test_ranking_does_not_start_with_rules_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: 3")
    with pytest.raises(ConfigError, match="rules file"), serving(Settings(service="ranking", rules=tmp_path / "rules.yaml")):
        pytest.fail("it started")


def test_each_stage_is_said_once_to_have_been_degraded() -> None:
    task = Task(request=Request(user_id="u", revisions={}), items={})
    for stage in ("features", "rules", "features", "rules"):
        task.degrade("UNAVAILABLE", "something else", stage)
    assert [part.stage for part in task.degradations] == ["features", "rules"]
