"""The offline side of the feature store as Parquet files: profiles, contents, and label statistics as they grew with time.

No Feast here. Column names that start with `metarec_` are the store's own, so schema fields may not.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.errors import SchemaError
from metarec.features.graph import GRAPH_FIELD, item_facts
from metarec.features.values import as_categories, as_category, as_number, as_text, as_vector
from metarec.types import FeatureValue

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.data.schema import Field, FieldKind, Schema

USER_KEY, ITEM_KEY, TIME, REVISION = "metarec_user", "metarec_item", "metarec_time", "metarec_revision"
STATS: tuple[str, ...] = ("count", "mean_label", "last_timestamp")
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
"""Time of what has no time of its own: profiles, contents, and the empty statistics before an entity's first event. Every
entity needs a row that early, for Feast's join drops an entity whose rows are all later than the cut."""

EXACT_STATS_LIMIT = 2_000_000
"""Up to this many events the statistics have a row for each moment something happened; beyond, one for each day."""

_TYPES: "dict[FieldKind, pa.DataType]" = {
    "categorical": pa.string(),
    "multi_categorical": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "text": pa.string(),
    "vector": pa.list_(pa.float32()),
}


@dataclass(frozen=True, kw_only=True)
class Stats:
    """How often an entity was seen, with what mean label, and when last (seconds); None before the first time."""

    count: int
    mean_label: float | None = None
    last_timestamp: float | None = None


def check_names(schema: "Schema") -> None:
    """SchemaError when a field's name is the store's own."""
    for field in (*schema.users, *schema.items):
        if field.name.startswith("metarec_") or field.name == GRAPH_FIELD:
            raise SchemaError(
                f"field '{field.name}' has a reserved name; rename it ('graph' and 'metarec_*' are taken)", field=field.name
            )


def plain(kind: "FieldKind", value: object, name: str) -> FeatureValue:
    """`value` as a feature: None when missing; InvalidInputError when it is not of `kind`."""
    if kind == "categorical":
        return as_category(value, name)
    if kind == "multi_categorical":
        return as_categories(value, name)
    if kind == "numeric":
        return as_number(value, name)
    if kind == "text":
        return as_text(value, name)
    vector = as_vector(value, name, None)
    return None if vector is None else tuple(map(float, vector))


def write_sources(dataset: "Dataset", folder: Path) -> None:
    """Write the five Parquet sources of `dataset` under `folder`, each atomically."""
    check_names(dataset.schema)
    folder.mkdir(parents=True, exist_ok=True)
    users = _content(dataset.users, dataset.schema.users, USER_KEY, dataset.user_ids)
    items = _content(dataset.items, dataset.schema.items, ITEM_KEY, dataset.item_ids)
    facts = item_facts(dataset.graph)
    graph = pa.array([facts.get(str(item_id)) for item_id in dataset.item_ids], pa.list_(pa.string()))
    items = items.append_column(GRAPH_FIELD, graph)
    write_table(users, folder / "user_profile.parquet")
    write_table(items, folder / "item_content.parquet")
    events = dataset.interactions
    write_table(
        stats_table(events.user_N, events.label_N, events.timestamp_N, USER_KEY, dataset.user_ids), folder / "user_stats.parquet"
    )
    write_table(
        stats_table(events.item_N, events.label_N, events.timestamp_N, ITEM_KEY, dataset.item_ids), folder / "item_stats.parquet"
    )
    adaptation = {
        USER_KEY: pa.array([], pa.string()),
        TIME: pa.array([], pa.timestamp("us", "UTC")),
        "state": pa.array([], pa.binary()),
        "shots": pa.array([], pa.int64()),
        "checkpoint": pa.array([], pa.string()),
        "revision": pa.array([], pa.int64()),
    }
    write_table(pa.table(adaptation), folder / "user_adaptation.parquet")


def _content(frame: pd.DataFrame, fields: "tuple[Field, ...]", key: str, ids: NDArray[np.object_]) -> pa.Table:
    columns = {
        key: pa.array([str(value) for value in ids], pa.string()),
        TIME: pa.array([BEGINNING] * len(ids), pa.timestamp("us", "UTC")),
        REVISION: pa.array(np.zeros(len(ids), np.int64)),
    }
    for field in fields:
        values = [plain(field.kind, value, field.name) for value in frame[field.name]]
        columns[field.name] = pa.array(values, _TYPES[field.kind])
    return pa.table(columns)


def stats_table(
    entity_N: NDArray[np.int32],
    label_N: NDArray[np.float32],
    timestamp_N: NDArray[np.float64],
    key: str,
    ids: NDArray[np.object_],
) -> pa.Table:
    """Running count, mean label and last time of each entity: a row holds every event up to its own time and none after.

    One empty row per entity from the beginning, then one per entity and moment (per day, stamped with its last event, beyond
    EXACT_STATS_LIMIT events), so that a point-in-time join at a cut never sees an event after it.
    """
    order = np.lexsort((timestamp_N, entity_N))
    entity, label, time = entity_N[order], label_N[order].astype(np.float64), timestamp_N[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, entity[1:] != entity[:-1]]) if len(entity) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(entity)])
    first = np.repeat(starts, lengths)
    count = np.arange(len(entity)) - first + 1
    total = np.cumsum(label)
    before = np.where(first > 0, total[np.maximum(first - 1, 0)], 0.0) if len(entity) else total
    moment = time if len(entity) <= EXACT_STATS_LIMIT else np.floor(time / 86_400)
    last = np.r_[(entity[1:] != entity[:-1]) | (moment[1:] != moment[:-1]), True] if len(entity) else np.zeros(0, bool)
    names = pa.array([str(value) for value in ids], pa.string())
    grown = {
        key: names.take(pa.array(entity[last])),
        TIME: pa.array(np.round(time[last] * 1e6).astype(np.int64), pa.timestamp("us", "UTC")),
        "count": pa.array(count[last].astype(np.int64)),
        "mean_label": pa.array((total - before)[last] / count[last]),
        "last_timestamp": pa.array(time[last]),
    }
    empty = {
        key: names,
        TIME: pa.array([BEGINNING] * len(ids), pa.timestamp("us", "UTC")),
        "count": pa.array(np.zeros(len(ids), np.int64)),
        "mean_label": pa.nulls(len(ids), pa.float64()),
        "last_timestamp": pa.nulls(len(ids), pa.float64()),
    }
    return pa.concat_tables([pa.table(empty), pa.table(grown)])


def first_id(path: Path, key: str) -> str | None:
    """The `key` of the first row of the Parquet file at `path`; None when there is no row, or no file."""
    if not path.exists():
        return None
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=1, columns=[key]), None)
    return None if batch is None or not len(batch) else str(batch.column(0)[0].as_py())


def remove_rows(path: Path, key: str, value: str) -> None:
    """Rewrite the Parquet file at `path` without the rows whose `key` is `value`."""
    table = pq.read_table(path)
    keep = np.array([entry != value for entry in table[key].to_pylist()], bool)
    if not keep.all():
        write_table(table.filter(pa.array(keep)), path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write `table` so that readers see the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial)
    os.replace(partial, path)
