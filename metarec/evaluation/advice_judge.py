"""The judge of `metarec advise`: one ruler for all learners and for the plain baselines, on users that none of them has seen.

Each user shows their first k interactions and is asked for later ones; figures are means over several k. Grades are judged by
absolute error, clicks by AUC, and what users will take out of the whole catalogue by nDCG@20.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.rating_registry import FittedRating, fit_rating_baselines
from metarec.baselines.rating_tasks import RatingData
from metarec.baselines.registry import topn_candidates
from metarec.errors import FailedPreconditionError
from metarec.evaluation.advice_costs import Request, requests, serving_costs
from metarec.evaluation.advice_users import FEWEST
from metarec.evaluation.episodes import MAX_QUERY, Episodes
from metarec.evaluation.gate import whole_users
from metarec.evaluation.held_out import EVERYTHING, asked_for_lists, draw_held_out, fit_topn_baselines, topn_episodes
from metarec.evaluation.metrics import LOWER_IS_BETTER, LabelScale, Predictions, episode_metrics, shown_ndcg
from metarec.evaluation.predict import predict_episodes
from metarec.evaluation.rating_run import label_scale
from metarec.evaluation.temporal import tune_baselines
from metarec.evaluation.temporal_splits import TopNEpisode
from metarec.evaluation.topn_models import Scorer, baseline_scorer, measure
from metarec.features.encoder import FeatureEncoder
from metarec.meta.blend import head_scores, support_batch
from metarec.meta.prior import Head, Prior
from metarec.tasks.batch import EntityTable, Tables
from metarec.types import TaskKind

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.data.inspection import Question
    from metarec.data.schema import Schema

METRICS: Mapping["Question", tuple[str, str]] = {
    "ratings": ("mae", "ndcg@5"),
    "clicks": ("auc", "ndcg@5"),
    "lists": ("ndcg@20", "recall@20"),
}
"""What decides, and what is shown beside it."""
RATING_BASELINES = ("support_mean", "bias", "bias_als", "item_content_ridge")
TOPN_BASELINES = ("popularity", "recent_popularity", "ials", "item_knn")
MAX_TUNING = 100_000
"""Interactions on which the settings of baselines are chosen."""

Floats = NDArray[np.float64]


class Encoded(Protocol):
    """Encoded entities as trials have them: users and items in the dataset's order, popularity by item."""

    @property
    def items(self) -> EntityTable:
        """All items."""
        ...

    @property
    def popularity_I(self) -> NDArray[np.float32]:  # noqa: N802  # shape suffix
        """Interactions of training users per item."""
        ...

    def tables(self, kind: TaskKind) -> Tables:
        """Users as tasks, or items."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Metrics by name, the deciding one first, and that one for each user (T)."""

    metrics: Mapping[str, float]
    value_T: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class HeldOutJudge:
    """Implements `metarec.training.trial.Judge`. Users and items of `episodes` are rows of the dataset's tables."""

    question: "Question"
    episodes: Episodes
    shots: tuple[int, ...]
    scale: LabelScale
    schema: "Schema"
    encoder: FeatureEncoder
    item_ids: tuple[str, ...]
    supports: tuple[Request, ...]

    @classmethod
    def of(
        cls,
        question: "Question",
        held_out: "Dataset",
        encoder: FeatureEncoder,
        shots: Sequence[int],
        *,
        seed: int,
        max_users: int,
    ) -> "HeldOutJudge":
        """A judge on the users in `held_out`; FailedPreconditionError when none of them has enough interactions, or, asked for
        clicks, none has both labels."""
        most = EVERYTHING if question == "lists" else MAX_QUERY
        episodes = draw_held_out(held_out, max_shots=max(shots), seed=seed, max_users=max_users, max_query=most)
        if question == "lists" and (users := len(asked_for_lists(episodes))) < FEWEST:  # before anything is trained
            raise FailedPreconditionError(
                f"{users} of the {len(episodes)} users who judge have an event of label 1 after their first {max(shots)}, and "
                f"comparing learners needs {FEWEST} of them; import more data, or train the default recipe and let its gate judge"
            )
        if question == "clicks" and not _tells_apart(episodes):
            raise FailedPreconditionError(
                f"none of the {len(episodes)} users who judge has both yes and no among what is asked for, so that learners of "
                "labels cannot be compared; ask for lists with --target implicit, or import more data"
            )
        return cls(
            question=question,
            episodes=episodes,
            shots=tuple(shots),
            scale=label_scale(held_out, episodes.tasks.query_label_Q),
            schema=held_out.schema,
            encoder=encoder,
            item_ids=tuple(str(item) for item in held_out.item_ids),
            supports=tuple(requests(held_out, episodes)),
        )

    @property
    def users(self) -> int:
        """How many users are asked: for lists those who have something to find."""
        return len(asked_for_lists(self.episodes)) if self.question == "lists" else len(self.episodes)

    @property
    def metrics(self) -> tuple[str, str]:
        """Names of the figures; the first decides."""
        first, second = METRICS[self.question]
        return first, shown_ndcg(steep=self.scale.steep) if second == "ndcg@5" else second

    @property
    def lower_is_better(self) -> bool:
        """Whether the deciding figure is an error."""
        return self.metrics[0] in LOWER_IS_BETTER

    def __call__(self, head: Head, inputs: "Encoded") -> Verdict:
        """Figures of a trained head."""
        tables = inputs.tables("user")
        if self.question == "lists":
            return self._lists(_head_scorer(head.prepared(tables.rows), tables))
        return self._labels(lambda episodes: predict_episodes(head, tables, episodes)[0])

    def baselines(self, train: "Dataset", inputs: "Encoded", *, seed: int, watch: Callable[[str], None]) -> dict[str, Verdict]:
        """The plain baselines, tuned and fitted on all of `train`, by name."""
        if self.question == "lists":
            fitted = _topn_baselines(train, self.shots, seed)
            return {name: self._lists(scorer) for name, scorer in fitted.items()}
        label = train.schema.label
        data = RatingData.of(
            train.interactions,
            np.zeros((len(train.user_ids), 0), np.float32),
            inputs.tables("user").rows.dense_NP.numpy(),
            minimum=label.minimum,
            maximum=label.maximum,
            binary=label.kind == "binary",
        )
        models = fit_rating_baselines(data, seed=seed, only=RATING_BASELINES, max_tuning_ratings=MAX_TUNING, watch=watch)
        return {name: self._labels(_baseline(model)) for name, model in models.items()}

    def costs(self, head: Head, inputs: "Encoded") -> dict[str, float]:
        """Median processor time of one request with the most shots, and the size of the state that it leaves."""
        prior = Prior(
            schema=self.schema,
            encoder=self.encoder,
            item_ids=self.item_ids,
            items=inputs.items,
            popularity_I=inputs.popularity_I,
            heads={head.target: head},
        )
        return serving_costs(prior, self.supports)

    def _labels(self, predict: "Callable[[Episodes], Floats]") -> Verdict:
        found: list[Mapping[str, Floats]] = []
        for k in self.shots:
            shown = self.episodes.first_shots(k)
            score_Q = predict(shown)
            estimate_Q = np.clip(score_Q, self.scale.minimum, self.scale.maximum)
            predictions = Predictions(score_Q=score_Q, estimate_Q=None if self.scale.binary else estimate_Q)
            found.append(episode_metrics(shown.tasks.query_start_T1, shown.tasks.query_label_Q, predictions, self.scale))
        return self._verdict({name: np.mean([part[name] for part in found], axis=0) for name in self.metrics})

    def _lists(self, scorer: Scorer) -> Verdict:
        tests = [_all_that_follows(self.episodes, k) for k in self.shots]
        found = [measure(scorer, test, len(self.item_ids)) for test in tests]
        ndcg_T, recall_T = (np.mean([getattr(part, key) for part in found], axis=0) for key in ("ndcg_U", "recall_U"))
        return self._verdict({"ndcg@20": ndcg_T, "recall@20": recall_T})

    def _verdict(self, values: Mapping[str, Floats]) -> Verdict:
        means = {
            name: float(np.nanmean(value_T)) if not np.isnan(value_T).all() else float("nan") for name, value_T in values.items()
        }
        return Verdict(metrics=means, value_T=tuple(float(value) for value in values[self.metrics[0]]))


