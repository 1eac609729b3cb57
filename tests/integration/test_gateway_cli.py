"""The commands that are clients of the services, against fakes: tables for people, JSON for machines, clear errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarec.cli import jobs
from metarec.cli.main import main
from metarec.client import AsyncClient
from metarec.data.schema import Field, Label, Schema
from metarec.errors import NotFoundError
from metarec.v1 import adaptation_pb2, ranking_pb2, training_pb2, training_pb2_grpc, types_pb2
from services.runtime.server import Server
from services.runtime.settings import Settings

Run = Callable[..., Awaitable[tuple[int, str, str]]]


class FakeTraining(training_pb2_grpc.TrainingServiceServicer):
    """Jobs that end after `polls` looks at them, in `end`."""

    names = ("metarec.v1.TrainingService",)

    def __init__(self) -> None:
        self.job: training_pb2.TrainingJob | None = None
        self.polls, self.end = 2, training_pb2.TRAINING_JOB_STATE_SUCCEEDED
        self.checkpoint = training_pb2.Checkpoint(
            name="checkpoints/c-2-ab",
            recipe="default",
            live=True,
            gate_passed=True,
            delta=0.125,
            metrics={"mae": 0.7},
            gate_metrics={"users": 12.0, "bias_mae": 0.8},
        )
        self.calls: list[Any] = []

    def add_to(self, server: grpc.aio.Server) -> None:
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self, server)

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def CreateTrainingJob(self, request: Any, context: Any) -> training_pb2.TrainingJob:
        self.job = training_pb2.TrainingJob()
        self.job.CopyFrom(request.training_job)
        self.job.name, self.job.state = "trainingJobs/7", training_pb2.TRAINING_JOB_STATE_RUNNING
        return self.job

    async def GetTrainingJob(self, request: Any, context: Any) -> training_pb2.TrainingJob:
        if self.job is None or request.name != self.job.name:
            raise NotFoundError(f"no training job '{request.name}'")
        self.polls -= 1
        if self.polls <= 0:
            self.job.state = self.end
        return self.job

    async def ListTrainingJobs(self, request: Any, context: Any) -> training_pb2.ListTrainingJobsResponse:
        return training_pb2.ListTrainingJobsResponse(training_jobs=[self.job] if self.job else [])

    async def CancelTrainingJob(self, request: Any, context: Any) -> training_pb2.TrainingJob:
        assert self.job is not None
        self.job.state = training_pb2.TRAINING_JOB_STATE_CANCELLED
        return self.job

    async def GetCheckpoint(self, request: Any, context: Any) -> training_pb2.Checkpoint:
        self.calls.append(request)
        return self.checkpoint

    async def ListCheckpoints(self, request: Any, context: Any) -> training_pb2.ListCheckpointsResponse:
        return training_pb2.ListCheckpointsResponse(checkpoints=[self.checkpoint])

    async def PromoteCheckpoint(self, request: Any, context: Any) -> training_pb2.Checkpoint:
        self.calls.append(request)
        return self.checkpoint

    async def RollbackCheckpoint(self, request: Any, context: Any) -> training_pb2.Checkpoint:
        self.calls.append(request)
        return self.checkpoint


@pytest.fixture
async def training(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeTraining]:
    fake = FakeTraining()

    async def build(settings: Settings) -> FakeTraining:
        return fake

    server = Server("training", Settings(service="training", drain_seconds=0), build)
    await server.start()
    monkeypatch.setenv("METAREC_TRAINING_ADDRESS", f"127.0.0.1:{server.port}")
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    yield fake
    await server.drain()


@pytest.fixture
def run(client: AsyncClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `metarec ...` against the fakes: exit status, standard output, standard error."""
    settings = client._connections.settings
    for service in ("gateway", "recall", "adaptation"):
        monkeypatch.setenv(f"METAREC_{service.upper()}_ADDRESS", settings.address(service))  # type: ignore[arg-type]  # the loop's names are those of services

    async def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()

        def call() -> int:
            with pytest.raises(SystemExit) as exited:
                main(arguments)
            return int(exited.value.code or 0)

        status = await asyncio.to_thread(call)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """As much of a dataset directory as titles need."""
    path = tmp_path / "data"
    path.mkdir()
    schema = Schema(
        user_id="user",
        item_id="item",
        label=Label(column="rating", kind="rating", minimum=1, maximum=5),
        users=(Field(name="zip", kind="categorical"), Field(name="age", kind="numeric")),
        items=(
            Field(name="title", kind="text"),
            Field(name="genre", kind="multi_categorical", separator="|"),
            Field(name="image", kind="vector", dim=2),
        ),
        item_title="title",
    )
    (path / "schema.yaml").write_text(schema.to_yaml())
    (path / "dataset.json").write_text("{}")
    pq.write_table(pa.table({"item": ["i1", "i3"], "title": ["Alien", "Brazil"]}), path / "items.parquet")
    return str(path)


