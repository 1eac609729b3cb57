"""Figures of scenarios on data whose scenarios differ by a known amount."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metarec.errors import FailedPreconditionError
from metarec.evaluation.scenario_tests import draw_tests
from metarec.evaluation.scenarios import ALONE, SCRATCH, WITHIN, evaluate_known, leave_out
from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Prior
from metarec.tasks.layout import TaskLayout
from metarec.training.inputs import hold_out_users, split
from metarec.training.loop import fit
from metarec.training.recipes import get_recipe

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

RECIPE = get_recipe("alpaca").override(
    {"epochs": "20", "batch_size": "16", "model.embedding_dim": "4", "validation_fraction": "0.3", "explicit.outer_lr": "0.03"}
)
EXPLICIT = replace(RECIPE, heads=tuple(head for head in RECIPE.heads if head.target == "explicit"))


@pytest.fixture(scope="module")
def told(one_thread: None, tiny_dataset: "Dataset") -> "Dataset":
    """Every user acts on the web and in the app, where they give a grade and a half less."""
    events = tiny_dataset.interactions
    where_N = np.arange(len(events)) % 2
    label_N = np.where(where_N == 1, np.maximum(1.0, events.label_N - 1.5), events.label_N).astype(np.float32)
    return tiny_dataset.with_interactions(
        replace(events, label_N=label_N, scenario_N=where_N.astype(np.int16), scenarios=("web", "app"))
    )


@pytest.fixture(scope="module")
def parts(told: "Dataset") -> "tuple[Dataset, Dataset]":
    return split(told, hold_out_users(told.interactions, len(told.user_ids), EXPLICIT, 0))


def test_more_shots_than_anybody_has_are_refused(told: "Dataset", parts: "tuple[Dataset, Dataset]") -> None:
    quick = fit(told, EXPLICIT.override({"epochs": "1"}), seed=0)
    with pytest.raises(FailedPreconditionError, match="after 900 shots; ask for fewer"):
        evaluate_known(quick, told, parts[1], shots=(900,), seed=0)
    few = parts[1].with_interactions(parts[1].interactions.select(np.arange(len(parts[1].interactions)) < 10))
    with pytest.raises(FailedPreconditionError, match="after 0 shots; train with a larger validation_fraction"):
        evaluate_known(quick, told, few, shots=(0,), seed=0)


def test_the_shifts_of_training_help_held_out_users(told: "Dataset", parts: "tuple[Dataset, Dataset]") -> None:
    found = evaluate_known(fit(told, EXPLICIT, seed=0), told, parts[1], shots=(0, 3), seed=0)
    assert [(entry.scenario, entry.shots, entry.model) for entry in found] == [
        (scenario, shots, model) for scenario in ("web", "app") for shots in (0, 3) for model in (ALONE, WITHIN)
    ]
    for alone, within in zip(found[::2], found[1::2], strict=True):
        assert alone.gain == 0
        assert within.gain == pytest.approx(alone.metrics["mae"] - within.metrics["mae"], abs=1e-9)
        assert within.gain_interval[0] < within.gain < within.gain_interval[1]
        assert within.rows == alone.rows > 50
    # Of users with rows of their own there the level is known already. Over both scenarios: the level between the two that users
    # alone start from may lie next to one of them.
    before, after = (
        np.mean([entry.metrics["rmse"] for entry in found if entry.model == model and not entry.shots])
        for model in (ALONE, WITHIN)
    )
    assert after < before - 0.05


def test_a_scenario_left_out_is_learned_from_its_first_interactions(told: "Dataset", parts: "tuple[Dataset, Dataset]") -> None:
    seen: list[int] = []

    def trained(part: "Dataset", encoder: FeatureEncoder) -> Prior:
        seen.append(len(part.interactions))
        return fit(part, EXPLICIT, seed=0, encoder=encoder)

    train, held_out = parts
    only_app = train.with_interactions(replace(train.interactions, scenarios=("web", "app")))
    encoder = FeatureEncoder.fit(told.schema, told.users, told.items, None)
    found = [
        entry
        for entry in leave_out(told, only_app, held_out, trained, encoder, sizes=(0, 150), seed=0)
        if entry.scenario == "app"
    ]
    assert [(entry.size, entry.model) for entry in found] == [
        (0, ALONE),
        (0, WITHIN),
        (150, ALONE),
        (150, WITHIN),
        (150, SCRATCH),
    ]
    assert found[1].gain == 0
    assert found[3].gain > found[3].gain_interval[0] > 0
    half = len(train.interactions) // 2
    assert [abs(size - half) < 60 for size in seen] == [True, False, True, False]


def test_a_checkpoint_without_scenarios_is_refused(tiny_dataset: "Dataset") -> None:
    with pytest.raises(FailedPreconditionError, match="knows no scenario"):
        evaluate_known(fit(tiny_dataset, EXPLICIT, seed=0), tiny_dataset, tiny_dataset, shots=(0,), seed=0)


def test_supports_are_the_oldest_rows_in_the_scenario() -> None:
    layout = TaskLayout.from_arrays(
        np.zeros(6, np.int64),
        np.arange(6),
        np.arange(6, dtype=np.float32),
        np.arange(6, dtype=np.float64)[::-1].copy(),
        scenario_N=np.array([0, 1, 1, 0, 1, 1], np.int16),
    )
    (test,) = draw_tests(layout, [1], shots=2, seed=0)
    assert layout.row_N[test.support_S].tolist() == [5, 4]
    assert layout.row_N[test.query_Q].tolist() == [2, 1]
    assert draw_tests(layout, [0], shots=2, seed=0) == []
