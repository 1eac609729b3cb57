"""Predicting episodes (P6, and held-out users): the learner, a jointly trained model and every plain baseline on equal terms.

Nothing about an episode but its support set reaches a model. Baselines learn from the training interactions alone, and those
leave out every pair that some episode asks for; when the dataset is not the one the checkpoint was trained on, also all else
that the users of the episodes did, and items that the checkpoint does not know (`training_rows`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.affinity import Affinity, fit_affinity
from metarec.baselines.rating_registry import FittedRating, fit_rating_baselines
from metarec.baselines.rating_tasks import RatingData
from metarec.evaluation.calibration import calibrate
from metarec.evaluation.entities import Entities
from metarec.evaluation.episodes import Episodes
from metarec.evaluation.metrics import LabelScale, Predictions, episode_metrics
from metarec.evaluation.predict import predict_episodes
from metarec.evaluation.results import MEDIAN, ProtocolResult
from metarec.evaluation.scores import ScoreFile
from metarec.meta.point_estimates import median_grade
from metarec.meta.prior import Prior
from metarec.types import Target

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Floats = NDArray[np.float64]
Predictor = Callable[[Episodes], Predictions]
Watch = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who takes part: `models` in the order of reports, the learner first."""

    learner: str
    joint: str
    models: Mapping[str, Predictor]
    scale: LabelScale


def learner_name(prior: Prior) -> str:
    """What reports call a prior: the name of the learner of its rating head, else of the head it has."""
    return prior.heads[rating_target(prior)].learner.name


def rating_target(prior: Prior) -> Target:
    """The head that scores given rows: the explicit one where there is one."""
    return "explicit" if "explicit" in prior.heads else "implicit"


def label_scale(dataset: "Dataset", label_Q: Floats) -> LabelScale:
    """Range of labels; grades where the range and every label are whole numbers."""
    label = dataset.schema.label
    ends = np.array([label.minimum, label.maximum])
    whole = all(bool(np.all(part == np.round(part))) for part in (ends, dataset.interactions.label_N, label_Q))
    return LabelScale(minimum=label.minimum, maximum=label.maximum, integer=whole, binary=label.kind == "binary")


def training_rows(dataset: "Dataset", episodes: Episodes, entities: Entities, *, same_data: bool) -> NDArray[np.bool_]:
    """The interactions (mask) that baselines may learn from; see the module."""
    events = dataset.interactions
    user_N = _user_rows(dataset, entities)[events.user_N]
    item_N = entities.item_of_row[events.item_N]
    tasks = episodes.tasks
    width = len(entities.item_ids)
    asked = tasks.user_T[tasks.query_task_Q] * width + tasks.query_item_Q
    keep_N = (user_N < 0) | ~np.isin(user_N * width + item_N, asked)
    if not same_data:
        keep_N &= user_N < 0
        if entities.kind == "user":
            keep_N &= entities.items.code_N.numpy()[item_N] > 0
    return np.asarray(keep_N, bool)


def _user_rows(dataset: "Dataset", entities: Entities) -> NDArray[np.int64]:
    """Row of each dataset user among the users of the episodes, -1 for others."""
    row_of = {user: row for row, user in enumerate(entities.user_ids)}
    return np.fromiter((row_of.get(str(user), -1) for user in dataset.user_ids), np.int64, len(dataset.user_ids))


def learner_predictor(prior: Prior, entities: Entities, scale: LabelScale) -> Predictor:
    """The rating head of a prior: an explicit one estimates labels (binary ones through the link), an implicit one only ranks."""
    head = prior.head(rating_target(prior))

    def predict(episodes: Episodes) -> Predictions:
        mean_Q, variance_Q = predict_episodes(head, entities.tables, episodes)
        if head.target == "implicit":
            return Predictions(score_Q=mean_Q)
        if prior.link is not None:
            return Predictions(score_Q=mean_Q, estimate_Q=prior.link.probability(mean_Q), variance_Q=prior.link.variance(mean_Q))
        return Predictions(score_Q=mean_Q, estimate_Q=np.clip(mean_Q, scale.minimum, scale.maximum), variance_Q=variance_Q)

    return predict


def moved(predict: Predictor, before: Entities, after: Entities) -> Predictor:
    """A predictor over the tables `after` for episodes over the tables `before`, which hold the same users and items or fewer."""
    item_N, user_N = after.item_rows(before.item_ids), after.user_rows(before.user_ids)

    def predict_moved(episodes: Episodes) -> Predictions:
        tasks = episodes.tasks
        return predict(
            replace(
                episodes,
                tasks=replace(
                    tasks,
                    user_T=user_N[tasks.user_T],
                    support_item_S=item_N[tasks.support_item_S],
                    query_item_Q=item_N[tasks.query_item_Q],
                ),
            )
        )

    return predict_moved


