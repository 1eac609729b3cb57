"""The promotion gate (DESIGN 4.3): a checkpoint must beat the plain baselines on users it was not trained on.

Every head is compared with the plain baseline that does best at the same task: the explicit head by mean absolute error (mean
squared error on binary labels, where the absolute one rewards extremes instead of probabilities), the ranking score by nDCG@20
over the whole catalogue; both averaged over k-shot episodes of the held-out users. A head's delta is
(loss of the best baseline - loss of the learner) / loss of the best baseline, a ranking's loss being 1 - nDCG.

The ranking score is what is served, so its delta must be positive: a good rating head must not carry a ranking that is worse than
the most popular items. A rating head beside it must not be shown to be worse than the best baseline (the 95 % interval of its
delta over users lies below 0): a few dozen held-out users cannot tell half a percent. Alone, it must be better.

Rankings follow the times, and a checkpoint trained up to now must not be judged on users of long ago: on MovieLens-100K it loses
to popularity there, while it beats every baseline on the users to come. So where there are timestamps, rankings are judged as in
P5, at one cut: the recipe is trained anew on what happened before and asked for the users that appear after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from metarec.baselines.rating_registry import fit_rating_baselines, task_means
from metarec.baselines.rating_tasks import RatingData
from metarec.baselines.registry import topn_candidates
from metarec.errors import FailedPreconditionError
from metarec.evaluation.bootstrap import Interval, Resampler, delta
from metarec.evaluation.entities import entities
from metarec.evaluation.episodes import MAX_QUERY
from metarec.evaluation.held_out import EVERYTHING, draw_held_out, fit_topn_baselines, topn_episodes
from metarec.evaluation.held_out_links import HeldOutLinks
from metarec.evaluation.metrics import Floats
from metarec.evaluation.predict import predict_episodes
from metarec.evaluation.temporal import Trainer, tune_baselines
from metarec.evaluation.temporal_splits import MIN_TARGETS, TemporalSplit, TopNEpisode, temporal_splits
from metarec.evaluation.topn_models import Scorer, baseline_scorer, learner_scorer, measure
from metarec.meta.prior import Prior
from metarec.threads import beside
from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.evaluation.episodes import Episodes

RATING_BASELINES = ("bias", "bias_als", "item_content_ridge")
TOPN_BASELINES = ("popularity", "recent_popularity", "ials", "item_knn")
CUT = 0.9
"""Share of the interactions, in time order, before the cut at which rankings are judged."""
MIN_COLD_USERS = 20
"""With fewer users after the cut, or to learn from before it, rankings are judged on the held-out users instead."""


@dataclass(frozen=True, kw_only=True)
class DefaultGate:
    """Implements `metarec.training.gate.Gate`; equal inputs give equal reports.

    shots: support sizes over which figures are averaged
    max_users: held-out users asked at most
    max_train: training interactions (of whole users) that baselines are fitted on at most
    max_tuning: training interactions that their settings are chosen on at most
    retrain: trains the recipe's ranking head on a part of the data; None judges rankings on held-out users of whatever time
    """

    shots: tuple[int, ...] = (0, 1, 3, 5, 10)
    max_users: int = 300
    max_train: int = 1_000_000
    max_tuning: int = 100_000
    seed: int = 0
    retrain: Trainer | None = None

    def __call__(self, prior: Prior, train: "Dataset", validation: "Dataset") -> GateReport:
        """FailedPreconditionError when no validation user has enough interactions."""
        if other := [head.target for head in prior.heads.values() if head.kind != "user"]:
            raise FailedPreconditionError(f"the gate judges heads whose tasks are users; those of head '{other[0]}' are items")
        together = train.with_interactions(train.interactions.followed_by(validation.interactions))
        everything = whole_users(together, self.max_train, self.seed)
        train = whole_users(train, self.max_train, self.seed)
        asked = draw_held_out(
            validation, max_shots=max(self.shots), seed=self.seed, max_users=self.max_users, max_query=EVERYTHING
        )
        of_ratings: dict[str, float] = {}
        of_lists: dict[str, float] = {}

        def judge_ratings() -> Interval | None:
            return self._ratings(prior, train, validation, of_ratings) if "explicit" in prior.heads else None

        if "implicit" not in prior.heads:
            if judge_ratings() is None:
                raise FailedPreconditionError("held-out labels are all alike: no baseline errs, so nothing can be judged")
            gain = of_ratings[f"delta_{_error(train)}"]
        else:
            in_time = self._in_time(everything)
            judge_lists: Callable[[], float]
            if in_time is None:
                judge_lists = partial(self._lists, prior, train, asked, of_lists)
            else:  # trained before the two sides begin, with all threads
                judge_lists = partial(self._lists_in_time, in_time, self._retrained(in_time), of_lists)
            with beside(judge_ratings) as judged:
                gain, ratings = judge_lists(), judged.result()
            if ratings is not None and ratings[1] <= 0:
                gain = min(gain, of_ratings[f"delta_{_error(train)}"])
        metrics = {"users": float(len(asked)), **of_ratings, **of_lists}
        return GateReport(delta=gain, passed=gain > 0, metrics=metrics)

    def _ratings(self, prior: Prior, train: "Dataset", validation: "Dataset", metrics: dict[str, float]) -> Interval | None:
        """The interval over users of the ratings' delta, None where no baseline errs; the figures go into `metrics`."""
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
            binary=label.kind == "binary",
        )
        fitted = fit_rating_baselines(data, seed=self.seed, only=RATING_BASELINES, max_tuning_ratings=self.max_tuning)

        def loss(predicted: "Sequence[np.ndarray]") -> Floats:
            errors = [np.abs(np.clip(mean_Q, label.minimum, label.maximum) - asked.tasks.query_label_Q) for mean_Q in predicted]
            errors = [error_Q**2 for error_Q in errors] if label.kind == "binary" else errors
            return np.asarray(np.mean([task_means(error_Q, asked.tasks) for error_Q in errors], axis=0), np.float64)

        drawn = [asked.first_shots(k) for k in self.shots]
        said = [predict_episodes(prior.head("explicit"), tables, part.with_users(np.arange(len(part))))[0] for part in drawn]
        if prior.link is not None:
            label_Q, task_Q = asked.tasks.query_label_Q, asked.tasks.query_task_Q
            links = HeldOutLinks.fitted(prior.link, said, label_Q, task_Q)
            said = [links.probability(mean_Q, task_Q) for mean_Q in said]
        mine_T = loss(said)
        plain = {name: loss([model.predict(part.tasks)[0] for part in drawn]) for name, model in fitted.items()}
        best = min(plain, key=lambda name: float(plain[name].mean()))
        resampler = Resampler.of(np.zeros(len(mine_T)), np.arange(len(mine_T)), seed=self.seed)
        drawn_R = resampler.means({"learner": mine_T, "plain": plain[best]})
        name = _error(train)
        found = delta(name, best, (float(mine_T.mean()), drawn_R["learner"]), (float(plain[best].mean()), drawn_R["plain"]))
        metrics[name] = float(mine_T.mean())
        metrics |= {f"{model}_{name}": float(loss_T.mean()) for model, loss_T in plain.items()}
        if not plain[best].any():
            return None
        metrics |= {f"delta_{name}": found.value, f"delta_{name}_low": found.interval[0], f"delta_{name}_high": found.interval[1]}
        return found.interval

    def _lists(self, prior: Prior, train: "Dataset", asked: "Episodes", metrics: dict[str, float]) -> float:
        tests = [topn_episodes(asked, k) for k in self.shots]
        if len(tests[0]) < len(asked):  # of binary labels, those who took something after their shots
            metrics["list_users"] = float(len(tests[0]))
        size = len(train.item_ids)
        scorers = {"": learner_scorer(prior, train)}
        scorers |= fit_topn_baselines(
            train, shots=self.shots, seed=self.seed, only=TOPN_BASELINES, max_tuning_interactions=self.max_tuning
        )
        return _list_delta(scorers, tests, size, metrics)

    def _in_time(self, everything: "Dataset") -> TemporalSplit | None:
        """The cut at which rankings are judged, or None where that is not possible."""
        if self.retrain is None or not everything.has_timestamps:
            return None
        split = temporal_splits(everything, (CUT,))[0]
        # Where most interactions are from the first moment, or label 1 is new, hardly any lists come before a cut.
        num_known = int((np.bincount(split.train.taken.interactions.user_N) >= MIN_TARGETS).sum())
        return split if min(num_known, len(split.cold(max(self.shots)))) >= MIN_COLD_USERS else None

    def _retrained(self, split: TemporalSplit) -> Scorer:
        """The recipe's ranking head, trained on what happened before the cut."""
        assert self.retrain is not None
        return learner_scorer(self.retrain(split.train, self.seed), split.train)

    def _lists_in_time(self, split: TemporalSplit, retrained: Scorer, metrics: dict[str, float]) -> float:
        tests = [split.cold(k) for k in self.shots]
        metrics |= {"cut": split.cut, "cold_users": float(len(tests[-1]))}
        scorers = {"": retrained}
        candidates = topn_candidates(split.train)
        for name, place in tune_baselines(split.train, self.shots, only=TOPN_BASELINES)["cold"].items():
            scorers[name] = baseline_scorer(candidates[name][place]().fit(split.train))
        return _list_delta(scorers, tests, len(split.train.item_ids), metrics)


def _error(train: "Dataset") -> str:
    """The error by which ratings are judged."""
    return "mse" if train.schema.label.kind == "binary" else "mae"


def _list_delta(
    scorers: Mapping[str, Scorer], tests: Sequence[Sequence[TopNEpisode]], size: int, metrics: dict[str, float]
) -> float:
    """Measure every scorer (the learner's name is empty), note the figures, compare the learner with the best of the others."""
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


def whole_users(train: "Dataset", max_interactions: int, seed: int) -> "Dataset":
    """The interactions of so many random users that they stay within `max_interactions`."""
    events = train.interactions
    if len(events) <= max_interactions:
        return train
    count_U = np.bincount(events.user_N, minlength=len(train.user_ids))
    order = np.random.default_rng([seed, 31]).permutation(len(count_U))
    keep_U = np.zeros(len(count_U), bool)
    keep_U[order[: int(np.searchsorted(np.cumsum(count_U[order]), max_interactions, side="right"))]] = True
    return train.with_interactions(events.select(keep_U[events.user_N]))
