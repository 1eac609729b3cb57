"""Turns raw columns into the values of schema fields, lists and vectors among them (columns.py: what a conversion answers)."""

import math

import numpy as np
import pyarrow as pa

from metarec.data.columns import MISSING, Column, Mask, digits, some, strings, union
from metarec.data.schema import Field
from metarec.data.values import categories, numbers, texts
from metarec.errors import DataError


def feature(raw: pa.Array, field: Field, missing: tuple[str, ...] = MISSING) -> Column:
    """The values of one schema field. DataError when the column's type cannot hold its kind."""
    if field.columns:
        return _joined(raw, missing)
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


def _sets(raw: pa.Array, separator: str | None, missing: tuple[str, ...]) -> Column:
    if not _is_list(raw.type):
        plain = strings(raw)
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
        return None if math.isnan(value) else digits(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _vectors(raw: pa.Array, separator: str | None, dim: int, missing: tuple[str, ...]) -> Column:
    problems: dict[str, Mask] = {}
    if _is_list(raw.type):
        rows = raw.to_pylist()
    else:
        plain = strings(raw, missing)
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
    return Column(values=pa.array(values, pa.list_(pa.float32())), problems=some(problems))


def _joined(raw: pa.StructArray, missing: tuple[str, ...]) -> Column:
    """Vectors whose entries are columns of their own, given as one struct a row; missing where all entries are."""
    parts = [numbers(part, missing) for part in raw.flatten()]
    table_ND = np.stack([part.values.to_numpy(zero_copy_only=False).astype(np.float64) for part in parts], axis=1)
    problems = _any([part.problems for part in parts])
    gone_ND = np.isnan(table_ND)
    wrong_N = union(problems, len(raw))
    problems["vector has missing entries"] = gone_ND.any(1) & ~gone_ND.all(1) & ~wrong_N
    empty_N = gone_ND.any(1) | wrong_N
    values = [None if empty else row for empty, row in zip(empty_N, table_ND.tolist(), strict=True)]
    return Column(
        values=pa.array(values, pa.list_(pa.float32())), problems=some(problems), notes=_any([part.notes for part in parts])
    )


def _any(parts: list[dict[str, Mask]]) -> dict[str, Mask]:
    """Rows under the mask of a name in any part."""
    found: dict[str, Mask] = {}
    for part in parts:
        for name, mask in part.items():
            found[name] = found[name] | mask if name in found else mask
    return found


def _entries(row: list[object]) -> list[float] | None:
    try:
        entries = [float(entry) for entry in row]  # type: ignore[arg-type]  # what float() cannot take is what we look for
    except (TypeError, ValueError):
        return None
    return entries if all(map(math.isfinite, entries)) else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _type_name(kind: pa.DataType) -> str:
    return "text" if pa.types.is_binary(kind) or pa.types.is_string(kind) else str(kind)
