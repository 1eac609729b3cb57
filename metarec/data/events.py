"""Imports the interactions in one pass over the file, in bounded memory whatever its length.

Clean events go to a staging file as plain numbers while they are read, and to buckets that tell which are repeated (repeats.py);
those are left out when the final table is written. What grows with the file is one byte per event.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.data import values
from metarec.data.columns import MISSING, Column, strings
from metarec.data.contents import streamed
from metarec.data.entities import Progress
from metarec.data.interactions import INTERACTION_TYPES, target_columns
from metarec.data.reading import Chunk, Source
from metarec.data.repeats import RECORD, Buckets
from metarec.data.report import TableReport
from metarec.data.schema import Schema
from metarec.errors import DataError

MAX_SCENARIOS = 32_767
FINAL = [(name, pa.from_numpy_dtype(kind)) for name, kind in INTERACTION_TYPES.items()]


@dataclass(kw_only=True)
class Ids:
    """Rows of the entity table by id; ids that are met in interactions only are added behind. `matched`: some were there."""

    known: int
    index: dict[str, int]
    matched: bool = False

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
        self.matched = self.matched or min(rows, default=self.known) < self.known
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
    missing: tuple[str, ...] = MISSING
    all_positive: bool = False
    scenarios: dict[str, int] = field(default_factory=dict)

    def stage(self, path: Path, buckets: Buckets, progress: Progress) -> None:
        """Write the clean events to `path` and to `buckets`. DataError where the file is unusable."""
        schema, count = self.schema, 0
        label = [] if self.all_positive else [schema.label.column]
        names = [schema.user_id, schema.item_id, *label, *(c for c in (schema.timestamp, schema.scenario) if c is not None)]
        names += [target.column for target in schema.targets]
        self._require(names)
        record = RECORD.names or ()
        final = pa.schema([*FINAL, *((name, pa.float32()) for name in target_columns(schema))])
        with pq.ParquetWriter(path, final) as writer:
            for chunk in self.source.chunks([*names, *self.where]):
                events = self._clean(chunk)
                count += len(events["user"])
                writer.write_table(pa.table({name: events[name] for name in final.names}))
                buckets.add({name: column for name, column in events.items() if name in record})
                progress(chunk.done, f"{self.report.read:,} rows")
        self.report.check()
        if count == 0:
            where = f" where {_condition(self.where)}" if self.where else ""
            raise DataError(
                f"has no usable rows{where}" if self.report.read else "has a header but no rows", file=self.report.file
            )
        self._require_matches("users", schema.user_id, self.users)
        self._require_matches("items", schema.item_id, self.items)

    def _require_matches(self, table: str, column: str, ids: Ids) -> None:
        if ids.known and not ids.matched:
            here, there = next(iter(ids.added)), next(iter(ids.index))
            raise DataError(
                f"none of its ids is in the {table} table: '{here}' and others here, '{there}' and others there",
                file=self.report.file,
                column=column,
            )

    def _require(self, names: Sequence[str]) -> None:
        label = self.schema.label
        if label.kind == "binary" and label.column in names and label.column not in self.source.columns:
            why = "the schema names it as label (--all-positive: there is none, every event counts as 1)"
            self.source.require([label.column], why)
        self.source.require(names)
        self.source.require(list(self.where), "--where names it")

    def _clean(self, chunk: Chunk) -> dict[str, NDArray[np.generic]]:
        report, schema = self.report, self.schema
        report.add_malformed(chunk.malformed)
        report.read += len(chunk.row_N)
        raw, row_N = self._let_through(chunk.columns, chunk.row_N)
        converters: dict[str, Callable[[pa.Array], Column]] = {schema.user_id: values.ids, schema.item_id: values.ids}
        if not self.all_positive:
            converters[schema.label.column] = lambda column: values.labels(column, schema.label, self.missing)
        if schema.timestamp is not None:
            converters[schema.timestamp] = lambda column: values.times(column, self.missing)
        if schema.scenario is not None:
            converters[schema.scenario] = lambda column: values.categories(column, self.missing)
        for target in schema.targets:
            converters[target.column] = partial(values.further, label=target, missing=self.missing)
        found = {name: report.converted(name, raw[name], convert) for name, convert in converters.items()}
        needed = {schema.user_id: "id is missing", schema.item_id: "id is missing"}
        further = [target.column for target in schema.targets]
        good = report.judge(found, raw, row_N, ids=needed, optional=further, absence="left out")
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
        labels = {
            name: kept[column].to_numpy(zero_copy_only=False).astype(np.float32)
            for name, column in zip(target_columns(schema), further, strict=True)
        }
        return {name: column.astype(RECORD[name]) for name, column in columns.items()} | labels

    def _let_through(self, raw: dict[str, pa.Array], row_N: NDArray[np.int64]) -> tuple[dict[str, pa.Array], NDArray[np.int64]]:
        if not self.where:
            return raw, row_N
        passed = np.ones(len(row_N), bool)
        for column, allowed in self.where.items():
            text = pc.fill_null(self.report.converted(column, raw[column], strings).values, "")
            passed &= pc.is_in(text, value_set=pa.array(sorted(allowed))).to_numpy(zero_copy_only=False)
        self.report.add_mask("", f"not where {_condition(self.where)}", "left out", ~passed, row_N)
        self.report.unwanted += int((~passed).sum())
        mask = pa.array(passed)
        return {name: column.filter(mask) for name, column in raw.items()}, row_N[passed]

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


def write_events(staged: Path, path: Path, leave_out: NDArray[np.bool_]) -> int:
    """Write the staged events to `path` without those under the mask, and return their number."""
    start = 0
    with streamed(staged) as file, pq.ParquetWriter(path, file.schema_arrow) as writer:
        for batch in file.iter_batches(batch_size=1 << 20):
            keep = pa.array(~leave_out[start : start + len(batch)])
            writer.write_table(pa.table(batch.columns, schema=file.schema_arrow).filter(keep))
            start += len(batch)
    return int((~leave_out).sum())


def _condition(where: Mapping[str, frozenset[str]]) -> str:
    return " and ".join(f"{column} is {' or '.join(sorted(allowed))}" for column, allowed in where.items())
