"""What is in a dataset, in figures: counts, missing values, labels, time range, scenarios."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarec.data.dataset import Dataset
from metarec.data.interactions import Interactions
from metarec.data.schema import Field, Label

HISTOGRAM_BINS = 10


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Everything `metarec data show` prints, as plain data."""
    events = dataset.interactions
    users, items = len(dataset.user_ids), len(dataset.item_ids)
    return {
        "path": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "schema_hash": dataset.schema.hash,
        "users": users,
        "items": items,
        "interactions": len(events),
        "density": len(events) / (users * items) if users and items else 0.0,
        "interactions_per_user": _per_entity(events.user_N, users),
        "interactions_per_item": _per_entity(events.item_N, items),
        "label": _label(events.label_N, dataset.schema.label),
        "targets": _targets(events, dataset.schema.targets),
        "time": _time(dataset),
        "scenarios": _scenarios(events),
        "fields": _fields("users", dataset.schema.users, dataset.users) + _fields("items", dataset.schema.items, dataset.items),
        "graph": _graph(dataset),
        "schema": dataset.schema.to_dict(),
    }


def _per_entity(entity_N: NDArray[np.int32], count: int) -> dict[str, float]:
    per = np.bincount(entity_N, minlength=count)
    if count == 0:
        return {}
    return {
        "minimum": int(per.min()),
        "median": float(np.median(per)),
        "mean": float(per.mean()),
        "maximum": int(per.max()),
        "without": int((per == 0).sum()),
    }


def _label(label_N: NDArray[np.float32], described: Label) -> dict[str, object]:
    label = label_N.astype(np.float64)
    values, counts = np.unique(label_N, return_counts=True)
    if len(values) <= 2 * HISTOGRAM_BINS:
        names = [f"{value:g}" for value in values]
    else:
        counts, edges = np.histogram(label, bins=HISTOGRAM_BINS, range=(described.minimum, described.maximum))
        names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return {
        "column": described.column,
        "kind": described.kind,
        "mean": float(label.mean()) if len(label) else None,
        "deviation": float(label.std()) if len(label) else None,
        "histogram": dict(zip(names, map(int, counts), strict=True)),
    }


def _targets(events: Interactions, targets: Sequence[Label]) -> list[dict[str, object]]:
    """The same for each further target, and how many events have no label of it."""
    if events.extra_NK is None:
        return []
    columns = list(zip(targets, events.extra_NK.T, strict=True))
    return [{**_label(values[~np.isnan(values)], target), "missing": int(np.isnan(values).sum())} for target, values in columns]


def _time(dataset: Dataset) -> dict[str, object] | None:
    """First and last event; None when the events have no times."""
    times = dataset.interactions.timestamp_N
    if dataset.schema.timestamp is None or not len(times):
        return None
    first, last = float(times.min()), float(times.max())
    return {"first": _iso(first), "last": _iso(last), "days": (last - first) / 86_400}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _scenarios(events: Interactions) -> dict[str, int]:
    if not events.scenarios:
        return {}
    counts = np.bincount(events.scenario_N, minlength=len(events.scenarios))
    return dict(zip(events.scenarios, map(int, counts), strict=True))


def _fields(side: str, fields: Sequence[Field], frame: pd.DataFrame) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for field in fields:
        column = frame[field.name]
        present = column[column.notna()]
        missing = len(column) - len(present)
        rows.append(
            {
                "table": side,
                "field": field.name,
                "kind": field.kind if field.encoder is None else f"{field.kind} ({field.encoder})",
                "missing": missing,
                "missing_share": missing / len(column) if len(column) else 0.0,
                "distinct": _distinct(field, present),
                "example": _example(present.iloc[0]) if len(present) else None,
            }
        )
    return rows


def _distinct(field: Field, present: pd.Series) -> int | None:
    if field.kind == "vector":
        return None
    if field.kind == "multi_categorical":
        return len({value for row in present for value in row})
    return int(present.nunique())


def _example(value: object) -> str:
    parts = value.tolist() if isinstance(value, np.ndarray) else value
    text = ", ".join(map(str, parts)) if isinstance(parts, list) else f"{parts:g}" if isinstance(parts, float) else str(parts)
    return text if len(text) <= 40 else text[:37] + "..."


def _graph(dataset: Dataset) -> dict[str, int] | None:
    graph = dataset.graph
    if graph is None:
        return None
    return {
        "triples": len(graph.head_N),
        "relations": len(set(graph.relation_N.tolist())),
        "entities": len(set(graph.head_N.tolist()) | set(graph.tail_N.tolist())),
        "linked_items": len(graph.links),
    }
