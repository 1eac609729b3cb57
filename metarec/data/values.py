"""Turns raw columns into the types of a dataset: ids and categories as strings, numbers, seconds, lists and vectors.

Every conversion answers with the values (null where missing or unusable), the problems by name as masks over the rows, and
what it changed on the way (notes). Strings are trimmed and brought to Unicode's composed form (NFC), so that one id has one
spelling.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metarec.data.schema import Field, Label
from metarec.errors import DataError

Mask = NDArray[np.bool_]

MISSING = ("NA", "N/A", "NaN", "nan", "null", "NULL", "\\N")
"""What stands for a missing value beside the empty string, except in ids and texts."""

UNDECODABLE = "text is not valid UTF-8"
CONTROL = "id contains a control character or a line break (is a quote left open?)"
LATEST = 4_102_444_800.0
"""2100-01-01 in seconds: later times are mistakes."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True, kw_only=True)
class Column:
    """Converted values; `problems` (unusable) and `notes` (converted) are masks of the rows by what happened."""

    values: pa.Array
    problems: dict[str, Mask] = field(default_factory=dict)
    notes: dict[str, Mask] = field(default_factory=dict)


def ids(raw: pa.Array) -> Column:
    """Ids as trimmed strings; whole numbers as their digits. Missing ones are null."""
    return _by_unique(raw, lambda unique: _ids(_strings(unique, ())))


def categories(raw: pa.Array, missing: tuple[str, ...] = MISSING) -> Column:
    """One category a row, as strings."""
    return _by_unique(raw, lambda unique: _strings(unique, missing))


def texts(raw: pa.Array) -> Column:
    """Texts; only empty ones are missing."""
    return _by_unique(raw, lambda unique: _strings(unique, ()))


def numbers(raw: pa.Array, missing: tuple[str, ...] = MISSING) -> Column:
    """Finite float64 numbers."""
    if _is_number(raw.type):
        return _finite(pc.cast(raw, pa.float64(), safe=False))
    if pa.types.is_boolean(raw.type):
        return Column(values=pc.cast(pc.cast(raw, pa.int8()), pa.float64()))
    return _by_unique(raw, lambda unique: _parsed(_strings(unique, missing)))


def labels(raw: pa.Array, label: Label, missing: tuple[str, ...] = MISSING) -> Column:
    """Labels within the schema's range; a missing one is a problem, for an event without it says nothing."""
    found = _by_unique(raw, lambda unique: _truth(unique, missing)) if label.kind == "binary" else numbers(raw, missing)
    values = found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    absent = np.isnan(values) & ~union(found.problems, len(values))
    problems = {**found.problems, "label is missing": absent}
    with np.errstate(invalid="ignore"):
        if label.kind == "binary":
            problems["label is neither 0 nor 1"] = ~np.isnan(values) & (values != 0) & (values != 1)
        else:
            problems[f"label is below the schema's minimum {label.minimum:g}"] = values < label.minimum
            problems[f"label is above the schema's maximum {label.maximum:g}"] = values > label.maximum
    return Column(values=pa.array(values), problems=_some(problems), notes=found.notes)


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
        found = _by_unique(raw, lambda unique: _moments(_strings(unique, missing)))
    values = found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    problems = {**found.problems, "timestamp is missing": np.isnan(values) & ~union(found.problems, len(values))}
    with np.errstate(invalid="ignore"):
        problems["timestamp is before 1970"] = values < 0
        problems["timestamp is after 2099"] = values >= LATEST
    return Column(values=pa.array(values), problems=_some(problems), notes=found.notes)


