"""What rules ask of an item or a user: conditions over its id and its raw features, in three-valued logic.

A condition holds, does not hold, or is undecided, because the features could not be read (Kleene 1952). The difference matters:
a filter that cannot be decided must still keep what it forbids out of a list, and a boost must not be given away on a guess.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from metarec.data.schema import Field
from metarec.features.graph import GRAPH_FIELD
from metarec.types import Features, FeatureValue

Scalar = str | float


class Condition(ABC):
    """A question about one item or user."""

    @abstractmethod
    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """Whether it holds; None where that depends on features which could not be read (`features` is None)."""

    def fields(self) -> Iterator["FieldCondition"]:
        """The conditions on fields in it."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Ids(Condition):
    """The entity is one of these."""

    ids: frozenset[str]

    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """Whether the id is among them; never undecided."""
        return entity_id in self.ids


@dataclass(frozen=True, kw_only=True)
class FieldCondition(Condition, ABC):
    """A question about one field."""

    field: str

    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """As `of` says of the field's value."""
        return None if features is None else self.of(features.get(self.field))

    @abstractmethod
    def of(self, value: FeatureValue) -> bool:
        """Whether it holds for a value; None and the empty list are missing."""

    @abstractmethod
    def misfit(self, field: Field) -> str | None:
        """Why a field of this kind cannot be asked so; None when it can."""

    def fields(self) -> Iterator["FieldCondition"]:
        """Itself."""
        yield self


@dataclass(frozen=True, kw_only=True)
class OneOf(FieldCondition):
    """The field's value is among `values`; of a list, any of its members is. A missing value is not."""

    values: frozenset[Scalar]

    def of(self, value: FeatureValue) -> bool:
        """Whether the value, or a member of it, is among them."""
        if isinstance(value, tuple):
            return not self.values.isdisjoint(value)
        return value is not None and value in self.values

    def misfit(self, field: Field) -> str | None:
        """Numeric fields take numbers, vectors nothing, all others text."""
        if field.kind == "vector":
            return f"field '{field.name}' is a vector, which has no values to name; ask whether it is missing"
        numeric = field.kind == "numeric"
        for value in sorted(self.values, key=str):
            if isinstance(value, str) and numeric:
                return f"field '{field.name}' is numeric and takes numbers, not '{value}'"
            if not isinstance(value, str) and not numeric:
                return f"field '{field.name}' is {field.kind} and takes text: write {value:g} in quotes"
        return None


@dataclass(frozen=True, kw_only=True)
class Range(FieldCondition):
    """A numeric field lies within [low, high]. A missing value does not."""

    low: float = -math.inf
    high: float = math.inf

    def of(self, value: FeatureValue) -> bool:
        """Whether the number lies within."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def misfit(self, field: Field) -> str | None:
        """Only numeric fields have ranges."""
        return None if field.kind == "numeric" else f"field '{field.name}' is {field.kind}; only numeric fields have ranges"


@dataclass(frozen=True, kw_only=True)
class Missing(FieldCondition):
    """The field has no value, or, with `missing` false, has one."""

    missing: bool = True

    def of(self, value: FeatureValue) -> bool:
        """Whether there is no value, as asked."""
        return (value is None or value == () or value == "") is self.missing

    def misfit(self, field: Field) -> str | None:
        """Every field can be missing."""
        return None


@dataclass(frozen=True, kw_only=True)
class Not(Condition):
    """The other does not hold."""

    of: Condition

    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """The opposite; undecided stays undecided."""
        found = self.of.holds(entity_id, features)
        return None if found is None else not found

    def fields(self) -> Iterator[FieldCondition]:
        """Those of the other."""
        return self.of.fields()


@dataclass(frozen=True, kw_only=True)
class All(Condition):
    """All parts hold."""

    parts: tuple[Condition, ...]

    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """False as soon as one part is false, else undecided as soon as one is."""
        found = [part.holds(entity_id, features) for part in self.parts]
        return False if False in found else None if None in found else True

    def fields(self) -> Iterator[FieldCondition]:
        """Those of the parts."""
        for part in self.parts:
            yield from part.fields()


@dataclass(frozen=True, kw_only=True)
class AnyOf(Condition):
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def holds(self, entity_id: str, features: Features | None) -> bool | None:
        """True as soon as one part is true, else undecided as soon as one is."""
        found = [part.holds(entity_id, features) for part in self.parts]
        return True if True in found else None if None in found else False

    def fields(self) -> Iterator[FieldCondition]:
        """Those of the parts."""
        for part in self.parts:
            yield from part.fields()


def disjoint(one: Condition, other: Condition) -> bool:
    """Whether no entity can meet both, as far as that can be told from ids, single values and ranges."""
    ones, others = _parts(one), _parts(other)
    return any(_disjoint(a, b) for a in ones for b in others)


def known_fields(fields: Collection[Field], *, graph: bool = False) -> dict[str, Field]:
    """Fields by name, with the knowledge graph's list where there is one."""
    extra = (Field(name=GRAPH_FIELD, kind="multi_categorical"),) if graph else ()
    return {field.name: field for field in (*fields, *extra)}


def _parts(condition: Condition) -> Sequence[Condition]:
    return [leaf for part in condition.parts for leaf in _parts(part)] if isinstance(condition, All) else [condition]


def _disjoint(one: Condition, other: Condition) -> bool:
    if isinstance(one, Not):
        return one.of == other
    if isinstance(other, Not):
        return other.of == one
    if isinstance(one, Ids) and isinstance(other, Ids):
        return one.ids.isdisjoint(other.ids)
    if not (isinstance(one, FieldCondition) and isinstance(other, FieldCondition) and one.field == other.field):
        return False
    if isinstance(one, Range) and isinstance(other, Range):
        return one.high < other.low or other.high < one.low
    for first, second in ((one, other), (other, one)):
        if isinstance(first, OneOf) and isinstance(second, Range):
            return not any(second.of(value) for value in first.values)
        if isinstance(first, Missing):
            return second != first if isinstance(second, Missing) else first.missing
    # Of a list both may hold. That is not known here, and two segments of users are what is mostly meant.
    return isinstance(one, OneOf) and isinstance(other, OneOf) and one.values.isdisjoint(other.values)
