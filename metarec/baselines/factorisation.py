"""Biases and low-rank factors by alternating least squares, with fold-in (Koren, Bell & Volinsky 2009, eqs. 2 and 5).

A user is [b_user, p_user] and an item [b_item, q_item]; each side's solve treats the other's bias as given and fits its own bias
together with its factors, so that a task's offset and taste are one ridge regression on its support.
"""

from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp

from metarec.baselines.fold_in import fold_in
from metarec.baselines.rating_tasks import Floats, RatingData, RatingTasks
from metarec.baselines.ratings import Bias
from metarec.errors import ConfigError
from metarec.tasks.stats import scale_over
from metarec.types import GRADES_STD


class BiasALS:
    """mu + b_item + b_user + p_user . q_item.

    `regularization` is per factor and not scaled with the number of ratings, `fold_regularization` the same for the factors of
    a task; `sweeps` alternations of both sides. A product of factors has the unit of labels, and so have penalties on them:
    labels of another scale than grades are brought to it while factors are fitted.
    """

    name: ClassVar[str] = "bias_als"

    def __init__(
        self,
        embedding_dim: int = 16,
        regularization: float = 9.0,
        fold_regularization: float = 7.0,
        sweeps: int = 20,
        seed: int = 0,
    ) -> None:
        if embedding_dim < 1 or sweeps < 1:
            raise ConfigError(f"embedding_dim {embedding_dim} and sweeps {sweeps} must be at least 1", field="embedding_dim")
        if regularization <= 0 or fold_regularization <= 0:
            raise ConfigError(f"regularization {regularization:g} must be positive", field="regularization")
        self.embedding_dim, self.regularization, self.fold_regularization = embedding_dim, regularization, fold_regularization
        self.sweeps, self.seed = sweeps, seed

    def fit(self, train: RatingData) -> Self:
        """Start from the plain biases, then alternate."""
        bias = Bias().fit(train)
        self.user_shrinkage = bias.user_shrinkage
        shape = (train.num_users, train.num_items)
        ones_UI = sp.csr_matrix((np.ones(len(train.label_N)), (train.user_N, train.item_N)), shape)
        # Clicks have settings of their own.
        scale = 1.0 if train.binary else scale_over(train.label_N, GRADES_STD)
        label_UI = sp.csr_matrix(((train.label_N - bias.mean) / scale, (train.user_N, train.item_N)), shape)
        ones_IU, label_IU = ones_UI.T.tocsr(), label_UI.T.tocsr()
        offset_I = bias.offset_I / scale
        factor_ID = np.random.default_rng(self.seed).normal(0, 0.1, (train.num_items, self.embedding_dim))
        for _ in range(self.sweeps):
            offset_U, factor_UD = self._solve(label_UI, ones_UI, factor_ID, offset_I, bias.user_shrinkage)
            offset_I, factor_ID = self._solve(label_IU, ones_IU, factor_UD, offset_U, bias.item_shrinkage)
        self.fixed_I = bias.mean + scale * offset_I
        self.mean = bias.mean
        # The constant carries the offset of a task.
        self.vector_ID = np.concatenate([np.ones((train.num_items, 1)), factor_ID], 1)
        return self

    @property
    def precision_D(self) -> Floats:  # noqa: N802  # shape suffix
        """Precision of a task's offset and factors, in the order of `vector_ID`."""
        return np.array([self.user_shrinkage] + [self.fold_regularization] * self.embedding_dim)

    def predict(self, tasks: RatingTasks) -> Floats:
        """Items without ratings have neither bias nor factors: what is left is the task's offset."""
        rest_S = tasks.support_label_S - self.fixed_I[tasks.support_item_S]
        weight_TD = fold_in(self.vector_ID, self.precision_D, rest_S, tasks)
        predicted: Floats = self.fixed_I[tasks.query_item_Q] + dots(self.vector_ID, weight_TD, tasks)
        return predicted

    def _solve(
        self, label_RC: sp.csr_matrix, ones_RC: sp.csr_matrix, factor_CD: Floats, offset_C: Floats, shrinkage: float
    ) -> tuple[Floats, Floats]:
        """Offset and factors of all rows: their normal matrices are one sparse product with the columns' outer products."""
        x_CD = np.concatenate([np.ones((len(factor_CD), 1)), factor_CD], 1)
        dim = x_CD.shape[1]
        first, second = np.triu_indices(dim)
        packed_R = ones_RC @ (x_CD[:, first] * x_CD[:, second])
        normal_RDD = np.zeros((packed_R.shape[0], dim, dim))
        normal_RDD[:, first, second] = packed_R
        normal_RDD[:, second, first] = packed_R
        normal_RDD += np.diag([shrinkage] + [self.regularization] * self.embedding_dim)
        moment_RD = label_RC @ x_CD - ones_RC @ (x_CD * offset_C[:, None])
        solved_RD = np.linalg.solve(normal_RDD, moment_RD[..., None])[..., 0]
        return solved_RD[:, 0], solved_RD[:, 1:]


def dots(vector_ID: Floats, weight_TD: Floats, tasks: RatingTasks) -> Floats:
    """vector . weight of every query row (Q,)."""
    product: Floats = np.einsum("qd,qd->q", vector_ID[tasks.query_item_Q], weight_TD[tasks.query_task_Q])
    return product