def feature(raw: pa.Array, field: Field, missing: tuple[str, ...] = MISSING) -> Column:
    """The values of one schema field. DataError when the column's type cannot hold its kind."""
    nested = pa.types.is_nested(raw.type)
    if nested and not (_is_list(raw.type) and field.kind in ("multi_categorical", "vector")):
        raise DataError(f"holds {raw.type}, which kind '{field.kind}' of the schema cannot be")
    if field.kind == "categorical":
        return categories(raw, missing)
    if field.kind == "text":
        return texts(raw)
    if field.kind == "numeric":
        return numbers(raw, missing)
    if field.kind == "multi_categorical":
        return _sets(raw, field.separator, missing)
    if not nested and field.separator is None:
        raise DataError(f"holds {_type_name(raw.type)}; give vector field '{field.name}' a separator in the schema")
    assert field.dim is not None
    return _vectors(raw, field.separator, field.dim, missing)


def strings(raw: pa.Array, missing: tuple[str, ...] = ()) -> Column:
    """Values as trimmed strings, null where empty or in `missing`."""
    return _by_unique(raw, lambda unique: _strings(unique, missing))


def _by_unique(raw: pa.Array, convert: Callable[[pa.Array], Column]) -> Column:
    if pa.types.is_nested(raw.type):
        raise DataError(f"holds {raw.type} where one value a row is needed")
    encoded = raw if pa.types.is_dictionary(raw.type) else raw.dictionary_encode()
    unique = convert(encoded.dictionary)
    index_N = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)

    def spread(masks: dict[str, Mask]) -> dict[str, Mask]:
        return _some({name: np.append(mask, False)[index_N] for name, mask in masks.items() if mask.any()})

    return Column(values=unique.values.take(encoded.indices), problems=spread(unique.problems), notes=spread(unique.notes))


def _strings(raw: pa.Array, missing: tuple[str, ...]) -> Column:
    text, problems = _text(raw)
    clean = pc.utf8_normalize(pc.utf8_trim_whitespace(text), form="NFC")
    moved = pc.fill_null(pc.not_equal(clean, text), False).to_numpy(zero_copy_only=False)
    gone = pc.is_in(clean, value_set=pa.array(["", *missing]))
    changed = moved & ~gone.to_numpy(zero_copy_only=False)
    return Column(
        values=pc.if_else(gone, pa.scalar(None, pa.string()), clean),
        problems=problems,
        notes=_some({"surrounding spaces removed, Unicode composed": changed}),
    )


def _text(raw: pa.Array) -> tuple[pa.Array, dict[str, Mask]]:
    kind = raw.type
    if pa.types.is_floating(kind):
        values = raw.to_numpy(zero_copy_only=False)
        return pa.array(
            [None if value is None or math.isnan(value) else _digits(float(value)) for value in values], pa.string()
        ), {}
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        try:
            return pc.cast(raw, pa.string()), {}
        except pa.ArrowException:
            raise DataError(f"holds {kind}, which cannot be read as text") from None
    try:
        return pc.cast(raw, pa.string()), {}
    except pa.ArrowInvalid:
        decoded = [_decoded(value) for value in raw.to_pylist()]
        bad = np.array([value is None and raw[k].is_valid for k, value in enumerate(decoded)], bool)
        return pa.array(decoded, pa.string()), {UNDECODABLE: bad}


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _digits(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)


def _ids(found: Column) -> Column:
    bad = pc.fill_null(pc.match_substring_regex(found.values, r"[\x00-\x1f\x7f]"), False).to_numpy(zero_copy_only=False)
    values = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), found.values) if bad.any() else found.values
    return Column(values=values, problems=_some({**found.problems, CONTROL: bad}), notes=found.notes)


def _parsed(found: Column) -> Column:
    good = pc.fill_null(pc.match_substring_regex(found.values, _NUMBER), False)
    bad = (found.values.is_valid().to_numpy(zero_copy_only=False)) & ~good.to_numpy(zero_copy_only=False)
    text = pc.replace_substring_regex(pc.if_else(good, found.values, pa.scalar(None, pa.string())), r"^\+", "")
    numbers = _finite(pc.cast(text, pa.float64()))
    return Column(values=numbers.values, problems=_some({**found.problems, "value is no number": bad, **numbers.problems}))