async def test_recommend_shows_titles_and_where_items_came_from(run: Run, dataset: str) -> None:
    status, out, err = await run("recommend", "u1", "--num-items", "3", "--data", dataset)
    assert status == 0, err
    assert "user u1 (2 interactions, checkpoint c-ranking)" in out
    lines = [line for line in out.splitlines() if "personal" in line or "fresh" in line]
    assert ["Brazil" in lines[0], "Title of i2" in lines[1], "Alien" in lines[2]] == [True] * 3
    assert err == ""


async def test_recommend_gives_json_for_machines(run: Run, stages: Any, dataset: str) -> None:
    status, out, _ = await run(
        "recommend", "u1", "--json", "--exclude", "i9", "--feature", "age=30", "--feature", "job=poet", "--data", dataset
    )
    answer = json.loads(out)
    assert status == 0
    first = {"item_id": "i3", "score": 10.0, "source": "fresh", "title": "Brazil"}
    assert answer["items"][0] == {**first, "rank_before": 1, "rules": [], "propensity": 1.0, "explored": False}
    assert answer["degraded"] is False
    request = stages.recall.seen[0]
    assert list(request.exclude_item_ids) == ["i9"]
    assert (request.user.features["age"].number, request.user.features["job"].text) == (30, "poet")


async def test_recommend_says_what_rules_and_exploration_did(run: Run, stages: Any) -> None:
    effects = [
        types_pb2.RuleEffect(rule="push", kind=types_pb2.RULE_EFFECT_KIND_BOOST, boost=0.5),
        types_pb2.RuleEffect(rule="week", kind=types_pb2.RULE_EFFECT_KIND_PIN),
    ]
    stages.ranking.pinned = [
        ranking_pb2.RankedItem(item_id="i77", score=1, rank_before=40, rule_effects=effects, explored=True, propensity=0.25)
    ]
    stages.ranking.rules = [
        types_pb2.RuleReport(rule="no-war", kind=types_pb2.RULE_EFFECT_KIND_FILTER, num_removed=12),
        types_pb2.RuleReport(rule="week", kind=types_pb2.RULE_EFFECT_KIND_PIN, num_changed=1),
    ]
    status, out, err = await run("recommend", "u1", "--diversity", "0.5", "--exploration", "0.2")
    assert status == 0
    assert "push +0.5, week, explored (p=0.25)" in out
    (line,) = [line for line in out.splitlines() if "i77" in line]
    assert " 40 " in line
    assert err == "rule no-war (filter): removed 12\nrule week (pin): changed 1\n"
    assert (stages.ranking.seen[0].diversity, stages.ranking.seen[0].exploration) == (0.5, 0.2)


async def test_recommend_says_what_was_degraded(run: Run, stages: Any) -> None:
    await stages.ranking.down()
    status, out, err = await run("recommend", "u1")
    assert status == 0
    assert "i1" in out
    assert err == "degraded: ranking failed (UNAVAILABLE); instead: items in the order of recall\n"


async def test_feedback_records_each_label(run: Run, stages: Any) -> None:
    status, out, err = await run("feedback", "u1", "i1=5", "a=b=2.5", "--time", "1998-04-01T12:00:00Z", "--scenario", "home")
    assert status == 0, err
    assert "recorded 2, known already 0" in out
    events = list(stages.adaptation.recorded.values())
    assert [(event.item_id, event.label, event.scenario) for event in events] == [("i1", 5.0, "home"), ("a=b", 2.5, "home")]
    assert events[0].event_time.seconds == 891432000


