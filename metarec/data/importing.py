"""Import: files of interactions, users, items and a knowledge graph become a dataset directory (dataset.py).

Users and items first, then the interactions in one streaming pass, then the graph. Everything is checked on the way (report.py).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from metarec.data.columns import MISSING
from metarec.data.dataset import complete
from metarec.data.entities import Progress, empty_table, read_entities, with_added, with_more
from metarec.data.events import EventReader, Ids, write_events
from metarec.data.files import FileRole, Files, fields_by_file
from metarec.data.knowledge import read_links, read_triples
from metarec.data.reading import Source, open_source
from metarec.data.repeats import Buckets
from metarec.data.replacing import check_target, replaced_directory
from metarec.data.report import ImportReport, TableReport
from metarec.data.schema import Field, Schema
from metarec.errors import ConfigError, SchemaError


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How to read and how strict to be.

    `max_bad` is the share of bad rows of a file that are dropped before the file is refused; None means 0.01 for bad values and 0
    for rows that cannot be read at all. `where` lets only interactions through whose column has one of these values. `missing` is
    what stands for a missing value beside the empty string. `all_positive`: there is no label column, every event counts as 1.
    """

    max_bad: float | None = None
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    missing: tuple[str, ...] = MISSING
    delimiter: str | None = None
    encoding: str = "utf-8"
    all_positive: bool = False

    def __post_init__(self) -> None:
        if self.max_bad is not None and not 0 <= self.max_bad <= 1:
            raise ConfigError(f"max_bad must be a share from 0 to 1, got {self.max_bad:g}", field="max_bad")
        if self.delimiter is not None and (len(self.delimiter) != 1 or not self.delimiter.isascii()):
            raise ConfigError(f"delimiter must be one character, got '{self.delimiter}'", field="delimiter")

    def to_dict(self) -> dict[str, object]:
        """For import.json."""
        where = {column: sorted(allowed) for column, allowed in self.where.items()}
        return {
            "max_bad": self.max_bad,
            "where": where,
            "missing": list(self.missing),
            "encoding": self.encoding,
            "all_positive": self.all_positive,
        }


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where the dataset lies, how large it is, and what import found."""

    path: Path
    fingerprint: str
    users: int
    items: int
    interactions: int
    report: ImportReport

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return self.report.to_dict(
            path=str(self.path),
            fingerprint=self.fingerprint,
            users=self.users,
            items=self.items,
            interactions=self.interactions,
        )


def import_dataset(
    files: Files,
    schema: Schema,
    out: Path,
    settings: ImportSettings | None = None,
    *,
    origin: Mapping[str, object] | None = None,
    progress: Progress = lambda done, note: None,
) -> Imported:
    """Write the dataset directory `out`, replacing a dataset that is there only when all went well.

    DataError names the file, column and row of what cannot be used; SchemaError what files and schema disagree about;
    AlreadyExistsError when `out` holds something else. `origin` goes into import.json.
    """
    settings = settings or ImportSettings()
    _check_files(files, schema, settings)
    check_target(out)
    opened = {
        name: open_source(path, delimiter=settings.delimiter, encoding=settings.encoding) for name, path in files.paths().items()
    }
    reports = {
        name: TableReport(table=name, file=files.names.get(name, str(source.path)), max_bad=settings.max_bad)
        for name, source in opened.items()
    }
    step = _steps(opened, progress)
    with replaced_directory(out) as folder:
        (folder / "schema.yaml").write_text(schema.to_yaml(), encoding="utf-8")
        users = _entities("users", schema.user_id, schema.users, opened, reports, settings, step)
        items = _entities("items", schema.item_id, schema.items, opened, reports, settings, step)
        reader = EventReader(
            source=opened["interactions"],
            schema=schema,
            users=Ids.of(users[schema.user_id].to_pylist()),
            items=Ids.of(items[schema.item_id].to_pylist()),
            report=reports["interactions"],
            where=settings.where,
            missing=settings.missing,
            all_positive=settings.all_positive,
        )
        staged = folder / "staged.parquet"
        with Buckets(folder) as buckets:
            reader.stage(staged, buckets, step("interactions"))
            repeated = buckets.repeated(reader.report, schema, step("repeated"))
        reader.report.kept = write_events(staged, folder / "interactions.parquet", repeated)
        staged.unlink()
        for name, table, ids in (("users", users, reader.users), ("items", items, reader.items)):
            if name in opened:
                key, added = table.column_names[0], ids.added
                problem = f"id is not in the {name} table (an empty row is added)"
                value = added[0] if added else None
                reports["interactions"].add(key, problem, "row added", rows=len(added), value=value)
            pq.write_table(with_added(table, ids.added), folder / f"{name}.parquet")
        if schema.graph:
            triples = read_triples(opened["graph"], reports["graph"], step("graph"))
            links = read_links(opened["links"], schema.item_id, reader.items.index, reports["links"], step("links"))
            pq.write_table(triples, folder / "graph.parquet")
            pq.write_table(links, folder / "links.parquet")
        report = ImportReport(tables=tuple(reports.values()))
        facts = report.to_dict(origin=dict(origin or {}), settings=settings.to_dict())
        (folder / "import.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        fingerprint = complete(folder, scenarios=tuple(reader.scenarios))
    return Imported(
        path=out,
        fingerprint=fingerprint,
        users=len(reader.users.index),
        items=len(reader.items.index),
        interactions=reader.report.kept,
        report=report,
    )


def _check_files(files: Files, schema: Schema, settings: ImportSettings) -> None:
    for name, fields in (("users", schema.users), ("items", schema.items)):
        if getattr(files, name) is None and getattr(files, f"more_{name}"):
            raise SchemaError(f"further files of {name} need a first one that says which {name} there are", field=name)
        if getattr(files, name) is None and fields:
            raise SchemaError(
                f"the schema has fields of {name} ('{fields[0].name}', ...); give their file with --{name}", field=name
            )
    given = files.graph is not None, files.links is not None
    if schema.graph and not all(given):
        raise SchemaError("the schema has 'graph: true'; give the files with --graph and --links", field="graph")
    if any(given) and not schema.graph:
        raise SchemaError("a graph is given, but the schema does not say 'graph: true'", field="graph")
    if settings.all_positive and schema.label.kind != "binary":
        raise SchemaError("events that all count as 1 need a label of kind 'binary'", field="label.kind")


def _entities(
    name: str,
    key: str,
    fields: tuple[Field, ...],
    opened: Mapping[str, Source],
    reports: Mapping[str, TableReport],
    settings: ImportSettings,
    step: Callable[[str], Progress],
) -> pa.Table:
    """The users or items of all their files: the first says which there are, further ones hold more fields."""
    if name not in opened:
        return empty_table(key, fields)
    roles = [role for role in opened if role == name or role.startswith(f"{name} ")]
    held = fields_by_file({role: opened[role] for role in roles}, fields)
    table = read_entities(opened[name], key, held[name], reports[name], settings.missing, step(name))
    for role in roles[1:]:
        more = read_entities(opened[role], key, held[role], reports[role], settings.missing, step(role))
        table = with_more(table, more, key, reports[role])
    return table.select([key, *(field.name for field in fields)])


def _steps(opened: Mapping[str, Source], progress: Progress) -> Callable[[str], Progress]:
    """Progress of each step, as a share of the whole: steps weigh by the size of their file."""
    sizes = {name: float(source.path.stat().st_size) for name, source in opened.items()}
    further = [name for name in opened if name not in get_args(FileRole)]
    order = {name: sizes.get(name, 0.0) for name in ("users", "items", *further, "interactions", "repeated", "graph", "links")}
    order["repeated"] = sizes["interactions"] / 4
    total, names = sum(order.values()), list(order)

    def step(name: str) -> Progress:
        before = sum(order[earlier] for earlier in names[: names.index(name)])
        return lambda done, note: progress((before + done * order[name]) / total, f"{name}: {note}")

    return step
