"""Impressions: every answer is in the log, whatever happens to the file, and nobody waits for it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metarec.client import AsyncClient, ClientSettings
from metarec.errors import ConfigError
from metarec.ranking.impressions import read_impressions, user_key
from metarec.v1 import gateway_pb2
from services.gateway.impressions import ImpressionLog


async def test_every_answer_is_logged_with_its_propensities(start_gateway: Any, stages: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "impressions.jsonl"
    gateway = await start_gateway(impressions=path)
    async with AsyncClient(ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")) as client:
        answers = [await client.recommend(f"u{k}", scenario="home") for k in range(3)]
        await stages.ranking.down()
        answers.append(await client.recommend("u9"))
    await gateway.drain()
    logged = list(read_impressions(path))
    assert [entry.request_id for entry in logged] == [answer.request_id for answer in answers]
    assert [entry.user for entry in logged] == [user_key(name) for name in ("u0", "u1", "u2", "u9")]
    for entry, answer in zip(logged, answers, strict=True):
        assert [(shown.item_id, shown.propensity, shown.source) for shown in entry.items] == [
            (item.item_id, item.propensity, item.source) for item in answer.items
        ]
    assert [(entry.degraded, entry.checkpoint, entry.scenario) for entry in logged[2:]] == [
        (False, "c-ranking", "home"),
        (True, "c-recall", ""),
    ]


def answer(request_id: str) -> gateway_pb2.RecommendResponse:
    response = gateway_pb2.RecommendResponse(request_id=request_id)
    response.items.add(item_id="i", score=1, propensity=0.5, explored=True)
    return response


def test_a_file_that_is_moved_away_is_begun_anew_and_half_a_line_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"format":1,"request_')
    request = gateway_pb2.RecommendRequest(user_id="u")
    log = ImpressionLog(path, clock=lambda: 7.0)
    log.record(request, answer("r1"))
    log.close()
    assert [entry.request_id for entry in read_impressions(path)] == ["r1"]
    path.rename(tmp_path / "old.jsonl")
    log = ImpressionLog(path)
    log.record(request, answer("r2"))
    log.close()
    assert [entry.request_id for entry in read_impressions(path)] == ["r2"]


def test_a_disk_that_cannot_be_written_costs_impressions_and_no_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = ImpressionLog(tmp_path / "log.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("services.gateway.impressions._append", full)
    log.record(gateway_pb2.RecommendRequest(user_id="u"), answer("r1"))
    log.close()
    assert "1 impressions in all could not be logged" in caplog.text
    assert "no space left" in caplog.text


async def test_a_gateway_that_cannot_write_its_log_does_not_start(start_gateway: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="METAREC_IMPRESSIONS"):
        await asyncio.wait_for(start_gateway(impressions=tmp_path / "file" / "log.jsonl"), 20)
