"""Messages to the library's values, checked against the dataset schema, and back. InvalidInputError names the wrong field."""

import math
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from metarec.data.schema import Field, FieldKind, Label, Schema
from metarec.errors import InvalidInputError
from metarec.features.graph import GRAPH_FIELD
from metarec.types import Candidate, CandidateSourceName, Features, FeatureValue, Interaction, Item, User
from metarec.v1 import types_pb2

MAX_ID_BYTES = 256
MAX_LABELS = 100
MAX_AHEAD_SECONDS = 86_400.0
"""How far in the future an event may lie: clocks differ, but an event of next year would stay the newest for a year."""

KINDS: Mapping[FieldKind, str] = {
    "categorical": "text",
    "text": "text",
    "numeric": "number",
    "multi_categorical": "list",
    "vector": "vector",
}
"""The kind of value that each kind of field takes on the wire."""

SOURCES: Mapping[CandidateSourceName, "types_pb2.CandidateSource.ValueType"] = {
    "personal": types_pb2.CANDIDATE_SOURCE_PERSONAL,
    "popular": types_pb2.CANDIDATE_SOURCE_POPULAR,
    "content": types_pb2.CANDIDATE_SOURCE_CONTENT,
    "fresh": types_pb2.CANDIDATE_SOURCE_FRESH,
    "caller": types_pb2.CANDIDATE_SOURCE_CALLER,
    "rule": types_pb2.CANDIDATE_SOURCE_RULE,
}


def check_id(value: str, field: str) -> str:
    """`value`, which must have 1 to 256 bytes."""
    if not value:
        raise InvalidInputError("is missing", field=field)
    if len(value.encode()) > MAX_ID_BYTES:
        raise InvalidInputError(f"is longer than {MAX_ID_BYTES} bytes", field=field)
    return value


def check_count(count: int, field: str, *, most: int, least: int = 1) -> None:
    """InvalidInputError unless a repeated field has between `least` and `most` entries."""
    if not least <= count <= most:
        raise InvalidInputError(f"must hold {least} to {most} entries, not {count}", field=field)


def check_share(value: float, field: str) -> float:
    """`value`, which must lie in 0 to 1."""
    if not 0 <= value <= 1:
        raise InvalidInputError(f"must be 0 to 1, not {value:g}", field=field)
    return value


def page_size(value: int) -> int:
    """A page size of 1 to 1000, 50 for 0."""
    if not 0 <= value <= 1000:
        raise InvalidInputError(f"must be 1 to 1000, or 0 for 50, not {value}", field="page_size")
    return value or 50


def user_features(values: Mapping[str, types_pb2.FeatureValue], schema: Schema, field: str) -> dict[str, FeatureValue]:
    """A profile whose names and kinds are those of the schema."""
    return _features(values, schema.users, field)


def item_features(values: Mapping[str, types_pb2.FeatureValue], schema: Schema, field: str) -> dict[str, FeatureValue]:
    """Content whose names and kinds are those of the schema; with a knowledge graph also `graph`, a list of relation=tail."""
    graph = (Field(name=GRAPH_FIELD, kind="multi_categorical"),) if schema.graph else ()
    return _features(values, (*schema.items, *graph), field)


def users(messages: Sequence[types_pb2.User], schema: Schema) -> list[User]:
    """The users of a request, each id once."""
    check_unique((message.user_id for message in messages), "users", "user_id")
    return [
        User(user_id=message.user_id, features=user_features(message.features, schema, f"users[{place}].features"))
        for place, message in enumerate(messages)
    ]


def items(messages: Sequence[types_pb2.Item], schema: Schema) -> list[Item]:
    """The items of a request, each id once; revisions are output only and ignored."""
    check_unique((message.item_id for message in messages), "items", "item_id")
    return [
        Item(item_id=message.item_id, features=item_features(message.features, schema, f"items[{place}].features"))
        for place, message in enumerate(messages)
    ]


def interactions(messages: Sequence[types_pb2.Interaction], schema: Schema | None, now: float) -> list[Interaction]:
    """The interactions of a request. Those without a time get `now`, later ones of the request a little later.

    Without a schema any finite label passes.
    """
    found = []
    for place, message in enumerate(messages):
        at = f"interactions[{place}]"
        for name in ("event_id", "user_id", "item_id"):
            check_id(getattr(message, name), f"{at}.{name}")
        check_label(message.label, None if schema is None else schema.label, f"{at}.label")
        check_labels(message.labels, schema, f"{at}.labels")
        time = now + place * 1e-6
        if message.HasField("event_time"):
            time = check_time(message.event_time, f"{at}.event_time")
            if time > now + MAX_AHEAD_SECONDS:
                raise InvalidInputError("lies more than a day in the future", field=f"{at}.event_time")
        found.append(
            Interaction(
                user_id=message.user_id,
                item_id=message.item_id,
                label=message.label,
                timestamp=time,
                scenario=message.scenario,
                event_id=message.event_id,
                labels=dict(message.labels),
            )
        )
    return found


