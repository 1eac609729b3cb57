"""Finds repeated events among more of them than memory holds: equal events share a hash, a hash has its bucket on disk, and a
bucket fits in memory."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metarec.data.report import TableReport
from metarec.data.schema import Schema

BUCKETS = 64
KEY = ("user", "item", "scenario", "timestamp")
RECORD = np.dtype(
    [
        ("position", np.int64),
        ("row", np.int64),
        ("timestamp", np.float64),
        ("user", np.int32),
        ("item", np.int32),
        ("label", np.float32),
        ("scenario", np.int16),
    ]
)


class Buckets:
    """Events by the hash of their user, item, time and scenario, in files under a folder that the context manager deletes."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"bucket-{k:02d}" for k in range(BUCKETS)]
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(path.open("wb")) for path in self._paths]
        self._count = 0

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def add(self, events: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the next events, columns as in RECORD without `position`."""
        count = len(events["user"])
        records = np.empty(count, RECORD)
        records["position"] = np.arange(self._count, self._count + count)
        for name, column in events.items():
            records[name] = column
        self._count += count
        bucket = (_hash(records) % np.uint64(BUCKETS)).astype(np.int64)
        records = records[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        for file, part in zip(self._files, np.split(records, ends[:-1]), strict=True):
            file.write(part.tobytes())

    def repeated(self, report: TableReport, schema: Schema, progress: Callable[[float, str], None]) -> NDArray[np.bool_]:
        """Which events a later one of the same user, item, time and scenario replaces; `report` counts them."""
        self._stack.close()
        replaced = np.zeros(self._count, bool)
        for k, path in enumerate(self._paths):
            _compare(np.fromfile(path, RECORD), replaced, report, schema)
            progress((k + 1) / BUCKETS, f"{self._count:,} events compared")
        return replaced


def _compare(records: NDArray[np.void], replaced: NDArray[np.bool_], report: TableReport, schema: Schema) -> None:
    # Events of equal hash are few: only they are compared value by value.
    hashes = _hash(records)
    order = np.argsort(hashes)
    same = hashes[order][1:] == hashes[order][:-1]
    if not same.any():
        return
    records = records[order[np.r_[same, False] | np.r_[False, same]]]
    records = records[np.lexsort([records["position"], *(records[name] for name in KEY)])]
    again = np.ones(len(records) - 1, bool)
    for name in KEY:
        again &= records[name][1:] == records[name][:-1]
    again = np.r_[again, False]
    replaced[records["position"][again]] = True
    # Each run of one event ends in the row that stays.
    ends = np.flatnonzero(~again)
    equal = records["label"] == records["label"][ends][np.searchsorted(ends, np.arange(len(records)))]
    when = " and time" if schema.timestamp is not None else ""
    problem = f"same user, item{when} again with another label"
    report.add_mask("", "row repeats another", "row dropped", again & equal, records["row"])
    labels = pa.array(np.ascontiguousarray(records["label"]))
    report.add_mask(schema.label.column, problem, "last row kept", again & ~equal, records["row"], labels)


def _hash(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """One number per event that is equal for equal keys (splitmix64's finaliser after each part; Steele et al. 2014)."""
    mixed = np.zeros(len(records), np.uint64)
    for name in KEY:
        column = np.ascontiguousarray(records[name])
        bits = column.view(np.uint64) if name == "timestamp" else column.astype(np.uint64)
        mixed = (mixed ^ bits) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
