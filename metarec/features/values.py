"""Reads raw field values into plain Python ones, the same way from a table's column and from a request's features."""

import math

import numpy as np
from numpy.typing import NDArray

from metarec.errors import InvalidInputError


def is_missing(value: object) -> bool:
    """Whether `value` stands for nothing: None, NaN, NA, NaT, an empty string or an empty list."""
    if value is None:
        return True
    if isinstance(value, str | list | tuple | np.ndarray):
        return len(value) == 0
    # By name, for pandas takes half a second to import; NA is asked first, it refuses to be compared.
    return type(value).__name__ == "NAType" or value != value


def as_category(value: object, field: str) -> str | None:
    """One category; None when missing. Whole numbers read as their digits, as tables often hold codes as numbers."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    raise _wrong(field, "a string", value)


def as_categories(value: object, field: str) -> tuple[str, ...] | None:
    """Several categories, duplicates dropped; None when missing."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple | np.ndarray) and all(isinstance(part, str) for part in value):
        return tuple(dict.fromkeys(value)) or None
    raise _wrong(field, "a list of strings", value)


def as_number(value: object, field: str) -> float | None:
    """One finite number; None when missing."""
    if is_missing(value):
        return None
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number = float(value)
        if math.isinf(number):
            raise InvalidInputError(f"feature '{field}' is infinite; send a finite number or leave it out", field=field)
        return number
    raise _wrong(field, "a number", value)


def as_text(value: object, field: str) -> str | None:
    """A text; None when missing."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return value
    raise _wrong(field, "a text", value)


def as_vector(value: object, field: str, dim: int | None) -> NDArray[np.float32] | None:
    """A float32 vector of `dim` finite entries (any length when None); None when missing."""
    if is_missing(value):
        return None
    if not isinstance(value, list | tuple | np.ndarray) or not all(_is_number(part) for part in value):
        raise _wrong(field, "a list of numbers", value)
    vector = np.asarray(value, np.float32)
    if dim is not None and vector.shape != (dim,):
        raise InvalidInputError(f"feature '{field}' has {len(vector)} entries, expected {dim}", field=field)
    if not np.isfinite(vector).all():
        raise InvalidInputError(f"feature '{field}' has an entry that is no finite number", field=field)
    return vector


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _wrong(field: str, expected: str, value: object) -> InvalidInputError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return InvalidInputError(f"feature '{field}' must be {expected}, got {type(value).__name__} {shown}", field=field)
