"""Turns raw columns into ids, categories, numbers, labels and times (columns.py: what a conversion answers)."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metarec.data.columns import MISSING, Column, Mask, by_unique, some, strings, trimmed, union
from metarec.data.schema import Label
from metarec.errors import DataError

__all__ = ["MISSING", "Column", "Mask", "categories", "further", "ids", "labels", "numbers", "strings", "texts", "times", "union"]

CONTROL = "id contains a control character or a line break (is a quote left open?)"
LATEST = 4_102_444_800.0
"""2100-01-01 in seconds: later times are mistakes."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def ids(raw: pa.Array) -> Column:
    """Ids as trimmed strings; whole numbers as their digits. Missing ones are null."""
    return by_unique(raw, lambda unique: _ids(trimmed(unique, ())))


def categories(raw: pa.Array, missing: tuple[str, ...] = MISSING) -> Column:
    """One category a row, as strings."""
    return by_unique(raw, lambda unique: trimmed(unique, missing))


def texts(raw: pa.Array) -> Column:
    """Texts; only empty ones are missing."""
    return by_unique(raw, lambda unique: trimmed(unique, ()))


def numbers(raw: pa.Array, missing: tuple[str, ...] = MISSING) -> Column:
    """Finite float64 numbers."""
    if _is_number(raw.type):
        return _finite(pc.cast(raw, pa.float64(), safe=False))
    if pa.types.is_boolean(raw.type):
        return Column(values=pc.cast(pc.cast(raw, pa.int8()), pa.float64()))
    return by_unique(raw, lambda unique: _parsed(trimmed(unique, missing)))


def labels(raw: pa.Array, label: Label, missing: tuple[str, ...] = MISSING) -> Column:
    """Labels within the schema's range; a missing one is a problem, for an event without it says nothing."""
    found = by_unique(raw, lambda unique: _truth(unique, missing)) if label.kind == "binary" else numbers(raw, missing)
    values = found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    absent = np.isnan(values) & ~union(found.problems, len(values))
    problems = {**found.problems, "label is missing": absent}
    with np.errstate(invalid="ignore"):
        if label.kind == "binary":
            problems["label is neither 0 nor 1"] = ~np.isnan(values) & (values != 0) & (values != 1)
        else:
            problems[f"label is below the schema's minimum {label.minimum:g}"] = values < label.minimum
            problems[f"label is above the schema's maximum {label.maximum:g}"] = values > label.maximum
    return Column(values=pa.array(values), problems=some(problems), notes=found.notes)


def further(raw: pa.Array, label: Label, missing: tuple[str, ...] = MISSING) -> Column:
    """Labels of a further target: as `labels`, but null where missing or unusable."""
    found = labels(raw, label, missing)
    problems = {problem: mask for problem, mask in found.problems.items() if problem != "label is missing"}
    values = found.values.to_numpy(zero_copy_only=False)
    unusable = np.isnan(values) | union(problems, len(values))
    return Column(values=pa.array(values, mask=unusable), problems=problems, notes=found.notes)


def times(raw: pa.Array, missing: tuple[str, ...] = MISSING) -> Column:
    """Seconds since 1970 (UTC) from seconds, milli-, micro- or nanoseconds (told by their size), ISO 8601 text or Arrow times."""
    if pa.types.is_temporal(raw.type) and not pa.types.is_time(raw.type) and not pa.types.is_duration(raw.type):
        micros = pc.cast(pc.cast(raw, pa.timestamp("us"), safe=False), pa.int64())
        found = Column(values=pc.divide(pc.cast(micros, pa.float64(), safe=False), 1e6))
    elif _is_number(raw.type):
        found = _scaled(numbers(raw))
    elif pa.types.is_temporal(raw.type):
        raise DataError(f"holds {raw.type}, which is no point in time; give seconds since 1970 or ISO 8601 text")
    else:
        found = by_unique(raw, lambda unique: _moments(trimmed(unique, missing)))
    values = found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    problems = {**found.problems, "timestamp is missing": np.isnan(values) & ~union(found.problems, len(values))}
    with np.errstate(invalid="ignore"):
        problems["timestamp is before 1970"] = values < 0
        problems["timestamp is after 2099"] = values >= LATEST
    return Column(values=pa.array(values), problems=some(problems), notes=found.notes)


