"""Metrics of predicted labels: one value per episode, then averaged over episodes, then over seeds.

Query rows are flat and sorted by episode; `start_T1` holds the row offsets. Equal scores keep the order of the rows, so
whoever makes the rows decides about ties (episodes.py puts them in an order that knows nothing of the labels).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from metarec.errors import InvalidInputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CUTOFFS = (1, 3, 5, 10)
ERRORS = ("mae", "rmse", "mse")
LOWER_IS_BETTER = frozenset({*ERRORS, "logloss"})
RELEVANT_SHARE = 0.75
"""A label counts as relevant from this share of the range of labels on: 4 of 1..5, and 1 of 0..1."""
SMALLEST_PROBABILITY = 1e-6
MOST_GRADES = 10.0
"""Labels above this are no grades any more: with a gain of 2^label the one highest label of an episode decides alone."""


@dataclass(frozen=True, kw_only=True)
class LabelScale:
    """The range of labels; `integer` where labels are whole grades (so that a median and grade probabilities exist)."""

    minimum: float
    maximum: float
    integer: bool
    binary: bool = False

    @property
    def relevant_from(self) -> float:
        """The smallest label that counts as relevant."""
        return self.minimum + RELEVANT_SHARE * (self.maximum - self.minimum)

    @property
    def steep(self) -> bool:
        """Whether gains of 2^label say little, so that people are shown nDCG of linear gain."""
        return self.maximum - min(0.0, self.minimum) > MOST_GRADES

    @property
    def has_median(self) -> bool:
        """Whether the median of the discrete predictive distribution is another estimate than the mean."""
        return self.integer and not self.binary


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says about Q query rows.

    `score_Q` ranks them; `estimate_Q` (None for pure rankers) estimates the label, within its range; `variance_Q` is the
    predictive variance of the label, None when the model has none.
    """

    score_Q: Floats
    estimate_Q: Floats | None = None
    variance_Q: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric over a protocol: the mean over seeds of the mean over episodes, its sample deviation over seeds (0 for one seed),
    and the number of episodes in which the metric is defined."""

    mean: float
    sd: float
    episodes: int

    def to_dict(self) -> dict[str, float]:
        """As in PROTOCOLS P6."""
        return {"mean": self.mean, "sd": self.sd, "episodes": self.episodes}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Query rows in order of falling score within their episodes: `row_Q` their positions, `rank_Q` 0 for the best."""

    row_Q: Ints
    rank_Q: Ints
    episode_Q: Ints
    size_T: Ints = field(repr=False)


def episode_metrics(start_T1: Ints, label_Q: Floats, predictions: Predictions, scale: LabelScale) -> dict[str, Floats]:
    """Every metric that the predictions allow, by name: values (T,), nan in episodes where it is not defined.

    Errors are of the estimate. nDCG@k ranks by score with gain 2^label - 1 (`ndcg@k`) or label (`ndcg_linear@k`) and discount
    log2(rank + 1); labels below 0 are shifted to start at 0. `auc`, `logloss`, `precision@k` (over the length of the list),
    `recall@k` and `mrr@k` are about relevance: auc needs both kinds of row, recall and mrr a relevant one. The probability
    in `logloss` is that of a Gaussian beyond the cut of relevance, or the estimate itself for binary labels.
    """
    if len(label_Q) != start_T1[-1] or len(predictions.score_Q) != len(label_Q):
        raise InvalidInputError(
            f"{len(predictions.score_Q)} scores for {len(label_Q)} labels in {start_T1[-1]} rows", field="score"
        )
    episode_Q = np.repeat(np.arange(len(start_T1) - 1), np.diff(start_T1))
    relevant_Q = label_Q >= scale.relevant_from
    found: dict[str, Floats] = {}
    if predictions.estimate_Q is not None:
        found |= _errors(episode_Q, start_T1, label_Q, predictions.estimate_Q)
    found |= ranking_metrics(start_T1, label_Q, predictions.score_Q, relevant_Q, scale)
    probability_Q = relevance_probability(predictions, scale)
    if probability_Q is not None:
        found["logloss"] = _mean(episode_Q, start_T1, _log_loss(relevant_Q, probability_Q))
    return found


