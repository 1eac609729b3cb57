"""The encoded columns of one field: categories, numbers and vectors (texts are in text.py).

A block is fitted once on a table's column and then writes rows that depend on the row's own value alone, to the last bit:
encoding one item at serving time equals encoding it in bulk. So no operation here mixes rows or depends on how many there
are. The last column of every block says that the value was missing.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from metarec.features.values import as_categories, as_category, as_number, as_vector

Matrix = NDArray[np.float32]
BlockState = tuple[dict[str, object], dict[str, NDArray[np.generic]]]
"""JSON-able settings and named arrays of one block."""

CLIP = 5.0
"""Standardised numbers are cut here, so that one absurd value cannot move a whole prediction."""


class Block(Protocol):
    """The columns of one field. `kind` names the class in states."""

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """Field name."""
        ...

    @property
    def width(self) -> int:
        """Number of columns B, the missing indicator included."""
        ...

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """Encode N raw values into the zeroed `out_NB`; InvalidInputError naming the field when one has the wrong type."""
        ...

    def to_state(self) -> BlockState:
        """What `from_state` needs."""
        ...


@dataclass(frozen=True, kw_only=True)
class CategoryBlock:
    """One column per known category: one-hot, or multi-hot when `multiple`; unknown categories leave all of them 0."""

    kind: ClassVar[str] = "category"

    name: str
    vocabulary: tuple[str, ...]
    multiple: bool
    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {value: k for k, value in enumerate(self.vocabulary)})

    @property
    def width(self) -> int:
        """Categories + 1."""
        return len(self.vocabulary) + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, multiple: bool, min_count: int, max_size: int) -> "CategoryBlock":
        """Keep the `max_size` most frequent categories that occur at least `min_count` times (ties in alphabetical order)."""
        counts: Counter[str] = Counter()
        for value in values:
            counts.update(_categories(value, name, multiple) or ())
        kept = sorted((value for value, count in counts.items() if count >= min_count), key=lambda value: (-counts[value], value))
        return CategoryBlock(name=name, vocabulary=tuple(sorted(kept[:max_size])), multiple=multiple)

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        for row, value in enumerate(values):
            categories = _categories(value, self.name, self.multiple)
            if categories is None:
                out_NB[row, -1] = 1.0
                continue
            for category in categories:
                column = self._column.get(category)
                if column is not None:
                    out_NB[row, column] = 1.0

    def to_state(self) -> BlockState:
        """See Block."""
        return {"kind": self.kind, "name": self.name, "vocabulary": list(self.vocabulary), "multiple": self.multiple}, {}

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "CategoryBlock":
        """The block that gave this state."""
        vocabulary = state["vocabulary"]
        assert isinstance(vocabulary, list)
        return CategoryBlock(name=str(state["name"]), vocabulary=tuple(map(str, vocabulary)), multiple=bool(state["multiple"]))


@dataclass(frozen=True, kw_only=True)
class NumberBlock:
    """A number between K knots, which are quantiles: linear interpolation weighs the two knots around it, so that a linear map of
    the columns is a piecewise linear curve of the number (a rating's dependence on a year or an age is not one straight line).

    Beyond the first and the last knot the curve stays level. A column of the number itself would carry a trend on, which costs
    accuracy where new values lie outside of the old ones: films of years to come.
    """

    kind: ClassVar[str] = "number"

    name: str
    knots: tuple[float, ...]

    @property
    def width(self) -> int:
        """K + 1."""
        return len(self.knots) + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, num_knots: int) -> "NumberBlock":
        """At most `num_knots` knots, at quantiles of the present values; the least and the greatest of them are knots."""
        present = np.array([number for value in values if (number := as_number(value, name)) is not None], np.float64)
        if len(present) == 0:
            return NumberBlock(name=name, knots=())
        knots = np.unique(np.quantile(present, np.linspace(0, 1, num_knots), method="inverted_cdf"))
        return NumberBlock(name=name, knots=tuple(map(float, knots)))

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        last = len(self.knots) - 1
        for row, value in enumerate(values):
            number = as_number(value, self.name)
            if number is None or last < 0:
                out_NB[row, -1] = 1.0
                continue
            above = bisect_right(self.knots, number)
            if above == 0 or above > last:
                out_NB[row, min(max(above - 1, 0), last)] = 1.0
                continue
            share = (number - self.knots[above - 1]) / (self.knots[above] - self.knots[above - 1])
            out_NB[row, above - 1], out_NB[row, above] = 1.0 - share, share

    def to_state(self) -> BlockState:
        """See Block."""
        return {"kind": self.kind, "name": self.name, "knots": list(self.knots)}, {}

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "NumberBlock":
        """The block that gave this state."""
        knots = state["knots"]
        assert isinstance(knots, list)
        return NumberBlock(name=str(state["name"]), knots=tuple(map(float, knots)))


@dataclass(frozen=True, kw_only=True)
class VectorBlock:
    """A vector: entries standardised, then divided by the root of its length, so that it weighs as one category does."""

    kind: ClassVar[str] = "vector"

    name: str
    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]

    @property
    def width(self) -> int:
        """D + 1."""
        return len(self.mean_D) + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, dim: int | None) -> "VectorBlock":
        """Mean and deviation of each entry over the present vectors, which must agree in length."""
        present = [vector for value in values if (vector := as_vector(value, name, dim)) is not None]
        size = dim if dim is not None else (len(present[0]) if present else 0)
        if not present:
            return VectorBlock(name=name, mean_D=np.zeros(size), scale_D=np.ones(size))
        table = np.stack([vector for value in present if (vector := as_vector(value, name, size)) is not None]).astype(np.float64)
        deviation = table.std(axis=0)
        return VectorBlock(
            name=name, mean_D=table.mean(axis=0), scale_D=np.where(deviation > 1e-12, deviation, 1.0) * math.sqrt(max(size, 1))
        )

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        for row, value in enumerate(values):
            vector = as_vector(value, self.name, len(self.mean_D))
            if vector is None:
                out_NB[row, -1] = 1.0
            else:
                out_NB[row, :-1] = np.clip((vector - self.mean_D) / self.scale_D, -CLIP, CLIP)

    def to_state(self) -> BlockState:
        """See Block."""
        return {"kind": self.kind, "name": self.name}, {"mean": self.mean_D, "scale": self.scale_D}

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "VectorBlock":
        """The block that gave this state."""
        return VectorBlock(
            name=str(state["name"]), mean_D=arrays["mean"].astype(np.float64), scale_D=arrays["scale"].astype(np.float64)
        )


def _categories(value: object, name: str, multiple: bool) -> tuple[str, ...] | None:
    if multiple:
        return as_categories(value, name)
    category = as_category(value, name)
    return None if category is None else (category,)