def check_labels(labels: Mapping[str, float], schema: Schema | None, field: str) -> None:
    """InvalidInputError unless each is the label of a further target of the schema, in its range; any finite ones without one."""
    known = {} if schema is None else {target.column: target for target in schema.targets}
    check_count(len(labels), field, least=0, most=MAX_LABELS)
    for name, value in labels.items():
        check_id(name, field)
        if schema is not None and name not in known:
            names = ", ".join(known) or "none"
            raise InvalidInputError(f"is no further target of the schema, which has: {names}", field=f"{field}.{name}")
        check_label(value, known.get(name), f"{field}.{name}")


def check_label(value: float, label: Label | None, field: str) -> None:
    """InvalidInputError unless `value` is in the label's range; 0 or 1 for a binary label."""
    if not math.isfinite(value):
        raise InvalidInputError(f"must be a finite number, not {value}", field=field)
    if label is None:
        return
    if label.kind == "binary" and value not in (0.0, 1.0):
        raise InvalidInputError(f"must be 0 or 1, not {value:g}", field=field)
    if not label.minimum <= value <= label.maximum:
        raise InvalidInputError(f"must be {label.minimum:g} to {label.maximum:g}, not {value:g}", field=field)


def check_time(stamp: Timestamp, field: str) -> float:
    """Seconds since the epoch. InvalidInputError for what is no time."""
    # The years 1 to 9999, which google.protobuf.Timestamp covers.
    if not (-62_135_596_800 <= stamp.seconds <= 253_402_300_799 and 0 <= stamp.nanos < 1_000_000_000):
        raise InvalidInputError(f"is no time: seconds {stamp.seconds}, nanos {stamp.nanos}", field=field)
    return stamp.seconds + stamp.nanos / 1e9


def check_unique(ids: Iterable[str], field: str, name: str) -> None:
    """InvalidInputError unless these ids of `field[k].name` are ids, each once."""
    seen: dict[str, int] = {}
    for place, value in enumerate(ids):
        at = f"{field}[{place}].{name}"
        check_id(value, at)
        if value in seen:
            raise InvalidInputError(f"'{value}' is in {field}[{seen[value]}] already", field=at)
        seen[value] = place


def put_features(target: Mapping[str, types_pb2.FeatureValue], features: Features) -> None:
    """Fill a map field; missing values stay out."""
    for name, value in features.items():
        if value is None or value == ():
            continue
        message = target[name]
        if isinstance(value, str):
            message.text = value
        elif isinstance(value, tuple):
            words = isinstance(value[0], str)
            (message.list if words else message.vector).values.extend(value)  # type: ignore[arg-type]  # all of one kind
        else:
            message.number = value


def item_message(item: Item) -> types_pb2.Item:
    """An item as a message."""
    message = types_pb2.Item(item_id=item.item_id, revision=item.revision)
    put_features(message.features, item.features)
    return message


def candidate_message(candidate: Candidate) -> types_pb2.Candidate:
    """A candidate as a message."""
    return types_pb2.Candidate(
        item_id=candidate.item_id,
        score=candidate.score,
        source=SOURCES[candidate.source],
        revision=candidate.revision,
    )


def interaction_message(interaction: Interaction) -> types_pb2.Interaction:
    """An interaction as a message."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(interaction.timestamp * 1e6))
    return types_pb2.Interaction(
        event_id=interaction.event_id,
        user_id=interaction.user_id,
        item_id=interaction.item_id,
        label=interaction.label,
        event_time=stamp,
        scenario=interaction.scenario,
        labels=interaction.labels,
    )


def _features(values: Mapping[str, types_pb2.FeatureValue], fields: Iterable[Field], where: str) -> dict[str, FeatureValue]:
    known = {field.name: field for field in fields}
    found: dict[str, FeatureValue] = {}
    for name, value in values.items():
        at = f"{where}.{name}"
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InvalidInputError(f"is unknown to the schema, which has: {names}", field=at)
        found[name] = _feature(value, known[name], at)
    return found


def _feature(value: types_pb2.FeatureValue, field: Field, at: str) -> FeatureValue:
    kind, expected = value.WhichOneof("kind"), KINDS[field.kind]
    if kind is None:
        return None
    if kind != expected:
        raise InvalidInputError(f"is a {field.kind} field and takes '{expected}', not '{kind}'", field=at)
    if kind == "list":
        return tuple(dict.fromkeys(value.list.values)) or None
    if kind == "vector":
        vector = tuple(value.vector.values)
        if len(vector) != field.dim:
            raise InvalidInputError(f"must have {field.dim} components, not {len(vector)}", field=at)
        _check_finite(vector, at)
        return vector
    if kind == "number":
        _check_finite((value.number,), at)
        return value.number
    return value.text or None


def _check_finite(values: Iterable[float], at: str) -> None:
    for value in values:
        if not math.isfinite(value):
            raise InvalidInputError(f"must be finite, not {value}", field=at)