def ranking_metrics(
    start_T1: Ints, label_Q: Floats, score_Q: Floats, relevant_Q: NDArray[np.bool_], scale: LabelScale
) -> dict[str, Floats]:
    """The metrics that only look at the order of scores."""
    ranking = rank(start_T1, score_Q)
    ideal = rank(start_T1, label_Q)
    grade_Q = label_Q - min(0.0, scale.minimum)
    found: dict[str, Floats] = {}
    # Relative to the highest label of the episode, which a ratio does not know of: 2^label itself may be too large for a number.
    top_T = np.zeros(len(start_T1) - 1)
    np.maximum.at(top_T, ideal.episode_Q, grade_Q)
    top_Q = top_T[ideal.episode_Q]
    for name, gain_Q in (("ndcg", np.exp2(grade_Q - top_Q) - np.exp2(-top_Q)), ("ndcg_linear", grade_Q)):
        for cutoff in CUTOFFS:
            found[f"{name}@{cutoff}"] = _ratio(_dcg(ranking, gain_Q, cutoff), _dcg(ideal, gain_Q, cutoff))
    found["auc"] = _auc(start_T1, score_Q, relevant_Q)
    hit_Q = relevant_Q[ranking.row_Q].astype(np.float64)
    tasks = len(ranking.size_T)
    relevant_T = np.bincount(ranking.episode_Q, hit_Q, minlength=tasks)
    for cutoff in CUTOFFS:
        seen_Q = hit_Q * (ranking.rank_Q < cutoff)
        hits_T = np.bincount(ranking.episode_Q, seen_Q, minlength=tasks)
        found[f"precision@{cutoff}"] = _ratio(hits_T, np.minimum(ranking.size_T, cutoff))
        found[f"recall@{cutoff}"] = _ratio(hits_T, relevant_T)
        reciprocal_T = np.zeros(tasks)
        np.maximum.at(reciprocal_T, ranking.episode_Q, seen_Q / (ranking.rank_Q + 1))
        found[f"mrr@{cutoff}"] = np.where(relevant_T > 0, reciprocal_T, np.nan)
    return found


def rank(start_T1: Ints, score_Q: Floats) -> Ranking:
    """Order within episodes by falling score; equal scores keep the order of the rows."""
    size_T = np.diff(start_T1)
    episode_Q = np.repeat(np.arange(len(size_T)), size_T)
    row_Q = np.lexsort((-score_Q, episode_Q))
    return Ranking(row_Q=row_Q, rank_Q=np.arange(len(row_Q)) - start_T1[episode_Q], episode_Q=episode_Q, size_T=size_T)


def relevance_probability(predictions: Predictions, scale: LabelScale) -> Floats | None:
    """Probability that a row is relevant; None when the model says nothing about it."""
    if scale.binary:
        return predictions.estimate_Q
    if predictions.variance_Q is None or predictions.estimate_Q is None:
        return None
    # Whole grades are seen as rounded, so the cut lies half-way below the first relevant one.
    cut = np.ceil(scale.relevant_from) - 0.5 if scale.integer else scale.relevant_from
    probability: Floats = ndtr((predictions.score_Q - cut) / np.sqrt(np.maximum(predictions.variance_Q, 1e-12)))
    return probability


def shown_ndcg(*, steep: bool) -> str:
    """The nDCG that people are shown."""
    return "ndcg_linear@5" if steep else "ndcg@5"


def leading(metrics: Mapping[str, float], *, binary: bool, steep: bool) -> tuple[str, str]:
    """The two metrics that sum judged labels up, of those of the learner: its error and how good its order is.

    Of binary labels AUC, by which `metarec advise` and P3 judge, and the log loss: a mean absolute error is lowest for whoever
    says 0 or 1. A head that only ranks has no error, and where all labels are alike no order is better than another.
    """
    order = shown_ndcg(steep=steep)
    if not binary or "logloss" not in metrics:
        return "mae" if "mae" in metrics else "auc", order
    return ("logloss", order) if np.isnan(metrics["auc"]) else ("auc", "logloss")


