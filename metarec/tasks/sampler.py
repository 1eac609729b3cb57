"""Episodes: random support and query sets of every task, drawn without a Python loop over tasks and resumable at any step.

An epoch is a function of (seed, epoch) alone: tasks are permuted and the rows of each task shuffled once, and step k takes a
fixed range of tasks. Resuming at (epoch, step) therefore gives the batches that an uninterrupted run would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.errors import ConfigError
from metarec.tasks.batch import Batch, Tables, TaskBatch
from metarec.tasks.layout import TaskLayout

Int = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """How episodes are drawn.

    batch_size: tasks of a step
    max_support: support sizes are drawn from 0..max_support (as far as the task's rows allow)
    support_skew: sizes are the integer part of (max_support + 1) * u^support_skew for uniform u: 1 is uniform, more is smaller
    max_query: query rows at most
    min_query: tasks keep at least this many rows for the query set; smaller tasks are not drawn
    order: `random`, or `time`: the support precedes the query in time (a random window when the task is longer), or
        `auto`: `time` where the layout has timestamps
    row_weight: an episode weighs its number of query rows to this power: 0 makes tasks count alike, 1 rows
    """

    batch_size: int = 128
    max_support: int = 90
    max_query: int = 200
    min_query: int = 1
    order: Literal["random", "time", "auto"] = "random"
    row_weight: float = 0.0
    support_skew: float = 1.0

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("max_support", 0), ("max_query", 1), ("min_query", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least {low}", field=name)
        if self.row_weight < 0:
            raise ConfigError(f"row_weight is {self.row_weight}, must not be negative", field="row_weight")
        if self.support_skew <= 0:
            raise ConfigError(f"support_skew is {self.support_skew}, must be positive", field="support_skew")
        if self.order not in ("random", "time", "auto"):
            raise ConfigError(f"order '{self.order}' is unknown; use 'random', 'time' or 'auto'", field="order")


class EpisodeSampler:
    """Draws TaskBatches from a layout; `tables` must match the layout's task and row positions."""

    def __init__(self, layout: TaskLayout, tables: Tables, config: EpisodeConfig, seed: int) -> None:
        if config.order == "time" and not layout.has_timestamps:
            raise ConfigError("order 'time' needs timestamps, the dataset has none; use order 'random'", field="order")
        self.layout, self.tables, self.config, self.seed = layout, tables, config, seed
        self._timed = config.order == "time" or (config.order == "auto" and layout.has_timestamps)
        self._tasks: Int = np.flatnonzero(layout.counts >= config.min_query)

    @property
    def num_tasks(self) -> int:
        """Tasks drawn in an epoch: those with enough rows."""
        return len(self._tasks)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-self.num_tasks // self.config.batch_size)

    def epoch(self, epoch: int, start_step: int = 0, *, rank: int = 0, world_size: int = 1) -> Iterator[TaskBatch]:
        """Batches of `epoch` from `start_step` on; worker `rank` of `world_size` gets every world_size-th task of each batch."""
        config, layout = self.config, self.layout
        rng = np.random.default_rng([self.seed, epoch])
        task_P = rng.permutation(self._tasks)
        count_P = layout.counts[task_P]
        if not self._timed:
            # Sorting by task + uniform in [0, 1) shuffles within tasks and leaves the tasks where they are.
            order_N = np.argsort(layout.row_tasks + rng.random(len(layout.row_N)), kind="stable")
        else:
            order_N = np.arange(len(layout.row_N))
        wanted_P = ((config.max_support + 1) * rng.random(len(task_P)) ** config.support_skew).astype(np.int64)
        support_P = np.minimum(wanted_P, count_P - config.min_query)
        query_P = np.minimum(count_P - support_P, config.max_query)
        spare_P = count_P - support_P - query_P
        first_P = layout.start_T1[task_P]
        if self._timed:
            first_P = first_P + (rng.random(len(task_P)) * (spare_P + 1)).astype(np.int64)
        for step in range(start_step, self.steps_per_epoch):
            part = np.arange(step * config.batch_size, min((step + 1) * config.batch_size, len(task_P)))[rank::world_size]
            yield TaskBatch(
                support=self._gather(order_N, task_P[part], first_P[part], support_P[part]),
                query=self._gather(order_N, task_P[part], first_P[part] + support_P[part], query_P[part]),
                weight_T=torch.from_numpy(query_P[part].astype(np.float32) ** np.float32(config.row_weight)),
            )

    def _gather(self, order_N: Int, task_T: Int, first_T: Int, size_T: Int) -> Batch:
        width = max(1, int(size_T.max(initial=0)))
        step_N = np.arange(width)
        mask_TN = step_N < size_T[:, None]
        at_TN = order_N[np.where(mask_TN, first_T[:, None] + step_N, 0)]
        label_TN, target_TN = np.where(mask_TN, self.layout.label_N[at_TN], np.float32(0)), None
        if self.layout.extra_NK is not None:
            at_TN, mask_TN, label_TN, target_TN = _with_targets(at_TN, mask_TN, label_TN, self.layout.extra_NK)
        return Batch(
            tables=self.tables,
            task_T=torch.from_numpy(task_T.astype(np.int64)),
            row_TN=torch.from_numpy(np.where(mask_TN, self.layout.row_N[at_TN], 0)),
            label_TN=torch.from_numpy(label_TN),
            mask_TN=torch.from_numpy(mask_TN),
            timestamp_TN=(
                torch.from_numpy(np.where(mask_TN, self.layout.timestamp_N[at_TN], 0.0)) if self.layout.has_timestamps else None
            ),
            target_TN=None if target_TN is None else torch.from_numpy(target_TN),
        )


def _with_targets(
    at_TN: Int, mask_TN: NDArray[np.bool_], label_TN: NDArray[np.float32], extra_NK: NDArray[np.float32]
) -> tuple[Int, NDArray[np.bool_], NDArray[np.float32], Int]:
    """Places, mask and labels with a row for every label of an interaction, target by target; and the target of each row."""
    extra_TNK = extra_NK[at_TN]
    there_TNK = mask_TN[..., None] & ~np.isnan(extra_TNK)
    targets = range(extra_NK.shape[1])
    mask_TM = np.concatenate([mask_TN, *(there_TNK[..., k] for k in targets)], 1)
    label_TM = np.concatenate([label_TN, *(extra_TNK[..., k] for k in targets)], 1)
    target_TM = np.repeat(np.arange(len(targets) + 1), at_TN.shape[1])[None].repeat(len(at_TN), 0)
    # What is there moves to the front, so that a target with few labels costs few columns.
    width = max(1, int(mask_TM.sum(1).max(initial=0)))
    front_TM = np.argsort(~mask_TM, axis=1, kind="stable")[:, :width]
    at_TM = np.take_along_axis(np.tile(at_TN, (1, len(targets) + 1)), front_TM, 1)
    mask_TM, label_TM, target_TM = (np.take_along_axis(array, front_TM, 1) for array in (mask_TM, label_TM, target_TM))
    return at_TM, mask_TM, np.where(mask_TM, label_TM, np.float32(0)), np.where(mask_TM, target_TM, 0)
