"""What rating baselines are fitted on and asked: flat arrays, so that thousands of tasks are predicted without a Python loop."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from metarec.data.interactions import Interactions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RatingData:
    """Training ratings, and the content of every entity that may be asked for.

    `user_N`, `item_N` (int64) are rows of `user_UP` and `item_IP` (float32, encoded content); both tables may hold entities
    without ratings, or unknown to the dataset altogether. `minimum` and `maximum` are the range of labels; `binary` ones are 0
    or 1, and what is estimated is a probability.
    """

    user_N: Ints
    item_N: Ints
    label_N: Floats
    user_UP: NDArray[np.float32]
    item_IP: NDArray[np.float32]
    minimum: float
    maximum: float
    binary: bool = False

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_UP)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_IP)

    def select(self, keep_N: NDArray[np.bool_]) -> "RatingData":
        """The same with only the ratings where `keep_N`."""
        return replace(self, user_N=self.user_N[keep_N], item_N=self.item_N[keep_N], label_N=self.label_N[keep_N])

    @classmethod
    def of(
        cls,
        interactions: "Interactions",
        user_UP: NDArray[np.float32],
        item_IP: NDArray[np.float32],
        *,
        minimum: float,
        maximum: float,
        binary: bool = False,
    ) -> "RatingData":
        """The interactions of a dataset; entity tables start with the dataset's own rows."""
        return cls(
            user_N=np.asarray(interactions.user_N, np.int64),
            item_N=np.asarray(interactions.item_N, np.int64),
            label_N=np.asarray(interactions.label_N, np.float64),
            user_UP=user_UP,
            item_IP=item_IP,
            minimum=minimum,
            maximum=maximum,
            binary=binary,
        )


@dataclass(frozen=True, kw_only=True)
class RatingTasks:
    """T tasks with support rows S and query rows Q, each kind flat and sorted by task (compressed sparse rows).

    Task t owns support rows `support_start_T1[t] : support_start_T1[t + 1]`, in the order in which shots are taken, and the
    query rows alike. Users and items are rows of the tables in RatingData.
    """

    user_T: Ints
    support_start_T1: Ints
    support_item_S: Ints
    support_label_S: Floats
    query_start_T1: Ints
    query_item_Q: Ints
    query_label_Q: Floats

    def __len__(self) -> int:
        return len(self.user_T)

    @property
    def support_task_S(self) -> Ints:  # noqa: N802  # shape suffix
        """Task of each support row."""
        return np.repeat(np.arange(len(self)), np.diff(self.support_start_T1))

    @property
    def query_task_Q(self) -> Ints:  # noqa: N802  # shape suffix
        """Task of each query row."""
        return np.repeat(np.arange(len(self)), np.diff(self.query_start_T1))

    @property
    def shots_T(self) -> Ints:  # noqa: N802  # shape suffix
        """Support size of each task."""
        return np.diff(self.support_start_T1)

    def first_shots(self, shots: int) -> "RatingTasks":
        """The same tasks with at most the first `shots` support rows."""
        keep_S = np.arange(len(self.support_item_S)) - self.support_start_T1[self.support_task_S] < shots
        return replace(
            self,
            support_start_T1=starts(np.minimum(self.shots_T, shots)),
            support_item_S=self.support_item_S[keep_S],
            support_label_S=self.support_label_S[keep_S],
        )


def starts(count_T: Ints) -> Ints:
    """Row offsets (T + 1) of tasks with these numbers of rows."""
    return np.concatenate([[0], np.cumsum(count_T)]).astype(np.int64)


def draw_tasks(data: RatingData, *, seed: int, max_support: int = 60, max_query: int = 60) -> RatingTasks:
    """Random tasks from the ratings of `data`, one per user with two ratings or more: a support of random size, the rest query.

    Half of the users get supports of at most ten rows, since few shots are what matters.
    """
    rng = np.random.default_rng(seed)
    order_N = np.lexsort((rng.random(len(data.user_N)), data.user_N))
    user_T, first_T, count_T = np.unique(data.user_N[order_N], return_index=True, return_counts=True)
    enough_T = count_T >= 2
    user_T, first_T, count_T = user_T[enough_T], first_T[enough_T], count_T[enough_T]
    limit_T = np.where(rng.random(len(user_T)) < 0.5, min(10, max_support), max_support)
    shots_T = np.minimum((rng.random(len(user_T)) * (limit_T + 1)).astype(np.int64), count_T - 1)
    asked_T = np.minimum(count_T - shots_T, max_query)

    def rows(begin_T: Ints, size_T: Ints) -> Ints:
        within = np.arange(size_T.sum()) - np.repeat(starts(size_T)[:-1], size_T)
        picked: Ints = order_N[np.repeat(begin_T, size_T) + within]
        return picked

    support_S, query_Q = rows(first_T, shots_T), rows(first_T + shots_T, asked_T)
    return RatingTasks(
        user_T=user_T.astype(np.int64),
        support_start_T1=starts(shots_T),
        support_item_S=data.item_N[support_S],
        support_label_S=data.label_N[support_S],
        query_start_T1=starts(asked_T),
        query_item_Q=data.item_N[query_Q],
        query_label_Q=data.label_N[query_Q],
    )