async def test_feedback_says_which_items_nobody_knows(run: Run) -> None:
    status, out, err = await run("feedback", "u1", "i1=5", "unheard=4")
    assert (status, "recorded 2, known already 0" in out) == (0, True)
    assert "nobody knows these items yet: unheard; what was said of them is kept" in err
    many = [f"unheard{number}=4" for number in range(12)]
    status, out, err = await run("feedback", "u1", *many, "--json")
    assert json.loads(out)["unknown_item_ids"] == [f"unheard{number}" for number in range(12)]
    assert "unheard9 and 2 more;" in err
    assert "nobody" not in (await run("feedback", "u1", "i1=5"))[2]


async def test_feedback_with_an_event_id_has_its_effect_once(run: Run) -> None:
    for recorded in (1, 0):
        status, out, _ = await run("feedback", "u1", "i1=5", "--event-id", "e1", "--json")
        assert status == 0
        answer = json.loads(out)
        assert (answer["num_recorded"], answer["num_duplicates"], answer["shots"]) == (recorded, 1 - recorded, {"u1": 1})


async def test_feedback_records_labels_of_further_targets(run: Run, stages: Any, tmp_path: Path) -> None:
    assert (await run("feedback", "u1", "i1=1", "--target", "bought=0", "--target", "stars=4.5", "--event-id", "e1"))[0] == 0
    (tmp_path / "e.yaml").write_text("{user_id: u, item_id: i, label: 1, event_id: e2, labels: {bought: 1, stars: null}}")
    assert (await run("feedback", "--file", str(tmp_path / "e.yaml")))[0] == 0
    assert dict(stages.adaptation.recorded["e1"].labels) == {"bought": 0.0, "stars": 4.5}
    assert dict(stages.adaptation.recorded["e2"].labels) == {"bought": 1.0}
    (tmp_path / "e.yaml").write_text("{user_id: u, item_id: i, label: 1, labels: [bought]}")
    status, _, err = await run("feedback", "--file", str(tmp_path / "e.yaml"))
    assert (status, "record 1: labels must be a mapping" in err) == (2, True)
    (tmp_path / "e.yaml").write_text("{user_id: u, item_id: i, label: 1, labels: {bought: often}}")
    status, _, err = await run("feedback", "--file", str(tmp_path / "e.yaml"))
    assert (status, "record 1: labels.bought must be a number, not 'often'" in err) == (2, True)
    assert "stars=4.5" in (await run("users", "history", "u1"))[1]


async def test_feedback_takes_a_file(run: Run, stages: Any, tmp_path: Path) -> None:
    path = tmp_path / "events.yaml"
    path.write_text("- {user_id: 1, item_id: 50, label: 5, event_id: e1, timestamp: 1.5}\n- {user_id: 2, item_id: 7, label: 1}\n")
    status, _, err = await run("feedback", "--file", str(path))
    assert status == 0, err
    assert [(event.user_id, event.item_id, event.label) for event in stages.adaptation.recorded.values()] == [
        ("1", "50", 5.0),
        ("2", "7", 1.0),
    ]
    assert stages.adaptation.recorded["e1"].event_time.ToMilliseconds() == 1500
    for name, text in (
        ("e.json", '[{"user_id": "u", "item_id": "i", "label": 1, "event_id": "e2", "timestamp": "1998-04-01T00:00:02Z"}]'),
        ("e.yaml", "{user_id: u, item_id: i, label: 1, event_id: e2, timestamp: 1998-04-01T00:00:02Z}"),
    ):
        stages.adaptation.recorded.clear()
        (tmp_path / name).write_text(text)
        status, _, err = await run("feedback", "--file", str(tmp_path / name))
        assert status == 0, err
        assert stages.adaptation.recorded["e2"].event_time.seconds == 891388802
    path.write_text("{user_id: u, item_id: i, label: 1, timestamp: soon}")
    status, _, err = await run("feedback", "--file", str(path))
    assert (status, "record 1: 'soon' is no time" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["feedback", "u1"], "at least one ITEM=LABEL"),
        (["feedback", "u1", "i1"], "'i1' is no rated item; write ID=LABEL"),
        (["feedback", "u1", "i1=good"], "'i1=good' is no rated item"),
        (["feedback", "u1", "i1=1", "i2=2", "--event-id", "e"], "--event-id goes with a single"),
        (["feedback", "u1", "i1=1", "--time", "yesterday"], "'yesterday' is no time"),
        (["feedback", "u1", "i1=1", "--target", "bought"], "'bought' is no label; write TARGET=NUMBER"),
        (["feedback", "u1", "i1=1", "i2=2", "--target", "bought=1"], "--target goes with a single"),
        (["feedback", "--file", "/nowhere.json"], "'/nowhere.json' cannot be read"),
        (["recommend", "u1", "--feature", "age"], "'age' is no feature; write NAME=VALUE"),
        (["recommend", "u1", "--feature", "a=1", "--feature", "a=2"], "given twice"),
        (["recommend", "u1", "--weight", "rating"], "'rating' is no weight; write TARGET=NUMBER"),
        (["recommend", "u1", "--weight", "rating=nan"], "'rating=nan' is no weight"),
        (["explain", "u1", "i1", "--weight", "rating=1", "--weight", "rating=2"], "'rating' is given twice"),
        (["recommend", "u1", "--timeout", "0"], "timeout"),
        (["recommend", "u1", "--gateway", "here"], "METAREC_GATEWAY_ADDRESS must be HOST:PORT, not 'here'"),
        (["adapt"], "give TASK, or a support set"),
        (["adapt", "u1", "--scenario", "kids"], "are for --kind scenario and user-in-scenario"),
        (["adapt", "--kind", "scenario", "--support", "i1=5"], "'i1' has no user; write USER:ITEM=LABEL"),
        (["adapt", "kids", "--kind", "scenario", "--scenario", "kids"], "name the scenario as TASK"),
        (["items", "upsert"], "give either ITEM"),
        (["checkpoints", "list", "--registry", "r", "--training", "h:1"], "either --registry or --training"),
    ],
)
async def test_wrong_usage_is_explained(run: Run, arguments: list[str], message: str) -> None:
    status, out, err = await run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


