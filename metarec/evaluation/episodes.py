"""Episodes as flat arrays: what every model of an evaluation is asked, whoever drew them (a file, or held-out users)."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarec.baselines.rating_tasks import RatingTasks, starts
from metarec.errors import FailedPreconditionError

if TYPE_CHECKING:
    from metarec.data.interactions import Interactions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_QUERY = 5
MAX_QUERY = 100


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """T episodes: `tasks` with users and items as rows of the tables of an evaluation (entities.py), and where they come from.

    `support_time_S` (seconds) is None without timestamps. `protocol_T`, `seed_T` and `name_T` (the episode's id) are what reports
    group by. Query rows stand in an order that knows nothing of their labels, since metrics break ties by it. Lists are to find
    the query rows with a label of `taken_from` or more.
    """

    tasks: RatingTasks
    support_time_S: Floats | None
    protocol_T: NDArray[np.object_]
    seed_T: NDArray[np.generic]
    name_T: NDArray[np.object_]
    taken_from: float = -math.inf

    def __len__(self) -> int:
        return len(self.tasks)

    def first_shots(self, shots: int) -> "Episodes":
        """The same episodes with at most the first `shots` support rows."""
        tasks = self.tasks
        keep_S = np.arange(len(tasks.support_item_S)) - tasks.support_start_T1[tasks.support_task_S] < shots
        times = None if self.support_time_S is None else self.support_time_S[keep_S]
        return replace(self, tasks=tasks.first_shots(shots), support_time_S=times)

    def with_users(self, user_T: Ints) -> "Episodes":
        """The same episodes with users at other rows of another table."""
        return replace(self, tasks=replace(self.tasks, user_T=user_T))


def shuffle_key(ids: NDArray[np.object_]) -> NDArray[np.uint64]:
    """A number per id that orders rows without regard to their labels or to how a file was sorted."""
    return np.asarray(pd.util.hash_array(np.asarray(ids, object), categorize=False), np.uint64)


def held_out_episodes(
    held_out: "Interactions",
    item_of_row: Ints,
    item_ids: NDArray[np.object_],
    *,
    user_ids: NDArray[np.object_],
    max_shots: int,
    seed: int,
    max_users: int,
    max_query: int = MAX_QUERY,
    protocol: str = "held_out",
) -> Episodes:
    """One episode per held-out user: `max_shots` support rows, and up to `max_query` of the rest as queries.

    In time order where there are timestamps (the support is the oldest), else in random order. Users need MIN_QUERY rows after
    their support. `item_of_row` maps the dataset's items to rows of the evaluation's table; of repeated interactions of one
    pair the latest stands. FailedPreconditionError when no user has enough.
    """
    rng = np.random.default_rng([seed, 23])
    time_N = held_out.timestamp_N
    timed = bool(len(time_N)) and bool(np.any(time_N != time_N[0]))
    pair_N = held_out.user_N.astype(np.int64) * len(item_of_row) + held_out.item_N
    by_time = np.argsort(time_N, kind="stable")
    _, last = np.unique(pair_N[by_time][::-1], return_index=True)
    rows = by_time[::-1][last]
    rank_N = time_N[rows] if timed else rng.random(len(rows))
    rows = rows[np.lexsort((shuffle_key(item_ids[held_out.item_N[rows]]), rank_N, held_out.user_N[rows]))]
    user_U, first_U, count_U = np.unique(held_out.user_N[rows], return_index=True, return_counts=True)
    enough = np.flatnonzero(count_U >= max_shots + MIN_QUERY)
    if not len(enough):
        raise FailedPreconditionError(
            f"no held-out user has {max_shots + MIN_QUERY} interactions, {max_shots} shots and {MIN_QUERY} to predict; "
            f"{'ask for fewer shots or ' if max_shots else ''}import more data"
        )
    chosen = np.sort(rng.permutation(enough)[:max_users])
    user_T, first_T, asked_T = user_U[chosen], first_U[chosen], np.minimum(count_U[chosen] - max_shots, max_query)
    support_S = rows[slices(first_T, np.full(len(chosen), max_shots))]
    query_Q = rows[slices(first_T + max_shots, asked_T)]
    task_Q = np.repeat(np.arange(len(chosen)), asked_T)
    query_Q = query_Q[np.lexsort((shuffle_key(item_ids[held_out.item_N[query_Q]]), task_Q))]
    tasks = RatingTasks(
        user_T=user_T.astype(np.int64),
        support_start_T1=starts(np.full(len(chosen), max_shots)),
        support_item_S=item_of_row[held_out.item_N[support_S]],
        support_label_S=held_out.label_N[support_S].astype(np.float64),
        query_start_T1=starts(asked_T),
        query_item_Q=item_of_row[held_out.item_N[query_Q]],
        query_label_Q=held_out.label_N[query_Q].astype(np.float64),
    )
    names = np.array([str(user_ids[user]) for user in user_T], object)
    return Episodes(
        tasks=tasks,
        support_time_S=time_N[support_S] if timed else None,
        protocol_T=np.full(len(chosen), protocol, object),
        seed_T=np.full(len(chosen), seed),
        name_T=names,
    )


def slices(first_T: Ints, size_T: Ints) -> Ints:
    """Positions first, first + 1, ... of every task, one after another."""
    within = np.arange(int(size_T.sum())) - np.repeat(starts(size_T)[:-1], size_T)
    return np.repeat(first_T, size_T).astype(np.int64) + within
