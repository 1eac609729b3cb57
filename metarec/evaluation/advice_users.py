"""Who is held out from all trials of `metarec advise`, to judge them.

Labels are judged on users drawn at random. What users take follows the times, and who is asked about must come after who
is learned from (docs/adr/0008): where there are timestamps, lists are judged on the users who appear after a cut in time, by
learners that know what happened before.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.data.inspection import ASKED, Findings
from metarec.errors import FailedPreconditionError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.data.inspection import Question

SHARE, MOST_SHARE = 0.1, 0.2
WANTED, MOST, FEWEST = 200, 500, 20
"""Users that judge: a tenth of them, up to a fifth where that is fewer than WANTED; MOST at most. With fewer than FEWEST no
difference that a learner makes could be told from noise."""
CUTS = (0.9, 0.8, 0.7, 0.6, 0.5)
ENOUGH_NEW = 100
"""The latest cut with so many users after it is taken, else the one with the most."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What learners may see, what they are asked about, and in words whose it is."""

    learning: "Dataset"
    judging: "Dataset"
    who: str


def hold_out(dataset: "Dataset", findings: Findings, question: "Question", seed: int) -> Held:
    """FailedPreconditionError when too few users have enough interactions to judge and to learn from."""
    events = dataset.interactions
    pair_P = np.unique(events.user_N.astype(np.int64) * len(dataset.item_ids) + events.item_N)
    count_U = np.bincount(pair_P // max(len(dataset.item_ids), 1), minlength=len(dataset.user_ids))
    needed = max(findings.shots) + ASKED
    able_U, those = count_U >= needed, f"{needed} interactions or more"
    if question == "lists" and dataset.schema.label.kind == "binary":
        # Who took nothing has no list to be found.
        able_U &= np.bincount(dataset.taken.interactions.user_N, minlength=len(count_U)) > 0
        those += ", one of label 1 among them"
    all_users = int((count_U > 0).sum())
    if able_U.sum() < 2 * FEWEST:
        raise FailedPreconditionError(
            f"{able_U.sum()} of {all_users} users have {those}, and comparing learners needs {2 * FEWEST} of them, half "
            "to learn from and half to judge; import more data, or train the default recipe and let its gate judge"
        )
    rng = np.random.default_rng([seed, 41])
    new = _new_users(dataset, able_U) if question == "lists" and findings.timestamped else None
    if new is not None:
        cut, time, new_U = new
        chosen_U = _drawn(new_U, MOST, rng)
        learning_N = events.timestamp_N < time
        who = f"users who appear after {cut:.0%} of the interactions, by what was learned before"
    else:
        wanted = round(max(SHARE * all_users, min(WANTED, MOST_SHARE * all_users), FEWEST))
        chosen_U = _drawn(able_U, min(MOST, wanted, int(able_U.sum()) // 2), rng)
        learning_N = ~chosen_U[events.user_N]
        who = "held-out users"
    return Held(
        learning=dataset.with_interactions(events.select(learning_N)),
        judging=dataset.with_interactions(events.select(chosen_U[events.user_N])),
        who=who,
    )


def _new_users(dataset: "Dataset", able_U: NDArray[np.bool_]) -> tuple[float, float, NDArray[np.bool_]] | None:
    """A cut as a share and as a time, and the users (mask U) who appear after it; None where they are too few at every cut, or
    those before it are."""
    events = dataset.interactions
    first_U = np.full(len(able_U), np.inf)
    np.minimum.at(first_U, events.user_N, events.timestamp_N)
    times = np.sort(events.timestamp_N)
    best: tuple[float, float, NDArray[np.bool_]] | None = None
    for cut in CUTS:
        time = float(times[min(len(times) - 1, int(cut * len(times)))])
        new_U = able_U & (first_U >= time)
        if (able_U & (first_U < time)).sum() < FEWEST:
            break  # nor is there anyone to learn from before earlier cuts: most interactions are from the first moment
        if new_U.sum() >= FEWEST and (best is None or new_U.sum() > best[2].sum()):
            best = (cut, time, new_U)
        if new_U.sum() >= ENOUGH_NEW:
            break
    return best


def _drawn(mask_U: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    chosen_U = np.zeros(len(mask_U), bool)
    chosen_U[rng.permutation(np.flatnonzero(mask_U))[:count]] = True
    return chosen_U
