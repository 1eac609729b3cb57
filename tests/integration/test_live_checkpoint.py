"""LiveCheckpoint on a real registry: follows promotions and rollbacks, survives damage, carries items over."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metarec.adaptation.engine import Engine
from metarec.errors import NoCheckpointError
from metarec.training.registry import Registry
from metarec.types import Item
from services.runtime import live as module
from services.runtime.live import LiveCheckpoint


@pytest.fixture
def opened() -> Iterator[list[LiveCheckpoint]]:
    """Closes what a test has opened. Tests refresh by hand, so that they decide when."""
    made: list[LiveCheckpoint] = []
    yield made
    for one in made:
        one.close()


def other(registry: Path) -> str:
    return next(info.id for info in Registry(registry).list() if not info.live)


def test_the_live_checkpoint_is_there_at_once(trained: Path, opened: list[LiveCheckpoint]) -> None:
    live = LiveCheckpoint(trained, poll_seconds=3600)
    opened.append(live)
    assert live.engine().checkpoint == Registry(trained).live()
    assert not live.refresh()


def test_a_promotion_is_seen_without_asking(trained: Path, opened: list[LiveCheckpoint]) -> None:
    live = LiveCheckpoint(trained, poll_seconds=0.01)
    opened.append(live)
    swapped = threading.Event()
    live.listen(lambda engine: swapped.set())
    wanted = other(trained)
    Registry(trained).promote(wanted, force=True)
    assert swapped.wait(60)
    assert live.engine().checkpoint == wanted


def test_hooks_see_the_new_engine_before_anybody_else(trained: Path, opened: list[LiveCheckpoint]) -> None:
    seen: list[tuple[str, str, str]] = []

    def note(what: str, engine: Engine) -> None:
        current = opened[0].current if opened else None
        seen.append((what, engine.checkpoint, "" if current is None else current.checkpoint))

    live = LiveCheckpoint(
        trained, poll_seconds=3600, on_load=lambda engine: note("load", engine), on_swap=lambda engine: note("swap", engine)
    )
    opened.append(live)
    live.listen(lambda engine: note("listen", engine))
    first, second = live.engine().checkpoint, other(trained)
    live.engine().upsert([Item(item_id="new", features={"genres": ("space",)}, revision=3)])
    Registry(trained).promote(second, force=True)
    assert live.refresh()
    assert seen == [
        ("load", first, ""),
        ("swap", first, ""),
        ("load", second, first),
        ("swap", second, first),
        ("listen", second, second),
    ]
    assert live.engine().catalogue.revision("new") == 3


def test_without_a_live_checkpoint_there_is_none_until_one_is_promoted(trained: Path, opened: list[LiveCheckpoint]) -> None:
    live = LiveCheckpoint(trained.parent / "nothing yet", poll_seconds=3600)
    opened.append(live)
    assert live.current is None
    with pytest.raises(NoCheckpointError, match="nothing yet"):
        live.engine()
    trained.rename(trained.parent / "nothing yet")
    assert live.refresh()
    assert live.current is not None


def test_a_damaged_checkpoint_leaves_the_one_before_it(
    trained: Path, opened: list[LiveCheckpoint], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveCheckpoint(trained, poll_seconds=3600)
    opened.append(live)
    first, broken = live.engine(), other(trained)
    damaged = trained / "checkpoints" / broken / "theta.implicit.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    Registry(trained).promote(broken, force=True)
    with caplog.at_level(logging.WARNING):
        assert not live.refresh()
        assert not live.refresh()
    assert live.current is first
    assert [broken in message for message in caplog.messages] == [True]
    damaged.write_bytes(whole)
    assert not live.refresh()
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    assert live.refresh()
    assert live.engine().checkpoint == broken


def test_a_live_checkpoint_that_cannot_be_loaded_is_not_called_none(trained: Path, opened: list[LiveCheckpoint]) -> None:
    live = Registry(trained).live()
    damaged = trained / "checkpoints" / str(live) / "theta.implicit.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    opened.append(LiveCheckpoint(trained))
    with pytest.raises(
        NoCheckpointError, match=rf"'{live}' is live but cannot be loaded: .*theta\.implicit\.safetensors"
    ) as said:
        opened[0].engine()
    assert said.value.metadata == {"checkpoint": live}
    record = (trained / "live.json").read_text()
    (trained / "live.json").unlink()
    assert not opened[0].refresh()
    with pytest.raises(NoCheckpointError, match=r"no checkpoint of registry .* is live"):
        opened[0].engine()
    (trained / "live.json").write_text(record)
    assert not opened[0].refresh()  # without trying it again so soon
    with pytest.raises(NoCheckpointError, match=rf"'{live}' is live but cannot be loaded"):
        opened[0].engine()


def test_a_damaged_record_of_what_is_live_is_not_called_none(trained: Path, opened: list[LiveCheckpoint]) -> None:
    (trained / "live.json").write_text("{")
    opened.append(LiveCheckpoint(trained))
    with pytest.raises(NoCheckpointError, match=r"which checkpoint is live is unknown: '.*live\.json' cannot be read"):
        opened[0].engine()


def test_a_rollback_is_followed(trained: Path, opened: list[LiveCheckpoint]) -> None:
    live = LiveCheckpoint(trained, poll_seconds=3600)
    opened.append(live)
    first = live.engine().checkpoint
    Registry(trained).promote(other(trained), force=True)
    assert live.refresh()
    Registry(trained).rollback()
    assert live.refresh()
    assert live.engine().checkpoint == first


def test_items_that_do_not_fit_are_left_out_of_the_new_engine(
    trained: Path, opened: list[LiveCheckpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(Registry(trained).load("live"))
    items = [
        Item(item_id="good", features={"year": 1999.0}, revision=1),
        Item(item_id="bad", features={"year": "unknown"}, revision=1),
    ]
    assert module.upsert_each(engine, items) == ["good"]
    assert "bad" not in engine.catalogue
    assert len(caplog.messages) == 1
