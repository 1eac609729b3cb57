"""P5: no split leaks, episodes are what the protocol says, and the report compares on equal terms."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.evaluation.temporal import evaluate_temporal, tune_baselines
from metarec.evaluation.temporal_splits import MIN_TARGETS, temporal_splits
from metarec.features.encoder import FeatureEncoder
from metarec.meta.implicit import ImplicitAlpaca
from metarec.meta.prior import Head, Prior
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import label_stats
from metarec.tasks.tables import entity_table

USERS, ITEMS = 60, 40


class Rows(SimpleNamespace):
    """What P5 reads of interactions."""

    user_N: NDArray[np.int32]
    item_N: NDArray[np.int32]
    label_N: NDArray[np.float32]
    timestamp_N: NDArray[np.float64]

    def select(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> "Rows":
        return Rows(**{name: value[mask] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Events:
    """What P5 reads of a data set."""

    interactions: Rows
    users: pd.DataFrame
    item_ids: NDArray[np.str_]
    user_ids: NDArray[np.str_]
    has_timestamps: bool = True
    taken_from: float = -math.inf

    @property
    def taken(self) -> "Events":
        return self.with_interactions(self.interactions.select(self.interactions.label_N >= self.taken_from))

    def with_interactions(self, interactions: Rows) -> "Events":
        return replace(self, interactions=interactions)


class Encoder:
    """Users without features."""

    user_blocks = (("x", 0, 1),)

    def encode_users(self, users: pd.DataFrame) -> NDArray[np.float32]:
        return np.zeros((len(users), 1), np.float32)


def events(seed: int = 0) -> Dataset:
    """Users arrive one after another, in two taste groups; some come back later."""
    random = np.random.default_rng(seed)
    user_N, item_N, time_N = [], [], []
    for user in range(USERS):
        items = random.permutation(ITEMS // 2)[:14] + (ITEMS // 2) * (user % 2)
        back = random.random(14) < 0.3
        user_N += [user] * 14
        item_N += items.tolist()
        time_N += (user * 100 + np.arange(14) + back * 1500).tolist()
    count = len(user_N)
    rows = Rows(
        user_N=np.array(user_N, np.int32),
        item_N=np.array(item_N, np.int32),
        label_N=random.integers(1, 6, count).astype(np.float32),
        timestamp_N=np.array(time_N, np.float64),
    )
    shuffled = rows.select(random.permutation(count))
    users = pd.DataFrame({"gender": ["f", "m"] * (USERS // 2)})
    return cast(
        Dataset, Events(shuffled, users, np.array([f"i{k}" for k in range(ITEMS)]), np.array([f"u{k}" for k in range(USERS)]))
    )


def trainer(train: Dataset, seed: int) -> Prior:
    rows = train.interactions
    known_I = np.isin(np.arange(ITEMS), rows.item_N)
    tables = Tables(
        tasks=entity_table(np.zeros((USERS, 1), np.float32), (("x", 0, 1),), np.ones(USERS, bool)),
        rows=entity_table(np.zeros((ITEMS, 1), np.float32), (("x", 0, 1),), known_I),
    )
    layout = TaskLayout.from_arrays(
        rows.user_N.astype(np.int64),
        rows.item_N.astype(np.int64),
        rows.label_N,
        rows.timestamp_N,
        num_tasks=USERS,
        num_rows=ITEMS,
    )
    learner, model = ImplicitAlpaca(noise_tasks=1.0), CatalogueScorer(embedding_dim=4)
    theta = learner.init(model, tables, torch.Generator().manual_seed(seed), label_stats(layout, tables.rows))
    return Prior(
        schema=cast("None", None),  # type: ignore[arg-type]  # P5 reads no schema
        encoder=cast(FeatureEncoder, Encoder()),
        item_ids=tuple(str(item) for item in train.item_ids),
        items=tables.rows,
        popularity_I=np.zeros(ITEMS, np.float32),
        heads={"implicit": Head(target="implicit", learner=learner, model=model, theta=theta)},
    )


def pairs(rows: Rows) -> set[tuple[int, int]]:
    return set(zip(rows.user_N.tolist(), rows.item_N.tolist(), strict=True))


def test_training_parts_end_before_their_test_parts_which_follow_one_another() -> None:
    data = events()
    splits = temporal_splits(data, (0.5, 0.7, 0.9))
    for split in splits:
        assert split.train.interactions.timestamp_N.max() < split.test.timestamp_N.min()
    for one, two in pairwise(splits):
        assert one.test.timestamp_N.max() < two.test.timestamp_N.min()
        assert len(one.train.interactions.user_N) + len(one.test.user_N) == len(two.train.interactions.user_N)
    last = splits[-1]
    assert len(last.train.interactions.user_N) + len(last.test.user_N) == len(data.interactions.user_N)


def test_interactions_at_the_time_of_a_cut_are_all_test() -> None:
    data = cast(Events, events())
    coarse = Rows(**{**vars(data.interactions), "timestamp_N": np.floor(data.interactions.timestamp_N / 1000)})
    split = temporal_splits(cast(Dataset, data.with_interactions(coarse)), (0.5,))[0]
    assert split.train.interactions.timestamp_N.max() < split.test.timestamp_N.min()


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_cold_episodes_hold_new_users_with_their_first_items_as_support(shots: int) -> None:
    for split in temporal_splits(events(), (0.5, 0.8)):
        known = set(split.train.interactions.user_N.tolist())
        episodes = split.cold(shots)
        assert episodes
        for episode in episodes:
            assert episode.user not in known
            mine = split.test.select(split.test.user_N == episode.user)
            order = np.argsort(mine.timestamp_N, kind="stable")
            assert episode.support_S.tolist() == mine.item_N[order][:shots].tolist()
            assert set(episode.target_Q.tolist()) == set(mine.item_N[order][shots:].tolist())
            assert len(episode.target_Q) >= MIN_TARGETS
            assert not set(episode.support_S.tolist()) & set(episode.target_Q.tolist())


def test_warm_episodes_have_the_training_items_as_support_and_none_of_them_as_target() -> None:
    for split in temporal_splits(events(), (0.5, 0.8)):
        before = pairs(split.train.interactions)
        for episode in split.warm():
            assert {(episode.user, item) for item in episode.support_S.tolist()} <= before
            assert not {(episode.user, item) for item in episode.target_Q.tolist()} & before
            assert (np.diff(episode.timestamp_S) >= 0).all()


def test_trainers_and_tuning_see_nothing_from_after_the_cut() -> None:
    data = events()
    seen: list[float] = []

    def spy(train: Dataset, seed: int) -> Prior:
        seen.append(float(train.interactions.timestamp_N.max()))
        return trainer(train, seed)

    cuts = (0.5, 0.8)
    before = evaluate_temporal(data, {"mine": spy}, ks=(1,), cuts=cuts)
    assert all(latest < split.test.timestamp_N.min() for latest, split in zip(seen, temporal_splits(data, cuts), strict=True))
    # Other events after the last cut change no choice made before it.
    late = data.interactions.timestamp_N >= temporal_splits(data, cuts)[-1].test.timestamp_N.min()
    other = Rows(**{**vars(data.interactions), "item_N": np.where(late, 3, data.interactions.item_N).astype(np.int32)})
    changed = cast(Dataset, cast(Events, data).with_interactions(other))
    assert evaluate_temporal(changed, {"mine": trainer}, ks=(1,), cuts=cuts).tuned == before.tuned


def test_the_report_pools_users_over_cuts() -> None:
    data, cuts = events(), (0.5, 0.8)
    protocols = evaluate_temporal(data, {"mine": trainer}, ks=(0, 3), cuts=cuts, seed=1).protocols
    splits = temporal_splits(data, cuts)
    assert [(p.name, p.base, p.shots) for p in protocols] == [
        ("P5/cold@0", "P5/cold", 0),
        ("P5/cold@3", "P5/cold", 3),
        ("P5/warm", "P5/warm", None),
    ]
    for protocol in protocols[:2]:
        assert {"mine", "popularity", "recent_popularity", "ials", "item_knn", "ease", "popularity_by_gender"} == set(
            protocol.values
        )
        for model, metrics in protocol.summaries.items():
            assert metrics["recall@20"].episodes == sum(len(split.cold(protocol.shots or 0)) for split in splits)
            low, high = protocol.intervals[model]["recall@20"]
            assert low <= metrics["recall@20"].mean <= high
            assert 0 < metrics["coverage@20"].mean <= 1
    delta = protocols[1].deltas["mine"]["ndcg@20"]
    plain = {model: protocols[1].mean(model, "ndcg@20") for model in protocols[1].plain()}
    assert delta.value == pytest.approx(protocols[1].mean("mine", "ndcg@20") / max(plain.values()) - 1)
    assert plain[delta.baseline] == max(plain.values())
    assert delta.interval[0] <= delta.value <= delta.interval[1]


def test_a_second_trainer_gives_delta_joint_and_is_no_baseline() -> None:
    found = evaluate_temporal(events(), {"mine": trainer, "joint": trainer}, ks=(1,), cuts=(0.8,)).protocols[0]
    assert "joint" not in found.plain()
    assert found.deltas_joint["mine"]["ndcg@20"].value == 0
    assert found.deltas["mine"]["ndcg@20"].baseline not in ("joint", "mine")


def test_baselines_are_tuned_for_cold_and_warm_users_apart() -> None:
    chosen = evaluate_temporal(events(), {"mine": trainer}, ks=(1,), cuts=(0.8,)).tuned[0.8]
    assert set(chosen) == {"cold", "warm"}
    assert set(chosen["cold"]) == set(chosen["warm"])


def test_where_all_training_is_of_one_moment_first_candidates_stand() -> None:
    train = replace(events(), has_timestamps=False)
    tuned = tune_baselines(train, (0, 1))
    assert set(tuned) == {"cold", "warm"}
    assert set(tuned["cold"].values()) == {0}


def test_the_same_seed_gives_the_same_report() -> None:
    reports = [evaluate_temporal(events(), {"mine": trainer}, ks=(1,), cuts=(0.7,), seed=3).protocols for _ in range(2)]
    assert repr([p.summaries for p in reports[0]]) == repr([p.summaries for p in reports[1]])
    assert repr([p.intervals for p in reports[0]]) == repr([p.intervals for p in reports[1]])


def test_data_without_timestamps_is_refused_with_a_reason() -> None:
    data = replace(cast(Events, events()), has_timestamps=False)
    with pytest.raises(FailedPreconditionError, match="need timestamps and the dataset has none"):
        temporal_splits(cast(Dataset, data))


@pytest.mark.parametrize("cuts", [(), (0.5, 0.5), (0.0,), (0.9, 1.0)])
def test_cuts_that_do_not_rise_are_refused(cuts: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInputError, match="must rise strictly"):
        temporal_splits(events(), cuts)


def test_further_seeds_need_no_baselines() -> None:
    alone = evaluate_temporal(events(), {"mine": trainer}, ks=(1,), cuts=(0.8,), baselines=False)
    beside = evaluate_temporal(events(), {"mine": trainer}, ks=(1,), cuts=(0.8,))
    assert [protocol.plain() for protocol in alone.protocols] == [[]] * len(alone.protocols)
    assert [p.mean("mine", "ndcg@20") for p in alone.protocols] == [p.mean("mine", "ndcg@20") for p in beside.protocols]
