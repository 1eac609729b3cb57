"""Item-item models: cosine neighbours with shrinkage (Sarwar et al. 2001) and EASE (Steck 2019, eq. 8)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from metarec.baselines.topn import Floats, Ints, TrainMatrix, support_matrix, with_prior
from metarec.errors import ConfigError

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


class ItemKNN:
    """Sum of similarities to the support: s(i, j) = n_ij / (sqrt(n_i n_j) + shrinkage), the `neighbours` largest per item."""

    name: ClassVar[str] = "item_knn"

    def __init__(self, shrinkage: float = 20.0, neighbours: int | None = None) -> None:
        if shrinkage < 0:
            raise ConfigError(f"shrinkage {shrinkage} is negative", field="shrinkage")
        if neighbours is not None and neighbours < 1:
            raise ConfigError(f"neighbours {neighbours} is below 1", field="neighbours")
        self.shrinkage, self.neighbours = shrinkage, neighbours

    def fit(self, train: "Dataset") -> Self:
        """Similarities of all pairs of items."""
        data = TrainMatrix.of(train)
        self.prior_I = data.prior_I
        together_II = (data.matrix_UI.T @ data.matrix_UI).toarray().astype(np.float64)
        similarity = together_II / (np.sqrt(np.outer(data.count_I, data.count_I)) + self.shrinkage + 1e-9)
        np.fill_diagonal(similarity, 0)
        if self.neighbours is not None and self.neighbours < len(similarity):
            # A neighbourhood belongs to the item being scored: keep the largest of each column.
            cut_I = -np.partition(-similarity, self.neighbours - 1, axis=0)[self.neighbours - 1]
            similarity[similarity < cut_I[None, :]] = 0
        self.similarity_II = similarity
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """Summed similarity to the support items."""
        return with_prior(support_matrix(supports, len(self.similarity_II)) @ self.similarity_II, self.prior_I)


class Ease:
    """Ridge regression of every item on all others with a zero diagonal, in closed form."""

    name: ClassVar[str] = "ease"

    def __init__(self, regularization: float = 300.0) -> None:
        if regularization <= 0:
            raise ConfigError(f"regularization {regularization} must be positive", field="regularization")
        self.regularization = regularization

    def fit(self, train: "Dataset") -> Self:
        """B = I - P diag(1 / diag(P)) with P = (X'X + lambda I)^-1."""
        data = TrainMatrix.of(train)
        self.prior_I = data.prior_I
        gram = (data.matrix_UI.T @ data.matrix_UI).toarray().astype(np.float64)
        precision = np.linalg.inv(gram + self.regularization * np.eye(len(gram)))
        self.weight_II = -precision / np.diag(precision)[None, :]
        np.fill_diagonal(self.weight_II, 0)
        return self

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """Summed regression weights of the support items."""
        return with_prior(support_matrix(supports, len(self.weight_II)) @ self.weight_II, self.prior_I)
