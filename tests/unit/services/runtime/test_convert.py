"""Messages to values and back, checked against the schema."""

from dataclasses import replace

import pytest

from metarec.data.schema import Field, Label, Schema
from metarec.errors import InvalidInputError
from metarec.types import Interaction, Item
from metarec.v1 import types_pb2
from services.runtime import convert

SCHEMA = Schema(
    user_id="u",
    item_id="i",
    label=Label(column="r", kind="rating", minimum=1.0, maximum=5.0),
    users=(Field(name="age", kind="numeric"), Field(name="job", kind="categorical")),
    items=(
        Field(name="title", kind="text"),
        Field(name="tags", kind="multi_categorical"),
        Field(name="look", kind="vector", dim=2),
    ),
    graph=True,
)
BINARY = Label(column="c", kind="binary")


def test_an_item_goes_to_a_message_and_back() -> None:
    features = {"title": "A", "tags": ("x", "y"), "look": (0.5, -1.0), "graph": ("by=z",)}
    message = convert.item_message(Item(item_id="i", features={**features, "missing": None}, revision=4))
    assert message.revision == 4
    assert convert.items([message], SCHEMA) == [Item(item_id="i", features=features)]


def test_missing_and_empty_values_are_none() -> None:
    message = types_pb2.Item(item_id="i")
    message.features["title"].text = ""
    message.features["tags"].list.SetInParent()
    message.features["look"].SetInParent()
    assert convert.items([message], SCHEMA)[0].features == {"title": None, "tags": None, "look": None}


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("nope", types_pb2.FeatureValue(text="x"), "unknown"),
        ("title", types_pb2.FeatureValue(number=3), "takes 'text', not 'number'"),
        ("tags", types_pb2.FeatureValue(text="x"), "takes 'list', not 'text'"),
        ("look", types_pb2.FeatureValue(vector=types_pb2.FloatVector(values=[1])), "2 components, not 1"),
        ("look", types_pb2.FeatureValue(vector=types_pb2.FloatVector(values=[1, float("inf")])), "finite"),
    ],
)
def test_a_wrong_feature_is_named(name: str, value: types_pb2.FeatureValue, what: str) -> None:
    message = types_pb2.Item(item_id="b", features={name: value})
    with pytest.raises(InvalidInputError, match=what) as raised:
        convert.items([types_pb2.Item(item_id="a"), message], SCHEMA)
    assert raised.value.field == f"items[1].features.{name}"


def test_a_graph_needs_a_schema_with_one() -> None:
    value = types_pb2.FeatureValue(list=types_pb2.StringList(values=["by=z"]))
    plain = Schema(user_id="u", item_id="i", label=SCHEMA.label)
    with pytest.raises(InvalidInputError, match="which has: none"):
        convert.item_features({"graph": value}, plain, "features")


def test_users_are_read_and_named_once() -> None:
    message = types_pb2.User(
        user_id="a", features={"age": types_pb2.FeatureValue(number=3), "job": types_pb2.FeatureValue(text="x")}
    )
    assert convert.users([message], SCHEMA)[0].features == {"age": 3.0, "job": "x"}
    with pytest.raises(InvalidInputError, match=r"users\[0\]") as raised:
        convert.users([message, message], SCHEMA)
    assert raised.value.field == "users[1].user_id"


def test_interactions_without_a_time_get_the_time_of_arrival_in_order() -> None:
    message = types_pb2.Interaction(event_id="e", user_id="u", item_id="i", label=3, scenario="kids")
    first, second = convert.interactions([message, message], SCHEMA, 1_700_000_000.0)
    assert first == Interaction(user_id="u", item_id="i", label=3.0, timestamp=1_700_000_000.0, scenario="kids", event_id="e")
    assert second.timestamp > first.timestamp


def test_an_interaction_goes_to_a_message_and_back() -> None:
    entry = Interaction(user_id="u", item_id="i", label=2.5, timestamp=1234.5, scenario="s", event_id="e")
    assert convert.interactions([convert.interaction_message(entry)], None, 2_000.0) == [entry]


@pytest.mark.parametrize(
    ("value", "label"), [(0.9, SCHEMA.label), (5.1, SCHEMA.label), (float("inf"), None), (0.5, BINARY), (2.0, BINARY)]
)
def test_labels_outside_the_range_are_refused(value: float, label: Label | None) -> None:
    with pytest.raises(InvalidInputError) as raised:
        convert.check_label(value, label, "x")
    assert raised.value.field == "x"


def test_labels_in_the_range_pass() -> None:
    for value, label in ((1.0, SCHEMA.label), (5.0, SCHEMA.label), (1.0, BINARY), (0.0, BINARY), (99.0, None)):
        convert.check_label(value, label, "x")


def test_an_event_of_next_week_is_refused_and_a_clock_an_hour_ahead_is_not() -> None:
    message = types_pb2.Interaction(event_id="e", user_id="u", item_id="i", label=3)
    message.event_time.FromSeconds(1_000_000 + 3600)
    assert convert.interactions([message], SCHEMA, 1_000_000.0)[0].timestamp == 1_003_600.0
    message.event_time.FromSeconds(1_000_000 + 7 * 86_400)
    with pytest.raises(InvalidInputError, match="future"):
        convert.interactions([message], SCHEMA, 1_000_000.0)


def test_ids_have_1_to_256_bytes() -> None:
    assert convert.check_id("é" * 128, "x") == "é" * 128
    for value in ("", "é" * 129):
        with pytest.raises(InvalidInputError):
            convert.check_id(value, "x")


def test_pages_have_1_to_1000_entries() -> None:
    assert [convert.page_size(size) for size in (0, 1, 1000)] == [50, 1, 1000]
    for size in (-1, 1001):
        with pytest.raises(InvalidInputError):
            convert.page_size(size)


def test_labels_of_further_targets_are_those_of_the_schema() -> None:
    several = replace(SCHEMA, targets=(Label(column="bought", kind="binary"),))
    message = types_pb2.Interaction(event_id="e", user_id="u", item_id="i", label=3, labels={"bought": 1})
    (found,) = convert.interactions([message], several, now=5.0)
    assert found.labels == {"bought": 1.0}
    assert dict(convert.interaction_message(found).labels) == {"bought": 1.0}
    for labels, schema, match in (
        ({"bought": 0.5}, several, "must be 0 or 1"),
        ({"sold": 1.0}, several, "which has: bought"),
        ({"bought": 1.0}, SCHEMA, "which has: none"),
    ):
        wrong = types_pb2.Interaction(event_id="e", user_id="u", item_id="i", label=3, labels=labels)
        with pytest.raises(InvalidInputError, match=match) as caught:
            convert.interactions([wrong], schema, now=5.0)
        assert caught.value.field == f"interactions[0].labels.{next(iter(labels))}"
