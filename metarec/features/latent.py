"""Bags of tokens as dense vectors: TF-IDF (Salton & Buckley 1988, sublinear tf, smoothed idf, cosine norm) projected on its
leading right singular vectors (latent semantic analysis, Deerwester et al. 1990). Fitted offline; projecting needs numpy alone.

Bags that share no token still come close when their tokens occur with the same others, so rare tokens say something too.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """V tokens with their weights and D directions. The mean squared norm of the fitted bags is 1."""

    vocabulary: tuple[str, ...]
    idf_V: NDArray[np.float64]
    components_VD: NDArray[np.float64]
    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {token: k for k, token in enumerate(self.vocabulary)})

    @property
    def dim(self) -> int:
        """D."""
        return int(self.components_VD.shape[1])

    @staticmethod
    def fit(bags: Sequence[Sequence[str]], *, dim: int, min_count: int, max_size: int, max_share: float) -> "LatentSpace":
        """Tokens in `min_count` bags and more (the `max_size` most frequent), reduced to `dim` directions or fewer.

        Tokens in more than `max_share` of the bags say little about any of them and would fill the leading directions; they are
        left out where there are more tokens than directions.
        """
        counts = Counter(token for bag in bags for token in set(bag))
        known = [token for token, count in counts.items() if count >= min_count]
        limit = max(max_share * len(bags), min_count) if len(known) > dim else len(bags)
        kept = sorted((token for token in known if counts[token] <= limit), key=lambda t: (-counts[t], t))
        vocabulary = tuple(sorted(kept[:max_size]))
        idf_V = np.array([math.log((1 + len(bags)) / (1 + counts[t])) + 1.0 for t in vocabulary], np.float64)
        space = LatentSpace(vocabulary=vocabulary, idf_V=idf_V, components_VD=np.zeros((len(vocabulary), 0)))
        size = min(dim, len(vocabulary), len(bags))
        if size < 1:
            return space
        return LatentSpace(vocabulary=vocabulary, idf_V=idf_V, components_VD=space._directions(bags, size))

    def project(self, bag: Sequence[str]) -> NDArray[np.float64]:
        """The bag's place (D,); the origin when none of its tokens is known."""
        columns, weights = self._weights(bag)
        # A sum over the bag's own tokens: unlike a matrix product its rounding cannot depend on other bags.
        place_D: NDArray[np.float64] = (self.components_VD[columns] * weights[:, None]).sum(axis=0)
        return place_D

    def _directions(self, bags: Sequence[Sequence[str]], size: int) -> NDArray[np.float64]:
        # Both take a second to import and only fitting needs them.
        from scipy.sparse import csr_matrix
        from sklearn.utils.extmath import randomized_svd

        rows = [self._weights(bag) for bag in bags]
        data = np.concatenate([weight for _, weight in rows])
        indices = np.concatenate([column for column, _ in rows])
        indptr = np.cumsum([0, *(len(column) for column, _ in rows)])
        matrix = csr_matrix((data, indices, indptr), shape=(len(bags), len(self.vocabulary)))
        _, singular, right = randomized_svd(matrix, n_components=size, n_iter=7, random_state=0)
        keep = singular > 1e-6 * singular[0]
        scale = math.sqrt(len(bags) / float((singular[keep] ** 2).sum()))
        return np.ascontiguousarray(right[keep].T * scale, np.float64)

    def _weights(self, bag: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        counts = Counter(column for token in bag if (column := self._column.get(token)) is not None)
        columns = sorted(counts)
        # math.log, not np.log: a vectorised logarithm may round differently with the length of its argument.
        weights = [(1.0 + math.log(counts[column])) * float(self.idf_V[column]) for column in columns]
        norm = math.sqrt(sum(weight * weight for weight in weights)) or 1.0
        return np.array(columns, np.int64), np.array(weights, np.float64) / norm

    def to_state(self) -> tuple[dict[str, object], dict[str, NDArray[np.generic]]]:
        """JSON-able settings and named arrays."""
        return {"vocabulary": list(self.vocabulary)}, {"idf": self.idf_V, "components": self.components_VD}

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "LatentSpace":
        """The space that gave this state."""
        vocabulary = state["vocabulary"]
        assert isinstance(vocabulary, list)
        return LatentSpace(
            vocabulary=tuple(map(str, vocabulary)),
            idf_V=arrays["idf"].astype(np.float64),
            components_VD=arrays["components"].astype(np.float64),
        )