async def test_explain_says_what_was_left_out_of_the_score(run: Run, stages: Any) -> None:
    stages.ranking.degradations.append(types_pb2.Degradation(stage="targets", reason="TARGET_NOT_LEARNED", fallback="the rest"))
    status, out, err = await run("explain", "u1", "i1", "--json")
    assert (status, err) == (0, "degraded: targets failed (TARGET_NOT_LEARNED); instead: the rest\n")
    assert json.loads(out)["degradations"] == [{"stage": "targets", "reason": "TARGET_NOT_LEARNED", "fallback": "the rest"}]


async def test_explain_lists_terms_and_their_sum(run: Run, dataset: str) -> None:
    status, out, err = await run("explain", "u1", "i1", "--data", dataset)
    assert status == 0, err
    assert "Alien for user u1: score 4.0000" in out
    assert "Title of i9" in out
    assert "4.0000" in next(line for line in out.splitlines() if "sum" in line)
    status, out, _ = await run("explain", "u1", "i1", "--json")
    assert json.loads(out)["residual"] == 0


async def test_targets_are_weighed_on_the_command_line(run: Run, stages: Any) -> None:
    weights = ("--weight", "rating=1", "--weight", "interacted=-.5")
    assert (await run("recommend", "u1", *weights))[0] == (await run("explain", "u1", "i1", *weights))[0] == 0
    assert [dict(seen.target_weights) for seen in stages.ranking.seen] == [{"rating": 1.0, "interacted": -0.5}] * 2


async def test_adapt_predicts_and_says_what_it_left_out(run: Run, dataset: str, stages: Any) -> None:
    arguments = ("adapt", "--support", "i1=5", "--support", "i3=1", "--query", "i3", "--query", "i1", "--data", dataset)
    status, out, err = await run(*arguments)
    assert status == 0, err
    assert "adapted to 2 rows" in out
    assert ["Brazil" in line for line in out.splitlines() if "0.2500" in line] == [True, False]
    assert "zz" in err
    assert [(row.id, row.label) for row in stages.adaptation.seen[0].support] == [("i1", 5.0), ("i3", 1.0)]


async def test_a_learner_that_tells_no_deviation_does_not_look_certain(run: Run) -> None:
    status, out, err = await run("adapt", "--support", "i1=5", "--query", "sure")
    assert status == 0, err
    (line,) = [line for line in out.splitlines() if "sure" in line]
    assert line.replace("│", " ").split() == ["sure", "4.5000", "-"]


