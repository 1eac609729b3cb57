"""The gate tells a trained prior from an untrained one, on held-out users alone."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metarec.data.dataset import Dataset
from metarec.data.schema import Label
from metarec.errors import FailedPreconditionError
from metarec.evaluation.gate import DefaultGate
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint
from metarec.training.gate import Gate
from metarec.training.inputs import split

GATE = DefaultGate(shots=(0, 1, 5))


@pytest.fixture(scope="module")
def prior(tiny_registry: Path) -> Prior:
    return load_checkpoint(tiny_registry)


@pytest.fixture(scope="module")
def parts(tiny_dataset: Dataset) -> tuple[Dataset, Dataset]:
    return split(tiny_dataset, np.arange(len(tiny_dataset.user_ids)) % 8 == 0)


def ruined(prior: Prior) -> Prior:
    """The same prior, two grades too high for everyone and ranking by noise."""
    noise_C = 100 * torch.randn(prior.items.num_codes + 1, generator=torch.Generator().manual_seed(0))
    explicit, implicit = prior.head("explicit"), prior.head("implicit")
    return replace(
        prior,
        heads={
            "explicit": replace(explicit, theta={**explicit.theta, "mu": explicit.theta["mu"] + 2}),
            "implicit": replace(implicit, theta={**implicit.theta, "row.id_bias": noise_C}),
        },
    )


def test_figures_of_learner_and_baselines_stand_behind_the_verdict(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    gate: Gate = GATE
    report = gate(prior, *parts)
    metrics = report.metrics
    assert metrics["delta_mae"] == pytest.approx(
        1 - metrics["mae"] / min(metrics[f"{name}_mae"] for name in ("bias", "bias_als", "item_content_ridge"))
    )
    best = max(value for name, value in metrics.items() if name.endswith("_ndcg@20") and not name.startswith("delta"))
    assert metrics["delta_ndcg@20"] == pytest.approx((metrics["ndcg@20"] - best) / (1 - best))
    assert metrics["delta_mae_low"] <= metrics["delta_mae"] <= metrics["delta_mae_high"]
    shown_worse = metrics["delta_mae_high"] <= 0
    assert report.delta == (min(metrics["delta_mae"], metrics["delta_ndcg@20"]) if shown_worse else metrics["delta_ndcg@20"])
    assert report.passed == (report.delta > 0)
    assert metrics["users"] == 10
    json.dumps(asdict(report))


def test_a_ruined_prior_is_turned_away_and_the_real_one_does_better(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    bad, good = GATE(ruined(prior), *parts), GATE(prior, *parts)
    assert not bad.passed
    assert bad.delta < good.delta


def test_a_rating_head_shown_to_be_worse_decides_whatever_the_ranking(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    explicit = prior.head("explicit")
    noise_C = 100 * torch.randn(prior.items.num_codes + 1, generator=torch.Generator().manual_seed(0))
    worse = replace(explicit, theta={**explicit.theta, "row.id_bias": noise_C})
    report = GATE(replace(prior, heads={**prior.heads, "explicit": worse}), *parts)
    assert report.metrics["delta_mae_high"] < 0
    assert report.delta <= report.metrics["delta_mae"]
    assert not report.passed


def test_where_there_are_times_rankings_are_judged_on_the_users_to_come(
    prior: Prior, parts: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[Dataset] = []

    def retrain(train: Dataset, seed: int) -> Prior:
        trained_on.append(train)
        return prior

    def apart(part: Dataset) -> Dataset:
        events = part.interactions
        return part.with_interactions(replace(events, timestamp_N=events.user_N * 1e6 + events.timestamp_N % 1_000))

    parts = (apart(parts[0]), apart(parts[1]))
    gate = replace(GATE, retrain=retrain)
    assert "cut" not in gate(prior, *parts).metrics
    assert trained_on == []
    monkeypatch.setattr("metarec.evaluation.gate.MIN_COLD_USERS", 1)
    report = gate(prior, *parts)
    (train,) = trained_on
    times = np.sort(np.concatenate([part.interactions.timestamp_N for part in parts]))
    assert train.interactions.timestamp_N.max() < times[int(0.9 * len(times))]
    assert report.metrics["cold_users"] >= 1
    assert report.metrics["cut"] == 0.9


def test_where_hardly_anything_is_from_before_the_users_to_come_held_out_users_judge(
    prior: Prior, parts: tuple[Dataset, Dataset]
) -> None:
    """Nearly all events have the time of a first import: who appears at the cut is new, and nobody was there before."""

    def at_once(part: Dataset) -> Dataset:
        events = part.interactions
        return part.with_interactions(replace(events, timestamp_N=np.where(np.arange(len(events)) == 0, 1e9, 2e9)))

    def retrain(train: Dataset, seed: int) -> Prior:
        raise AssertionError("there is nothing to train on")

    report = replace(GATE, retrain=retrain)(prior, at_once(parts[0]), at_once(parts[1]))
    assert "cut" not in report.metrics
    assert "delta_ndcg@20" in report.metrics


def test_where_hardly_anything_was_taken_before_the_users_to_come_held_out_users_judge(
    prior: Prior, parts: tuple[Dataset, Dataset]
) -> None:
    """Half of the users were shown items before the cut and took none: no lists can be learned from them."""

    def clicks(part: Dataset) -> Dataset:
        events = part.interactions
        late_N = events.user_N >= 40
        label_N, time_N = late_N.astype(np.float32), np.where(late_N, 2e9, 1e9 + np.arange(len(events)))
        schema = replace(part.schema, label=Label(column="clicked", kind="binary"))
        return replace(part, schema=schema, interactions=replace(events, label_N=label_N, timestamp_N=time_N))

    def retrain(train: Dataset, seed: int) -> Prior:
        raise AssertionError("there is nothing to train on")

    lists = replace(prior, heads={"implicit": prior.head("implicit")})
    report = replace(GATE, retrain=retrain)(lists, clicks(parts[0]), clicks(parts[1]))
    assert "cut" not in report.metrics
    assert "delta_ndcg@20" in report.metrics
    # Ten are held out; those of the first half took nothing, so that they have nothing to find.
    assert (report.metrics["users"], report.metrics["list_users"]) == (10.0, 5.0)


def test_labels_that_are_all_alike_are_no_basis_for_a_verdict_on_ratings(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    def alike(part: Dataset) -> Dataset:
        events = part.interactions
        return part.with_interactions(replace(events, label_N=np.full_like(events.label_N, 4)))

    train, held_out = alike(parts[0]), alike(parts[1])
    report = GATE(prior, train, held_out)
    json.dumps(asdict(report), allow_nan=False)
    assert report.delta == report.metrics["delta_ndcg@20"]
    with pytest.raises(FailedPreconditionError, match="all alike"):
        GATE(replace(prior, heads={"explicit": prior.head("explicit")}), train, held_out)


def test_equal_inputs_give_equal_reports(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    assert GATE(prior, *parts) == GATE(prior, *parts)


def test_a_prior_with_one_head_is_judged_by_that_head(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    alone = replace(prior, heads={"explicit": prior.head("explicit")})
    report = GATE(alone, *parts)
    assert report.delta == report.metrics["delta_mae"]
    assert "ndcg@20" not in report.metrics


def test_users_with_too_few_interactions_are_no_basis_for_a_verdict(prior: Prior, parts: tuple[Dataset, Dataset]) -> None:
    train, held_out = parts
    few = held_out.with_interactions(held_out.interactions.select(np.arange(len(held_out.interactions)) < 5))
    with pytest.raises(
        FailedPreconditionError, match="no held-out user has 10 interactions, 5 shots and 5 to predict; ask for fewer"
    ):
        GATE(prior, train, few)
    fewer = held_out.with_interactions(held_out.interactions.select(np.arange(len(held_out.interactions)) < 4))
    with pytest.raises(FailedPreconditionError, match="0 shots and 5 to predict; import more data"):
        replace(GATE, shots=(0,))(prior, train, fewer)
