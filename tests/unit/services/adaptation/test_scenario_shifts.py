"""Which shifts of scenarios stand, those of the log or those of training, and what their working out waits for."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.view import ScenarioShift
from metarec.interactions.records import UserRecord
from metarec.training.registry import Registry
from metarec.types import Interaction
from services.adaptation import scenario_shifts
from services.adaptation.scenario_shifts import ScenarioShifts, merged

WAIT_SECONDS = 60.0


def shift(rows: int) -> ScenarioShift:
    return ScenarioShift(mean_E=np.full(7, rows, np.float32), kappa=0.1, num_users=1, num_rows=rows)


def test_of_log_and_training_the_one_that_saw_more_stands(tiny_registry: Path) -> None:
    engine = Engine(Registry(tiny_registry).load("live"))
    engine.own_scenarios = {"web": shift(50), "app": shift(10)}
    found = merged(engine, {"web": shift(20), "app": shift(10), "kiosk": shift(1)})
    assert {name: (entry.num_rows, entry is engine.own_scenarios.get(name)) for name, entry in found.items()} == {
        "web": (50, True),
        "app": (10, False),
        "kiosk": (1, False),
    }
    assert merged(engine, {}) == engine.own_scenarios


class Surroundings:
    """Log of one scenario, store, live checkpoint and publisher in one; `on_user` is called with how many users were read."""

    schema = "any"

    def __init__(self, engine: Engine, users: int = 3) -> None:
        self.current, self.users, self.read = engine, users, 0
        self.on_user: Callable[[int], None] = lambda read: None
        self.published: list[str] = []
        self.news = threading.Event()

    def listen(self, listener: Callable[[Engine], None]) -> None:
        self.listener = listener

    def promote(self, engine: Engine) -> None:
        self.current = engine
        self.listener(engine)

    def scenarios(self, limit: int) -> dict[str, int]:
        return {"night": self.users}

    def scenario_users(self, scenario: str, limit: int) -> list[str]:
        return [f"u{place}" for place in range(self.users)]

    def user(self, user_id: str) -> UserRecord:
        self.read += 1
        self.on_user(self.read)
        support = (Interaction(user_id=user_id, item_id="i1", label=5.0, scenario="night"),)
        return UserRecord(user_id=user_id, support=support)

    def input(self, record: UserRecord) -> UserInput:
        return UserInput(support=record.support)

    def read_user(self, user_id: str) -> None:
        return None

    def write_user_adaptation(self, user_id: str, blob: bytes, shots: int, checkpoint: str, revision: int) -> None:
        self.published.append(checkpoint)
        self.news.set()

    def started(self) -> ScenarioShifts:
        some = cast(Any, self)
        shifts = ScenarioShifts(some, some, some, some)
        shifts.start()
        return shifts


@pytest.fixture
def around(tiny_registry: Path) -> Surroundings:
    return Surroundings(Engine(Registry(tiny_registry).load("live")))


def test_a_promotion_does_not_wait_for_the_rest(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_shifts, "IDLE_SHARE", 1e6)
    shifts = around.started()
    assert around.news.wait(WAIT_SECONDS)
    around.news.clear()
    around.promote(Engine(around.current.prior))
    assert around.news.wait(WAIT_SECONDS), "what was published is of the checkpoint before"
    shifts.close()
    assert set(around.current.view.scenarios) == {"night"}


def test_what_is_worked_out_for_the_checkpoint_before_is_dropped(around: Surroundings) -> None:
    around.users, first, second = 1000, around.current, Engine(around.current.prior)
    around.on_user = lambda read: around.promote(second) if read == 3 else None
    shifts = around.started()
    assert around.news.wait(WAIT_SECONDS)
    shifts.close()
    assert around.read <= 1000 + 4
    assert (set(first.view.scenarios), set(second.view.scenarios)) == (set(), {"night"})


def test_the_end_waits_for_one_user_at_most(around: Surroundings) -> None:
    around.users, reading, stopped = 1000, threading.Event(), threading.Event()

    def on_user(read: int) -> None:
        reading.set()
        assert stopped.wait(WAIT_SECONDS)

    around.on_user = on_user
    shifts = around.started()
    assert reading.wait(WAIT_SECONDS)
    closing = threading.Thread(target=shifts.close)
    closing.start()
    assert shifts._background.stopped.wait(WAIT_SECONDS)
    stopped.set()
    closing.join()
    assert (around.read, around.published) == (1, [])
