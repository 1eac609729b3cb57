"""What a trained head says about the query rows of episodes, thousands at a time."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.evaluation.episodes import Episodes
from metarec.meta.prior import Head
from metarec.tasks.batch import Batch, Tables

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK_ROWS = 65_536
"""Padded support and query rows of one batch: bounds memory to CHUNK_ROWS x D."""


def predict_episodes(
    head: Head, tables: Tables, episodes: Episodes, *, support_target_S: Ints | None = None, query_target: int = 0
) -> tuple[Floats, Floats | None]:
    """Mean (Q,) of every query row after adaptation to its episode's support, and its variance where the head has one.

    Of a head of several targets, `support_target_S` says whose labels the support rows have, and `query_target` what is asked.
    """
    head = head.prepared(tables.rows)
    tasks = episodes.tasks
    shots_T, asked_T = tasks.shots_T, np.diff(tasks.query_start_T1)
    mean_Q = np.zeros(len(tasks.query_item_Q))
    variance_Q = np.zeros(len(tasks.query_item_Q))
    has_variance = False
    # Tasks of like size share a batch, so that little is padded.
    for part_T in _chunks(np.lexsort((shots_T, asked_T)), shots_T + asked_T):
        rows = _Rows(
            tasks.support_start_T1, tasks.support_item_S, tasks.support_label_S, episodes.support_time_S, support_target_S
        )
        support = _batch(tables, tasks.user_T, part_T, rows)
        query = _batch(tables, tasks.user_T, part_T, _Rows(tasks.query_start_T1, tasks.query_item_Q))
        if query_target:
            query = replace(query, target_TN=torch.full_like(query.row_TN, query_target))
        with torch.no_grad():
            fast = head.learner.adapt(head.model, head.theta, support)
            said = head.learner.predict(head.model, head.theta, fast, query)
        mask_TQ = query.mask_TN.numpy()
        place_Q = (tasks.query_start_T1[part_T][:, None] + np.arange(mask_TQ.shape[1]))[mask_TQ]
        mean_Q[place_Q] = said.mean_TQ.detach().double().numpy()[mask_TQ]
        if said.variance_TQ is not None:
            has_variance = True
            variance_Q[place_Q] = said.variance_TQ.detach().double().numpy()[mask_TQ]
    return mean_Q, variance_Q if has_variance else None


def _chunks(order_T: Ints, size_T: Ints) -> list[Ints]:
    """Consecutive tasks whose padded rows stay within CHUNK_ROWS; at least one task each."""
    found, first = [], 0
    while first < len(order_T):
        widest_T = np.maximum.accumulate(size_T[order_T[first : first + CHUNK_ROWS]])
        padded_T = widest_T * np.arange(1, len(widest_T) + 1)
        count = max(1, int(np.searchsorted(padded_T, CHUNK_ROWS, side="right")))
        found.append(order_T[first : first + count])
        first += count
    return found


class _Rows(NamedTuple):
    start_T1: Ints
    item_N: Ints
    label_N: Floats | None = None
    time_N: Floats | None = None
    target_N: Ints | None = None


def _batch(tables: Tables, user_T: Ints, part_T: Ints, rows: _Rows) -> Batch:
    start_T1 = rows.start_T1
    size_T = start_T1[part_T + 1] - start_T1[part_T]
    place_TN = np.arange(max(1, int(size_T.max(initial=0))))
    mask_TN = place_TN < size_T[:, None]
    at_TN = np.where(mask_TN, start_T1[part_T][:, None] + place_TN, 0)

    def padded(values: NDArray[np.generic] | None, dtype: type[np.generic]) -> torch.Tensor:
        if values is None or not len(values):
            return torch.from_numpy(np.zeros(mask_TN.shape, dtype))
        return torch.from_numpy(np.where(mask_TN, values[at_TN], 0).astype(dtype))

    return Batch(
        tables=tables,
        task_T=torch.from_numpy(user_T[part_T]),
        row_TN=padded(rows.item_N, np.int64),
        label_TN=padded(rows.label_N, np.float32),
        mask_TN=torch.from_numpy(mask_TN),
        timestamp_TN=None if rows.time_N is None else padded(rows.time_N, np.float64),
        target_TN=None if rows.target_N is None else padded(rows.target_N, np.int64),
    )
