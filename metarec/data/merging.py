"""Several datasets become one whose scenarios they are: sources with users of their own or shared ones (docs/data.md).

Ids that are equal name one user or item, unless they are kept separate; of fields, the first source that knows a value stands.
Labels must be of one kind and range: nothing is rescaled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from metarec.data.dataset import Dataset
from metarec.data.events import MAX_SCENARIOS
from metarec.data.importing import Imported
from metarec.data.merged_tables import Sharing, merged_entities, merged_events, merged_graph
from metarec.data.replacing import check_target, replaced_directory
from metarec.data.report import ImportReport, TableReport
from metarec.data.schema import Field, Schema
from metarec.errors import InvalidInputError, SchemaError

SCENARIO = "scenario"


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """`users`, `items`: whether equal ids of two sources are one ("shared"), or get its name before them ("separate")."""

    users: Sharing = "shared"
    items: Sharing = "shared"


def merge_datasets(
    sources: Mapping[str, Dataset],
    out: Path,
    settings: MergeSettings | None = None,
    *,
    progress: Callable[[float, str], None] = lambda done, note: None,
) -> Imported:
    """Write the dataset directory `out` from sources by the name of their scenario, replacing a dataset that is there.

    A source's own scenarios become NAME/SCENARIO. SchemaError says where sources disagree, InvalidInputError what is wrong with a
    name, AlreadyExistsError that `out` holds something else.
    """
    settings = settings or MergeSettings()
    _check_names(list(sources), settings)
    check_target(out)
    schema, notes = _schema(sources)
    reports = {name: TableReport(table=name, file=str(dataset.path), max_bad=None) for name, dataset in sources.items()}
    progress(0.1, "users")
    users = merged_entities(sources, "user", schema.user_id, schema.users, settings.users, reports)
    progress(0.3, "items")
    items = merged_entities(sources, "item", schema.item_id, schema.items, settings.items, reports)
    progress(0.5, "interactions")
    events = merged_events(sources, users.rows, items.rows, timed=schema.timestamp is not None)
    if len(events.scenarios) > MAX_SCENARIOS:
        raise InvalidInputError(f"the sources have {len(events.scenarios):,} scenarios, at most {MAX_SCENARIOS:,} are kept")
    for name, dataset in sources.items():
        reports[name].read = reports[name].kept = len(dataset.interactions)
        if name in notes:
            reports[name].add(*notes[name], "left out", rows=len(dataset.interactions))
    report = ImportReport(tables=tuple(reports.values()))
    origin = {name: {"path": str(dataset.path), "fingerprint": dataset.fingerprint} for name, dataset in sources.items()}
    merged = Dataset(
        path=out,
        schema=schema,
        user_ids=users.ids,
        item_ids=items.ids,
        users=users.frame,
        items=items.frame,
        interactions=events,
        graph=merged_graph(sources, settings.items) if schema.graph else None,
        fingerprint="",
    )
    progress(0.8, "writing")
    with replaced_directory(out) as folder:
        facts = report.to_dict(origin={"merged": origin}, settings={"users": settings.users, "items": settings.items})
        saved = merged.save(folder, report=facts)
    return Imported(
        path=out,
        fingerprint=saved.fingerprint,
        users=len(users.ids),
        items=len(items.ids),
        interactions=len(events),
        report=report,
    )


def _check_names(names: Sequence[str], settings: MergeSettings) -> None:
    if len(names) < 2:
        raise InvalidInputError(f"merging takes two sources or more, got {len(names)}", field="sources")
    for name in names:
        if not name.strip() or "/" in name or len(name.encode()) > 100:
            raise InvalidInputError(
                f"'{name}' is no name of a source: 1 to 100 bytes without '/', which stands before scenarios of its own",
                field="sources",
            )
        if ":" in name and "separate" in (settings.users, settings.items):
            raise InvalidInputError(
                f"'{name}' is no name of a source whose ids are kept separate: ':' stands between name and id there",
                field="sources",
            )


def _schema(sources: Mapping[str, Dataset]) -> tuple[Schema, dict[str, tuple[str, str]]]:
    """The schema of all sources, named as in the first; and, by source, a column that cannot be kept, and why."""
    (first_name, first), *rest = sources.items()
    schema = first.schema
    for name, dataset in rest:
        one, two = schema.label, dataset.schema.label
        if (one.kind, one.minimum, one.maximum) != (two.kind, two.minimum, two.maximum):
            raise SchemaError(
                f"labels of '{first_name}' are {one.kind} from {one.minimum:g} to {one.maximum:g}, those of '{name}' {two.kind} "
                f"from {two.minimum:g} to {two.maximum:g}; bring them to one scale before the import",
                field="label",
            )
        if dataset.schema.targets != schema.targets:
            raise SchemaError(f"'{first_name}' and '{name}' have different further targets; import them alike", field="targets")
    column = schema.scenario or SCENARIO
    taken = {schema.user_id, schema.item_id, *(part.column for part in schema.labels), schema.timestamp}
    while column in taken:
        column += "_"
    timed = all(dataset.has_timestamps for dataset in sources.values())
    problem = "time is left out: another source has none, and events of both could not be ordered"
    notes = {
        name: (dataset.schema.timestamp or "", problem)
        for name, dataset in sources.items()
        if dataset.has_timestamps and not timed
    }
    times = next((dataset.schema.timestamp for dataset in sources.values() if dataset.schema.timestamp), None)
    titles = [dataset.schema.item_title for dataset in sources.values() if dataset.schema.item_title]
    merged = replace(
        schema,
        timestamp=times if timed else None,
        scenario=column,
        users=_fields(sources, "users"),
        items=_fields(sources, "items"),
        item_title=titles[0] if titles else None,
        graph=any(dataset.schema.graph for dataset in sources.values()),
    )
    return merged, notes


def _fields(sources: Mapping[str, Dataset], side: Literal["users", "items"]) -> tuple[Field, ...]:
    """Fields of all sources by name. SchemaError for one that two sources read differently."""
    found: dict[str, tuple[str, Field]] = {}
    for name, dataset in sources.items():
        for field in dataset.schema.users if side == "users" else dataset.schema.items:
            other, known = found.setdefault(field.name, (name, field))
            if (known.kind, known.dim, known.encoder) != (field.kind, field.dim, field.encoder):
                raise SchemaError(
                    f"field '{field.name}' of {side} is {known.kind} in '{other}' and {field.kind} in '{name}'"
                    + (f" (dim {known.dim} and {field.dim})" if known.dim != field.dim else "")
                    + (f" (encoder {known.encoder} and {field.encoder})" if known.encoder != field.encoder else "")
                    + "; rename it in one of them",
                    field=f"{side}.{field.name}",
                )
    return tuple(field for _, field in found.values())
