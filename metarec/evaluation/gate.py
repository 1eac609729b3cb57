"""The promotion gate (DESIGN 4.3): a checkpoint must beat the plain baselines on users it was not trained on.

Every head is compared with the plain baseline that does best at the same task: the explicit head by mean absolute error, the
ranking score by nDCG@20 over the whole catalogue; both averaged over k-shot episodes of the held-out users. A head's delta is
(loss of the best baseline - loss of the learner) / loss of the best baseline, a ranking's loss being 1 - nDCG. The weaker head
decides: a good rating head must not carry a ranking that is worse than the most popular items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metarec.baselines.rating_registry import fit_rating_baselines, task_means
from metarec.baselines.rating_tasks import RatingData
from metarec.evaluation.entities import entities
from metarec.evaluation.episodes import MAX_QUERY
from metarec.evaluation.held_out import EVERYTHING, draw_held_out, fit_topn_baselines, topn_episodes
from metarec.evaluation.predict import predict_episodes
from metarec.evaluation.topn_models import learner_scorer, measure
from metarec.meta.prior import Prior
from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.evaluation.episodes import Episodes

RATING_BASELINES = ("bias", "bias_als", "item_content_ridge")
TOPN_BASELINES = ("popularity", "recent_popularity", "ials", "item_knn")


@dataclass(frozen=True, kw_only=True)
class DefaultGate:
    """Implements `metarec.training.gate.Gate`; equal inputs give equal reports.

    shots: support sizes over which figures are averaged
    max_users: held-out users asked at most
    max_train: training interactions (of whole users) that baselines are fitted on at most
    max_tuning: training interactions that their settings are chosen on at most
    """

    shots: tuple[int, ...] = (0, 1, 3, 5, 10)
    max_users: int = 300
    max_train: int = 1_000_000
    max_tuning: int = 100_000
    seed: int = 0

    def __call__(self, prior: Prior, train: "Dataset", validation: "Dataset") -> GateReport:
        """FailedPreconditionError when no validation user has enough interactions."""
        train = _whole_users(train, self.max_train, self.seed)
        asked = draw_held_out(
            validation, max_shots=max(self.shots), seed=self.seed, max_users=self.max_users, max_query=EVERYTHING
        )
        metrics: dict[str, float] = {"users": float(len(asked))}
        deltas = []
        if "explicit" in prior.heads:
            deltas.append(self._ratings(prior, train, validation, metrics))
        if "implicit" in prior.heads:
            deltas.append(self._lists(prior, train, asked, metrics))
        delta = min(deltas)
        return GateReport(delta=delta, passed=delta > 0, metrics=metrics)

    def _ratings(self, prior: Prior, train: "Dataset", validation: "Dataset", metrics: dict[str, float]) -> float:
        asked = draw_held_out(
            validation, max_shots=max(self.shots), seed=self.seed, max_users=self.max_users, max_query=MAX_QUERY
        )
        label = train.schema.label
        tables = entities(prior, train, (str(user) for user in train.user_ids[asked.tasks.user_T])).tables
        data = RatingData.of(
            train.interactions,
            np.zeros((len(train.user_ids), 0), np.float32),
            prior.items.dense_NP.numpy(),
            minimum=label.minimum,
            maximum=label.maximum,
        )
        fitted = fit_rating_baselines(data, seed=self.seed, only=RATING_BASELINES, max_tuning_ratings=self.max_tuning)

        def loss(predicted: "Sequence[np.ndarray]") -> float:
            errors = [np.abs(np.clip(mean_Q, label.minimum, label.maximum) - asked.tasks.query_label_Q) for mean_Q in predicted]
            return float(np.mean([task_means(error_Q, asked.tasks).mean() for error_Q in errors]))

        drawn = [asked.first_shots(k) for k in self.shots]
        mine = loss(
            [predict_episodes(prior.head("explicit"), tables, part.with_users(np.arange(len(part))))[0] for part in drawn]
        )
        plain = {name: loss([model.predict(part.tasks)[0] for part in drawn]) for name, model in fitted.items()}
        metrics["mae"] = mine
        metrics |= {f"{name}_mae": value for name, value in plain.items()}
        metrics["delta_mae"] = 1 - mine / min(plain.values())
        return metrics["delta_mae"]

    def _lists(self, prior: Prior, train: "Dataset", asked: "Episodes", metrics: dict[str, float]) -> float:
        tests = [topn_episodes(asked, k) for k in self.shots]
        size = len(train.item_ids)
        scorers = {"": learner_scorer(prior, train)}
        scorers |= fit_topn_baselines(
            train, shots=self.shots, seed=self.seed, only=TOPN_BASELINES, max_tuning_interactions=self.max_tuning
        )
        reached = {}
        for name, scorer in scorers.items():
            found = [measure(scorer, test, size) for test in tests]
            reached[name] = [float(np.mean([getattr(part, key).mean() for part in found])) for key in ("recall_U", "ndcg_U")]
        for name, (recall, ndcg) in reached.items():
            prefix = f"{name}_" if name else ""
            metrics |= {f"{prefix}recall@20": recall, f"{prefix}ndcg@20": ndcg}
        best = max(ndcg for name, (_, ndcg) in reached.items() if name)
        metrics["delta_ndcg@20"] = (reached[""][1] - best) / max(1 - best, 1e-9)
        return metrics["delta_ndcg@20"]


def _whole_users(train: "Dataset", max_interactions: int, seed: int) -> "Dataset":
    """The interactions of so many random users that they stay within `max_interactions`."""
    events = train.interactions
    if len(events) <= max_interactions:
        return train
    count_U = np.bincount(events.user_N, minlength=len(train.user_ids))
    order = np.random.default_rng([seed, 31]).permutation(len(count_U))
    keep_U = np.zeros(len(count_U), bool)
    keep_U[order[: int(np.searchsorted(np.cumsum(count_U[order]), max_interactions, side="right"))]] = True
    return train.with_interactions(events.select(keep_U[events.user_N]))
