"""Episodes about items that training has not seen: a share of a dataset's items is hidden, and users who know some of them are
asked for their labels, from a support set of items that were not hidden."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarec.baselines.rating_tasks import RatingTasks, starts
from metarec.errors import FailedPreconditionError
from metarec.evaluation.ablation import Asked
from metarec.evaluation.entities import Entities
from metarec.evaluation.episodes import MAX_QUERY, MIN_QUERY, Episodes, shuffle_key

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Mask = NDArray[np.bool_]

HIDDEN_ITEMS = "hidden_items"
HIDDEN_SHARE = 0.2
MAX_SUPPORT = 50


def hide_items(dataset: "Dataset", seed: int, share: float = HIDDEN_SHARE) -> "tuple[Dataset, Mask]":
    """The dataset without the interactions of a random share of its items, and the mask (I) of those items."""
    seen = np.flatnonzero(np.bincount(dataset.interactions.item_N, minlength=len(dataset.item_ids)))
    count = round(share * len(seen))
    if not 0 < count < len(seen):
        raise FailedPreconditionError(f"a share of {share:g} of {len(seen)} items with interactions hides {count} of them")
    hidden_I = np.zeros(len(dataset.item_ids), bool)
    hidden_I[np.random.default_rng([seed, 31]).permutation(seen)[:count]] = True
    events = dataset.interactions
    return dataset.with_interactions(events.select(~hidden_I[events.item_N])), hidden_I


def ask_for_hidden(dataset: "Dataset", hidden_I: Mask, *, seed: int, max_users: int) -> Asked:
    """An episode each of at most `max_users` users: up to MAX_SUPPORT random interactions with known items, up to MAX_QUERY
    with hidden ones. FailedPreconditionError when no user has a known one and MIN_QUERY hidden ones."""
    rng = np.random.default_rng([seed, 37])
    events = dataset.interactions
    # The latest of a pair's interactions stands.
    by_time = np.argsort(events.timestamp_N, kind="stable")[::-1]
    pair_N = events.user_N[by_time].astype(np.int64) * len(hidden_I) + events.item_N[by_time]
    rows = by_time[np.unique(pair_N, return_index=True)[1]]
    rows = rows[rng.permutation(len(rows))]
    frame = pd.DataFrame({"user": events.user_N[rows], "row": rows, "hidden": hidden_I[events.item_N[rows]]})
    counts = frame.groupby("user")["hidden"].agg(["sum", "count"])
    able = counts.index.to_numpy()[(counts["sum"] >= MIN_QUERY) & (counts["count"] > counts["sum"])]
    if not len(able):
        raise FailedPreconditionError(
            f"no user has {MIN_QUERY} interactions with hidden items and one with a known item; "
            "import more data, or give --episodes"
        )
    users = np.sort(rng.permutation(able)[:max_users])
    frame = frame[frame["user"].isin(users)]
    support = frame[~frame["hidden"]].groupby("user").head(MAX_SUPPORT).sort_values("user", kind="stable")
    query = frame[frame["hidden"]].groupby("user").head(MAX_QUERY)
    names = np.asarray(dataset.item_ids, object)
    key = shuffle_key(names[events.item_N[query["row"]]])
    query = query.iloc[np.lexsort((key, query["user"]))]
    user_ids = tuple(str(dataset.user_ids[user]) for user in users)

    def part(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size_T = np.searchsorted(users, frame["user"].to_numpy())
        return starts(np.bincount(size_T, minlength=len(users)).astype(np.int64)), frame["row"].to_numpy(np.int64)

    def resolve(tables: Entities) -> Episodes:
        (support_start, support_N), (query_start, query_N) = part(support), part(query)
        tasks = RatingTasks(
            user_T=tables.user_rows(user_ids),
            support_start_T1=support_start,
            support_item_S=tables.item_of_row[events.item_N[support_N]],
            support_label_S=events.label_N[support_N].astype(np.float64),
            query_start_T1=query_start,
            query_item_Q=tables.item_of_row[events.item_N[query_N]],
            query_label_Q=events.label_N[query_N].astype(np.float64),
        )
        return Episodes(
            tasks=tasks,
            support_time_S=events.timestamp_N[support_N] if dataset.has_timestamps else None,
            protocol_T=np.full(len(users), HIDDEN_ITEMS, object),
            seed_T=np.full(len(users), seed),
            name_T=np.array(user_ids, object),
        )

    return Asked(user_ids=user_ids, item_ids=(), resolve=resolve)
