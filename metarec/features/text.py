"""Texts as dense vectors: TF-IDF (Salton & Buckley 1988, sublinear tf, smoothed idf, cosine norm) projected on its leading right
singular vectors (latent semantic analysis, Deerwester et al. 1990). Fitted offline; encoding needs numpy alone."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metarec.features.blocks import BlockState, Matrix
from metarec.features.values import as_text

WORD = re.compile(r"[^\W\d_]{2,}")
MAX_DOCUMENT_SHARE = 0.25
"""Words in more texts than this say nothing about any of them."""


def words(text: str) -> list[str]:
    """Lower-case words of two letters and more."""
    return WORD.findall(text.lower())


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """A text's position along D latent directions, scaled so that a text's mean squared norm over the fitted texts is 1."""

    name: str
    vocabulary: tuple[str, ...]
    idf_V: NDArray[np.float64]
    components_VD: NDArray[np.float64]
    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {word: k for k, word in enumerate(self.vocabulary)})

    @property
    def width(self) -> int:
        """D + 1."""
        return int(self.components_VD.shape[1]) + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, dim: int, min_count: int, max_words: int) -> "TextBlock":
        """Words in `min_count` texts and more (the `max_words` most frequent), reduced to `dim` directions or fewer."""
        texts = [words(text) for value in values if (text := as_text(value, name)) is not None]
        counts = Counter(word for text in texts for word in set(text))
        limit = max(MAX_DOCUMENT_SHARE * len(texts), min_count)
        kept = sorted((w for w, count in counts.items() if min_count <= count <= limit), key=lambda w: (-counts[w], w))[
            :max_words
        ]
        vocabulary = tuple(sorted(kept))
        idf_V = np.array([math.log((1 + len(texts)) / (1 + counts[w])) + 1.0 for w in vocabulary], np.float64)
        block = TextBlock(name=name, vocabulary=vocabulary, idf_V=idf_V, components_VD=np.zeros((len(vocabulary), 0)))
        size = min(dim, len(vocabulary) - 1, len(texts) - 1)
        if size < 1:
            return block
        components_VD = block._directions(texts, size)
        return TextBlock(name=name, vocabulary=vocabulary, idf_V=idf_V, components_VD=components_VD)

    def _directions(self, texts: Sequence[Sequence[str]], size: int) -> NDArray[np.float64]:
        # Both take a second to import and only fitting needs them.
        from scipy.sparse import csr_matrix
        from sklearn.utils.extmath import randomized_svd

        rows = [self._weights(text) for text in texts]
        data = np.concatenate([weight for _, weight in rows])
        indices = np.concatenate([column for column, _ in rows])
        indptr = np.cumsum([0, *(len(column) for column, _ in rows)])
        matrix = csr_matrix((data, indices, indptr), shape=(len(texts), len(self.vocabulary)))
        _, singular, right = randomized_svd(matrix, n_components=size, n_iter=7, random_state=0)
        keep = singular > 1e-6 * singular[0]
        scale = math.sqrt(len(texts) / float((singular[keep] ** 2).sum()))
        return np.ascontiguousarray(right[keep].T * scale, np.float64)

    def _weights(self, text: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        counts = Counter(column for word in text if (column := self._column.get(word)) is not None)
        columns = sorted(counts)
        # math.log, not np.log: a vectorised logarithm may round differently with the length of its argument.
        weights = [(1.0 + math.log(counts[column])) * float(self.idf_V[column]) for column in columns]
        norm = math.sqrt(sum(weight * weight for weight in weights)) or 1.0
        return np.array(columns, np.int64), np.array(weights, np.float64) / norm

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        for row, value in enumerate(values):
            text = as_text(value, self.name)
            if text is None:
                out_NB[row, -1] = 1.0
                continue
            columns, weights = self._weights(words(text))
            if len(columns):
                # A sum over the row's own words: unlike a matrix product its rounding cannot depend on the other rows.
                out_NB[row, :-1] = (self.components_VD[columns] * weights[:, None]).sum(axis=0)

    def to_state(self) -> BlockState:
        """See Block."""
        state: dict[str, object] = {"kind": "text", "name": self.name, "vocabulary": list(self.vocabulary)}
        return state, {"idf": self.idf_V, "components": self.components_VD}

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "TextBlock":
        """The block that gave this state."""
        vocabulary = state["vocabulary"]
        assert isinstance(vocabulary, list)
        return TextBlock(
            name=str(state["name"]),
            vocabulary=tuple(map(str, vocabulary)),
            idf_V=arrays["idf"].astype(np.float64),
            components_VD=arrays["components"].astype(np.float64),
        )
