"""Probabilities of users that training held out, by curves that know nothing of these users.

The link of binary labels (metarec.meta.link) is fitted on the very users that held-out figures are of: two numbers, but theirs.
So each of them is judged by a curve fitted on the others (cross-fitting, in folds of users), on the rows of all shots as the link
itself is. Ranking and scores are the head's own and do not change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metarec.evaluation.episodes import Episodes
from metarec.evaluation.metrics import Predictions
from metarec.meta.link import Link, fit_link

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Predictor = Callable[[Episodes], Predictions]

FOLDS = 10
"""Parts of the users, each judged by a curve fitted on the others."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLinks:
    """`links[fold_T[t]]` is for task t."""

    links: tuple[Link, ...]
    fold_T: Ints

    @classmethod
    def fitted(cls, link: Link, scores: Sequence[Floats], label_Q: Floats, task_Q: Ints) -> "HeldOutLinks":
        """Curves in place of `link`, from the scores of the same query rows after each number of shots.

        `link` itself where it was not fitted, or where there are fewer than FOLDS tasks.
        """
        num_tasks = int(task_Q.max(initial=-1)) + 1
        if link.num_tasks == 0 or num_tasks < FOLDS:
            return cls(links=(link,), fold_T=np.zeros(num_tasks, np.int64))
        fold_T = np.arange(num_tasks) % FOLDS
        links = []
        for fold in range(FOLDS):
            others_Q = fold_T[task_Q] != fold
            seen = np.concatenate([score_Q[others_Q] for score_Q in scores])
            links.append(fit_link(seen, np.tile(label_Q[others_Q], len(scores))))
        return cls(links=tuple(links), fold_T=fold_T)

    def probability(self, score_Q: Floats, task_Q: Ints) -> Floats:
        """Of label 1 (Q,)."""
        fold_Q = self.fold_T[task_Q]
        each = np.stack([link.probability(score_Q) for link in self.links])
        return np.asarray(np.take_along_axis(each, fold_Q[None], 0)[0], np.float64)


def judged_by_others(predictors: Sequence[Predictor], link: Link, asked: Sequence[Episodes]) -> list[Predictor]:
    """Predictors of held-out users with cross-fitted probabilities: one for each of `asked`, the same episodes with more and more
    shots."""
    tasks = asked[0].tasks
    scores = [predict(part).score_Q for predict, part in zip(predictors, asked, strict=True)]
    links = HeldOutLinks.fitted(link, scores, tasks.query_label_Q, tasks.query_task_Q)

    def judged(predict: Predictor) -> Predictor:
        def predict_judged(episodes: Episodes) -> Predictions:
            said = predict(episodes)
            p_Q = links.probability(said.score_Q, episodes.tasks.query_task_Q)
            return replace(said, estimate_Q=p_Q, variance_Q=p_Q * (1 - p_Q))

        return predict_judged

    return [judged(predict) for predict in predictors]