def _finite(values: pa.Array) -> Column:
    array = values.to_numpy(zero_copy_only=False).astype(np.float64)
    infinite = np.isinf(array)
    missing = np.isnan(array)
    return Column(values=pa.array(array, mask=infinite | missing), problems=_some({"value is infinite": infinite}))


def _truth(raw: pa.Array, missing: tuple[str, ...]) -> Column:
    if _is_number(raw.type) or pa.types.is_boolean(raw.type):
        return numbers(raw, missing)
    found = _strings(raw, missing)
    lower = pc.utf8_lower(found.values)
    text = pc.replace_substring_regex(pc.replace_substring_regex(lower, "^true$", "1"), "^false$", "0")
    return _parsed(Column(values=text, problems=found.problems))


def _scaled(found: Column) -> Column:
    values = found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    notes: dict[str, Mask] = {}
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
        values=pa.array(values / scale, from_pandas=True), problems=found.problems, notes=_some({**found.notes, **notes})
    )


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
    return Column(values=pa.array(seconds, from_pandas=True), problems=_some(problems), notes=_some(notes))


def _sets(raw: pa.Array, separator: str | None, missing: tuple[str, ...]) -> Column:
    if not _is_list(raw.type):
        plain = _strings_or_raise(raw, ())
        lists = [None if text is None else (text.split(separator) if separator else [text]) for text in plain.values.to_pylist()]
        problems = plain.problems
    else:
        inner = raw.type.value_type
        if pa.types.is_nested(inner):
            raise DataError(f"holds {raw.type}, which kind 'multi_categorical' of the schema cannot be")
        lists, problems = [None if row is None else [_category(part) for part in row] for row in raw.to_pylist()], {}
    absent = {"", *missing}
    values = []
    for row in lists:
        parts = dict.fromkeys(part.strip() for part in row if part is not None) if row is not None else {}
        kept = [part for part in parts if part not in absent]
        values.append(kept or None)
    return Column(values=pa.array(values, pa.list_(pa.string())), problems=problems)


def _category(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else _digits(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _vectors(raw: pa.Array, separator: str | None, dim: int, missing: tuple[str, ...]) -> Column:
    problems: dict[str, Mask] = {}
    if _is_list(raw.type):
        rows = raw.to_pylist()
    else:
        plain = _strings_or_raise(raw, missing)
        rows, problems = [None if text is None else text.split(separator) for text in plain.values.to_pylist()], plain.problems
    length, content = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    values: list[list[float] | None] = []
    for k, row in enumerate(rows):
        entries = None
        if row is not None and len(row) > 0:
            entries = _entries(row)
            length[k] = len(row) != dim
            content[k] = not length[k] and entries is None
        values.append(None if length[k] else entries)
    problems = {**problems, f"vector has not {dim} entries": length, "vector has an entry that is no finite number": content}
    return Column(values=pa.array(values, pa.list_(pa.float32())), problems=_some(problems))


def _entries(row: list[object]) -> list[float] | None:
    try:
        entries = [float(entry) for entry in row]  # type: ignore[arg-type]  # what float() cannot take is what we look for
    except (TypeError, ValueError):
        return None
    return entries if all(map(math.isfinite, entries)) else None


def _strings_or_raise(raw: pa.Array, missing: tuple[str, ...]) -> Column:
    return _by_unique(raw, lambda unique: _strings(unique, missing))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _type_name(kind: pa.DataType) -> str:
    return "text" if pa.types.is_binary(kind) or pa.types.is_string(kind) else str(kind)


def union(masks: dict[str, Mask], length: int) -> Mask:
    """Rows under any of the masks."""
    found = np.zeros(length, bool)
    for mask in masks.values():
        found |= mask
    return found


def _some(masks: dict[str, Mask]) -> dict[str, Mask]:
    return {name: mask for name, mask in masks.items() if mask.any()}
