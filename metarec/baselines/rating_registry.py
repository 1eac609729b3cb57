"""The plain rating baselines by name, tuned on the training part alone.

Training users are held out, every candidate is fitted on the rest and asked tasks drawn from them; the candidate with the
smallest absolute error (squared error on binary labels, whose estimates are probabilities) is fitted again on everything. What
it got wrong on the held-out users is its predictive variance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.content import ContentRidge, ItemContentRidge
from metarec.baselines.factorisation import BiasALS
from metarec.baselines.rating_tasks import Floats, RatingData, RatingTasks, draw_tasks
from metarec.baselines.ratings import Bias, ItemMean, RatingBaseline, SupportMean
from metarec.threads import one_core

HELD_OUT_FRACTION = 0.1
MAX_HELD_OUT_USERS = 500
MAX_TUNING_RATINGS = 1_500_000

Settings = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FittedRating:
    """A baseline fitted on all training ratings, the settings that tuning chose, and the variance of its errors (> 0)."""

    baseline: RatingBaseline
    variance: float
    settings: Settings = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.baseline.name

    def predict(self, tasks: RatingTasks) -> tuple[Floats, Floats]:
        """Mean and variance (Q,) of every query row."""
        mean_Q = self.baseline.predict(tasks)
        return mean_Q, np.full(len(mean_Q), self.variance)


Make = Callable[..., RatingBaseline]

PLAIN: Mapping[str, tuple[Make, Sequence[Settings]]] = {
    "support_mean": (SupportMean, ({},)),
    "item_mean": (ItemMean, tuple({"shrinkage": value} for value in (2.0, 5.0, 10.0, 20.0))),
    "bias": (
        Bias,
        tuple({"item_shrinkage": item, "user_shrinkage": user} for item, user in product((2.0, 5.0, 10.0), (2.0, 4.0, 8.0))),
    ),
    "bias_als": (
        BiasALS,
        tuple(
            {"embedding_dim": dim, "regularization": strength, "fold_regularization": 0.75 * strength}
            for dim, strength in ((16, 6.0), (16, 9.0), (16, 13.0), (24, 9.0))
        ),
    ),
}
"""Baselines that need no other: constructor and the settings to choose from."""

CLICK_FACTORS: Sequence[Settings] = tuple(
    {"embedding_dim": dim, "regularization": strength, "fold_regularization": 0.75 * strength}
    for dim, strength in ((16, 2.0), (16, 3.0), (16, 4.0), (16, 6.0), (24, 3.0))
)
"""The settings of factors for binary labels: a penalty on factors has the unit of labels."""

CONTENT: Mapping[str, type[ContentRidge]] = {"content_ridge": ContentRidge, "item_content_ridge": ItemContentRidge}
CONTENT_REGULARIZATIONS = (15.0, 30.0, 60.0, 120.0)


@one_core()  # systems of a few dozen unknowns, in thousands: more threads wait for one another
def fit_rating_baselines(
    train: RatingData,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    watch: Callable[[str], None] | None = None,
    max_tuning_ratings: int = MAX_TUNING_RATINGS,
) -> dict[str, FittedRating]:
    """All baselines (or those named by `only`) by name, tuned and fitted; those on content only where items have content.

    Tuning fits candidates on the ratings of so many users that they stay below `max_tuning_ratings`.
    """
    say = watch or (lambda _: None)
    inner, tasks = _tuning_split(train, seed, max_tuning_ratings)
    fitted: dict[str, FittedRating] = {}
    for name, (make, candidates) in PLAIN.items():
        if only and name not in only and name != BiasALS.name:
            continue
        say(name)
        if train.binary and name == BiasALS.name:
            candidates = CLICK_FACTORS
        choice = _tune([(settings, make(**settings).fit(inner)) for settings in candidates], tasks, train)
        fitted[name] = choice.refit(make, train)
    if train.item_IP.shape[1] and (not only or set(CONTENT) & set(only)):
        fitted |= _fit_content(fitted[BiasALS.name], inner, tasks, train, seed, only, say)
    return {name: value for name, value in fitted.items() if not only or name in only}


def _fit_content(
    factors: FittedRating,
    inner: RatingData,
    tasks: RatingTasks,
    train: RatingData,
    seed: int,
    only: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, FittedRating]:
    """The baselines on content, over the factors that tuning chose."""
    final_factors = factors.baseline
    assert isinstance(final_factors, BiasALS)
    inner_factors = BiasALS(**factors.settings).fit(inner)  # type: ignore[arg-type]  # dimensions are whole
    fitted = {}
    for name, make in CONTENT.items():
        if only and name not in only:
            continue
        say(name)
        model = make(inner_factors, seed=seed).fit(inner)
        candidates = [({"content_regularization": value}, model.regularized(value)) for value in CONTENT_REGULARIZATIONS]
        choice = _tune(candidates, tasks, train)
        fitted[name] = choice.refit(lambda make=make, **settings: make(final_factors, seed=seed, **settings), train)
    return fitted


@dataclass(frozen=True, kw_only=True)
class _Choice:
    settings: Settings
    variance: float

    def refit(self, make: Make, train: RatingData) -> FittedRating:
        return FittedRating(baseline=make(**self.settings).fit(train), variance=self.variance, settings=self.settings)


def _tune(candidates: Sequence[tuple[Settings, RatingBaseline]], tasks: RatingTasks, train: RatingData) -> _Choice:
    """The fitted candidate with the smallest mean error over tasks; the first without tasks to tune on."""
    best, best_error, variance = candidates[0][0], np.inf, ((train.maximum - train.minimum) / 4) ** 2
    for settings, fitted in candidates if len(tasks) else ():
        error_Q = np.clip(fitted.predict(tasks), train.minimum, train.maximum) - tasks.query_label_Q
        square = float(task_means(error_Q**2, tasks).mean())
        error = square if train.binary else float(task_means(np.abs(error_Q), tasks).mean())
        if error < best_error:
            best, best_error, variance = settings, error, square
    return _Choice(settings=best, variance=max(variance, 1e-6))


def task_means(value_Q: Floats, tasks: RatingTasks) -> Floats:
    """Mean over each task's query rows (T,)."""
    means: Floats = np.bincount(tasks.query_task_Q, value_Q, minlength=len(tasks)) / np.maximum(np.diff(tasks.query_start_T1), 1)
    return means


def _tuning_split(train: RatingData, seed: int, max_ratings: int) -> tuple[RatingData, RatingTasks]:
    """Ratings to fit candidates on (of so many users that they stay below `max_ratings`) and tasks of the held-out users."""
    rng = np.random.default_rng([seed, 11])
    count_U = np.bincount(train.user_N, minlength=train.num_users)
    users = rng.permutation(np.flatnonzero(count_U >= 2))
    num_held = min(MAX_HELD_OUT_USERS, round(HELD_OUT_FRACTION * len(users)))
    held_U = _mask(users[:num_held], train.num_users)
    kept = users[num_held:]
    enough = np.searchsorted(np.cumsum(count_U[kept]), max_ratings, side="right")
    fit_U = _mask(kept[: max(1, int(enough))], train.num_users)
    return train.select(fit_U[train.user_N]), draw_tasks(train.select(held_U[train.user_N]), seed=seed)


def _mask(rows: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    mask[rows] = True
    return mask
