"""Tests of the gate's verdict in words."""

from pathlib import Path

import pytest

from metarec.training.registry import CheckpointInfo
from metarec.training.verdict import decisive, promotion

FIGURES = {
    "users": 15.0,
    "mae": 0.90,
    "bias_mae": 0.89,
    "bias_als_mae": 0.88,
    "delta_mae": -0.0227,
    "delta_mae_low": -0.03,
    "delta_mae_high": -0.01,
    "cut": 8.9e8,
    "cold_users": 51.0,
    "recall@20": 0.1,
    "ndcg@20": 0.312,
    "popularity_ndcg@20": 0.30,
    "item_knn_ndcg@20": 0.33,
    "delta_ndcg@20": -0.0269,
}


def test_lists_that_decided_are_told_with_the_best_plain_baseline_and_the_users_after_the_cut() -> None:
    assert decisive(FIGURES, -0.0269) == (
        "lists of new users: ndcg@20 0.3120, the plain baseline item_knn 0.3300 (delta -0.0269; 51 users)"
    )


def test_lists_of_held_out_users_are_told_with_how_many_have_something_to_find() -> None:
    figures = {**{name: value for name, value in FIGURES.items() if name != "cold_users"}, "list_users": 9.0}
    assert decisive(figures, -0.0269).endswith("(delta -0.0269; 9 users)")
    assert decisive(figures, -0.0227).endswith("15 users)")


def test_errors_that_decided_are_told_with_their_interval_and_the_held_out_users() -> None:
    assert decisive(FIGURES, -0.0227) == (
        "estimated labels of held-out users: mae 0.9000, the plain baseline bias_als 0.8800 "
        "(delta -0.0227, 95 % interval -0.0300 to -0.0100; 15 users)"
    )


def test_figures_of_another_gate_leave_delta_alone() -> None:
    assert decisive({"learner_mae": 0.75}, -0.02) == "delta -0.0200"


@pytest.mark.parametrize(
    ("passed", "judged", "ending"),
    [
        (True, True, "promote c-1 --registry 'my registry'"),
        (False, True, "--force (refused without --force, for it is not better than the plain baselines)"),
        (False, False, "--force (refused without --force, for its gate never judged it)"),
    ],
)
def test_the_command_that_promotes_is_forced_only_where_it_must_be(passed: bool, judged: bool, ending: str) -> None:
    info = CheckpointInfo(
        id="c-1",
        path=Path("c-1"),
        recipe="alpaca",
        created=0.0,
        live=False,
        gate_passed=passed,
        judged=judged,
        delta=0.0,
        schema_hash="",
        data_fingerprint="",
    )
    assert promotion(info, Path("my registry")).endswith(ending)