def _ids(found: Column) -> Column:
    bad = pc.fill_null(pc.match_substring_regex(found.values, r"[\x00-\x1f\x7f]"), False).to_numpy(zero_copy_only=False)
    values = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), found.values) if bad.any() else found.values
    return Column(values=values, problems=some({**found.problems, CONTROL: bad}), notes=found.notes)


def _parsed(found: Column) -> Column:
    good = pc.fill_null(pc.match_substring_regex(found.values, _NUMBER), False)
    bad = (found.values.is_valid().to_numpy(zero_copy_only=False)) & ~good.to_numpy(zero_copy_only=False)
    text = pc.replace_substring_regex(pc.if_else(good, found.values, pa.scalar(None, pa.string())), r"^\+", "")
    numbers = _finite(pc.cast(text, pa.float64()))
    return Column(values=numbers.values, problems=some({**found.problems, "value is no number": bad, **numbers.problems}))


def _finite(values: pa.Array) -> Column:
    array = values.to_numpy(zero_copy_only=False).astype(np.float64)
    infinite = np.isinf(array)
    missing = np.isnan(array)
    return Column(values=pa.array(array, mask=infinite | missing), problems=some({"value is infinite": infinite}))


def _truth(raw: pa.Array, missing: tuple[str, ...]) -> Column:
    if _is_number(raw.type) or pa.types.is_boolean(raw.type):
        return numbers(raw, missing)
    found = trimmed(raw, missing)
    lower = pc.utf8_lower(found.values)
    text = pc.replace_substring_regex(pc.replace_substring_regex(lower, "^true$", "1"), "^false$", "0")
    return _parsed(Column(values=text, problems=found.problems))


def _scaled(found: Column) -> Column:
    values, dates = _dates_as_seconds(found.values.to_numpy(zero_copy_only=False).astype(np.float64))
    notes: dict[str, Mask] = {"date without dashes converted to seconds": dates}
    size = np.abs(values)
    scale = np.ones(len(values))
    with np.errstate(invalid="ignore"):
        for unit, low, high, divisor in (
            ("milliseconds", 1e11, 1e14, 1e3),
            ("microseconds", 1e14, 1e17, 1e6),
            ("nanoseconds", 1e17, np.inf, 1e9),
        ):
            mask = (size >= low) & (size < high)
            scale[mask] = divisor
            notes[f"{unit} read as such and converted to seconds"] = mask
    return Column(
        values=pa.array(values / scale, from_pandas=True), problems=found.problems, notes=some({**found.notes, **notes})
    )


def _dates_as_seconds(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], Mask]:
    """Numbers such as 20240105 as seconds, and where they were. Read as seconds they would lie in August 1970; one alone may mean
    either, but where more than half of a column are days of the calendar, days are meant."""
    with np.errstate(invalid="ignore"):
        likely = (values >= 19700101) & (values <= 20991231) & (values % 1 == 0)
    places = np.flatnonzero(likely)
    days = pd.to_datetime(pd.Series(values[places].astype(np.int64).astype(str)), format="%Y%m%d", utc=True, errors="coerce")
    valid = days.notna().to_numpy()
    mask = np.zeros(len(values), bool)
    if 2 * valid.sum() <= np.isfinite(values).sum():
        return values, mask
    mask[places[valid]] = True
    values = values.copy()
    values[mask] = days[valid].astype("datetime64[us, UTC]").astype(np.int64).to_numpy() / 1e6
    return values, mask


def _moments(found: Column) -> Column:
    parsed = _parsed(found)
    scaled = _scaled(parsed)
    seconds = scaled.values.to_numpy(zero_copy_only=False).astype(np.float64)
    rest = np.flatnonzero(parsed.problems.get("value is no number", np.zeros(len(seconds), bool)))
    notes = dict(scaled.notes)
    problems = {name: mask for name, mask in scaled.problems.items() if name != "value is no number"}
    if len(rest):
        text = pd.Series(found.values.take(pa.array(rest)).to_pylist(), dtype=object)
        moments = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        good = moments.notna().to_numpy()
        seconds[rest[good]] = moments[good].astype("datetime64[us, UTC]").astype(np.int64).to_numpy() / 1e6
        iso, bad = np.zeros(len(seconds), bool), np.zeros(len(seconds), bool)
        iso[rest[good]] = True
        bad[rest[~good]] = True
        notes["ISO 8601 time converted to seconds"] = iso
        problems["timestamp is neither a number nor an ISO 8601 time"] = bad
    return Column(values=pa.array(seconds, from_pandas=True), problems=some(problems), notes=some(notes))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
