"""Completed profiles and previews of items through real services, the client and the command."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.cli.main import main
from metarec.client import AsyncClient, ClientSettings
from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.training.inputs import prepare
from metarec.training.manifest import Manifest
from metarec.training.profiles import learn_profiles
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.types import Interaction, Item, User
from services.adaptation.service import build as build_adaptation
from services.gateway.service import build as build_gateway
from services.recall.service import build as build_recall
from services.runtime.server import Server
from services.runtime.settings import Settings

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture(scope="module")
def learned(tiny_registry: Path, tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose live checkpoint knows of profiles, and an older one that does not."""
    path = tmp_path_factory.mktemp("cold") / "registry"
    path.mkdir()
    prior = Registry(tiny_registry).load("live")
    recipe = replace(get_recipe("alpaca"), validation_fraction=0.1)
    profiles = learn_profiles(prior.heads, prior.encoder, tiny_dataset, prepare(tiny_dataset, prior.encoder, recipe, 0), 0)
    registry = Registry(path)
    for seed, known in enumerate((None, profiles)):
        manifest = Manifest(recipe=recipe, seed=seed, data_fingerprint=tiny_dataset.fingerprint, created=1_700_000_000.0 + seed)
        registry.promote(registry.publish(replace(prior, profiles=known), manifest), force=True)
    return path


