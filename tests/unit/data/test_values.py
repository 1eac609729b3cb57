import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data import values
from metarec.data.columns import UNDECODABLE, Column
from metarec.data.fields import feature
from metarec.data.schema import Field, Label
from metarec.errors import DataError

RATING = Label(column="r", kind="rating", minimum=1, maximum=5)
BINARY = Label(column="r", kind="binary")


def _raw(*cells: str | None) -> pa.Array:
    return pa.array([None if cell is None else cell.encode() for cell in cells], pa.binary())


def _problems(column: Column) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask).tolist() for name, mask in column.problems.items()}


@pytest.mark.parametrize(
    "raw",
    [
        _raw("12", " 12 ", "", None, "12"),
        pa.array([12, 12, None, None, 12], pa.int32()),
        pa.array([12.0, 12.0, float("nan"), None, 12.0]),
        pa.array(["12", "12\t", "", None, "12"]).dictionary_encode(),
        pa.array([decimal.Decimal(12)] * 2 + [None] * 2 + [decimal.Decimal(12)], pa.decimal128(5, 0)),
    ],
)
def test_one_id_has_one_spelling_whatever_the_type(raw):
    assert values.ids(raw).values.to_pylist() == ["12", "12", None, None, "12"]


def test_ids_are_composed_and_may_be_called_null():
    column = values.ids(_raw("Zoe\u0308", "null", "NaN"))
    assert column.values.to_pylist() == ["Zoë", "null", "NaN"]
    assert [mask.tolist() for mask in column.notes.values()] == [[True, False, False]]


def test_ids_with_line_breaks_and_undecodable_ids_are_problems():
    column = values.ids(pa.array([b"a\nb,c", b"\xff", b"ok"], pa.binary()))
    assert column.values.to_pylist() == [None, None, "ok"]
    assert _problems(column) == {values.CONTROL: [0], UNDECODABLE: [1]}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_from_text_to_the_last_bit(number):
    assert values.numbers(_raw(repr(number))).values.to_pylist() == [number]


@given(st.text(max_size=6))
def test_text_is_a_number_exactly_where_python_says_so(text):
    clean = text.strip()
    column = values.numbers(_raw(text))
    try:
        plain = clean.isascii() and "_" not in clean and "n" not in clean.lower() and np.isfinite(float(clean))
    except ValueError:
        plain = False
    if plain:
        assert column.values.to_pylist() == [float(clean)]
    elif column.values.is_valid()[0].as_py():
        raise AssertionError(f"{text!r} read as {column.values}")


def test_numbers_missing_wrong_and_infinite():
    column = values.numbers(_raw("+1.5e1", "NA", "3,5", "", "1e999", ".5"))
    assert column.values.to_pylist() == [15.0, None, None, None, None, 0.5]
    assert _problems(column) == {"value is no number": [2], "value is infinite": [4]}
    assert _problems(values.numbers(pa.array([1.0, float("inf")]))) == {"value is infinite": [1]}
    assert values.numbers(pa.array([True, None])).values.to_pylist() == [1.0, None]


def test_labels_outside_the_range_absent_or_no_numbers():
    column = values.labels(_raw("1", "5", "0.5", "6", "", "good"), RATING)
    assert _problems(column) == {
        "value is no number": [5],
        "label is missing": [4],
        "label is below the schema's minimum 1": [2],
        "label is above the schema's maximum 5": [3],
    }


def test_binary_labels():
    column = values.labels(_raw("1", "0", "true", "FALSE", "2", "0.0"), BINARY)
    assert column.values.to_pylist() == [1, 0, 1, 0, 2, 0]
    assert _problems(column) == {"label is neither 0 nor 1": [4]}
    assert values.labels(pa.array([True, False]), BINARY).values.to_pylist() == [1, 0]


SECONDS = 1_577_923_200  # 2020-01-02T00:00:00Z


@pytest.mark.parametrize(
    "raw",
    [
        _raw(str(SECONDS)),
        _raw(str(SECONDS * 10**3)),
        _raw(str(SECONDS * 10**6)),
        _raw(str(SECONDS * 10**9)),
        _raw(f"{SECONDS}.0"),
        _raw("2020-01-02"),
        _raw("2020-01-02T00:00:00Z"),
        _raw("2020-01-02 02:00:00+02:00"),
        pa.array([SECONDS]),
        pa.array([float(SECONDS * 10**3)]),
        pa.array([dt.date(2020, 1, 2)]),
        pa.array([dt.datetime(2020, 1, 2)]),
        pa.array([dt.datetime(2020, 1, 2, tzinfo=dt.UTC)], pa.timestamp("ns", "Europe/Kyiv")),
    ],
)
def test_times_are_seconds_whatever_their_form(raw):
    column = values.times(raw)
    assert column.values.to_pylist() == [SECONDS]
    assert not column.problems


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2099, 12, 31)))
def test_iso_times_keep_their_microseconds(moment):
    assert values.times(_raw(moment.isoformat())).values[0].as_py() == pytest.approx(
        moment.replace(tzinfo=dt.UTC).timestamp(), abs=1e-6
    )


