"""Reads what people type or keep in files: ID=LABEL pairs, NAME=VALUE features, JSON or YAML lists of items, users and events."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from metarec.errors import InvalidInputError
from metarec.types import Features

if TYPE_CHECKING:
    from metarec.data.schema import Field

feature_option = click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the dataset schema; repeat for more. Read as the schema of --data says, else by its looks (JSON or text).",
)


weight_option = click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="TARGET=NUMBER",
    help="Weight of a target in the score (the label's column, or interacted); repeat for more.  [default: as trained]",
)


schema_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="METAREC_DATA",
    help="Dataset directory, whose schema says how to read --feature.  [env: METAREC_DATA]",
)


def schema_fields(data: Path | None, side: Literal["users", "items"]) -> tuple["Field", ...]:
    """The fields of users or items in a dataset directory's schema; none without a directory."""
    if data is None:
        return ()
    from metarec.data.schema import Schema

    schema = Schema.read(data / "schema.yaml")
    return schema.users if side == "users" else schema.items


def read_features(pairs: Iterable[str], fields: Iterable["Field"] = ()) -> dict[str, object]:
    """NAME=VALUE pairs, read as the kinds of `fields` say: text as it stands, numbers, lists in JSON or with separators.

    Without its field, a value that is a JSON number, string or list is read as one, and anything else is a string as it stands.
    """
    known = {field.name: field for field in fields}
    features: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise InvalidInputError(f"'{pair}' is no feature; write NAME=VALUE", field="feature")
        if name in features:
            raise InvalidInputError(f"feature '{name}' is given twice; write several values as a JSON list", field="feature")
        features[name] = _typed(text, known[name]) if name in known else _json_or_text(text)
    return features


def read_weights(pairs: Iterable[str], what: str = "weight") -> dict[str, float]:
    """TARGET=NUMBER pairs. InvalidInputError for what is no pair, and for a target that is given twice."""
    weights: dict[str, float] = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name or not equals or not math.isfinite(value):
            raise InvalidInputError(f"'{pair}' is no {what}; write TARGET=NUMBER, for example rating=1", field=what)
        if name in weights:
            raise InvalidInputError(f"target '{name}' is given twice", field=what)
        weights[name] = value
    return weights


def _typed(text: str, field: "Field") -> object:
    if field.kind in ("categorical", "text"):
        return text
    try:
        if field.kind == "numeric":
            return float(text)
        parts = json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(field.separator or ",")]
        return [float(part) for part in parts] if field.kind == "vector" else parts
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"'{text}' is no value of the {field.kind} field '{field.name}'", field="feature") from error


def _json_or_text(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, float | int | str | list) and not isinstance(value, bool) else text


def read_labels(pairs: Iterable[str], field: str) -> list[tuple[str, float]]:
    """ID=LABEL pairs; the last `=` separates, for ids may hold one."""
    found = []
    for pair in pairs:
        identity, equals, text = pair.rpartition("=")
        try:
            label = float(text)
        except ValueError:
            equals = ""
        if not identity or not equals:
            raise InvalidInputError(f"'{pair}' is no rated item; write ID=LABEL, for example 50=5", field=field)
        found.append((identity, label))
    return found


def read_time(text: str, field: str) -> float:
    """An ISO 8601 time as seconds since the epoch; UTC where it has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInputError(f"'{text}' is no time; write it as 1998-04-01 or 1998-04-01T12:00:00Z", field=field) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_records(path: Path, *, needed: Sequence[str], optional: Sequence[str]) -> list[dict[str, object]]:
    """The mapping, or list of mappings, in a JSON or YAML file (`-`: standard input). InvalidInputError names file and record."""
    import yaml

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInputError(f"file '{path}' cannot be read: {error}", field="file") from error
    records = data if isinstance(data, list) else [data]
    for number, record in enumerate(records, 1):
        where = f"file '{path}', record {number}"
        if not isinstance(record, Mapping):
            raise InvalidInputError(f"{where} is no mapping; it needs {', '.join(needed)}", field="file")
        missing = [name for name in needed if record.get(name) in (None, "")]
        if missing:
            raise InvalidInputError(f"{where} needs '{missing[0]}'", field="file")
        unknown = sorted(set(map(str, record)) - {*needed, *optional})
        if unknown:
            raise InvalidInputError(
                f"{where} has unknown key '{unknown[0]}'; known: {', '.join([*needed, *optional])}", field="file"
            )
    return [dict(record) for record in records]


def read_entities(
    what: Literal["user", "item"], identity: str | None, features: Sequence[str], path: Path | None, data: Path | None
) -> list[tuple[str, Features]]:
    """Ids and features: the one of the command line, or those of a file (`{user_id, features: {name: value}}`).

    The client checks the values and names the field that is wrong.
    """
    if (identity is None) == (path is None):
        raise click.UsageError(f"give either {what.upper()} with --feature, or --file")
    if identity is not None:
        return [(identity, cast(Features, read_features(features, schema_fields(data, "users" if what == "user" else "items"))))]
    assert path is not None
    if features:
        raise click.UsageError(f"--feature goes with {what.upper()}, not with --file")
    key, found = f"{what}_id", []
    for number, record in enumerate(read_records(path, needed=(key,), optional=("features",)), 1):
        given = record.get("features") or {}
        if not isinstance(given, Mapping):
            raise InvalidInputError(
                f"file '{path}', record {number}: features must be a mapping of names to values", field="file"
            )
        found.append((str(record[key]), cast(Features, given)))
    return found


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as an ISO 8601 time in UTC; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def figure(name: str, value: float) -> int | float:
    """A figure of the promotion gate as people read it: counts as whole numbers."""
    return int(value) if name in ("users", "cold_users", "list_users") else value


def grade(label: float) -> int | float:
    """A label as people read it: whole ones as whole numbers."""
    return int(label) if label.is_integer() else label
