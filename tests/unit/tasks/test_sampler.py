from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from metarec.errors import ConfigError
from metarec.tasks.batch import Tables, TaskBatch
from metarec.tasks.layout import TaskLayout
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.tables import entity_table

CONFIG = EpisodeConfig(batch_size=4, max_support=5, max_query=3, min_query=2)


def sampler(config: EpisodeConfig = CONFIG, *, seed: int = 0, timed: bool = False) -> EpisodeSampler:
    rng = np.random.default_rng(9)
    counts = np.array([0, 1, 2, 3, 9, 9, 9, 20, 7, 5, 4])
    task_N = np.repeat(np.arange(len(counts)), counts)
    row_N = np.concatenate([rng.permutation(30)[:n] for n in counts])
    time_N = rng.permutation(len(task_N)).astype(np.float64) + 1 if timed else None
    layout = TaskLayout.from_arrays(task_N, row_N, (row_N % 5 + 1).astype(np.float32), time_N, num_rows=30)

    def table(size: int):  # type: ignore[no-untyped-def]  # an EntityTable without content
        return entity_table(np.zeros((size, 1), np.float32), (("none", 0, 1),), np.ones(size, bool))

    return EpisodeSampler(layout, Tables(tasks=table(len(counts)), rows=table(30)), config, seed)


def same(left: TaskBatch, right: TaskBatch) -> bool:
    return all(
        torch.equal(getattr(getattr(left, part), name), getattr(getattr(right, part), name))
        for part in ("support", "query")
        for name in ("task_T", "row_TN", "label_TN", "mask_TN")
    )


def test_an_epoch_is_determined_by_seed_and_number() -> None:
    first, again = list(sampler().epoch(3)), list(sampler().epoch(3))
    assert all(same(one, two) for one, two in zip(first, again, strict=True))
    assert not same(first[0], next(sampler().epoch(4)))
    assert not same(first[0], next(sampler(seed=1).epoch(3)))


def test_an_epoch_resumes_at_any_step() -> None:
    whole = list(sampler().epoch(1))
    for start in range(len(whole) + 1):
        rest = list(sampler().epoch(1, start))
        assert len(rest) == len(whole) - start
        assert all(same(one, two) for one, two in zip(whole[start:], rest, strict=True))


def test_every_task_with_enough_rows_is_drawn_once() -> None:
    drawn = Counter(t for batch in sampler().epoch(0) for t in batch.query.task_T.tolist())
    assert drawn == Counter(range(2, 11))
    assert sampler().steps_per_epoch == 3


def test_support_and_query_are_disjoint_rows_of_the_task_with_their_labels() -> None:
    source = sampler()
    for batch in (batch for epoch in range(5) for batch in source.epoch(epoch)):
        for k, task in enumerate(batch.query.task_T.tolist()):
            support = batch.support.row_TN[k][batch.support.mask_TN[k]].tolist()
            query = batch.query.row_TN[k][batch.query.mask_TN[k]].tolist()
            own = source.layout.row_N[source.layout.rows_of(task)].tolist()
            assert not set(support) & set(query)
            assert set(support) | set(query) <= set(own)
            assert len(support) <= 5
            assert min(2, len(own)) <= len(query) <= 3
            labels = batch.query.label_TN[k][batch.query.mask_TN[k]].tolist()
            assert labels == [row % 5 + 1 for row in query]


def test_padding_is_zero() -> None:
    for batch in sampler().epoch(0):
        for part in (batch.support, batch.query):
            assert not part.row_TN[~part.mask_TN].any()
            assert not part.label_TN[~part.mask_TN].any()
            assert part.timestamp_TN is None


def test_support_sizes_range_from_zero_to_the_most() -> None:
    source = sampler()
    sizes = {n for epoch in range(60) for batch in source.epoch(epoch) for n in batch.support.mask_TN.sum(1).tolist()}
    assert sizes == set(range(6))


def test_workers_share_the_tasks_of_every_batch() -> None:
    whole = list(sampler().epoch(0))
    parts = [list(sampler().epoch(0, rank=rank, world_size=2)) for rank in range(2)]
    for k, batch in enumerate(whole):
        shared = [task for part in parts for task in part[k].query.task_T.tolist()]
        assert sorted(shared) == sorted(batch.query.task_T.tolist())