def fit_baselines(
    dataset: "Dataset", keep_N: NDArray[np.bool_], entities: Entities, *, seed: int, watch: Watch
) -> dict[str, FittedRating]:
    """All rating baselines on the interactions of the mask, over the items of the evaluation."""
    events = dataset.interactions.select(keep_N)
    label = dataset.schema.label
    data = RatingData(
        user_N=events.user_N.astype(np.int64),
        item_N=entities.item_of_row[events.item_N],
        label_N=events.label_N.astype(np.float64),
        user_UP=np.zeros((len(dataset.user_ids), 0), np.float32),
        item_IP=entities.items.dense_NP.numpy(),
        minimum=label.minimum,
        maximum=label.maximum,
        binary=label.kind == "binary",
    )
    fitted = fit_rating_baselines(data, seed=seed, watch=watch)
    groups = _groups(dataset, entities) if entities.kind == "item" else None
    if groups is not None:
        fitted[Affinity.name] = fit_affinity(data, *groups, seed=seed, watch=watch)
    return fitted


def _groups(dataset: "Dataset", entities: Entities) -> tuple[Floats, Floats] | None:
    """Membership of the dataset's tasks, and of those of the episodes, in the categories of the coarsest list field of items.

    `dataset` and `entities` are mirrored.
    """
    lists = {member.name for member in dataset.schema.users if member.kind == "multi_categorical"}
    blocks = [block for block in entities.users.blocks if block[0] in lists]
    if not blocks or entities.contents is None:
        return None
    _, start, end = min(blocks, key=lambda block: block[2] - block[1])
    return (
        entities.contents.dense_NP[:, start:end].double().numpy(),
        entities.users.dense_NP[:, start:end].double().numpy(),
    )


def baseline_predictor(fitted: FittedRating, scale: LabelScale) -> Predictor:
    """A fitted baseline."""

    def predict(episodes: Episodes) -> Predictions:
        mean_Q, variance_Q = fitted.predict(episodes.tasks)
        return Predictions(score_Q=mean_Q, estimate_Q=np.clip(mean_Q, scale.minimum, scale.maximum), variance_Q=variance_Q)

    return predict


def run_contest(
    contest: Contest,
    episodes: Episodes,
    entities: Entities,
    shots: Sequence[int | None],
    *,
    seed: int = 0,
    scores: ScoreFile | None = None,
    watch: Watch = lambda _: None,
) -> list[ProtocolResult]:
    """Every model on every protocol at every number of shots (None: the whole support). Several numbers give `NAME@K`."""
    found = []
    bases = list(dict.fromkeys(episodes.protocol_T.tolist()))
    for k in shots:
        shown = episodes if k is None else episodes.first_shots(k)
        suffix = "" if k is None or len(shots) == 1 else f"@{k}"
        names_T = np.asarray([f"{base}{suffix}" for base in episodes.protocol_T], object)
        said: dict[str, Predictions] = {}
        watch("predicting" if k is None else f"predicting after {k} shots")
        for model, predict in contest.models.items():
            said[model] = predict(shown)
        said |= _medians(said, contest.scale)
        for model, predictions in said.items():
            if scores is not None:
                scores.write_ratings(names_T, model, shown, entities, predictions, contest.scale)
        values = {
            model: episode_metrics(shown.tasks.query_start_T1, shown.tasks.query_label_Q, predictions, contest.scale)
            for model, predictions in said.items()
        }
        for base in bases:
            mine_T = episodes.protocol_T == base
            mine_Q = mine_T[shown.tasks.query_task_Q]
            tables = {
                model: calibrate(shown.tasks.query_label_Q[mine_Q], _part(said[model], mine_Q), contest.scale)
                for model in contest.models
            }
            found.append(
                ProtocolResult(
                    name=f"{base}{suffix}",
                    base=base,
                    shots=k,
                    learner=contest.learner,
                    joint=contest.joint,
                    seed_T=episodes.seed_T[mine_T],
                    user_T=episodes.tasks.user_T[mine_T],
                    values={m: {name: value_T[mine_T] for name, value_T in by.items()} for m, by in values.items()},
                    calibration={model: table for model, table in tables.items() if table is not None},
                    resampling_seed=seed,
                    steep=contest.scale.steep,
                    binary=contest.scale.binary,
                )
            )
    return found


def _medians(said: Mapping[str, Predictions], scale: LabelScale) -> dict[str, Predictions]:
    """The same models with the median grade as their estimate; ranking and probabilities stay those of the mean."""
    if not scale.has_median:
        return {}
    return {
        model + MEDIAN: replace(
            predictions,
            estimate_Q=median_grade(predictions.score_Q, predictions.variance_Q, minimum=scale.minimum, maximum=scale.maximum),
        )
        for model, predictions in said.items()
        if predictions.estimate_Q is not None
    }


def _part(predictions: Predictions, keep_Q: NDArray[np.bool_]) -> Predictions:
    def cut(value_Q: Floats | None) -> Floats | None:
        return None if value_Q is None else value_Q[keep_Q]

    return Predictions(
        score_Q=predictions.score_Q[keep_Q], estimate_Q=cut(predictions.estimate_Q), variance_Q=cut(predictions.variance_Q)
    )
