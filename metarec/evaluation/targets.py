"""Held-out users asked about every target of the data: the learner of all targets, one trained on the target alone, baselines.

One episode is a user's first k interactions with all the labels they have, and what is asked about target t are the later
interactions that have a label of t. The learner of several targets sees all labels of the support; models of one target, plain
baselines and the learner trained alone, see those of that target. So `shots` counts interactions, and the comparison is what a
shared representation with all the evidence gains over what one would have without it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.rating_tasks import RatingTasks, starts
from metarec.errors import FailedPreconditionError
from metarec.evaluation.entities import Entities, entities
from metarec.evaluation.episodes import MIN_QUERY, Episodes, held_out_episodes
from metarec.evaluation.held_out_links import judged_by_others
from metarec.evaluation.metrics import Predictions
from metarec.evaluation.predict import predict_episodes
from metarec.evaluation.rating_run import (
    Contest,
    Predictor,
    baseline_predictor,
    fit_baselines,
    label_scale,
    learner_name,
    learner_predictor,
    moved,
    run_contest,
)
from metarec.evaluation.results import ALONE, ProtocolResult
from metarec.evaluation.scores import ScoreFile
from metarec.meta.prior import Prior

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TargetContest:
    """What is evaluated: the prior of all targets and, for each target by name, one trained on it alone (may be empty).

    `scores` gets every prediction, a target's labels where others have the label.
    """

    prior: Prior
    alone: Mapping[str, Prior]
    seed: int = 0
    max_users: int = 1000
    max_query: int = 100
    scores: ScoreFile | None = None
    watch: Callable[[str], None] = lambda _: None

    def results(self, train: "Dataset", held_out: "Dataset", shots: Sequence[int]) -> list[ProtocolResult]:
        """For each target a curve over `shots`; baselines learn from `train`.

        Targets of which no user has enough labels have none; FailedPreconditionError where that is so of all.
        """
        users = np.asarray(train.user_ids, object)
        tables = entities(self.prior, train, users[np.unique(held_out.interactions.user_N)])
        # Labels of the episodes are the places of their events, by which every target's labels are looked up.
        places = np.arange(len(held_out.interactions), dtype=np.float64)
        events = replace(held_out.interactions, label_N=cast("NDArray[np.float32]", places))
        drawn = held_out_episodes(
            events,
            tables.item_of_row,
            np.asarray(train.item_ids, object),
            user_ids=users,
            max_shots=max(shots),
            seed=self.seed,
            max_users=self.max_users,
            max_query=self.max_query,
        )
        drawn = drawn.with_users(tables.user_rows(drawn.name_T))
        found = []
        for number, target in enumerate(train.schema.labels):
            self.watch(f"baselines of target {target.column}")
            found += self._target(number, train, labels_of(held_out), drawn, tables, shots)
        if not found:
            raise FailedPreconditionError(
                f"no held-out user has {MIN_QUERY} labels of any target after {max(shots)} shots; ask for fewer shots"
            )
        return found

    def _target(
        self, number: int, train: "Dataset", label_NK: Floats, drawn: Episodes, tables: Entities, shots: Sequence[int]
    ) -> list[ProtocolResult]:
        own = target_alone(train, number)
        name = own.schema.label.column
        asked = _with_enough(drawn, label_NK[:, number])
        if asked is None:
            return []
        scale = label_scale(own, _labels(_of(asked, label_NK[:, number]).tasks.query_label_Q))
        everything = np.ones(len(own.interactions), bool)
        fitted = fit_baselines(own, everything, tables, seed=self.seed, watch=self.watch)
        models: dict[str, Predictor] = {fit: baseline_predictor(model, scale) for fit, model in fitted.items()}
        alone = ""
        if name in self.alone:
            prior = self.alone[name]
            other = entities(prior, train, tables.user_ids, tables.item_ids)
            alone = learner_name(prior) + ALONE
            models = {alone: moved(learner_predictor(prior, other, scale), tables, other), **models}
        learner, base = learner_name(self.prior), f"held_out_{name}"
        shown = [asked.first_shots(k) for k in shots]
        names = [np.full(len(asked), f"{base}@{k}", object) for k in shots]
        parts = [replace(_of(part, label_NK[:, number]), protocol_T=name_T) for part, name_T in zip(shown, names, strict=True)]
        ends = (scale.minimum, scale.maximum)
        mine = [self._predictor(number, tables, _with_all(part, label_NK), ends) for part in shown]
        if number == 0 and self.prior.link is not None:
            mine = judged_by_others(mine, self.prior.link, parts)
        found = []
        for k, episodes, predict in zip(shots, parts, mine, strict=True):
            contest = Contest(learner=learner, joint=alone, models={learner: predict, **models}, scale=scale)
            (result,) = run_contest(contest, episodes, tables, [None], seed=self.seed, scores=self.scores, watch=self.watch)
            found.append(replace(result, base=base, shots=k))
        return found

    def _predictor(
        self, number: int, tables: Entities, support: tuple[Episodes, NDArray[np.int64]], ends: tuple[float, float]
    ) -> Predictor:
        """The learner with all labels of the support, whatever the rows that other models see."""
        head, link = self.prior.head("explicit"), self.prior.link if number == 0 else None
        full, target_S = support

        def predict(episodes: Episodes) -> Predictions:
            tasks = replace(
                episodes.tasks,
                support_start_T1=full.tasks.support_start_T1,
                support_item_S=full.tasks.support_item_S,
                support_label_S=full.tasks.support_label_S,
            )
            both = replace(episodes, tasks=tasks, support_time_S=full.support_time_S)
            mean_Q, variance_Q = predict_episodes(head, tables.tables, both, support_target_S=target_S, query_target=number)
            if link is not None:
                return Predictions(score_Q=mean_Q, estimate_Q=link.probability(mean_Q), variance_Q=link.variance(mean_Q))
            return Predictions(score_Q=mean_Q, estimate_Q=np.clip(mean_Q, *ends), variance_Q=variance_Q)

        return predict


def target_alone(dataset: "Dataset", number: int) -> "Dataset":
    """The dataset with one target as its label (0: the label) and the interactions that have one."""
    schema, events = dataset.schema, dataset.interactions
    label_N = labels_of(dataset)[:, number].astype(np.float32)
    kept = replace(events, label_N=label_N, extra_NK=None).select(~np.isnan(label_N))
    return replace(dataset, schema=replace(schema, label=schema.labels[number], targets=()), interactions=kept)


def labels_of(dataset: "Dataset") -> Floats:
    """Labels (N, K) of the interactions by target, the label first, NaN where missing."""
    events = dataset.interactions
    parts = [events.label_N[:, None]] if events.extra_NK is None else [events.label_N[:, None], events.extra_NK]
    return np.concatenate(parts, 1).astype(np.float64)


def _labels(label_N: Floats) -> Floats:
    return label_N[~np.isnan(label_N)]


def _with_enough(episodes: Episodes, label_N: Floats) -> Episodes | None:
    """The episodes with MIN_QUERY query rows or more that have a label; None where there are none."""
    tasks = episodes.tasks
    there_Q = ~np.isnan(label_N[tasks.query_label_Q.astype(np.int64)])
    kept_T = np.bincount(tasks.query_task_Q, there_Q, minlength=len(tasks)) >= MIN_QUERY
    if not kept_T.any():
        return None
    support_S, query_Q = kept_T[tasks.support_task_S], kept_T[tasks.query_task_Q]
    times = episodes.support_time_S
    return Episodes(
        tasks=RatingTasks(
            user_T=tasks.user_T[kept_T],
            support_start_T1=starts(tasks.shots_T[kept_T]),
            support_item_S=tasks.support_item_S[support_S],
            support_label_S=tasks.support_label_S[support_S],
            query_start_T1=starts(np.diff(tasks.query_start_T1)[kept_T]),
            query_item_Q=tasks.query_item_Q[query_Q],
            query_label_Q=tasks.query_label_Q[query_Q],
        ),
        support_time_S=None if times is None else times[support_S],
        protocol_T=episodes.protocol_T[kept_T],
        seed_T=episodes.seed_T[kept_T],
        name_T=episodes.name_T[kept_T],
    )


def _of(episodes: Episodes, label_N: Floats) -> Episodes:
    """Support and query rows that have a label of one target, with that label."""
    tasks = episodes.tasks
    support_S, query_Q = (label_N[part.astype(np.int64)] for part in (tasks.support_label_S, tasks.query_label_Q))
    keep_S, keep_Q = ~np.isnan(support_S), ~np.isnan(query_Q)
    times = episodes.support_time_S
    return replace(
        episodes,
        tasks=RatingTasks(
            user_T=tasks.user_T,
            support_start_T1=starts(np.bincount(tasks.support_task_S[keep_S], minlength=len(tasks))),
            support_item_S=tasks.support_item_S[keep_S],
            support_label_S=support_S[keep_S],
            query_start_T1=starts(np.bincount(tasks.query_task_Q[keep_Q], minlength=len(tasks))),
            query_item_Q=tasks.query_item_Q[keep_Q],
            query_label_Q=query_Q[keep_Q],
        ),
        support_time_S=None if times is None else times[keep_S],
    )


def _with_all(episodes: Episodes, label_NK: Floats) -> tuple[Episodes, NDArray[np.int64]]:
    """Support sets with a row for every label of their interactions, and the target of each row."""
    tasks = episodes.tasks
    label_SK = label_NK[tasks.support_label_S.astype(np.int64)]
    row_M, target_M = np.nonzero(~np.isnan(label_SK))
    times = episodes.support_time_S
    full = replace(
        tasks,
        support_start_T1=starts(np.bincount(tasks.support_task_S[row_M], minlength=len(tasks))),
        support_item_S=tasks.support_item_S[row_M],
        support_label_S=label_SK[row_M, target_M],
    )
    return replace(episodes, tasks=full, support_time_S=None if times is None else times[row_M]), target_M