def _tells_apart(episodes: Episodes) -> bool:
    """Whether some user is asked about several labels: AUC is not defined for the others."""
    tasks = episodes.tasks
    return any(np.ptp(tasks.query_label_Q[first:last]) > 0 for first, last in pairwise(tasks.query_start_T1.tolist()))


def _all_that_follows(episodes: Episodes, shots: int) -> list[TopNEpisode]:
    """Top-N tests that ask for everything after the first `shots` interactions, as P5 does.

    What the same users are asked for after more shots must not be left out: in time order the next items are unlike later ones.
    """
    tasks, found = episodes.tasks, []
    for task, episode in zip(asked_for_lists(episodes).tolist(), topn_episodes(episodes, shots), strict=True):
        follows = slice(tasks.support_start_T1[task] + shots, tasks.support_start_T1[task + 1])
        taken_N = tasks.support_label_S[follows] >= episodes.taken_from
        next_N = tasks.support_item_S[follows][taken_N]
        found.append(replace(episode, target_Q=np.concatenate([next_N, episode.target_Q])))
    return found


def _topn_baselines(train: "Dataset", shots: Sequence[int], seed: int) -> dict[str, Scorer]:
    """Tuned on users held out from `train`, those who come last where there are timestamps, and fitted on all of it."""
    if not train.has_timestamps:
        return fit_topn_baselines(train, shots=shots, seed=seed, only=TOPN_BASELINES, max_tuning_interactions=MAX_TUNING)
    candidates = topn_candidates(train)
    chosen = tune_baselines(whole_users(train, MAX_TUNING, seed), shots, only=TOPN_BASELINES)["cold"]
    return {name: baseline_scorer(candidates[name][place]().fit(train)) for name, place in chosen.items()}


def _baseline(model: FittedRating) -> Callable[[Episodes], Floats]:
    return lambda episodes: model.predict(episodes.tasks)[0]


def _head_scorer(head: Head, tables: Tables) -> Scorer:
    def score(episodes: Sequence[TopNEpisode]) -> NDArray[np.float32]:
        support = {episode.user: (episode.support_S, episode.label_S, episode.timestamp_S) for episode in episodes}
        return head_scores(head, support_batch(tables, list(support), support))  # type: ignore[arg-type]  # read by user alone

    return score
