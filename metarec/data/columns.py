"""Raw columns as trimmed strings: the ground that every conversion of import stands on (values.py, fields.py).

A conversion answers with the values (null where missing or unusable), the problems by name as masks over the rows, and what it
changed on the way (notes). Strings are trimmed and brought to Unicode's composed form (NFC), so that one id has one spelling.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metarec.errors import DataError

Mask = NDArray[np.bool_]

MISSING = ("NA", "N/A", "NaN", "nan", "null", "NULL", "\\N")
"""What stands for a missing value beside the empty string, except in ids and texts."""

UNDECODABLE = "text is not valid UTF-8"


@dataclass(frozen=True, kw_only=True)
class Column:
    """Converted values; `problems` (unusable) and `notes` (converted) are masks of the rows by what happened."""

    values: pa.Array
    problems: dict[str, Mask] = field(default_factory=dict)
    notes: dict[str, Mask] = field(default_factory=dict)


def strings(raw: pa.Array, missing: tuple[str, ...] = ()) -> Column:
    """Values as trimmed strings, null where empty or in `missing`."""
    return by_unique(raw, lambda unique: trimmed(unique, missing))


def by_unique(raw: pa.Array, convert: Callable[[pa.Array], Column]) -> Column:
    """Convert each distinct value once. DataError where the column holds lists."""
    if pa.types.is_nested(raw.type):
        raise DataError(f"holds {raw.type} where one value a row is needed")
    encoded = raw if pa.types.is_dictionary(raw.type) else raw.dictionary_encode()
    unique = convert(encoded.dictionary)
    index_N = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)

    def spread(masks: dict[str, Mask]) -> dict[str, Mask]:
        return some({name: np.append(mask, False)[index_N] for name, mask in masks.items() if mask.any()})

    return Column(values=unique.values.take(encoded.indices), problems=spread(unique.problems), notes=spread(unique.notes))


def trimmed(raw: pa.Array, missing: tuple[str, ...]) -> Column:
    """Strings without surrounding spaces, composed; null where empty or in `missing`. DataError for a type that is no text."""
    text, problems = _text(raw)
    clean = pc.utf8_normalize(pc.utf8_trim_whitespace(text), form="NFC")
    moved = pc.fill_null(pc.not_equal(clean, text), False).to_numpy(zero_copy_only=False)
    gone = pc.is_in(clean, value_set=pa.array(["", *missing]))
    changed = moved & ~gone.to_numpy(zero_copy_only=False)
    return Column(
        values=pc.if_else(gone, pa.scalar(None, pa.string()), clean),
        problems=problems,
        notes=some({"surrounding spaces removed, Unicode composed": changed}),
    )


def digits(value: float) -> str:
    """A number as a code: whole ones without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)


def union(masks: dict[str, Mask], length: int) -> Mask:
    """Rows under any of the masks."""
    found = np.zeros(length, bool)
    for mask in masks.values():
        found |= mask
    return found


def some(masks: dict[str, Mask]) -> dict[str, Mask]:
    """Only the masks with a row under them."""
    return {name: mask for name, mask in masks.items() if mask.any()}


def _text(raw: pa.Array) -> tuple[pa.Array, dict[str, Mask]]:
    kind = raw.type
    if pa.types.is_floating(kind):
        values = raw.to_numpy(zero_copy_only=False)
        return pa.array(
            [None if value is None or math.isnan(value) else digits(float(value)) for value in values], pa.string()
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
