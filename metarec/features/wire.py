"""What the feature store's views hold, and how their values travel: Feast's Value message, given as a class because only
store.py may import Feast."""

from typing import TYPE_CHECKING, Literal, Protocol

from metarec.features.graph import GRAPH_FIELD
from metarec.features.sources import ITEM_KEY, REVISION, USER_KEY, plain
from metarec.features.values import as_number
from metarec.types import FeatureValue

if TYPE_CHECKING:
    from metarec.data.schema import Schema

Kind = Literal["categorical", "multi_categorical", "numeric", "text", "vector", "integer", "bytes"]
ViewName = Literal["user_profile", "user_stats", "user_adaptation", "item_content", "item_stats"]
Stored = FeatureValue | int | bytes
Row = dict[str, Stored]

KEYS: dict[ViewName, str] = {
    "user_profile": USER_KEY,
    "user_stats": USER_KEY,
    "user_adaptation": USER_KEY,
    "item_content": ITEM_KEY,
    "item_stats": ITEM_KEY,
}
SERVICES: dict[str, tuple[ViewName, ...]] = {
    "training_v1": ("user_profile", "user_stats", "item_content", "item_stats"),
    "serving_user_v1": ("user_profile", "user_stats", "user_adaptation"),
    "serving_item_v1": ("item_content", "item_stats"),
}
"""Feature services; a change of what one returns is a new version beside the old one."""

_STATS: dict[str, Kind] = {"count": "integer", "mean_label": "numeric", "last_timestamp": "numeric"}
_VALUE_FIELD: dict[Kind, str] = {
    "categorical": "string_val",
    "text": "string_val",
    "numeric": "double_val",
    "integer": "int64_val",
    "bytes": "bytes_val",
    "multi_categorical": "string_list_val",
    "vector": "float_list_val",
}


class Value(Protocol):
    """The part of feast.types.Value that is used here."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802  # named by protobuf
        """Name of the set field."""
        ...


def view_features(schema: "Schema") -> dict[ViewName, dict[str, Kind]]:
    """Features of each view, by name."""
    users: dict[str, Kind] = {field.name: field.kind for field in schema.users}
    items: dict[str, Kind] = {field.name: field.kind for field in schema.items}
    return {
        "user_profile": {REVISION: "integer", **users},
        "user_stats": dict(_STATS),
        "user_adaptation": {"state": "bytes", "shots": "integer", "checkpoint": "categorical", "revision": "integer"},
        "item_content": {REVISION: "integer", **items, GRAPH_FIELD: "multi_categorical"},
        "item_stats": dict(_STATS),
    }


def fill(message: Value, kind: Kind, value: Stored) -> None:
    """Set the empty `message` to `value`; None leaves it empty, which is Feast's null."""
    if value is None:
        return
    name = _VALUE_FIELD[kind]
    if kind in ("multi_categorical", "vector"):
        getattr(message, name).val.extend(value)
    else:
        setattr(message, name, value)


def parse(message: Value) -> Stored:
    """The value of `message`; None when it is null, NaN or an empty list."""
    name = message.WhichOneof("val")
    if name is None or name == "null_val":
        return None
    value = getattr(message, name)
    if name.endswith("_list_val"):
        return tuple(value.val) or None
    return None if value != value else value


def raw(kind: Kind, value: object, name: str) -> Stored:
    """`value` of a historical table as a plain one, so that both retrievals give equal values."""
    if kind == "integer" or kind == "bytes":
        number = as_number(value, name) if kind == "integer" else None
        return None if number is None else int(number)
    return plain(kind, value, name)
