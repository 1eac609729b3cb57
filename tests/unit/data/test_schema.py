import pytest

from metarec.data.schema import Field, Label, Schema
from metarec.errors import SchemaError

MINIMAL = {"user_id": "u", "item_id": "i", "label": {"column": "r", "kind": "binary"}}
FULL = Schema(
    user_id="user",
    item_id="item",
    label=Label(column="rating", kind="rating", minimum=1, maximum=5),
    timestamp="time",
    scenario="platform",
    users=(Field(name="age", kind="numeric"), Field(name="city", kind="categorical")),
    items=(
        Field(name="title", kind="text"),
        Field(name="genres", kind="multi_categorical", separator="|"),
        Field(name="cover", kind="vector", dim=3, separator=" "),
    ),
    item_title="title",
    graph=True,
)


def test_a_schema_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "schema.yaml"
    for schema in (FULL, Schema.from_dict(MINIMAL)):
        path.write_text(schema.to_yaml())
        assert Schema.read(path) == schema
        assert Schema.read(path).hash == schema.hash


def test_further_targets_are_read_back_and_datasets_without_any_keep_their_hash(tmp_path):
    targets = [{"column": "bought", "kind": "binary"}, {"column": "stars", "kind": "rating", "minimum": 0.5, "maximum": 5}]
    several = Schema.from_dict({**MINIMAL, "targets": targets})
    assert [target.column for target in several.labels] == ["r", "bought", "stars"]
    assert several.to_dict()["targets"] == targets
    path = tmp_path / "schema.yaml"
    path.write_text(several.to_yaml())
    assert Schema.read(path) == several
    plain = Schema.from_dict(MINIMAL)
    assert "targets" not in plain.to_dict()
    # As checkpoints of before there were targets have it.
    assert (plain.hash, FULL.hash) == ("4ed11d1dff238a7f", "a1178a827302a59d")
    assert several.hash != plain.hash


def test_whole_and_decimal_limits_are_the_same_schema():
    data = {**MINIMAL, "label": {"column": "r", "kind": "rating", "minimum": 1, "maximum": 5}}
    decimal = {**MINIMAL, "label": {"column": "r", "kind": "rating", "minimum": 1.0, "maximum": 5.0}}
    assert Schema.from_dict(data).hash == Schema.from_dict(decimal).hash


def test_hashes_of_different_schemas_differ():
    assert Schema.from_dict(MINIMAL).hash != Schema.from_dict({**MINIMAL, "timestamp": "t"}).hash


def test_a_schema_without_a_label_says_how_to_do_without():
    with pytest.raises(SchemaError, match=r"schema needs 'label'; where every event counts as 1, .* import with --all-positive"):
        Schema.from_dict({name: value for name, value in MINIMAL.items() if name != "label"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "unknown key 'labels'"),
        ({"user_id": None}, "user_id must name a column"),
        ({"label": {"column": "r", "kind": "stars"}}, "label has kind 'stars'; known: rating, binary"),
        ({"label": {"column": "r", "kind": "rating"}}, "needs minimum and maximum"),
        ({"label": {"column": "r", "kind": "rating", "minimum": 5, "maximum": 1}}, "must be below"),
        ({"label": {"column": "r", "kind": "rating", "minimum": True, "maximum": 5}}, "must be a number, got True"),
        ({"label": {"column": "r", "kind": "binary", "maximum": 5}}, "from 0 to 1"),
        ({"label": "r"}, "must be a mapping"),
        ({"timestamp": "u"}, "must differ"),
        ({"timestamp": 3}, "must name a column or be left out"),
        ({"graph": "yes"}, "graph must be true or false, got 'yes'"),
        ({"users": {"age": "numeric"}}, "users must be a list"),
        ({"users": ["age"]}, "field 1 of users must be a mapping"),
        ({"users": [{"name": "age"}]}, "field 1 of users needs 'kind'"),
        ({"users": [{"name": "age", "kind": "number"}]}, "kind 'number'; known: categorical"),
        ({"users": [{"name": "age", "kind": "numeric", "separator": "|"}]}, "takes no separator"),
        ({"users": [{"name": "tags", "kind": "multi_categorical", "separator": ""}]}, "must be a non-empty string"),
        ({"items": [{"name": "v", "kind": "vector"}]}, "needs dim"),
        ({"items": [{"name": "v", "kind": "text", "dim": 3}]}, "takes no dim"),
        ({"items": [{"name": "v", "kind": "text", "columns": ["a"]}]}, "only a vector without a separator"),
        ({"items": [{"name": "v", "kind": "vector", "separator": " ", "columns": ["a"]}]}, "only a vector without a separator"),
        ({"items": [{"name": "v", "kind": "vector", "columns": "a"}]}, "must be a list of column names, got 'a'"),
        ({"items": [{"name": "v", "kind": "vector", "columns": ["a", "a"]}]}, "must differ: a, a"),
        ({"items": [{"name": "v", "kind": "vector", "dim": 3, "columns": ["a"]}]}, "has 1 columns but dim 3; leave dim out"),
        ({"items": [{"name": "v", "kind": "vector", "columns": ["a"]}, {"name": "a", "kind": "numeric"}]}, "'a' in two fields"),
        ({"items": [{"name": "a", "kind": "text"}] * 2}, "items has field 'a' twice"),
        ({"items": [{"name": "i", "kind": "text"}]}, "its id column 'i' among the fields"),
        ({"items": [{"name": "graph", "kind": "text"}]}, "'graph' has a reserved name"),
        ({"users": [{"name": "metarec_x", "kind": "text"}]}, "reserved name"),
        ({"item_title": "title"}, "item_title 'title' is no field of items"),
        ({"targets": {"column": "c", "kind": "binary"}}, "targets must be a list"),
        ({"targets": ["c"]}, "target 1 must be a mapping"),
        ({"targets": [{"column": "c", "kind": "binary"}, {"column": "d"}]}, "target 2 needs 'kind'"),
        ({"targets": [{"column": "c", "kind": "rating"}]}, "rating target 1 needs minimum and maximum"),
        ({"targets": [{"column": "r", "kind": "binary"}]}, "interaction columns must differ"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict({**MINIMAL, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id: [", "cannot be read"),
        ("- a\n- b\n", "must be a mapping"),
        ("user_id: u\n", "schema.yaml': schema needs 'item_id'"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(SchemaError, match=message):
        Schema.read(path)


def test_an_absent_file_says_how_to_draft_one(tmp_path):
    with pytest.raises(SchemaError, match="--infer"):
        Schema.read(tmp_path / "none.yaml")


def test_fields_are_found_by_name():
    assert FULL.item_field("cover").dim == 3
    assert FULL.user_field("age").kind == "numeric"
    with pytest.raises(SchemaError, match="users has no field 'cover'; it has: age, city"):
        FULL.user_field("cover")


def test_a_vector_of_several_columns_has_as_many_entries(tmp_path):
    looks = {"name": "look", "kind": "vector", "columns": ["a", "b", "c"]}
    schema = Schema.from_dict({**MINIMAL, "items": [looks]})
    assert (schema.items[0].dim, schema.items[0].sources) == (3, ("a", "b", "c"))
    (tmp_path / "schema.yaml").write_text(schema.to_yaml(), encoding="utf-8")
    assert Schema.read(tmp_path / "schema.yaml") == schema
    assert Schema.from_dict({**MINIMAL, "items": [{**looks, "dim": 3}]}).hash == schema.hash
