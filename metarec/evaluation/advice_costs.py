"""What serving a learner costs, as `metarec advise` measures it: requests as the engine gets them, one at a time."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from metarec.adaptation.engine import Engine
from metarec.evaluation.episodes import Episodes
from metarec.meta.prior import Prior
from metarec.types import Features, Interaction

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

TIMED_USERS = 100
WARMING_UP = 5

Request = tuple[tuple[Interaction, ...], Features]
"""Support and profile of one user."""


def serving_costs(prior: Prior, asked: Sequence[Request]) -> dict[str, float]:
    """Median processor time of adapting (`adapt_ms`) and of scoring all items (`score_ms`); `state_bytes` as kept online."""
    engine = Engine(prior)
    adapted = [engine.adapt(support, features) for support, features in asked]
    return {
        "adapt_ms": _median_ms([partial(engine.adapt, *request) for request in asked]),
        "score_ms": _median_ms([partial(engine.scores, user, prior.item_ids) for user in adapted]),
        "state_bytes": float(np.median([len(user.state.encode()) for user in adapted])),
    }


def requests(held_out: "Dataset", episodes: Episodes) -> list[Request]:
    """Those of the first users of some episodes, with all of their support."""
    tasks = episodes.tasks
    found: list[Request] = []
    for task, user in enumerate(tasks.user_T[:TIMED_USERS]):
        rows = slice(*tasks.support_start_T1[task : task + 2])
        support = tuple(
            Interaction(user_id=str(held_out.user_ids[user]), item_id=str(held_out.item_ids[item]), label=float(label))
            for item, label in zip(tasks.support_item_S[rows], tasks.support_label_S[rows], strict=True)
        )
        profile = held_out.users.iloc[int(user)].to_dict()
        found.append((support, {str(name): value for name, value in profile.items() if value is not None}))
    return found


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    """Median processor time of one call, in milliseconds."""
    for call in calls[:WARMING_UP]:
        call()
    seconds = []
    for call in calls:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return 1000 * float(np.median(seconds))
