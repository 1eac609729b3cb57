"""The tables of several datasets as one: entities by id, events by scenario, triples of all graphs (merging.py)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarec.data.dataset import Dataset, Graph
from metarec.data.interactions import Interactions
from metarec.data.report import TableReport
from metarec.data.schema import Field

Sharing = Literal["shared", "separate"]


@dataclass(frozen=True, kw_only=True)
class Entities:
    """All users or items: their ids, their fields, and by source the rows its own have here."""

    ids: NDArray[np.object_]
    frame: pd.DataFrame
    rows: Mapping[str, NDArray[np.int64]]


def merged_entities(
    sources: Mapping[str, Dataset],
    side: Literal["user", "item"],
    key: str,
    fields: tuple[Field, ...],
    sharing: Sharing,
    reports: Mapping[str, TableReport],
) -> Entities:
    """The users or items of all sources; `reports` are told of those who are in several, and of fields they differ in."""
    place: dict[str, int] = {}
    rows: dict[str, NDArray[np.int64]] = {}
    for name, dataset in sources.items():
        ids = dataset.user_ids if side == "user" else dataset.item_ids
        named = [f"{name}:{entity}" if sharing == "separate" else str(entity) for entity in ids]
        known = sum(entity in place for entity in named)
        rows[name] = np.array([place.setdefault(entity, len(place)) for entity in named], np.int64)
        reports[name].add(key, f"{side} is known from a source before", "converted", rows=known)
    columns: dict[str, list[object]] = {field.name: [None] * len(place) for field in fields}
    for name, dataset in sources.items():
        frame = dataset.users if side == "user" else dataset.items
        own = dataset.schema.users if side == "user" else dataset.schema.items
        for field in own:
            values, other = columns[field.name], 0
            for row, value in zip(rows[name].tolist(), frame[field.name], strict=True):
                if _missing(value):
                    continue
                if values[row] is None:
                    values[row] = value
                else:
                    other += not _same(values[row], value)
            problem = f"{side} has another value in a source before, which stands"
            reports[name].add(field.name, problem, "left out", rows=other)
    frame = pd.DataFrame({field.name: _column(columns[field.name], field) for field in fields})
    return Entities(ids=np.array(list(place), object), frame=frame, rows=rows)


def _column(values: list[object], field: Field) -> NDArray[np.float64] | NDArray[np.object_]:
    if field.kind == "numeric":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _same(one: object, two: object) -> bool:
    if isinstance(one, str | float | int) or isinstance(two, str | float | int):
        return one == two
    return list(one) == list(two)  # type: ignore[call-overload,no-any-return]  # lists of categories or numbers


def merged_events(
    sources: Mapping[str, Dataset],
    users: Mapping[str, NDArray[np.int64]],
    items: Mapping[str, NDArray[np.int64]],
    *,
    timed: bool,
) -> Interactions:
    """The events of all sources, one after another, in scenarios of their names; `users` and `items` are rows by source."""
    names: dict[str, int] = {}
    parts = []
    for name, dataset in sources.items():
        events = dataset.interactions
        own = [f"{name}/{scenario}" if scenario else name for scenario in events.scenarios or ("",)]
        place_S = np.array([names.setdefault(scenario, len(names)) for scenario in own])
        parts.append(
            replace(
                events,
                user_N=users[name][events.user_N].astype(np.int32),
                item_N=items[name][events.item_N].astype(np.int32),
                timestamp_N=events.timestamp_N if timed else np.zeros(len(events)),
                scenario_N=place_S[events.scenario_N].astype(np.int16),
            )
        )
    further = [part.extra_NK for part in parts if part.extra_NK is not None]
    return Interactions(
        user_N=np.concatenate([part.user_N for part in parts]),
        item_N=np.concatenate([part.item_N for part in parts]),
        label_N=np.concatenate([part.label_N for part in parts]),
        timestamp_N=np.concatenate([part.timestamp_N for part in parts]),
        scenario_N=np.concatenate([part.scenario_N for part in parts]),
        scenarios=tuple(names),
        extra_NK=np.concatenate(further) if further else None,
    )


def merged_graph(sources: Mapping[str, Dataset], sharing: Sharing) -> Graph:
    """The triples of all graphs; an item is linked as in the first source that links it."""
    graphs = {name: dataset.graph for name, dataset in sources.items() if dataset.graph is not None}
    links: dict[str, str] = {}
    for name, graph in graphs.items():
        for item_id, entity in graph.links.items():
            links.setdefault(f"{name}:{item_id}" if sharing == "separate" else item_id, entity)
    triples = {
        (head, relation, tail): None
        for graph in graphs.values()
        for head, relation, tail in zip(graph.head_N, graph.relation_N, graph.tail_N, strict=True)
    }
    columns = [np.array(column, object) for column in zip(*triples, strict=True)] if triples else [np.zeros(0, object)] * 3
    return Graph(head_N=columns[0], relation_N=columns[1], tail_N=columns[2], links=links)
