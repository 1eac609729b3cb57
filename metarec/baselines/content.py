"""Ridge regression on item content, on top of biases and factors: the plain way to say something about unknown items."""

from copy import copy
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from metarec.baselines.factorisation import BiasALS, dots
from metarec.baselines.fold_in import fold_in
from metarec.baselines.rating_tasks import Floats, RatingData, RatingTasks
from metarec.errors import ConfigError

ITEM_REGULARIZATIONS = (3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 3


class ContentRidge:
    """b_item + one ridge regression per task on [1, factors, content]; items without ratings have no bias and no factors.

    Content is the encoded item table on its `content_dim` leading principal directions, at their natural scale;
    `content_regularization` is the precision of a task's weights on it. `factors` are fitted along unless they are already.
    """

    name: ClassVar[str] = "content_ridge"

    def __init__(
        self, factors: BiasALS | None = None, content_dim: int = 64, content_regularization: float = 40.0, seed: int = 0
    ) -> None:
        if content_dim < 1 or content_regularization <= 0:
            raise ConfigError(
                f"content_dim {content_dim} and content_regularization {content_regularization:g} must be positive",
                field="content_regularization",
            )
        self.factors = factors or BiasALS()
        self.content_dim, self.content_regularization, self.seed = content_dim, content_regularization, seed

    def fit(self, train: RatingData) -> Self:
        """Project the content; ratings enter through the factors."""
        if not hasattr(self.factors, "vector_ID"):
            self.factors.fit(train)
        content_IP = train.item_IP - train.item_IP.mean(0)
        dim = min(self.content_dim, *content_IP.shape)
        left_IK, scale_K, _ = randomized_svd(content_IP, dim, random_state=self.seed)
        known_I = np.bincount(train.item_N, minlength=train.num_items) > 0
        self.fixed_I = self._item_part(train, known_I)
        self.vector_ID = np.concatenate(
            [
                self.factors.vector_ID * np.where(known_I[:, None], 1.0, np.eye(1, self.factors.vector_ID.shape[1])),
                left_IK * scale_K,
            ],
            axis=1,
        )
        return self

    def regularized(self, content_regularization: float) -> Self:
        """The same fitted baseline with another precision of a task's weights on content."""
        other = copy(self)
        other.content_regularization = content_regularization
        return other

    def _item_part(self, train: RatingData, known_I: NDArray[np.bool_]) -> Floats:
        """mu + b_item."""
        return self.factors.fixed_I

    def predict(self, tasks: RatingTasks) -> Floats:
        """Everything a task's support says, in one regression."""
        extra = self.vector_ID.shape[1] - len(self.factors.precision_D)
        precision_D = np.concatenate([self.factors.precision_D, np.full(extra, self.content_regularization)])
        weight_TD = fold_in(self.vector_ID, precision_D, tasks.support_label_S - self.fixed_I[tasks.support_item_S], tasks)
        predicted: Floats = self.fixed_I[tasks.query_item_Q] + dots(self.vector_ID, weight_TD, tasks)
        return predicted


class ItemContentRidge(ContentRidge):
    """ContentRidge whose items without ratings get their bias from a ridge regression of the known biases on content.

    The strongest plain baseline on unknown items. Its regularization is chosen by cross-validation over items.
    """

    name: ClassVar[str] = "item_content_ridge"

    def _item_part(self, train: RatingData, known_I: NDArray[np.bool_]) -> Floats:
        offset_I = self.factors.fixed_I - self.factors.mean
        count_I = np.bincount(train.item_N, minlength=train.num_items)
        rows = np.flatnonzero(known_I)
        if len(rows) < 2 * FOLDS:
            return self.factors.fixed_I
        # A bias from few ratings is mostly shrinkage; it should not count like a well-known one.
        weight_N = count_I[rows] / (count_I[rows] + 5.0)
        content_NP, target_N = train.item_IP[rows].astype(np.float64), offset_I[rows]
        fold_N = np.random.default_rng(self.seed).permutation(len(rows)) % FOLDS
        error_R = np.zeros(len(ITEM_REGULARIZATIONS))
        for fold in range(FOLDS):
            out_N = fold_N == fold
            for k, (centre, map_P) in enumerate(_ridges(content_NP[~out_N], target_N[~out_N], weight_N[~out_N])):
                error_R[k] += (weight_N[out_N] * (centre + content_NP[out_N] @ map_P - target_N[out_N]) ** 2).sum()
        centre, map_P = _ridges(content_NP, target_N, weight_N)[int(np.argmin(error_R))]
        guessed_I = self.factors.mean + centre + train.item_IP @ map_P
        return np.where(known_I, self.factors.fixed_I, guessed_I)


def _ridges(content_NP: Floats, target_N: Floats, weight_N: Floats) -> list[tuple[float, Floats]]:
    """Centre and map of the weighted ridge regression under each of ITEM_REGULARIZATIONS."""
    centre = float((weight_N * target_N).sum() / weight_N.sum())
    weighted_NP = content_NP * weight_N[:, None]
    matrix_PP, moment_P = content_NP.T @ weighted_NP, weighted_NP.T @ (target_N - centre)
    eye_PP = np.eye(len(moment_P))
    solved = [np.linalg.solve(matrix_PP + strength * eye_PP, moment_P) for strength in ITEM_REGULARIZATIONS]
    return [(centre, np.asarray(map_P, np.float64)) for map_P in solved]
