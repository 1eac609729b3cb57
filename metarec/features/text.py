"""Texts as dense vectors: bags of words in a latent space (latent.py). The embedded default, which needs no model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metarec.data.words import words
from metarec.features.blocks import BlockState, Matrix
from metarec.features.latent import LatentSpace
from metarec.features.values import as_text

OLD_WORD = re.compile(r"[^\W\d_]{2,}")
"""What a word was for checkpoints that do not say: letters alone, whatever the script."""

MAX_SHARE = 0.25
"""Words in more texts than this are left out."""


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """A text's place in a space of words; a text's mean squared norm over the fitted texts is 1.

    `scripts` says whether words are those of metarec.data.words, as they are where nothing older is read.
    """

    kind: ClassVar[str] = "text"

    name: str
    space: LatentSpace
    scripts: bool = True

    @property
    def width(self) -> int:
        """D + 1."""
        return self.space.dim + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, dim: int, min_count: int, max_words: int) -> "TextBlock":
        """Words in `min_count` texts and more (the `max_words` most frequent), reduced to `dim` directions or fewer."""
        texts = [words(text) for value in values if (text := as_text(value, name)) is not None]
        return TextBlock(
            name=name, space=LatentSpace.fit(texts, dim=dim, min_count=min_count, max_size=max_words, max_share=MAX_SHARE)
        )

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        for row, value in enumerate(values):
            text = as_text(value, self.name)
            if text is None:
                out_NB[row, -1] = 1.0
            else:
                out_NB[row, :-1] = self.space.project(words(text) if self.scripts else OLD_WORD.findall(text.lower()))

    def to_state(self) -> BlockState:
        """See Block."""
        state, arrays = self.space.to_state()
        return {"kind": self.kind, "name": self.name, "scripts": self.scripts, **state}, arrays

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "TextBlock":
        """The block that gave this state."""
        space = LatentSpace.from_state(state, arrays)
        return TextBlock(name=str(state["name"]), space=space, scripts=bool(state.get("scripts", False)))