def test_in_time_order_the_support_precedes_the_query() -> None:
    source = sampler(EpisodeConfig(batch_size=4, max_support=5, max_query=3, min_query=2, order="time"), timed=True)
    starts = set()
    for batch in (batch for epoch in range(20) for batch in source.epoch(epoch)):
        assert batch.support.timestamp_TN is not None
        assert batch.query.timestamp_TN is not None
        for k, task in enumerate(batch.query.task_T.tolist()):
            support = batch.support.timestamp_TN[k][batch.support.mask_TN[k]].tolist()
            query = batch.query.timestamp_TN[k][batch.query.mask_TN[k]].tolist()
            assert support + query == sorted(support + query)
            if task == 7:
                starts.add((support + query)[0])
    assert len(starts) > 5


def test_time_order_needs_timestamps() -> None:
    with pytest.raises(ConfigError, match="needs timestamps"):
        sampler(EpisodeConfig(order="time"))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="max_query is 0"):
        EpisodeConfig(max_query=0)
    with pytest.raises(ConfigError, match="'sideways'"):
        EpisodeConfig(order="sideways")  # type: ignore[arg-type]  # wrong on purpose


def test_drawing_stops_where_the_caller_stops() -> None:
    assert len(list(islice(sampler().epoch(0), 1))) == 1


def test_episodes_weigh_by_their_query_rows_when_asked() -> None:
    config = EpisodeConfig(batch_size=4, max_support=5, max_query=3, min_query=2, row_weight=0.5)
    for batch in sampler(config).epoch(0):
        torch.testing.assert_close(batch.weight_T, batch.query.mask_TN.sum(1).float().sqrt())
    assert all(bool((batch.weight_T == 1).all()) for batch in sampler().epoch(0))


def test_skew_makes_small_supports_more_frequent() -> None:
    def mean_size(skew: float) -> float:
        source = sampler(EpisodeConfig(batch_size=20, max_support=5, min_query=1, support_skew=skew))
        return float(np.mean([float(b.support.mask_TN.sum()) for epoch in range(30) for b in source.epoch(epoch)]))

    assert mean_size(3.0) < mean_size(1.0) < mean_size(0.3)


def test_every_label_of_an_interaction_is_a_row_on_the_same_side() -> None:
    extra_NK = np.array([[0.5, np.nan], [np.nan, np.nan], [np.nan, 9.0], [0.25, 8.0], [0.125, np.nan], [np.nan, 7.0]], np.float32)
    label_N = np.arange(1.0, 7.0, dtype=np.float32)
    task_N, row_N = np.array([0, 0, 0, 0, 1, 1]), np.array([3, 1, 2, 0, 1, 3])
    layout = TaskLayout.from_arrays(task_N, row_N, label_N, num_rows=4, extra_NK=extra_NK)
    given = {
        (int(task), int(row), target): float(value)
        for task, row, values in zip(task_N, row_N, np.column_stack([label_N, extra_NK]), strict=True)
        for target, value in enumerate(values)
        if not np.isnan(value)
    }

    def table(size: int):  # type: ignore[no-untyped-def]  # an EntityTable without content
        return entity_table(np.zeros((size, 1), np.float32), (("none", 0, 1),), np.ones(size, bool))

    config = EpisodeConfig(batch_size=2, max_support=2, min_query=1)
    source = EpisodeSampler(layout, Tables(tasks=table(2), rows=table(4)), config, 0)
    sizes = set()
    for epoch in range(8):
        for tasks in source.epoch(epoch):
            found: dict[tuple[int, int, int], float] = {}
            sides = {"support": set(), "query": set()}  # type: ignore[var-annotated]  # pairs of task and row
            for side in sides:
                batch = getattr(tasks, side)
                for t, n in batch.mask_TN.nonzero().tolist():
                    pair = int(batch.task_T[t]), int(batch.row_TN[t, n])
                    found[(*pair, int(batch.target_TN[t, n]))] = float(batch.label_TN[t, n])
                    sides[side].add(pair)
                assert bool((batch.label_TN[~batch.mask_TN] == 0).all())
                sizes.add(batch.row_TN.shape[1])
            assert found == given
            assert not sides["support"] & sides["query"]
    assert max(sizes) <= 8, "columns that no task uses are left out"