def summarise(value_T: Floats, seed_T: NDArray[np.generic]) -> Summary:
    """Mean over the episodes of each seed, then mean and deviation over seeds; episodes with nan are left out."""
    defined_T = ~np.isnan(value_T)
    value_T, seed_T = value_T[defined_T], seed_T[defined_T]
    if not len(value_T):
        return Summary(mean=float("nan"), sd=0.0, episodes=0)
    mean_K = np.array([value_T[seed_T == seed].mean() for seed in np.unique(seed_T)])
    return Summary(mean=float(mean_K.mean()), sd=float(mean_K.std(ddof=1)) if len(mean_K) > 1 else 0.0, episodes=len(value_T))


def better(metric: str, first: float, second: float) -> bool:
    """Whether `first` is strictly the better value of `metric`."""
    return first < second if metric in LOWER_IS_BETTER else first > second


def best_model(metric: str, means: Mapping[str, float]) -> str:
    """The model with the best mean; the first by name among equals. Models with nan do not take part."""
    known = sorted(name for name, value in means.items() if not np.isnan(value))
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return min(known, key=lambda name: sign * means[name]) if known else ""


def _errors(episode_Q: Ints, start_T1: Ints, label_Q: Floats, estimate_Q: Floats) -> dict[str, Floats]:
    mse_T = _mean(episode_Q, start_T1, (estimate_Q - label_Q) ** 2)
    return {"mae": _mean(episode_Q, start_T1, np.abs(estimate_Q - label_Q)), "rmse": np.sqrt(mse_T), "mse": mse_T}


def _mean(episode_Q: Ints, start_T1: Ints, value_Q: Floats) -> Floats:
    return _ratio(np.bincount(episode_Q, value_Q, minlength=len(start_T1) - 1), np.diff(start_T1))


def _log_loss(relevant_Q: NDArray[np.bool_], probability_Q: Floats) -> Floats:
    probability_Q = np.clip(probability_Q, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -np.log(np.where(relevant_Q, probability_Q, 1 - probability_Q))


def _dcg(ranking: Ranking, gain_Q: Floats, cutoff: int) -> Floats:
    discounted_Q = gain_Q[ranking.row_Q] * (ranking.rank_Q < cutoff) / np.log2(ranking.rank_Q + 2)
    return np.asarray(np.bincount(ranking.episode_Q, discounted_Q, minlength=len(ranking.size_T)), np.float64)


def _auc(start_T1: Ints, score_Q: Floats, relevant_Q: NDArray[np.bool_]) -> Floats:
    """Mann-Whitney statistic per episode; ties count half."""
    ascending = rank(start_T1, -score_Q)
    score = score_Q[ascending.row_Q]
    tasks = len(ascending.size_T)
    new_Q = np.ones(len(score), bool)
    new_Q[1:] = (score[1:] != score[:-1]) | (ascending.episode_Q[1:] != ascending.episode_Q[:-1])
    group_Q = np.cumsum(new_Q) - 1
    middle_G = np.bincount(group_Q, ascending.rank_Q + 1.0) / np.maximum(np.bincount(group_Q), 1)
    hit_Q = relevant_Q[ascending.row_Q].astype(np.float64)
    rank_sum_T = np.bincount(ascending.episode_Q, hit_Q * middle_G[group_Q], minlength=tasks)
    positive_T = np.bincount(ascending.episode_Q, hit_Q, minlength=tasks)
    return _ratio(rank_sum_T - positive_T * (positive_T + 1) / 2, positive_T * (ascending.size_T - positive_T))


def _ratio(above_T: NDArray[np.generic], below_T: NDArray[np.generic]) -> Floats:
    """Quotient, nan where the denominator is 0."""
    below = np.asarray(below_T, np.float64)
    divided: Floats = np.divide(np.asarray(above_T, np.float64), below, out=np.full(len(below), np.nan), where=below != 0)
    return divided