@pytest.fixture
async def client(learned: Path, trained: Path, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client of real gateway, adaptation and recall over the features of `trained`."""
    plain = {"registry": learned, "features": trained / "features", "state": tmp_path / "state", "drain_seconds": 0}
    async with AsyncExitStack() as stack:
        address = {}
        for service, build in (("adaptation", build_adaptation), ("recall", build_recall), ("gateway", build_gateway)):
            server = Server(service, Settings(service=service, **plain, **address), build)  # type: ignore[arg-type]  # by name
            await server.start()
            stack.push_async_callback(server.drain)
            address[f"{service}_address"] = f"127.0.0.1:{server.port}"
        yield await stack.enter_async_context(AsyncClient(ClientSettings(**address)))


@pytest.fixture
def run(client: AsyncClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for service in ("gateway", "recall", "adaptation"):
        monkeypatch.setenv(f"METAREC_{service.upper()}_ADDRESS", client._connections.settings.address(service))  # type: ignore[arg-type]  # the loop's names are those of services

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


async def test_a_profile_follows_what_a_user_does_and_is_not_stored(client: AsyncClient, run: Run) -> None:
    before = await client.infer_profile("new")
    assert (before.shots, [field.observed for field in before.fields]) == (0, [False, False])
    events = [Interaction(user_id="new", item_id=f"i{3 + 4 * k}", label=5) for k in range(8)]
    await client.record_interactions(events + [Interaction(user_id="new", item_id=f"i{4 * k}", label=1) for k in range(4)])
    after = await client.infer_profile("new")
    assert after.shots == 12
    likely = after.fields[0].values[0]
    assert (after.fields[0].name, likely.value) == ("gender", "M")
    assert likely.probability > 0.7 > {v.value: v.probability for v in before.fields[0].values}["M"]
    inline = await client.infer_profile(support=[(event.item_id, event.label) for event in events], features={"age": 30})
    assert (inline.shots, inline.fields[0].values[0].value) == (8, "M")
    assert (inline.fields[1].observed, inline.fields[1].values[0].value) == (True, "30")
    # Still unknown: nothing was stored. A stored field comes back as it is.
    assert not (await client.infer_profile("new")).fields[0].observed
    await client.upsert_users([User(user_id="new", features={"gender": "F"})])
    stored = (await client.infer_profile("new")).fields[0]
    assert (stored.observed, stored.values[0].value, stored.values[0].probability) == (True, "F", 1.0)

    status, out, _ = await run("users", "infer-profile", "new", "--json")
    assert status == 0
    assert json.loads(out)["fields"][0]["observed"] is True
    status, out, err = await run("users", "infer-profile", "--support", "i3=5", "--support", "i7=5", "--support", "nope=1")
    assert status == 0
    assert "inferred" in out
    assert "nope" in err
    assert (await run("users", "infer-profile"))[0] == 2


async def test_wrong_requests_are_refused(client: AsyncClient) -> None:
    for call, field in (
        (client.infer_profile(), "user_id"),
        (client.infer_profile(support=[("i1", 9)]), "support[0].label"),
        (client.infer_profile(support=[("i1", 4), ("i1", 5)]), "support[1].item_id"),
        (client.infer_profile("u1", features={"height": 3}), "features.height"),
        (client.preview_items([]), "items"),
        (client.preview_items([Item(item_id="", features={"year": "old"})]), "items[0].features.year"),
        (client.preview_items([Item(item_id="", features={})], num_neighbours=1000), "num_neighbours"),
    ):
        with pytest.raises(InvalidInputError) as raised:
            await call
        assert raised.value.field == field


async def test_an_unseen_item_is_previewed_and_stays_unseen(client: AsyncClient, run: Run, tmp_path: Path) -> None:
    features = {"title": "a story", "genres": ("horror",)}
    (found,) = await client.preview_items([Item(item_id="x", features=features)])
    assert (found.item_id, found.labels, len(found.neighbours)) == ("x", True, 5)
    lift = {part.value: part.lift for part in found.audience if part.field == "gender"}
    assert lift["M"] > 0 > lift["F"]
    assert set(found.vectors) == {"explicit", "implicit"}
    assert (await client.list_items(page_size=1)).total_size == 60

    path = tmp_path / "items.json"
    path.write_text(json.dumps([{"item_id": "x", "features": features}, {"item_id": "y", "features": {"genres": ["space"]}}]))
    status, out, _ = await run("items", "preview", "--items", str(path), "--json")
    assert status == 0
    assert [one["item_id"] for one in json.loads(out)] == ["x", "y"]
    assert json.loads(out)[0]["mean"] == pytest.approx(found.mean)
    status, out, _ = await run("items", "preview", "--feature", 'genres=["space"]', "--neighbours", "2")
    assert status == 0
    assert "expected label" in out
    assert "cosine" in out
    assert (await run("items", "preview"))[0] == 2


async def test_a_checkpoint_without_profiles_says_so(client: AsyncClient, learned: Path) -> None:
    live = Registry(learned)
    knowing = live.live()
    assert knowing is not None
    live.rollback()
    try:
        async with asyncio.timeout(60):
            while (await client.adapt_task("u1")).checkpoint == knowing:
                await asyncio.sleep(0.05)
        with pytest.raises(FailedPreconditionError, match="knows nothing of profiles"):
            await client.infer_profile("u1")
    finally:
        live.promote(knowing, force=True)


async def test_evaluate_measures_profiles_and_audiences(learned: Path, tiny_dataset: "Dataset", run: Run, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ("evaluate", "--profiles", "--checkpoint", str(learned), "--data", str(tiny_dataset.path), "--shots", "0,8")
    status, table, _ = await run(*arguments, "--json", str(out))
    assert status == 0
    assert "field 'gender' of 8 held-out users" in table
    found = json.loads(out.read_text())
    score = {(entry["model"], entry["shots"]): entry for entry in found["profiles"] if entry["field"] == "gender"}
    assert {shots for _, shots in score} == {0, 8, None}
    assert score["behaviour", 0]["log_loss"] == pytest.approx(score["frequencies", 0]["log_loss"])
    # Taste tells gender on this data, and nothing else does.
    assert score["behaviour", None]["accuracy"] == 1.0
    assert score["behaviour", None]["log_loss"] < 0.5 * score["frequencies", None]["log_loss"]
    assert score["behaviour", None]["gain"] > 2 * score["behaviour", None]["gain_error"]
    assert found["hidden_items"] == 12
    assert (await run(*arguments, "--report", str(tmp_path / "report.html")))[0] == 2
