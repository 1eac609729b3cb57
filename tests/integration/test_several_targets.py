"""Data of several targets through the commands: imported, trained by default, evaluated by target."""

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from google.protobuf.timestamp_pb2 import Timestamp

from metarec.adaptation.engine import Engine
from metarec.adaptation.weighing import weigh
from metarec.cli.main import cli
from metarec.data.dataset import Dataset
from metarec.errors import InvalidInputError
from metarec.training.checkpoint import load_checkpoint
from metarec.training.registry import Registry
from metarec.types import Interaction
from metarec.v1 import adaptation_pb2_grpc, gateway_pb2, ranking_pb2, recall_pb2_grpc, types_pb2
from metarec.v1.adaptation_pb2 import TASK_KIND_ITEM, AdaptTaskRequest
from metarec.v1.recall_pb2 import RetrieveCandidatesRequest
from services.adaptation.service import build as build_adaptation
from services.ranking.ranker import Ranker
from services.ranking.wire import Answer, explain_request, rank_request
from services.recall.service import build as build_recall
from services.runtime.errors import from_rpc_error
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint
from services.runtime.server import Server
from services.runtime.settings import Settings

QUICK = ("--threads", "1", "--set", "epochs=2", "--set", "batch_size=16", "--set", "model.embedding_dim=6")
SCHEMA = """
user_id: user
item_id: item
label: {column: clicked, kind: binary}
timestamp: time
targets:
- {column: stars, kind: rating, minimum: 1, maximum: 5}
"""


