"""Rules at the gateway: what the stages did is handed on, and filters hold when stages are down."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metarec.client import AsyncClient, ClientSettings, Recommendations, RuleEffect, RuleReport
from metarec.errors import ConfigError, InvalidInputError
from metarec.ranking.rule_file import read_rules
from metarec.v1 import ranking_pb2, types_pb2
from services.gateway.service import build
from services.runtime.settings import Settings

RULES = """
rules:
  - {name: no-p2, effect: filter, items: {ids: [p2, i2]}}
  - {name: home-only, effect: filter, items: {field: genres, equals: horror}, when: {scenario: home}}
  - {name: push, effect: boost, add: 1, items: {field: genres, equals: drama}}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
async def ruled(start_gateway: Any, rules: Path) -> AsyncIterator[AsyncClient]:
    gateway = await start_gateway(rules=rules)
    async with AsyncClient(ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")) as client:
        yield client


def ids(answer: Recommendations) -> list[str]:
    return [item.item_id for item in answer.items]


def said(answer: Recommendations) -> dict[str, str]:
    return {part.stage: part.fallback for part in answer.degradations}


def filtered(rule: str, count: int) -> types_pb2.RuleReport:
    return types_pb2.RuleReport(rule=rule, kind=types_pb2.RULE_EFFECT_KIND_FILTER, num_removed=count)


async def test_what_rules_did_is_handed_on(ruled: AsyncClient, stages: Any) -> None:
    stages.recall.rules, stages.recall.rules_version = [filtered("no-p2", 2)], "v1"
    boost = types_pb2.RuleReport(rule="push", kind=types_pb2.RULE_EFFECT_KIND_BOOST, num_changed=1)
    stages.ranking.rules, stages.ranking.rules_version = [filtered("no-p2", 1), boost], "v1"
    effect = types_pb2.RuleEffect(rule="week", kind=types_pb2.RULE_EFFECT_KIND_PIN)
    stages.ranking.pinned = [
        ranking_pb2.RankedItem(item_id="week", rule_effects=[effect], rank_before=9, propensity=0.5, explored=True)
    ]
    answer = await ruled.recommend("u1", exclude=["x"], diversity=0.3, exploration=0.0)
    assert answer.rules == (
        RuleReport(rule="no-p2", effect="filter", num_removed=3, num_changed=0, num_missing=0),
        RuleReport(rule="push", effect="boost", num_removed=0, num_changed=1, num_missing=0),
    )
    assert answer.rules_version == "v1"
    week = answer.items[-1]
    assert (week.item_id, week.source, week.rank_before, week.propensity, week.explored) == ("week", "rule", 9, 0.5, True)
    assert week.rules == (RuleEffect(rule="week", effect="pin"),)
    assert not answer.degraded
    asked = stages.ranking.seen[0]
    assert (asked.diversity, asked.exploration, list(asked.exclude_item_ids)) == (pytest.approx(0.3), 0.0, ["x"])
    assert asked.HasField("exploration")
    assert answer.request_id == stages.ranking.metadata[0]["x-request-id"]


async def test_what_a_request_does_not_say_is_left_to_ranking(ruled: AsyncClient, stages: Any) -> None:
    await ruled.recommend("u1")
    asked = stages.ranking.seen[0]
    assert not asked.HasField("diversity")
    assert not asked.HasField("exploration")


async def test_a_request_may_bring_its_id(ruled: AsyncClient, stages: Any) -> None:
    answer = await ruled.recommend("u1", request_id="visit-7")
    assert answer.request_id == stages.ranking.metadata[0]["x-request-id"] == "visit-7"


@pytest.mark.parametrize("name", ["diversity", "exploration"])
async def test_shares_out_of_range_are_refused(ruled: AsyncClient, name: str) -> None:
    with pytest.raises(InvalidInputError, match="0 to 1") as caught:
        await ruled.recommend("u1", **{name: 1.5})  # type: ignore[arg-type]  # the name is the case's
    assert caught.value.field == name


async def test_without_ranking_recalls_filters_hold_and_the_rest_is_said_to_be_missing(
    ruled: AsyncClient, stages: Any, rules: Path
) -> None:
    stages.recall.rules_version = read_rules(rules).version
    stages.recall.rules = [filtered("no-p2", 1)]
    await stages.ranking.down()
    answer = await ruled.recommend("u1")
    assert ids(answer) == ["i1", "i2", "i3"], "recall has filtered by the same rules"
    assert said(answer)["rules"] == "filters were kept by recall; boosts, pins and quotas were left out"
    assert [report.rule for report in answer.rules] == ["no-p2"]
    assert answer.rules_version == read_rules(rules).version


async def test_without_ranking_and_with_other_rules_at_recall_the_gateway_filters_itself(ruled: AsyncClient, stages: Any) -> None:
    stages.recall.rules_version = "an older one"
    await stages.ranking.down()
    answer = await ruled.recommend("u1", scenario="search")
    assert ids(answer) == ["i1", "i3"]
    assert "leaving out 1 items" in said(answer)["rules"]
    assert answer.rules == (RuleReport(rule="no-p2", effect="filter", num_removed=1, num_changed=0, num_missing=0),)


async def test_without_any_stage_nothing_is_shown_that_a_filter_may_forbid(ruled: AsyncClient, stages: Any) -> None:
    await stages.recall.down()
    await stages.ranking.down()
    assert ids(await ruled.recommend("u1", scenario="search")) == ["p1", "p3"]
    home = await ruled.recommend("u1", scenario="home")
    assert ids(home) == [], "no genre can be read any more"
    assert {report.rule: report.num_removed for report in home.rules} == {"no-p2": 1, "home-only": 2}
    assert set(said(home)) == {"recall", "ranking", "rules"}


async def test_a_gateway_without_rules_says_that_ranking_applied_none(client: AsyncClient, stages: Any) -> None:
    stages.recall.rules_version = "v1"
    await stages.ranking.down()
    answer = await client.recommend("u1")
    assert ids(answer) == ["i1", "i2", "i3"]
    assert "boosts, pins and quotas were left out" in said(answer)["rules"]
    stages.recall.rules_version = ""
    assert set(said(await client.recommend("u1"))) == {"ranking"}


async def test_a_gateway_does_not_start_with_rules_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: 3")
    with pytest.raises(ConfigError, match="rules file"):
        await build(Settings(service="gateway", rules=tmp_path / "rules.yaml"))
