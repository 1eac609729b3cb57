"""Imports the interactions in one pass over the file, in bounded memory whatever its length.

Clean events go to a staging file of plain numbers as they are read. Repeated events are then found by hash in parts of the
staging file, each small enough for memory, and left out when the final table is written. What grows with the file is one byte
per event.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.data import values
from metarec.data.entities import Progress
from metarec.data.reading import Chunk, Source
from metarec.data.report import TableReport
from metarec.data.schema import Schema
from metarec.errors import DataError

PART_ROWS = 4_000_000
"""Events compared at a time when repeated ones are looked for."""

MAX_SCENARIOS = 32_767
STAGED = pa.schema(
    [
        ("user", pa.int32()),
        ("item", pa.int32()),
        ("label", pa.float32()),
        ("timestamp", pa.float64()),
        ("scenario", pa.int16()),
        ("row", pa.int64()),
    ]
)
FINAL = pa.schema(list(STAGED)[:-1])


@dataclass(kw_only=True)
class Ids:
    """Rows of the entity table by id; ids that are met in interactions only are added behind."""

    known: int
    index: dict[str, int]

    @staticmethod
    def of(names: Sequence[str]) -> "Ids":
        """The ids of a table, in its order."""
        return Ids(known=len(names), index={name: k for k, name in enumerate(names)})

    @property
    def added(self) -> list[str]:
        """Ids that the table did not have, in order of appearance."""
        return list(self.index)[self.known :]

    def rows(self, names: pa.Array) -> NDArray[np.int32]:
        """The row of each id."""
        encoded = names.dictionary_encode()
        rows = [self.index.setdefault(name, len(self.index)) for name in encoded.dictionary.to_pylist()]
        return np.array(rows, np.int32)[encoded.indices.to_numpy()] if rows else np.zeros(0, np.int32)


@dataclass(frozen=True, kw_only=True)
class EventReader:
    """What one pass over the interactions needs. `where` maps columns to the values that are let through."""

    source: Source
    schema: Schema
    users: Ids
    items: Ids
    report: TableReport
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    missing: tuple[str, ...] = values.MISSING
    all_positive: bool = False
    scenarios: dict[str, int] = field(default_factory=dict)

    def stage(self, path: Path, progress: Progress) -> int:
        """Write the clean events to `path` and return their number. DataError where the file is unusable."""
        schema, count = self.schema, 0
        label = [] if self.all_positive else [schema.label.column]
        names = [schema.user_id, schema.item_id, *label, *(c for c in (schema.timestamp, schema.scenario) if c is not None)]
        self._require(names)
        with pq.ParquetWriter(path, STAGED) as writer:
            for chunk in self.source.chunks([*names, *self.where]):
                table = self._clean(chunk)
                count += len(table)
                writer.write_table(table)
                progress(chunk.done, f"{self.report.read:,} rows")
        self.report.check()
        if count == 0:
            raise DataError(
                "has no usable rows" + (" where " + _condition(self.where) if self.where else ""), file=self.report.file
            )
        return count

    def _require(self, names: Sequence[str]) -> None:
        label = self.schema.label
        if label.kind == "binary" and label.column in names and label.column not in self.source.columns:
            why = "the schema names it as label (--all-positive: there is none, every event counts as 1)"
            self.source.require([label.column], why)
        self.source.require(names)
        self.source.require(list(self.where), "--where names it")

    def _clean(self, chunk: Chunk) -> pa.Table:
        report, schema = self.report, self.schema
        report.add_malformed(chunk.malformed)
        report.read += len(chunk.row_N)
        raw, row_N = self._let_through(chunk.columns, chunk.row_N)
        converters: dict[str, Callable[[pa.Array], values.Column]] = {schema.user_id: values.ids, schema.item_id: values.ids}
        if not self.all_positive:
            converters[schema.label.column] = lambda column: values.labels(column, schema.label, self.missing)
        if schema.timestamp is not None:
            converters[schema.timestamp] = lambda column: values.times(column, self.missing)
        if schema.scenario is not None:
            converters[schema.scenario] = lambda column: values.categories(column, self.missing)
        found = {name: self._converted(name, raw[name], convert) for name, convert in converters.items()}
        good = report.judge(found, raw, row_N, ids={schema.user_id: "id is missing", schema.item_id: "id is missing"})
        kept, row_N = {name: column.values.filter(pa.array(good)) for name, column in found.items()}, row_N[good]
        nothing = np.zeros(len(row_N))
        columns = {
            "user": self.users.rows(kept[schema.user_id]),
            "item": self.items.rows(kept[schema.item_id]),
            "label": nothing + 1 if self.all_positive else kept[schema.label.column].to_numpy(zero_copy_only=False),
            "timestamp": nothing if schema.timestamp is None else kept[schema.timestamp].to_numpy(zero_copy_only=False),
            "scenario": nothing if schema.scenario is None else self._scenario_rows(kept[schema.scenario], row_N),
            "row": row_N,
        }
        types = {field.name: field.type.to_pandas_dtype() for field in STAGED}
        return pa.table({name: column.astype(types[name]) for name, column in columns.items()}, schema=STAGED)

    def _let_through(self, raw: dict[str, pa.Array], row_N: NDArray[np.int64]) -> tuple[dict[str, pa.Array], NDArray[np.int64]]:
        if not self.where:
            return raw, row_N
        passed = np.ones(len(row_N), bool)
        for column, allowed in self.where.items():
            text = pc.fill_null(self._converted(column, raw[column], values.strings).values, "")
            passed &= pc.is_in(text, value_set=pa.array(sorted(allowed))).to_numpy(zero_copy_only=False)
        self.report.add_mask("", f"not where {_condition(self.where)}", "left out", ~passed, row_N)
        mask = pa.array(passed)
        return {name: column.filter(mask) for name, column in raw.items()}, row_N[passed]

    def _converted(self, name: str, raw: pa.Array, convert: Callable[[pa.Array], values.Column]) -> values.Column:
        try:
            return convert(raw)
        except DataError as error:
            raise DataError(error.message, file=self.report.file, column=name) from None

    def _scenario_rows(self, names: pa.Array, row_N: NDArray[np.int64]) -> NDArray[np.int16]:
        column = self.schema.scenario
        assert column is not None
        absent = names.is_null().to_numpy(zero_copy_only=False)
        self.report.add_mask(column, "scenario is missing (named '')", "imputed", absent, row_N)
        encoded = pc.fill_null(names, "").dictionary_encode()
        rows = [self.scenarios.setdefault(name, len(self.scenarios)) for name in encoded.dictionary.to_pylist()]
        if len(self.scenarios) > MAX_SCENARIOS:
            raise DataError(f"has more than {MAX_SCENARIOS:,} scenarios; is it an id?", file=self.report.file, column=column)
        return np.array(rows, np.int16)[encoded.indices.to_numpy()] if rows else np.zeros(0, np.int16)


def write_events(staged: Path, path: Path, count: int, report: TableReport, schema: Schema, progress: Progress) -> int:
    """Write the staged events without repeated ones to `path` and return their number."""
    repeated = _repeated(staged, count, report, schema, progress)
    start = 0
    with pq.ParquetWriter(path, FINAL) as writer, pq.ParquetFile(staged) as file:
        for batch in file.iter_batches(batch_size=1 << 20, columns=FINAL.names):
            keep = pa.array(~repeated[start : start + len(batch)])
            writer.write_table(pa.table(batch.columns, schema=FINAL).filter(keep))
            start += len(batch)
    report.kept = count - int(repeated.sum())
    return report.kept


def _repeated(staged: Path, count: int, report: TableReport, schema: Schema, progress: Progress) -> NDArray[np.bool_]:
    """Which staged events a later one of the same user, item, time and scenario replaces."""
    drop = np.zeros(count, bool)
    parts = -(-count // PART_ROWS)
    for part in range(parts):
        columns: list[dict[str, NDArray[np.generic]]] = []
        start = 0
        with pq.ParquetFile(staged) as file:
            for batch in file.iter_batches(batch_size=1 << 20):
                found = {name: batch.column(name).to_numpy() for name in STAGED.names}
                found["hash"] = _hash(found)
                found["position"] = np.arange(start, start + len(batch))
                mine = found["hash"] % np.uint64(parts) == part
                columns.append({name: column[mine] for name, column in found.items()})
                start += len(batch)
        events = {name: np.concatenate([part_columns[name] for part_columns in columns]) for name in columns[0]}
        del columns
        _mark(events, drop, report, schema)
        progress((part + 1) / parts, f"{min((part + 1) * PART_ROWS, count):,} events compared")
    return drop


def _mark(events: dict[str, NDArray[np.generic]], drop: NDArray[np.bool_], report: TableReport, schema: Schema) -> None:
    # Events of equal hash are few: only they are compared value by value.
    order = np.argsort(events["hash"], kind="stable")
    same = events["hash"][order][1:] == events["hash"][order][:-1]
    if not same.any():
        return
    members = order[np.r_[same, False] | np.r_[False, same]]
    events = {name: column[members] for name, column in events.items()}
    order = np.lexsort((events["position"], events["scenario"], events["timestamp"], events["item"], events["user"]))
    events = {name: column[order] for name, column in events.items()}
    replaced = np.ones(len(order) - 1, bool)
    for name in ("user", "item", "timestamp", "scenario"):
        replaced &= events[name][1:] == events[name][:-1]
    replaced = np.r_[replaced, False]
    drop[events["position"][replaced].astype(np.int64)] = True
    # Each run of one event ends in the row that stays.
    ends = np.flatnonzero(~replaced)
    stays = events["label"][ends][np.searchsorted(ends, np.arange(len(order)))]
    equal = events["label"] == stays
    when = " at one time" if schema.timestamp is not None else ""
    row_N = events["row"].astype(np.int64)
    report.add_mask("", "row repeats another", "row dropped", replaced & equal, row_N)
    problem = f"user rates an item again{when} (the last row stands)"
    report.add_mask(schema.label.column, problem, "row dropped", replaced & ~equal, row_N, pa.array(events["label"]))


def _hash(events: Mapping[str, NDArray[np.generic]]) -> NDArray[np.uint64]:
    """One number per event that is equal for equal user, item, time and scenario (splitmix64's finaliser between them)."""
    mixed = np.zeros(len(events["user"]), np.uint64)
    for name in ("user", "item", "scenario", "timestamp"):
        column = events[name]
        bits = column.view(np.uint64) if name == "timestamp" else column.astype(np.uint64)
        mixed = (mixed ^ bits) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _condition(where: Mapping[str, frozenset[str]]) -> str:
    return " and ".join(f"{column} is {' or '.join(sorted(allowed))}" for column, allowed in where.items())
