"""Implicit alternating least squares with fold-in.

Hu, Koren and Volinsky 2008 (eq. 4-5) in the form of Rendle et al. 2021 (eq. 5-6: unobserved weight alpha0 and
frequency-scaled regularisation). A user is folded in by the same solve that trained the known ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from metarec.baselines.topn import Floats, Ints, TrainMatrix, support_matrix, with_prior
from metarec.errors import ConfigError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

CHUNK = 4096
"""Rows solved at once: bounds memory to CHUNK x D x D."""


class ImplicitALS:
    """Factors of the binary matrix; `exponent` scales the regularisation with an entity's number of interactions."""

    name: ClassVar[str] = "ials"

    def __init__(
        self,
        embedding_dim: int = 32,
        unobserved: float = 0.1,
        regularization: float = 0.003,
        exponent: float = 1.0,
        epochs: int = 12,
        seed: int = 0,
    ) -> None:
        if embedding_dim < 1 or epochs < 1:
            raise ConfigError(f"embedding_dim {embedding_dim} and epochs {epochs} must be at least 1", field="embedding_dim")
        if unobserved <= 0 or regularization <= 0:
            raise ConfigError(f"unobserved {unobserved} and regularization {regularization} must be positive", field="unobserved")
        self.embedding_dim, self.unobserved, self.regularization = embedding_dim, unobserved, regularization
        self.exponent, self.epochs, self.seed = exponent, epochs, seed

    def fit(self, train: "Dataset") -> Self:
        """Alternate the two sides' solves."""
        data = TrainMatrix.of(train)
        users, items = data.matrix_UI.shape
        random = np.random.default_rng(self.seed)
        self.prior_I = data.prior_I
        self.item_ID = random.normal(0, 0.1 / np.sqrt(self.embedding_dim), (items, self.embedding_dim))
        self.num_users = users
        transposed = data.matrix_UI.T.tocsr()
        for _ in range(self.epochs):
            user_UD = self._solve(data.matrix_UI, self.item_ID)
            self.item_ID = self._solve(transposed, user_UD)
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """Inner products with the folded-in user; popularity when there is nothing to fold in."""
        user_UD = self._solve(support_matrix(supports, len(self.item_ID)), self.item_ID)
        return with_prior(user_UD @ self.item_ID.T, self.prior_I)

    def _solve(self, matrix: sp.csr_matrix, other_ND: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows minimising sum_observed (1 - x.y)^2 + alpha0 sum_all (x.y)^2 + lambda (n + alpha0 N)^exponent |x|^2."""
        dim = other_ND.shape[1]
        first, second = np.triu_indices(dim)
        size_R = np.diff(matrix.indptr)
        solved = np.zeros((matrix.shape[0], dim))
        known = np.flatnonzero(size_R)
        # The observed part of each row's normal matrix is one sparse product with the columns' outer products.
        packed_NK = other_ND[:, first] * other_ND[:, second]
        diagonal_R = self.regularization * (size_R + self.unobserved * len(other_ND)) ** self.exponent
        for begin in range(0, len(known), CHUNK):
            rows = known[begin : begin + CHUNK]
            normal_RDD = np.empty((len(rows), dim, dim))
            packed_RK = matrix[rows] @ packed_NK
            normal_RDD[:, first, second] = packed_RK
            normal_RDD[:, second, first] = packed_RK
            normal_RDD += self.unobserved * other_ND.T @ other_ND
            normal_RDD[:, np.arange(dim), np.arange(dim)] += diagonal_R[rows, None]
            solved[rows] = np.linalg.solve(normal_RDD, (matrix[rows] @ other_ND)[..., None])[..., 0]
        return solved
