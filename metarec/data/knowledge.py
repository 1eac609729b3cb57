"""Imports the knowledge graph: triples and the entity of each linked item."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metarec.data import values
from metarec.data.entities import Progress
from metarec.data.reading import Source
from metarec.data.report import TableReport
from metarec.errors import DataError

TRIPLE = ("head", "relation", "tail")


def read_triples(source: Source, report: TableReport, progress: Progress = lambda done, note: None) -> pa.Table:
    """Columns head, relation, tail (in the file also with `_id`), each triple once. DataError where unusable."""
    return _read(
        source, {name: _name(source, (name, f"{name}_id"), "a knowledge graph has it") for name in TRIPLE}, report, progress
    )


def read_links(
    source: Source, item_id: str, items: Mapping[str, int], report: TableReport, progress: Progress = lambda done, note: None
) -> pa.Table:
    """Columns item, entity: one entity per item of the catalogue. DataError where unusable."""
    columns = {
        "item": _name(source, (item_id, "item", "item_id"), "links have the items' ids"),
        "entity": _name(source, ("entity", "entity_id"), "links have an entity for each item"),
    }
    table = _read(source, columns, report, progress)
    linked: dict[str, str] = {}
    unknown, again = [], []
    for item, entity in zip(table["item"].to_pylist(), table["entity"].to_pylist(), strict=True):
        if item not in items:
            unknown.append(item)
        elif item in linked:
            again.append(item)
        else:
            linked[item] = entity
    name = columns["item"]
    report.add(name, "item is in no other table", "left out", rows=len(unknown), value=unknown[0] if unknown else None)
    report.add(
        name, "item is linked again (its first entity stands)", "row dropped", rows=len(again), value=again[0] if again else None
    )
    if not linked:
        raise DataError(f"links none of the {len(items):,} items; are its ids those of the items?", file=report.file, column=name)
    report.kept = len(linked)
    return pa.table({"item": pa.array(list(linked), pa.string()), "entity": pa.array(list(linked.values()), pa.string())})


def _name(source: Source, names: tuple[str, ...], why: str) -> str:
    found = next((name for name in names if name in source.columns), names[0])
    source.require([found], why)
    return found


def _read(source: Source, columns: Mapping[str, str], report: TableReport, progress: Progress) -> pa.Table:
    parts = []
    for chunk in source.chunks(list(columns.values())):
        report.add_malformed(chunk.malformed)
        report.read += len(chunk.row_N)
        found = {column: report.converted(column, chunk.columns[column], values.ids) for column in columns.values()}
        absent = {column: f"{name} is missing" for name, column in columns.items()}
        usable = report.judge(found, chunk.columns, chunk.row_N, ids=absent)
        parts.append(pa.table({name: found[column].values for name, column in columns.items()}).filter(pa.array(usable)))
        progress(chunk.done, f"{report.read:,} rows")
    report.check()
    if sum(map(len, parts)) == 0:
        raise DataError("has no usable rows" if report.read else "has a header but no rows", file=report.file)
    table = pa.concat_tables(parts)
    once = _once(table)
    report.add("", "row repeats another", "row dropped", rows=len(table) - len(once))
    report.kept = len(once)
    return once


def _once(table: pa.Table) -> pa.Table:
    numbered = table.append_column("_row", pa.array(np.arange(len(table))))
    first = numbered.group_by(table.column_names).aggregate([("_row", "min")])["_row_min"]
    return table.take(first.take(pc.sort_indices(first)))
