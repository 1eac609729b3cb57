"""Trials without Ray: what they report, and what a probe measures."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Head
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.training.trial import Report, probe, run_trial

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Figures:
    metrics: Mapping[str, float]
    value_T: tuple[float, ...]


class FakeJudge:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.heads: list[Head] = []

    def __call__(self, head: Head, inputs: Inputs) -> Figures:
        self.heads.append(head)
        return Figures(metrics={"mae": float(len(self.heads))}, value_T=(1.0, 2.0))

    def costs(self, head: Head, inputs: Inputs) -> dict[str, float]:
        return {"adapt_ms": 1.0, "score_ms": 1.0, "state_bytes": 8.0}


@pytest.fixture(scope="module")
def inputs(tiny_dataset: "Dataset", small_recipe: Recipe) -> Inputs:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items, tiny_dataset.graph)
    return prepare(tiny_dataset, encoder, small_recipe, 0)


@pytest.fixture
def head(small_recipe: Recipe) -> HeadRecipe:
    return replace(small_recipe.heads[0], members=1)


def tried(inputs: Inputs, head: HeadRecipe, judge: FakeJudge, **options: object) -> list[Report]:
    said: list[Report] = []
    run_trial("one", 2, inputs, head, judge, said.append, seed=0, **options)  # type: ignore[arg-type]  # stopped
    return said


def test_a_trial_reports_as_it_learns_and_in_full_at_its_end(inputs: Inputs, head: HeadRecipe) -> None:
    said = tried(inputs, replace(head, epochs=4), FakeJudge())
    assert {(report.trial, report.rung, report.epochs) for report in said} == {("one", 2, 4)}
    assert [report.epoch for report in said] == [1, 2, 3, 4]
    assert [report.done for report in said] == [False, False, False, True]
    assert said[-1].value_T == (1.0, 2.0)
    assert said[-1].costs["state_bytes"] == 8.0
    seconds = [report.seconds for report in said]
    assert seconds == sorted(seconds)


def test_a_member_is_judged_together_with_those_that_have_ended(inputs: Inputs, head: HeadRecipe) -> None:
    judge = FakeJudge()
    said = tried(inputs, replace(head, epochs=4, members=2), judge)
    assert [report.epoch for report in said] == [1, 1, 2, 3, 3, 4, 4]
    assert [report.done for report in said] == [False] * 6 + [True]
    assert [len(one.theta["task.mean"]) for one in judge.heads] == [5, 5, 5, 9, 9, 9, 9]


@pytest.mark.parametrize("members", [1, 2])
def test_heads_are_judged_in_the_unit_of_the_labels(inputs: Inputs, head: HeadRecipe, members: int) -> None:
    events = inputs.interactions
    points = replace(inputs, interactions=replace(events, label_N=20 * events.label_N))
    judge = FakeJudge()
    tried(points, replace(head, epochs=2, members=members), judge)
    assert len(judge.heads) > 1
    mean = float(points.interactions.label_N.mean())
    assert [float(one.theta["mu"]) for one in judge.heads] == pytest.approx([mean] * len(judge.heads), rel=0.2)


def test_a_long_training_is_judged_a_few_times_only(inputs: Inputs, head: HeadRecipe) -> None:
    judge = FakeJudge()
    said = tried(inputs, replace(head, epochs=24), judge)
    assert len(judge.heads) == len(said) == 8
    assert said[-1].epoch == 24


def test_the_last_report_is_of_the_best_parameters(inputs: Inputs, head: HeadRecipe) -> None:
    judge = FakeJudge()
    said = tried(inputs, replace(head, epochs=6, patience=1, outer_lr=0.3), judge)
    assert said[-1].done
    assert said[-1].epoch < 6


def test_a_stopped_trial_leaves_it_at_what_it_has_said(inputs: Inputs, head: HeadRecipe) -> None:
    judge = FakeJudge()
    said = tried(inputs, replace(head, epochs=6), judge, stopped=lambda: len(judge.heads) >= 2)
    assert said
    assert not any(report.done for report in said)


def test_a_training_that_fails_says_why(inputs: Inputs, head: HeadRecipe) -> None:
    said = tried(inputs, replace(head, episodes={"min_query": 1000}), FakeJudge())
    assert [report.done for report in said] == [False]
    assert "no task has enough interactions" in said[0].failed


def test_a_report_travels_as_plain_data(inputs: Inputs, head: HeadRecipe) -> None:
    for report in tried(inputs, head, FakeJudge()):
        assert Report.from_dict(report.to_dict()) == report


def test_a_probe_trains_a_few_steps_and_no_more(inputs: Inputs, head: HeadRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from metarec.meta.alpaca import Alpaca

    steps, gradient = 0, Alpaca.meta_gradient

    def count(self: Alpaca, *arguments: object) -> object:
        nonlocal steps
        steps += 1
        return gradient(self, *arguments)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Alpaca, "meta_gradient", count)
    cost = probe(inputs, replace(head, epochs=50, batch_size=8, gradient_shards=1), seed=0)
    assert steps <= 4
    assert cost.epochs == 50
    assert cost.epoch > 0
    assert cost.seconds(10) == pytest.approx(cost.start + 10 * cost.epoch)
    assert replace(cost, members=3).seconds(10) == pytest.approx(3 * cost.seconds(10))


def test_what_a_start_takes_is_not_counted_for_each_step(
    inputs: Inputs, head: HeadRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarec.meta.alpaca import Alpaca

    start = Alpaca.init

    def slow(self: Alpaca, *arguments: object) -> object:
        time.sleep(0.5)
        return start(self, *arguments)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Alpaca, "init", slow)
    cost = probe(inputs, replace(head, epochs=50, batch_size=8, gradient_shards=1), seed=0)
    steps = len(inputs.users) / 8
    assert cost.start > 0.4
    assert cost.epoch / steps < 0.25


def test_a_probe_ends_where_an_epoch_is_one_step(inputs: Inputs, head: HeadRecipe) -> None:
    cost = probe(inputs, replace(head, epochs=10_000, batch_size=128), seed=0)
    assert cost.epochs == 10_000
