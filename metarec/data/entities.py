"""Imports the users or the items table: ids and schema fields, one row per id.

A wrong value does not cost the row (the interactions need it): it becomes missing. The table is held in memory, as
every later step holds it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from metarec.data import values
from metarec.data.columns import MISSING, Column
from metarec.data.fields import feature
from metarec.data.reading import Chunk, Source
from metarec.data.report import TableReport
from metarec.data.schema import Field
from metarec.errors import DataError

Progress = Callable[[float, str], None]
"""Takes the share of a file that is done and a short note."""

TYPES: dict[str, pa.DataType] = {
    "categorical": pa.string(),
    "multi_categorical": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "text": pa.string(),
    "vector": pa.list_(pa.float32()),
}


def read_entities(
    source: Source,
    key: str,
    fields: Sequence[Field],
    report: TableReport,
    missing: tuple[str, ...] = MISSING,
    progress: Progress = lambda done, note: None,
) -> pa.Table:
    """The table with its id column first and then the fields. DataError where it is unusable."""
    names = [key, *(column for field in fields for column in field.sources)]
    source.require(names)
    parts = []
    for chunk in source.chunks(names):
        parts.append(_convert(chunk, key, fields, report, missing))
        progress(chunk.done, f"{report.read:,} rows")
    report.check()
    table = pa.concat_tables(parts) if parts else empty_table(key, fields)
    if len(table) == 0:
        raise DataError("has no usable rows" if report.read else "has a header but no rows", file=report.file)
    table = _one_row_per_id(table, key, report)
    report.check()
    report.kept = len(table)
    return table.drop_columns(["_row"])


def with_more(table: pa.Table, other: pa.Table, key: str, report: TableReport) -> pa.Table:
    """The table with the fields of another one, by id; ids that only the other has are left out, with their number reported."""
    place = {name: row for row, name in enumerate(other[key].to_pylist())}
    rows = [place.pop(name, None) for name in table[key].to_pylist()]
    left = next(iter(place), None)
    report.add(key, "id is not in the first file of its kind", "left out", rows=len(place), value=left)
    if len(place) == len(other):
        raise DataError(f"has none of the {len(table):,} ids of the first file of its kind", file=report.file, column=key)
    report.kept = len(other) - len(place)
    return pa.table({**_columns(table), **_columns(other.drop_columns([key]).take(pa.array(rows, pa.int64())))})


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def empty_table(key: str, fields: Sequence[Field]) -> pa.Table:
    """The table of no entities."""
    return pa.schema([(key, pa.string()), *((field.name, TYPES[field.kind]) for field in fields)]).empty_table()


def with_added(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    """The table with a row for each of these ids behind its own; their fields are missing."""
    if not ids:
        return table
    columns = [pa.array(ids, pa.string()), *(pa.nulls(len(ids), kind) for kind in table.schema.types[1:])]
    return pa.concat_tables([table, pa.table(columns, schema=table.schema)])


def _convert(chunk: Chunk, key: str, fields: Sequence[Field], report: TableReport, missing: tuple[str, ...]) -> pa.Table:
    report.add_malformed(chunk.malformed)
    report.read += len(chunk.row_N)
    raw = {key: chunk.columns[key], **{field.name: _raw(field, chunk.columns) for field in fields}}
    found = {}
    for name, convert in [(key, values.ids), *((f.name, _converter(f, missing)) for f in fields)]:
        found[name] = report.converted(name, raw[name], convert)
    names = [field.name for field in fields]
    usable = report.judge(found, raw, chunk.row_N, ids={key: "id is missing"}, optional=names)
    schema = empty_table(key, fields).schema.append(pa.field("_row", pa.int64()))
    columns = [*(found[name].values for name in (key, *names)), pa.array(chunk.row_N)]
    return pa.table(columns, schema=schema).filter(pa.array(usable))


def _raw(field: Field, columns: Mapping[str, pa.Array]) -> pa.Array:
    """The column of a field; where it has several, one struct a row."""
    if not field.columns:
        return columns[field.name]
    return pa.StructArray.from_arrays([columns[name] for name in field.columns], names=list(field.columns))


def _converter(field: Field, missing: tuple[str, ...]) -> Callable[[pa.Array], Column]:
    return lambda raw: feature(raw, field, missing)


def _one_row_per_id(table: pa.Table, key: str, report: TableReport) -> pa.Table:
    """Equal rows of one id are one row; where rows of one id differ the last stands, and that counts as bad."""
    names = table[key].to_pylist()
    counts = Counter(names)
    if len(counts) == len(names):
        return table
    keep = np.ones(len(names), bool)
    last: dict[str, int] = {}
    repeated = [k for k, name in enumerate(names) if counts[name] > 1]
    contents = dict(zip(repeated, table.drop_columns(["_row"]).take(pa.array(repeated)).to_pylist(), strict=True))
    rows = table["_row"].to_pylist()
    for k in repeated:
        before = last.get(names[k])
        if before is not None:
            keep[before] = False
            if contents[before] == contents[k]:
                report.add(key, "row repeats another", "row dropped", rows=1, row=rows[k], value=names[k])
            else:
                problem = "id occurs again with other values"
                report.add(key, problem, "last row kept", rows=1, row=rows[k], value=names[k], badness="value")
                report.bad["value"] += 1
        last[names[k]] = k
    return table.filter(pa.array(keep))