@pytest.mark.parametrize("raw", [_raw("20200102", "", "20200103", "7"), pa.array([20200102, None, 20200103, 7])])
def test_numbers_that_are_mostly_days_of_the_calendar_are_read_as_days(raw):
    column = values.times(raw)
    assert column.values.to_pylist()[::2] == [SECONDS, SECONDS + 86_400]
    assert column.values[3].as_py() == 7
    assert np.flatnonzero(column.notes["date without dashes converted to seconds"]).tolist() == [0, 2]


def test_seconds_that_could_be_a_day_stay_seconds_among_others():
    assert values.times(pa.array([20200102, 20200199, 100, 200])).values.to_pylist() == [20200102, 20200199, 100, 200]


def test_bad_times_are_problems_and_conversions_are_noted():
    column = values.times(_raw("-5", "", "yesterday", str(SECONDS * 1000), "2020-01-02", "2150-01-01", "1960-01-01"))
    assert _problems(column) == {
        "timestamp is neither a number nor an ISO 8601 time": [2],
        "timestamp is missing": [1],
        "timestamp is before 1970": [0, 6],
        "timestamp is after 2099": [5],
    }
    assert {name: np.flatnonzero(mask).tolist() for name, mask in column.notes.items()} == {
        "milliseconds read as such and converted to seconds": [3],
        "ISO 8601 time converted to seconds": [4, 5, 6],
    }


def test_a_duration_is_no_time():
    with pytest.raises(DataError, match="no point in time"):
        values.times(pa.array([dt.timedelta(1)]))


@pytest.mark.parametrize(
    ("raw", "separator"),
    [
        (_raw("a| b|a", "", None, "|"), "|"),
        (pa.array([["a", " b", "a", None], [], None, [""]]), None),
        (pa.array([["a", "b"], None, None, ["nan"]], pa.large_list(pa.string())), "|"),
    ],
)
def test_sets_are_trimmed_without_repeats_and_missing_when_empty(raw, separator):
    field = Field(name="f", kind="multi_categorical", separator=separator)
    assert feature(raw, field).values.to_pylist() == [["a", "b"], None, None, None]


def test_codes_in_lists_read_as_their_digits():
    field = Field(name="f", kind="multi_categorical")
    assert feature(pa.array([[1, 2]]), field).values.to_pylist() == [["1", "2"]]
    assert feature(pa.array([[1.0, 2.5]]), field).values.to_pylist() == [["1", "2.5"]]
    assert feature(_raw("a,b"), field).values.to_pylist() == [["a,b"]]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(pa.array([18, None, 25]), ["18", None, "25"]), (_raw("18", "NA", " 25"), ["18", None, "25"]), (pa.array([True]), ["true"])],
)
def test_categories_from_codes_and_text(raw, expected):
    assert feature(raw, Field(name="f", kind="categorical")).values.to_pylist() == expected


def test_texts_keep_what_looks_missing():
    assert feature(_raw("NA", " ", "x\ny"), Field(name="f", kind="text")).values.to_pylist() == ["NA", None, "x\ny"]


@pytest.mark.parametrize(
    ("raw", "separator"),
    [
        (_raw("1 2.5", "", "1 2 3", "1 x"), " "),
        (pa.array([[1.0, 2.5], [], [1.0, 2.0, 3.0], [1.0, None]]), None),
        (pa.array([[1.0, 2.5], None, [1.0], [1.0, float("inf")]]), None),
    ],
)
def test_vectors_of_another_length_or_with_odd_entries_are_problems(raw, separator):
    column = feature(raw, Field(name="f", kind="vector", dim=2, separator=separator))
    assert column.values.to_pylist() == [[1.0, 2.5], None, None, None]
    assert _problems(column) == {"vector has not 2 entries": [2], "vector has an entry that is no finite number": [3]}


@pytest.mark.parametrize(
    ("raw", "field", "message"),
    [
        (pa.array([["a"]]), Field(name="f", kind="categorical"), "holds list<.*which kind 'categorical'"),
        (pa.array([{"a": 1}]), Field(name="f", kind="multi_categorical"), "holds struct<.*which kind 'multi_categorical'"),
        (pa.array([[["a"]]]), Field(name="f", kind="multi_categorical"), "holds list<"),
        (_raw("1 2"), Field(name="f", kind="vector", dim=2), "holds text; give vector field 'f' a separator"),
    ],
)
def test_columns_that_cannot_be_of_a_kind_are_refused(raw, field, message):
    with pytest.raises(DataError, match=message):
        feature(raw, field)
