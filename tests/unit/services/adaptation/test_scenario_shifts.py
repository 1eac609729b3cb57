"""Which shifts of scenarios stand: those of the log, or those of training."""

from pathlib import Path

import numpy as np

from metarec.adaptation.engine import Engine
from metarec.adaptation.view import ScenarioShift
from metarec.training.registry import Registry
from services.adaptation.scenario_shifts import merged


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
