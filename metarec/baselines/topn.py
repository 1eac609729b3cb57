"""What a plain top-N recommender is, and the matrix all of them are fitted on.

A baseline sees once what was taken in the training interactions (`fit`; Dataset.taken) and then answers for any support set over
the whole catalogue, so known and brand-new users go through the same door. Fitted baselines are plain objects: they live for one
evaluation and are never saved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class TopNBaseline(Protocol):
    """A plain recommender: fitted on training interactions, scores the catalogue for a support set."""

    name: ClassVar[str]

    def fit(self, train: "Dataset") -> Self:
        """Learn from what was taken in `train`; returns the object itself."""
        ...

    def score(self, supports: Sequence[Ints], user_U: Ints) -> Floats:
        """Scores (U, I) of every item for users with these support items (rows of `train.item_ids`).

        `user_U` are rows of `train.user_ids`, for baselines that read the profile. Support items are scored like any
        other: leaving them out is the caller's business.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TrainMatrix:
    """Training interactions as a binary matrix, without the users that have none.

    `matrix_UI` (float32, CSR) holds 1 where a user touched an item; `count_I` the number of users per item; `prior_I` a
    score in [0, 1) by popularity, which breaks ties and answers for an empty support set.
    """

    matrix_UI: sp.csr_matrix
    count_I: NDArray[np.float64]
    prior_I: NDArray[np.float64]

    @classmethod
    def of(cls, train: "Dataset") -> "TrainMatrix":
        """The matrix of what was taken in a data set."""
        rows = train.taken.interactions
        known, user_N = np.unique(rows.user_N, return_inverse=True)
        matrix = sp.csr_matrix(
            (np.ones(len(rows.user_N), np.float32), (user_N, rows.item_N)), shape=(len(known), len(train.item_ids))
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1
        count_I = np.asarray(matrix.sum(axis=0), np.float64).ravel()
        return cls(matrix_UI=matrix, count_I=count_I, prior_I=count_I / (count_I.max(initial=0) + 1))


def support_matrix(supports: Sequence[Ints], num_items: int) -> sp.csr_matrix:
    """Supports as a binary (U, I) matrix."""
    sizes = np.array([len(items) for items in supports], np.int64)
    columns = np.concatenate([np.asarray(items, np.int64) for items in supports]) if len(supports) else np.zeros(0, np.int64)
    matrix = sp.csr_matrix(
        (np.ones(len(columns), np.float32), columns, np.concatenate([[0], sizes.cumsum()])), shape=(len(supports), num_items)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def with_prior(score_UI: NDArray[np.floating], prior_I: NDArray[np.float64]) -> Floats:
    """Scores with ties, and above all the rows of empty supports, broken by popularity."""
    scale = np.abs(score_UI).max(initial=0)
    return np.asarray(score_UI + prior_I * (scale * 1e-6 if scale > 0 else 1.0), np.float32)
