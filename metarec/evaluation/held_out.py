"""Top-N on held-out users, with or without timestamps: a first few of their interactions as support, the others to be found."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.registry import topn_candidates
from metarec.errors import FailedPreconditionError
from metarec.evaluation.episodes import MIN_QUERY, Episodes, held_out_episodes
from metarec.evaluation.temporal_splits import TopNEpisode
from metarec.evaluation.topn_models import Scorer, baseline_scorer, choose_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metarec.data.dataset import Dataset

TUNING_FRACTION = 0.1
MAX_TUNING_USERS = 300
EVERYTHING = 10_000
"""Most targets of an episode."""


def draw_held_out(dataset: "Dataset", *, max_shots: int, seed: int, max_users: int, max_query: int) -> Episodes:
    """Episodes of all users in `dataset`, over its own item rows."""
    drawn = held_out_episodes(
        dataset.interactions,
        np.arange(len(dataset.item_ids)),
        np.asarray(dataset.item_ids, object),
        user_ids=np.asarray(dataset.user_ids, object),
        max_shots=max_shots,
        seed=seed,
        max_users=max_users,
        max_query=max_query,
    )
    return replace(drawn, taken_from=dataset.taken_from)


def topn_episodes(episodes: Episodes, shots: int) -> list[TopNEpisode]:
    """The episodes that have something to find as top-N tests with the first `shots` support rows.

    What is to be found, and so who is asked, is the same for every number. FailedPreconditionError where nobody has anything.
    """
    tasks, times = episodes.tasks, episodes.support_time_S
    found = []
    for task in asked_for_lists(episodes).tolist():
        user = tasks.user_T[task]
        first, last = tasks.support_start_T1[task : task + 2]
        rows = slice(int(first), int(min(first + shots, last)))
        query = slice(*tasks.query_start_T1[task : task + 2])
        found.append(
            TopNEpisode(
                user=int(user),
                support_S=tasks.support_item_S[rows],
                label_S=tasks.support_label_S[rows].astype(np.float32),
                timestamp_S=np.zeros(rows.stop - rows.start) if times is None else times[rows],
                target_Q=tasks.query_item_Q[query][tasks.query_label_Q[query] >= episodes.taken_from],
                taken_from=episodes.taken_from,
            )
        )
    return found


def asked_for_lists(episodes: Episodes) -> NDArray[np.int64]:
    """Positions of the episodes with a query row that was taken. FailedPreconditionError where there is none."""
    taken_Q = episodes.tasks.query_label_Q >= episodes.taken_from
    task_N: NDArray[np.int64] = np.unique(episodes.tasks.query_task_Q[taken_Q])
    if not len(task_N):
        raise FailedPreconditionError(
            f"no held-out user has an event of label 1 after their first {int(episodes.tasks.shots_T.max(initial=0))}: "
            "there are no lists to judge; import more data"
        )
    return task_N


def fit_topn_baselines(
    train: "Dataset", *, shots: "Sequence[int]", seed: int, only: "Sequence[str]" = (), max_tuning_interactions: int
) -> dict[str, Scorer]:
    """The plain baselines, tuned on users of `train` held out for it and fitted on all of `train`.

    Candidates are fitted on the interactions of so many users that they stay below `max_tuning_interactions`.
    """
    rng = np.random.default_rng([seed, 29])
    events = train.interactions
    count_U = np.bincount(events.user_N, minlength=len(train.user_ids))
    users = rng.permutation(np.flatnonzero(count_U >= max(shots) + MIN_QUERY))
    held = users[: min(MAX_TUNING_USERS, round(TUNING_FRACTION * len(users)))]
    others = rng.permutation(np.setdiff1d(np.flatnonzero(count_U), held))
    others = others[: max(1, int(np.searchsorted(np.cumsum(count_U[others]), max_tuning_interactions, side="right")))]
    try:
        asked = draw_held_out(
            train.with_interactions(events.select(np.isin(events.user_N, held))),
            max_shots=max(shots),
            seed=seed,
            max_users=MAX_TUNING_USERS,
            max_query=EVERYTHING,
        )
        tests = [topn_episodes(asked, k) for k in shots]
    except FailedPreconditionError:
        tests = []
    inner = train.with_interactions(events.select(np.isin(events.user_N, others)))
    chosen = choose_candidates(inner, {"held_out": tests}, only)["held_out"]
    candidates = topn_candidates(train)
    return {name: baseline_scorer(candidates[name][place]().fit(train)) for name, place in chosen.items()}