def invoke(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users click on one genre of four and rate a third of what they see: their genre high, and of the rest the even items."""
    folder, random = tmp_path_factory.mktemp("several"), np.random.default_rng(5)
    lines = ["user,item,clicked,stars,time"]
    for user in range(120):
        for item in random.permutation(48)[:24]:
            clicked = int(item % 4 == user % 4)
            stars = str(5 if clicked else 3 if item % 2 == 0 else 1) if random.random() < 0.34 else ""
            lines.append(f"u{user},i{item},{clicked},{stars},{1_000_000 + 60 * len(lines)}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "schema.yaml").write_text(SCHEMA)
    words = ("--interactions", folder / "events.csv", "--schema", folder / "schema.yaml", "--out", folder / "data")
    invoke("data", "import", *words)
    return folder / "data"


@pytest.fixture(scope="module")
def registry(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("registry")
    said = json.loads(
        invoke(
            "train",
            "--data",
            data,
            "--out",
            out,
            "--json",
            *QUICK,
            "--set",
            "explicit.epochs=40",
            "--set",
            "validation_fraction=0.2",
        )
    )
    assert said["recipe"] == "alpaca_targets"
    return out


def test_show_tells_of_further_targets(data: Path) -> None:
    (target,) = json.loads(invoke("data", "show", "--data", data, "--json"))["targets"]
    events = Dataset.open(data).interactions
    assert events.extra_NK is not None
    assert (target["column"], target["missing"]) == ("stars", int(np.isnan(events.extra_NK).sum()))
    assert "target 'stars'" in invoke("data", "show", "--data", data)


def test_every_target_is_evaluated_beside_baselines_and_training_alone(registry: Path, data: Path, tmp_path: Path) -> None:
    words = ("--checkpoint", registry, "--data", data, "--protocol", "held-out", "--shots", "0,8", "--alone", "--json", "-")
    found: dict[str, Any] = json.loads(invoke("evaluate", *words, "--scores", tmp_path / "s.parquet"))
    protocols = found["protocols"]
    assert {"held_out_clicked@0", "held_out_clicked@8", "held_out_stars@0", "held_out_stars@8"} <= set(protocols)
    for name, models in protocols.items():
        if name.startswith(("held_out_clicked", "held_out_stars")):
            assert {"alpaca_targets", "alpaca_alone", "bias", "bias_als"} <= set(models)
    learner, none = (protocols[f"held_out_stars@{k}"]["alpaca_targets"]["mae"]["mean"] for k in (8, 0))
    assert learner < none
    # Eight interactions hold eight clicks and no more than three grades: what is shared is most of what there is to know.
    assert learner < protocols["held_out_stars@8"]["alpaca_alone"]["mae"]["mean"]
    assert found["deltas_joint"]["held_out_stars@8"]["alpaca_targets"]["mae"]["value"] > 0
    scores = pd.read_parquet(tmp_path / "s.parquet")
    for (protocol, model), part in scores[scores.protocol.str.startswith("held_out_stars")].groupby(
        ["protocol", "model"], observed=True
    ):
        error = (part.estimate - part.clicked).abs().groupby(part.episode_id, observed=True).mean().mean()
        assert error == pytest.approx(protocols[protocol][model]["mae"]["mean"]), (protocol, model)
    assert set(scores.protocol) == set(protocols)


def test_a_target_with_too_few_labels_to_ask_for_is_told_and_left_out(registry: Path, data: Path) -> None:
    words = ("--checkpoint", registry, "--data", data, "--protocol", "held-out", "--shots", "17", "--json", "-")
    found: dict[str, Any] = json.loads(invoke("evaluate", *words))
    assert "held_out_clicked@17" in found["protocols"]
    assert "held_out_stars@17" not in found["protocols"]
    assert any("target 'stars' is left out" in note for note in found["notes"])


def test_the_checkpoint_keeps_its_targets(registry: Path) -> None:
    prior = load_checkpoint(registry)
    assert [target.column for target in prior.schema.labels] == ["clicked", "stars"]
    assert len(prior.heads["explicit"].theta["targets.map"]) == 1


def test_a_recipe_of_one_target_trains_the_label_alone(data: Path, tmp_path: Path) -> None:
    words = ("--data", data, "--out", tmp_path, "--recipe", "alpaca", "--no-gate", "--json", *QUICK)
    assert json.loads(invoke("train", *words))["recipe"] == "alpaca"
    assert "targets.map" not in load_checkpoint(tmp_path).heads["explicit"].theta


async def test_labels_are_recorded_adapted_from_and_weighed_from_end_to_end(registry: Path, tmp_path: Path) -> None:
    """A new user's labels of both targets reach recall and ranking, whose scores and explanations are those of the engine."""
    registered = Registry(registry)
    (info,) = registered.list()
    registered.promote(info.id, force=True)
    places = {"registry": registry, "features": registry / "features", "state": tmp_path}
    adaptation = Server("adaptation", Settings(service="adaptation", **places), build_adaptation)  # type: ignore[arg-type]  # by name
    recall = Server("recall", Settings(service="recall", **places), build_recall)  # type: ignore[arg-type]  # by name
    labels = {"i1": (1.0, {"stars": 5.0}), "i5": (1.0, {"stars": 4.0}), "i2": (0.0, {"stars": 1.0}), "i3": (0.0, {})}
    events = [
        types_pb2.Interaction(
            event_id=f"e{item_id}",
            user_id="new",
            item_id=item_id,
            label=label,
            labels=further,
            event_time=Timestamp(seconds=1_200_000),
        )
        for item_id, (label, further) in labels.items()
    ]
    weights = {"stars": 1.0, "interacted": 0.5}
    await adaptation.start()
    await recall.start()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{adaptation.port}") as writing,
        grpc.aio.insecure_channel(f"127.0.0.1:{recall.port}") as reading,
    ):
        stub = adaptation_pb2_grpc.AdaptationServiceStub(writing)
        wrong = types_pb2.Interaction(event_id="e", user_id="new", item_id="i1", label=1, labels={"sold": 1})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.RecordInteractions(gateway_pb2.RecordInteractionsRequest(interactions=[wrong]))
        error = from_rpc_error(refused.value)
        assert isinstance(error, InvalidInputError)
        assert (error.field, "stars" in error.message) == ("interactions[0].labels.sold", True)
        await stub.RecordInteractions(gateway_pb2.RecordInteractionsRequest(interactions=events))
        stored = await stub.AdaptTask(AdaptTaskRequest(task_id="new", query_ids=["i9", "i10"], target="stars"))
        inline = AdaptTaskRequest(query_ids=["i9", "i10"], target="stars")
        for item_id, (label, further) in labels.items():
            inline.support.add(id=item_id, label=label, labels=further)
        predicted = (await stub.AdaptTask(inline)).predictions
        assert [row.mean for row in stored.predictions] == pytest.approx([row.mean for row in predicted], abs=1e-2)
        assert predicted[0].mean > predicted[1].mean, "the first is of the genre they like"
        for asked, field in (
            (AdaptTaskRequest(task_id="new", target="sold"), "target"),
            (AdaptTaskRequest(task_id="i1", kind=TASK_KIND_ITEM, target="stars"), "target"),
            (AdaptTaskRequest(support=[{"id": "i1", "label": 1, "labels": {"stars": 9}}]), "support[0].labels.stars"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.AdaptTask(asked)
            error = from_rpc_error(refused.value)
            assert isinstance(error, InvalidInputError)
            assert error.field == field
        ask = RetrieveCandidatesRequest(user_id="new", num_candidates=30, target_weights=weights)
        found = await recall_pb2_grpc.RecallServiceStub(reading).RetrieveCandidates(ask)
    await adaptation.drain()
    await recall.drain()
    live, store = LiveCheckpoint(registry), LazyStore(registry / "features", "sqlite")
    rank = ranking_pb2.RankCandidatesRequest(user_id="new", candidates=found.candidates, target_weights=weights)
    explain = ranking_pb2.ExplainScoreRequest(user_id="new", item_id="i9", target_weights=weights)
    ranked, explained = Ranker(live, store).answer([rank_request(rank, None), explain_request(explain)])
    live.close()
    store.close()
    assert isinstance(ranked, Answer)
    assert isinstance(explained, Answer)
    engine = Engine(load_checkpoint(registry))
    user = weigh(
        engine.adapt(
            [
                Interaction(user_id="new", item_id=item_id, label=label, labels=further, timestamp=1.2e6)
                for item_id, (label, further) in labels.items()
            ]
        ),
        weights,
    )
    assert len(ranked.ranked) == 30
    for item in ranked.ranked:
        assert item.score == pytest.approx(float(engine.scores(user, [item.item_id])[0]), abs=1e-4)
    personal = [c for c in found.candidates if c.source == types_pb2.CANDIDATE_SOURCE_PERSONAL]
    assert [c.score for c in personal] == pytest.approx(engine.scores(user, [c.item_id for c in personal]).tolist(), abs=1e-4)
    assert sum(term.value for term in explained.contributions) == pytest.approx(explained.ranked[0].score, abs=1e-4)