async def test_adapt_takes_a_scenario_and_says_what_it_learned_of_it(run: Run, stages: Any, tmp_path: Path) -> None:
    status, out, err = await run("adapt", "kids", "--kind", "scenario", "--query", "i3", "--feature", "age=9")
    assert status == 0, err
    assert "scenario of 7 users and 40 rows, kappa 0.1, moves labels by -0.25 ± 0.50" in " ".join(out.split())
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"user_id": 7, "item_id": "i2", "label": 4}]))
    rows = ("--support", "ann:i1=5", "--support", "i3=1", "--file", str(file))
    inside = ("adapt", "me", "--kind", "user-in-scenario", "--scenario", "kids", *rows, "--json")
    status, out, err = await run(*inside)
    assert status == 0, err
    assert json.loads(out)["scenario"]["num_users"] == 7
    first, second = stages.adaptation.seen
    assert (first.kind, first.task_id, first.features["age"].number) == (adaptation_pb2.TASK_KIND_SCENARIO, "kids", 9)
    assert (second.kind, second.task_id, second.scenario) == (adaptation_pb2.TASK_KIND_USER_IN_SCENARIO, "me", "kids")
    assert [(row.user_id, row.id, row.label) for row in second.support] == [("ann", "i1", 5), ("", "i3", 1), ("7", "i2", 4)]


async def test_items_are_listed_page_by_page_and_shown_whole(run: Run, stages: Any) -> None:
    status, out, err = await run("items", "list", "--limit", "3")
    assert status == 0
    assert "3 of 5 items" in out
    assert "--page-token 3" in err
    status, out, _ = await run("items", "list", "--json", "--page-token", "3")
    assert [item["item_id"] for item in json.loads(out)["items"]] == ["i3", "i4"]
    status, out, _ = await run("items", "get", "i1")
    assert "drama|war" in out
    stages.recall.error = NotFoundError("no item 'i77'")
    assert await run("items", "get", "i77") == (1, "", "error: no item 'i77'\n")


async def test_items_are_upserted_from_options_and_files(run: Run, stages: Any, tmp_path: Path) -> None:
    status, out, err = await run("items", "upsert", "new", "--feature", "year=1979", "--feature", 'genre=["horror"]')
    assert status == 0, err
    assert "stored 1 item\n" in out
    item = stages.recall.seen[0].items[0]
    assert (item.features["year"].number, list(item.features["genre"].list.values)) == (1979, ["horror"])
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{"item_id": "a", "features": {"title": "A"}}, {"item_id": "b"}]))
    status, out, _ = await run("items", "upsert", "--file", str(path), "--json")
    assert [(item["item_id"], item["revision"]) for item in json.loads(out)] == [("a", 1), ("b", 1)]
    path.write_text(json.dumps([{"item_id": "a", "title": "A"}]))
    status, _, err = await run("items", "upsert", "--file", str(path))
    assert status == 2
    assert "record 1 has unknown key 'title'; known: item_id, features" in err


async def test_features_are_read_as_the_schema_says(run: Run, stages: Any, dataset: str) -> None:
    features = ("--feature", "title=1984", "--feature", "genre=drama|war", "--feature", "image=[0.5, 1]")
    status, _, err = await run("items", "upsert", "new", *features, "--data", dataset)
    assert status == 0, err
    stored = stages.recall.seen[0].items[0].features
    assert (stored["title"].text, list(stored["genre"].list.values)) == ("1984", ["drama", "war"])
    assert list(stored["image"].vector.values) == [0.5, 1.0]
    status, _, err = await run("users", "upsert", "u1", "--feature", "zip=55105", "--feature", "age=30", "--data", dataset)
    assert status == 0, err
    profile = stages.adaptation.seen[0].users[0].features
    assert (profile["zip"].text, profile["age"].number) == ("55105", 30)
    status, _, err = await run("recommend", "u1", "--feature", "age=old", "--data", dataset)
    assert (status, err) == (2, "error: 'old' is no value of the numeric field 'age'\n")


async def test_users_are_upserted_listed_and_deleted(run: Run, stages: Any) -> None:
    status, out, err = await run("users", "upsert", "u1", "--feature", "age=30", "--json")
    assert (status, json.loads(out)) == (0, {"num_upserted": 1}), err
    await run("feedback", "u1", "i1=5", "--time", "1998-04-01")
    status, out, _ = await run("users", "history", "u1")
    assert status == 0
    assert "1998-04-01T00:00:00+00:00" in out
    assert "5.0" not in out
    assert (await run("users", "delete", "u1", "--yes"))[1] == "forgot user 'u1' and 4 interactions\n"
    status, out, _ = await run("users", "delete", "u1", "--yes", "--json")
    assert json.loads(out) == {"user": "u1", "num_interactions_deleted": 4}


