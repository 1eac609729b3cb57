"""Conditions: what holds, what does not, and what cannot be decided."""

import pytest

from metarec.data.schema import Field
from metarec.ranking.conditions import All, AnyOf, Condition, Ids, Missing, Not, OneOf, Range, disjoint
from metarec.types import Features

FILM: Features = {"genre": ("drama", "war"), "year": 1995.0, "rating": "18", "plot": None}


def one_of(field: str, *values: str | float) -> OneOf:
    return OneOf(field=field, values=frozenset(values))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (one_of("genre", "war"), True),
        (one_of("genre", "horror"), False),
        (one_of("rating", "16", "18"), True),
        (one_of("year", 1995.0), True),
        (one_of("plot", "x"), False),
        (Range(field="year", low=1990), True),
        (Range(field="year", high=1994.5), False),
        (Range(field="plot"), False),
        (Missing(field="plot"), True),
        (Missing(field="never heard of"), True),
        (Missing(field="genre"), False),
        (Missing(field="genre", missing=False), True),
        (Ids(ids=frozenset({"m1"})), True),
        (Not(of=one_of("genre", "war")), False),
        (All(parts=()), True),
        (All(parts=(one_of("genre", "war"), Range(field="year", low=2000))), False),
        (AnyOf(parts=(one_of("genre", "horror"), Range(field="year", high=2000))), True),
    ],
)
def test_conditions_hold_or_not(condition: Condition, expected: bool) -> None:
    assert condition.holds("m1", FILM) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (one_of("genre", "war"), None),
        (Not(of=one_of("genre", "war")), None),
        (Ids(ids=frozenset({"m1"})), True),
        (All(parts=(one_of("genre", "war"), Ids(ids=frozenset({"other"})))), False),
        (All(parts=(one_of("genre", "war"), Ids(ids=frozenset({"m1"})))), None),
        (AnyOf(parts=(one_of("genre", "war"), Ids(ids=frozenset({"m1"})))), True),
        (AnyOf(parts=(one_of("genre", "war"), Ids(ids=frozenset({"other"})))), None),
    ],
)
def test_what_depends_on_features_that_cannot_be_read_is_undecided(condition: Condition, expected: bool | None) -> None:
    assert condition.holds("m1", None) is expected


@pytest.mark.parametrize(
    ("condition", "kind", "problem"),
    [
        (one_of("f", 3.0), "categorical", "takes text: write 3 in quotes"),
        (one_of("f", "3"), "numeric", "takes numbers, not '3'"),
        (one_of("f", "x"), "vector", "is a vector"),
        (Range(field="f", low=1), "text", "only numeric fields have ranges"),
        (Missing(field="f"), "vector", None),
        (one_of("f", "a"), "multi_categorical", None),
        (one_of("f", 1.0), "numeric", None),
    ],
)
def test_questions_must_fit_the_kind_of_the_field(condition: OneOf, kind: str, problem: str | None) -> None:
    found = condition.misfit(Field(name="f", kind=kind, dim=2 if kind == "vector" else None))  # type: ignore[arg-type]  # kinds are the cases
    assert found is None if problem is None else found is not None and problem in found


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (one_of("s", "kids"), one_of("s", "adults"), True),
        (one_of("s", "kids"), one_of("s", "adults", "kids"), False),
        (one_of("s", "kids"), one_of("t", "adults"), False),
        (Range(field="age", high=17), Range(field="age", low=18), True),
        (Range(field="age", high=17), Range(field="age", low=17), False),
        (Range(field="age", high=17), one_of("age", 30.0), True),
        (Missing(field="age"), Range(field="age"), True),
        (Missing(field="age", missing=False), Range(field="age"), False),
        (one_of("s", "kids"), Not(of=one_of("s", "kids")), True),
        (Ids(ids=frozenset("a")), Ids(ids=frozenset("b")), True),
        (All(parts=(one_of("s", "kids"), Range(field="age", low=3))), one_of("s", "adults"), True),
        (AnyOf(parts=(one_of("s", "kids"),)), one_of("s", "adults"), False),
    ],
)
def test_conditions_that_nobody_can_meet_at_once_are_told(one: Condition, other: Condition, apart: bool) -> None:
    assert disjoint(one, other) is apart
    assert disjoint(other, one) is apart
