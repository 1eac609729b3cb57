"""Who is held out from all trials of `metarec advise`, to judge them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.data.inspection import ASKED, Findings
from metarec.errors import FailedPreconditionError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

SHARE, MOST_SHARE = 0.1, 0.2
WANTED, MOST, FEWEST = 200, 500, 20
"""Users that judge: a tenth of them, up to a fifth where that is fewer than WANTED; MOST at most. With fewer than FEWEST no
difference that a learner makes could be told from noise."""


def judging_users(dataset: "Dataset", findings: Findings, seed: int) -> NDArray[np.bool_]:
    """Mask (U) of the users that judge, drawn from those with as many interactions as the judge asks for.

    FailedPreconditionError when there are too few of them.
    """
    events = dataset.interactions
    pair_P = np.unique(events.user_N.astype(np.int64) * len(dataset.item_ids) + events.item_N)
    count_U = np.bincount(pair_P // max(len(dataset.item_ids), 1), minlength=len(dataset.user_ids))
    needed = max(findings.shots) + ASKED
    able = np.flatnonzero(count_U >= needed)
    all_users = int((count_U > 0).sum())
    wanted = round(max(SHARE * all_users, min(WANTED, MOST_SHARE * all_users), FEWEST))
    count = min(MOST, wanted, len(able) // 2)
    if count < FEWEST:
        raise FailedPreconditionError(
            f"{len(able)} of {all_users} users have {needed} interactions or more, and comparing learners needs {2 * FEWEST} of "
            f"them, half to learn from and half to judge; import more data, or train the default recipe and let its gate judge"
        )
    mask_U = np.zeros(len(dataset.user_ids), bool)
    mask_U[np.random.default_rng([seed, 41]).permutation(able)[:count]] = True
    return mask_U