async def test_jobs_are_created_followed_and_listed(run: Run, training: FakeTraining) -> None:
    arguments = ("jobs", "create", "--data", "d", "--recipe", "r", "--workers", "2", "--seed", "3", "--launcher", "local")
    status, out, err = await run(*arguments, "--watch", "--json")
    job = json.loads(out)
    assert (status, job["id"], job["state"], job["num_workers"], job["seed"]) == (0, "7", "succeeded", 2, 3)
    assert err.splitlines() == ["job 7: running", "job 7: succeeded"]
    status, out, _ = await run("jobs", "list")
    assert "succeeded" in out
    assert (await run("jobs", "cancel", "7"))[0] == 0
    assert await run("jobs", "get", "8") == (1, "", "error: no training job 'trainingJobs/8'\n")


async def test_a_watched_job_that_fails_is_a_failure(run: Run, training: FakeTraining) -> None:
    await run("jobs", "create")
    training.end = training_pb2.TRAINING_JOB_STATE_FAILED
    status, out, err = await run("jobs", "watch", "7")
    assert status == 1
    assert "failed" in out
    assert err.splitlines()[-1] == "job 7: failed"


async def test_checkpoints_come_from_the_training_service(run: Run, training: FakeTraining) -> None:
    status, out, _ = await run("checkpoints", "list")
    assert status == 0
    assert "c-2-ab" in out
    assert "0.1250" in out
    status, out, _ = await run("checkpoints", "promote", "c-2-ab", "--force", "--json")
    assert json.loads(out)["metrics"] == {"mae": 0.7}
    assert (training.calls[0].name, training.calls[0].force) == ("checkpoints/c-2-ab", True)
    assert (await run("checkpoints", "rollback"))[0] == 0
    status, out, _ = await run("checkpoints", "get", "live")
    assert status == 0
    shown = dict(line.replace("│", " ").split() for line in out.splitlines() if "users" in line or "bias_mae" in line)
    assert shown == {"bias_mae": "0.8000", "users": "12"}
    assert training.calls[-1].name == "checkpoints/live"


async def test_checkpoints_come_from_a_directory_without_any_service(run: Run, registry: Path) -> None:
    where = ("--registry", str(registry))
    status, out, err = await run("checkpoints", "list", *where)
    assert status == 0, err
    assert "c-1-popular" in out
    assert "not judged" in out
    assert "not judged" in (await run("checkpoints", "get", "live", *where))[1]
    status, out, _ = await run("checkpoints", "get", "live", "--json", *where)
    assert json.loads(out)["id"] == "c-1-popular"
    status, _, err = await run("checkpoints", "promote", "c-1-popular", *where)
    assert status == 1
    assert "force the promotion" in err
    assert (await run("checkpoints", "promote", "c-1-popular", "--force", *where))[0] == 0
    status, _, err = await run("checkpoints", "rollback", *where)
    assert status == 1
    assert "there is none before it" in err
    status, _, err = await run("checkpoints", "list", "--registry", str(registry / "nothing"))
    assert status == 1
    assert "metarec train --data DIR --out" in err


@pytest.mark.parametrize(
    "command",
    ["recommend", "feedback", "explain", "adapt"]
    + [f"items {name}" for name in ("list", "get", "upsert")]
    + [f"users {name}" for name in ("upsert", "delete", "history")]
    + [f"jobs {name}" for name in ("create", "get", "list", "cancel", "watch")]
    + [f"checkpoints {name}" for name in ("list", "get", "promote", "rollback")],
)
def test_every_command_helps_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([*command.split(), "--help"])
    assert exited.value.code == 0
    assert f"metarec {command}" in capsys.readouterr().out.rpartition("Example")[2]


async def test_services_that_do_not_run_are_named_with_what_to_do(run: Run, gateway: Server) -> None:
    await gateway.drain()
    status, out, err = await run("recommend", "u1")
    assert (status, out) == (1, "")
    assert f"the gateway service at 127.0.0.1:{gateway.port} cannot be reached (Connection refused)" in err
    assert "start the services with 'metarec up'" in err
