"""The dataset schema: which columns mean what. Written by hand or drafted by `metarec data import --infer`; see schema.yaml."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

import yaml

from metarec.data.schema_columns import Field, FieldKind, Label
from metarec.errors import SchemaError

__all__ = ["Field", "FieldKind", "Label", "Schema"]

ALL_POSITIVE = "; where every event counts as 1, write 'label: {column: label, kind: binary}' and import with --all-positive"

Yaml = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns of the interaction table (`user_id`, `item_id`, label, timestamp, scenario) and the fields of users and items.

    Every interaction has a `label`; `targets` are further columns to predict, which may be empty in some of them.

    `user_id` and `item_id` name the id columns in all tables. `timestamp` and `scenario` are None where there is no such column.
    `item_title` is the item field to show people; `graph` says whether a knowledge graph belongs to the dataset.
    """

    user_id: str
    item_id: str
    label: Label
    timestamp: str | None = None
    scenario: str | None = None
    users: tuple[Field, ...] = ()
    items: tuple[Field, ...] = ()
    targets: tuple[Label, ...] = ()
    item_title: str | None = None
    graph: bool = False

    def __post_init__(self) -> None:
        columns = [self.user_id, self.item_id, self.label.column, self.timestamp, self.scenario]
        named = [column for column in columns if column is not None] + [target.column for target in self.targets]
        for name, column in (("user_id", self.user_id), ("item_id", self.item_id)):
            if not column or not isinstance(column, str):
                raise SchemaError(f"{name} must name a column, got {column!r}", field=name)
        if not all(isinstance(column, str) for column in named):
            raise SchemaError("timestamp and scenario must name a column or be left out", field="timestamp")
        if len(set(named)) < len(named):
            raise SchemaError(f"interaction columns must differ: {', '.join(named)}", field="label.column")
        if not isinstance(self.graph, bool):
            raise SchemaError(f"graph must be true or false, got {self.graph!r}", field="graph")
        for side, members, key in (("users", self.users, self.user_id), ("items", self.items, self.item_id)):
            names = [field.name for field in members]
            for name in names:
                if names.count(name) > 1:
                    raise SchemaError(f"{side} has field '{name}' twice", field=f"{side}.{name}")
                if name.startswith("metarec_") or name == "graph":
                    raise SchemaError(
                        f"field '{name}' has a reserved name ('graph', 'metarec_*'); rename it", field=f"{side}.{name}"
                    )
                if name == key:
                    raise SchemaError(f"{side} has its id column '{name}' among the fields", field=f"{side}.{name}")
            used = [column for field in members for column in field.sources]
            for column in used:
                if used.count(column) > 1 or column == key:
                    raise SchemaError(f"{side} has column '{column}' in two fields", field=f"{side}.{column}")
        if self.item_title is not None and self.item_title not in {field.name for field in self.items}:
            raise SchemaError(f"item_title '{self.item_title}' is no field of items", field="item_title")

    def user_field(self, name: str) -> Field:
        """The user field of this name. SchemaError when there is none."""
        return _named(self.users, name, "users")

    def item_field(self, name: str) -> Field:
        """The item field of this name. SchemaError when there is none."""
        return _named(self.items, name, "items")

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label and the further targets, in the order in which learners number them."""
        return (self.label, *self.targets)

    @property
    def hash(self) -> str:
        """Sixteen hex digits that are equal for equal schemas; checkpoints carry them."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, object]:
        """As plain data without what is left at its default; `from_dict` reads it back."""
        data = cast(dict[str, object], _plain(asdict(self)))
        label, *targets = (
            {"column": part.column, "kind": "binary"} if part.kind == "binary" else _plain(asdict(part)) for part in self.labels
        )
        return data | {"label": label} | ({"targets": targets} if targets else {})

    @staticmethod
    def from_dict(data: Yaml) -> "Schema":
        """The schema in plain data. SchemaError names what is unknown, missing or of the wrong type."""
        _known(data, {f.name for f in fields(Schema)}, "schema", needed={"user_id", "item_id", "label"})
        targets = data.get("targets") or ()
        if not isinstance(targets, list | tuple):
            raise SchemaError("targets must be a list of mappings with column and kind, as label is one", field="targets")
        plain = {key: value for key, value in data.items() if key not in ("label", "targets", "users", "items")}
        return Schema(
            label=_label(data["label"], "label"),
            targets=tuple(_label(target, f"target {number}") for number, target in enumerate(targets, 1)),
            users=_fields(data.get("users"), "users"),
            items=_fields(data.get("items"), "items"),
            **plain,  # type: ignore[arg-type]  # Schema checks the values
        )

    @staticmethod
    def read(path: Path) -> "Schema":
        """The schema in a YAML file. SchemaError names the file and what is wrong in it."""
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SchemaError(f"no schema file '{path}'; draft one with: metarec data import --infer ...") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SchemaError(f"schema file '{path}' cannot be read: {error}") from error
        if not isinstance(data, Mapping):
            raise SchemaError(f"schema file '{path}' must be a mapping with user_id, item_id and label")
        try:
            return Schema.from_dict(data)
        except SchemaError as error:
            raise SchemaError(f"schema file '{path}': {error.message}", field=error.field) from error

    def to_yaml(self) -> str:
        """As the text of a schema.yaml."""
        # One line a value, however long: comments are put behind some of them.
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=math.inf)


def _named(members: tuple[Field, ...], name: str, side: str) -> Field:
    for field in members:
        if field.name == name:
            return field
    known = ", ".join(field.name for field in members) or "none"
    raise SchemaError(f"{side} has no field '{name}'; it has: {known}", field=name)


def _label(data: object, where: str) -> Label:
    field = where.replace(" ", ".")
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where} must be a mapping with column and kind", field=field)
    _known(data, {f.name for f in fields(Label)}, where, needed={"column", "kind"})
    if data.get("kind") == "rating" and not {"minimum", "maximum"} <= set(data):
        raise SchemaError(f"a rating {where} needs minimum and maximum", field=f"{field}.minimum")
    return Label(**cast(dict[str, object], dict(data)))  # type: ignore[arg-type]  # Label checks the values


def _fields(data: object, side: str) -> tuple[Field, ...]:
    if data is None:
        return ()
    if not isinstance(data, list | tuple):
        raise SchemaError(f"{side} must be a list of fields", field=side)
    found = []
    for number, entry in enumerate(data, 1):
        if not isinstance(entry, Mapping):
            raise SchemaError(f"field {number} of {side} must be a mapping with name and kind", field=side)
        _known(entry, {f.name for f in fields(Field)}, f"field {number} of {side}", needed={"name", "kind"})
        found.append(Field(**cast(dict[str, object], dict(entry))))  # type: ignore[arg-type]  # Field checks the values
    return tuple(found)


def _known(data: Yaml, known: set[str], where: str, *, needed: set[str]) -> None:
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise SchemaError(f"{where} has unknown key '{unknown[0]}'; known: {', '.join(sorted(known))}", field=unknown[0])
    missing = sorted(needed - set(data))
    if missing:
        hint = ALL_POSITIVE if (where, missing[0]) == ("schema", "label") else ""
        raise SchemaError(f"{where} needs '{missing[0]}'{hint}", field=missing[0])


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part is not None and part is not False and part != ()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
