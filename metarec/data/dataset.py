"""A dataset directory in memory: entities, interactions and the knowledge graph, after import has checked them.

schema.yaml            what the columns mean
dataset.json           format, fingerprint, scenario names, counts
users.parquet          the id column and the schema's fields, one row per user; row k is user k everywhere
items.parquet          the same for items
interactions.parquet   user, item (rows of the tables above), label, timestamp (seconds, UTC), scenario (index of its name), and
                       target_1, ... for further targets
graph.parquet, links.parquet   head, relation, tail; item and entity (only with a knowledge graph)
import.json            what import dropped, imputed and why
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.data.contents import fingerprint
from metarec.data.interactions import INTERACTION_TYPES, Interactions, read_interactions, target_columns
from metarec.data.schema import Schema
from metarec.errors import DataError, NotFoundError

FORMAT = 1
MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Knowledge-graph triples (object arrays of strings) and the entity of each linked item id."""

    head_N: NDArray[np.object_]
    relation_N: NDArray[np.object_]
    tail_N: NDArray[np.object_]
    links: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An imported dataset. Row k of `users` belongs to `user_ids[k]`, which interactions name as k; the same for items.

    `fingerprint` is a hash of schema and contents: equal data, equal fingerprint, wherever it lies.
    """

    path: Path
    schema: Schema
    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    users: pd.DataFrame = field(repr=False)
    items: pd.DataFrame = field(repr=False)
    interactions: Interactions = field(repr=False)
    graph: Graph | None = field(repr=False)
    fingerprint: str

    @property
    def has_timestamps(self) -> bool:
        """Whether events can be ordered in time."""
        times = self.interactions.timestamp_N
        return bool(len(times)) and bool(np.any(times != times[0]))

    @property
    def has_varied_labels(self) -> bool:
        """Whether there is more than one label, or a further target: where every event is positive, labels tell nothing."""
        labels = self.interactions.label_N
        return bool(len(labels)) and (bool(self.schema.targets) or bool(np.any(labels != labels[0])))

    @property
    def taken_from(self) -> float:
        """The lowest label of an event that counts as taken, where lists are learned and judged.

        Of binary labels it is 1: an event of label 0 says that somebody saw the item and let it be. People choose what they rate,
        so every rating counts.
        """
        return 1.0 if self.schema.label.kind == "binary" else -math.inf

    @property
    def taken(self) -> "Dataset":
        """The same with only what was taken."""
        events = self.interactions
        taken_N = events.label_N >= self.taken_from
        return self if taken_N.all() else self.with_interactions(events.select(taken_N))

    def mirrored(self) -> "Dataset":
        """Users and items in each other's place, without the graph: what makes of an item a task whose rows are users."""
        schema, events = self.schema, self.interactions
        return replace(
            self,
            schema=replace(
                schema,
                user_id=schema.item_id,
                item_id=schema.user_id,
                users=schema.items,
                items=schema.users,
                item_title=None,
                graph=False,
            ),
            users=self.items,
            items=self.users,
            user_ids=self.item_ids,
            item_ids=self.user_ids,
            interactions=replace(events, user_N=events.item_N, item_N=events.user_N),
            graph=None,
        )

    def with_interactions(self, interactions: Interactions) -> "Dataset":
        """The same entities with other interactions (a part of a split)."""
        return replace(self, interactions=interactions)

    def titles(self) -> dict[str, str]:
        """What to show people for each item id: its title where the schema names one, else the id."""
        ids = [str(item_id) for item_id in self.item_ids]
        name = self.schema.item_title
        if name is None:
            return dict(zip(ids, ids, strict=True))
        return {
            item_id: title if isinstance(title, str) and title else item_id
            for item_id, title in zip(ids, self.items[name], strict=True)
        }

    @staticmethod
    def open(path: Path | str) -> "Dataset":
        """Read a dataset directory. NotFoundError when it is none, DataError when it is damaged."""
        path = Path(path)
        if not (path / MANIFEST).exists():
            raise NotFoundError(
                f"no dataset at '{path}'; make one with: metarec data import --out {path} ... or metarec data fetch ml-100k"
            )
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            if manifest["format"] != FORMAT:
                raise DataError(
                    f"has format {manifest['format']!r}, this metarec reads {FORMAT}; import the data again",
                    file=str(path / MANIFEST),
                )
            schema = Schema.read(path / "schema.yaml")
            users, items = (pq.read_table(path / f"{side}.parquet") for side in ("users", "items"))
            events = read_interactions(path / "interactions.parquet", tuple(manifest["scenarios"]), target_columns(schema))
            _check(manifest, len(users), len(items), events)
            return Dataset(
                path=path,
                schema=schema,
                user_ids=_objects(users[schema.user_id]),
                item_ids=_objects(items[schema.item_id]),
                users=users.to_pandas(),
                items=items.to_pandas(),
                interactions=events,
                graph=_read_graph(path) if schema.graph else None,
                fingerprint=str(manifest["fingerprint"]),
            )
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise DataError(f"cannot be read ({error}); import the data again", file=str(path)) from error

    def save(self, path: Path | str, *, report: Mapping[str, object] | None = None) -> "Dataset":
        """Write the dataset into the directory `path` and return it as it lies there. The manifest comes last: a directory
        without one is no dataset. `report` becomes import.json."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / MANIFEST).unlink(missing_ok=True)
        (path / "schema.yaml").write_text(self.schema.to_yaml(), encoding="utf-8")
        pq.write_table(_entities(self.users, self.schema.user_id, self.user_ids), path / "users.parquet")
        pq.write_table(_entities(self.items, self.schema.item_id, self.item_ids), path / "items.parquet")
        events = self.interactions
        columns = {name: getattr(events, f"{name}_N").astype(kind) for name, kind in INTERACTION_TYPES.items()}
        for number, name in enumerate(target_columns(self.schema)):
            assert events.extra_NK is not None, "a schema with targets has their labels"
            columns[name] = events.extra_NK[:, number].astype(np.float32)
        pq.write_table(pa.table(columns), path / "interactions.parquet")
        if self.graph is not None:
            graph = self.graph
            triples = {"head": graph.head_N, "relation": graph.relation_N, "tail": graph.tail_N}
            pq.write_table(pa.table({k: pa.array(v, pa.string()) for k, v in triples.items()}), path / "graph.parquet")
            links = {"item": list(graph.links.keys()), "entity": list(graph.links.values())}
            pq.write_table(pa.table({k: pa.array(v, pa.string()) for k, v in links.items()}), path / "links.parquet")
        if report is not None:
            (path / "import.json").write_text(json.dumps(report, indent=1))
        return write_manifest(path, scenarios=events.scenarios)


def write_manifest(path: Path, *, scenarios: tuple[str, ...]) -> Dataset:
    """Complete a directory whose tables are written, and open the dataset."""
    complete(path, scenarios=scenarios)
    return Dataset.open(path)


def complete(path: Path, *, scenarios: tuple[str, ...]) -> str:
    """Write dataset.json of a directory whose tables are written; reads them in pieces. Returns the fingerprint."""
    schema = Schema.read(path / "schema.yaml")
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(path, schema, scenarios),
        "scenarios": list(scenarios),
        "users": pq.read_metadata(path / "users.parquet").num_rows,
        "items": pq.read_metadata(path / "items.parquet").num_rows,
        "interactions": pq.read_metadata(path / "interactions.parquet").num_rows,
    }
    partial = path / f".{MANIFEST}.{os.getpid()}"
    partial.write_text(json.dumps(manifest, indent=1))
    os.replace(partial, path / MANIFEST)
    return str(manifest["fingerprint"])


def _entities(frame: pd.DataFrame, key: str, ids: NDArray[np.object_]) -> pa.Table:
    fields = pa.Table.from_pandas(frame.drop(columns=[key], errors="ignore"), preserve_index=False)
    # Not add_column: a table without fields has no rows either.
    columns = {key: pa.array([str(value) for value in ids], pa.string())}
    return pa.table(columns | dict(zip(fields.column_names, fields.columns, strict=True)))


def _check(manifest: Mapping[str, int], users: int, items: int, events: Interactions) -> None:
    """ValueError when the tables do not belong together, as after a copy that broke off."""
    for name, count in (("users", users), ("items", items), ("interactions", len(events))):
        if manifest[name] != count:
            raise ValueError(f"{name}.parquet has {count} rows, {MANIFEST} says {manifest[name]}")
    for name, rows, count in (("user", events.user_N, users), ("item", events.item_N, items)):
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise ValueError(f"interactions.parquet names {name} rows outside of {name}s.parquet")
    if len(events) and not 0 <= events.scenario_N.min() <= events.scenario_N.max() < max(len(events.scenarios), 1):
        raise ValueError(f"interactions.parquet names scenarios that {MANIFEST} does not have")


def _read_graph(path: Path) -> Graph:
    triples, links = pq.read_table(path / "graph.parquet"), pq.read_table(path / "links.parquet")
    return Graph(
        head_N=_objects(triples["head"]),
        relation_N=_objects(triples["relation"]),
        tail_N=_objects(triples["tail"]),
        links=dict(zip(links["item"].to_pylist(), links["entity"].to_pylist(), strict=True)),
    )


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    values = column.to_pylist()
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
