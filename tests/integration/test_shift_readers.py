"""What adaptation publishes for readers in other processes under keys that no user can have: shifts of items, of scenarios."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from metarec.adaptation.engine import Engine
from metarec.adaptation.scenarios import encode_scenarios
from metarec.adaptation.shifts import encode_shifts
from metarec.adaptation.view import ItemShift, ScenarioShift
from metarec.features.store import FeatureStore
from metarec.training.registry import Registry
from metarec.types import Item
from services.runtime.item_shifts import LOOK_SECONDS, SHIFTS_KEY, ItemShiftReader
from services.runtime.scenario_shifts import SCENARIOS_KEY, ScenarioReader

NEW = Item(item_id="new", features={"genres": ("space",)}, revision=1)


class Reader(Protocol):
    def apply(self, engine: Engine) -> object: ...


@dataclass(frozen=True)
class Published:
    """One kind of value: its key, what makes its reader, its bytes under a checkpoint, and what an engine has of it."""

    key: str
    reader: Callable[..., Reader]
    encode: Callable[[str, Engine], bytes]
    held: Callable[[Engine], Mapping[str, object]]


def of_items(checkpoint: str, engine: Engine) -> bytes:
    assert engine.vectors is not None
    return encode_shifts(checkpoint, {"new": ItemShift(phi_E=engine.vectors.phi_IE[0] * 0, bias=1.0, left=0.5, shots=3)})


def of_scenarios(checkpoint: str, engine: Engine) -> bytes:
    width = len(engine.prior.heads["explicit"].theta["task.mean"])
    mean_E = engine.view.content_IE[0, :1].repeat(width)
    return encode_scenarios(checkpoint, {"new": ScenarioShift(mean_E=mean_E, kappa=0.1, num_users=3, num_rows=9)})


@pytest.mark.parametrize(
    "published",
    [
        Published(SHIFTS_KEY, ItemShiftReader, of_items, lambda engine: engine.view.shifts),
        Published(SCENARIOS_KEY, ScenarioReader, of_scenarios, lambda engine: engine.view.scenarios),
    ],
    ids=["items", "scenarios"],
)
def test_values_of_another_checkpoint_and_damaged_ones_are_left_out(
    trained: Path, caplog: pytest.LogCaptureFixture, published: Published
) -> None:
    store = FeatureStore.open(trained / "features")
    engine = Engine(Registry(trained).load("live"))
    engine.upsert([NEW])
    now = [0.0]
    reader = published.reader(store.read_user, clock=lambda: now[0])

    def look(data: bytes) -> set[str]:
        store.write_user_adaptation(published.key, data, 1, "", 0)
        now[0] += 2 * LOOK_SECONDS
        reader.apply(engine)
        return set(published.held(engine))

    mine, another = (published.encode(checkpoint, engine) for checkpoint in (engine.checkpoint, "another"))
    assert look(mine) == {"new"}
    assert look(another) == set()
    assert look(mine) == {"new"}
    assert look(b"rubbish that is long enough") == set()
    assert "left out" in caplog.text
    assert len(published.key.encode()) > 256, "no user id is as long"
    store.close()
