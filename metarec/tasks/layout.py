"""Interactions as one array sorted by task, so that a task is a slice and sampling is free (META_STEP.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import InvalidInputError
from metarec.types import TaskKind

if TYPE_CHECKING:
    from metarec.data.interactions import Interactions


@dataclass(frozen=True, kw_only=True)
class TaskLayout:
    """Rows of all tasks in compressed-sparse-row form.

    Task t owns `row_N[start_T1[t] : start_T1[t + 1]]`, in time order (input order among equal times). `row_N` (int64) are
    positions of the row entity (items for kind `user`), `label_N` float32, `timestamp_N` float64 seconds, `scenario_N` int16.
    `extra_NK` (float32) are the labels of further targets, NaN where missing; None without any.
    A (task, row) pair occurs once: of repeated interactions the latest stands, or a support set would hold the query's answer.
    """

    kind: TaskKind
    start_T1: NDArray[np.int64]
    row_N: NDArray[np.int64]
    label_N: NDArray[np.float32]
    timestamp_N: NDArray[np.float64]
    scenario_N: NDArray[np.int16]
    num_rows: int
    extra_NK: NDArray[np.float32] | None = None

    @classmethod
    def from_interactions(
        cls,
        interactions: "Interactions",
        *,
        kind: TaskKind = "user",
        num_tasks: int | None = None,
        num_rows: int | None = None,
    ) -> "TaskLayout":
        """Sort interactions by task; `num_tasks` and `num_rows` are the sizes of the entity tables (default: last index + 1)."""
        task_N = np.asarray(interactions.user_N if kind == "user" else interactions.item_N, np.int64)
        row_N = np.asarray(interactions.item_N if kind == "user" else interactions.user_N, np.int64)
        return cls.from_arrays(
            task_N,
            row_N,
            np.asarray(interactions.label_N, np.float32),
            np.asarray(interactions.timestamp_N, np.float64),
            scenario_N=np.asarray(interactions.scenario_N, np.int16),
            kind=kind,
            num_tasks=num_tasks,
            num_rows=num_rows,
            extra_NK=interactions.extra_NK,
        )

    @classmethod
    def from_arrays(
        cls,
        task_N: NDArray[np.int64],
        row_N: NDArray[np.int64],
        label_N: NDArray[np.float32],
        timestamp_N: NDArray[np.float64] | None = None,
        *,
        scenario_N: NDArray[np.int16] | None = None,
        kind: TaskKind = "user",
        num_tasks: int | None = None,
        num_rows: int | None = None,
        extra_NK: NDArray[np.float32] | None = None,
    ) -> "TaskLayout":
        """The same from plain arrays of one length."""
        task_N, row_N = np.asarray(task_N, np.int64), np.asarray(row_N, np.int64)
        count = len(task_N)
        time_N = np.zeros(count) if timestamp_N is None else timestamp_N
        scenario = np.zeros(count, np.int16) if scenario_N is None else scenario_N
        tasks = int(task_N.max(initial=-1)) + 1 if num_tasks is None else num_tasks
        rows = int(row_N.max(initial=-1)) + 1 if num_rows is None else num_rows
        if count and (int(task_N.max()) >= tasks or int(row_N.max()) >= rows or int(task_N.min()) < 0 or int(row_N.min()) < 0):
            raise InvalidInputError(
                f"interactions name entities outside {tasks} tasks and {rows} rows; pass the sizes of both tables"
            )
        # Two stable sorts (by time, then by task) keep the input order among ties.
        order = np.argsort(time_N, kind="stable") if np.any(time_N != time_N[:1]) else np.arange(count)
        order = order[np.argsort(task_N[order].astype(np.int32), kind="stable")]
        key_N = task_N[order] * rows + row_N[order]
        _, last = np.unique(key_N[::-1], return_index=True)
        if len(last) < count:
            order = order[np.sort(count - 1 - last)]
        counts = np.bincount(task_N[order], minlength=tasks)
        return cls(
            kind=kind,
            start_T1=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            row_N=row_N[order].astype(np.int64),
            label_N=label_N[order].astype(np.float32),
            timestamp_N=time_N[order].astype(np.float64),
            scenario_N=scenario[order].astype(np.int16),
            num_rows=rows,
            extra_NK=None if extra_NK is None else np.asarray(extra_NK, np.float32)[order],
        )

    def __len__(self) -> int:
        return len(self.start_T1) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each task."""
        return np.diff(self.start_T1)

    @property
    def row_tasks(self) -> NDArray[np.int64]:
        """The task of each row."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def num_extra(self) -> int:
        """Number of further targets."""
        return 0 if self.extra_NK is None else self.extra_NK.shape[1]

    def of_target(self, number: int) -> "TaskLayout":
        """The rows that have a label of further target `number`, with that as their label."""
        assert self.extra_NK is not None
        found = self.where(~np.isnan(self.extra_NK[:, number]))
        assert found.extra_NK is not None
        return replace(found, label_N=found.extra_NK[:, number], extra_NK=None)

    @property
    def has_timestamps(self) -> bool:
        """Whether events can be ordered in time."""
        return bool(len(self.timestamp_N)) and bool(np.any(self.timestamp_N != self.timestamp_N[0]))

    def rows_of(self, task: int) -> slice:
        """The slice of task `task` in the row arrays."""
        return slice(int(self.start_T1[task]), int(self.start_T1[task + 1]))

    def select(self, tasks: Sequence[int] | NDArray[np.int64]) -> "TaskLayout":
        """The same layout with the rows of all other tasks left out (tasks keep their positions)."""
        keep_T = np.zeros(len(self), bool)
        keep_T[np.asarray(tasks, np.int64)] = True
        return self.where(np.repeat(keep_T, self.counts))

    def where(self, keep_N: NDArray[np.bool_]) -> "TaskLayout":
        """The same layout with only the rows where `keep_N`."""
        counts = np.bincount(self.row_tasks[keep_N], minlength=len(self))
        return TaskLayout(
            kind=self.kind,
            start_T1=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            row_N=self.row_N[keep_N],
            label_N=self.label_N[keep_N],
            timestamp_N=self.timestamp_N[keep_N],
            scenario_N=self.scenario_N[keep_N],
            num_rows=self.num_rows,
            extra_NK=None if self.extra_NK is None else self.extra_NK[keep_N],
        )
