from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarec.data.files import Files
from metarec.data.inference import draft_schema
from metarec.data.schema import Field, Label, Schema
from metarec.errors import DataError

PLOT = "{} goes on a long journey to find what was lost"


def _table(folder: Path, name: str, columns: dict[str, list[object]]) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def _draft(folder: Path, **tables: dict[str, list[object]]) -> tuple[Schema, str]:
    text = draft_schema(Files(**{name: _table(folder, name, columns) for name, columns in tables.items()}))
    (folder / "schema.yaml").write_text(text)
    return Schema.read(folder / "schema.yaml"), text


EVENTS = {"userId": [1, 2], "movieId": [7, 8], "rating": [0.5, 5.0], "timestamp": [100, 200], "state": ["a", "b"]}


def test_columns_and_kinds_are_told_by_name_and_value(tmp_path):
    rows = range(200)
    users = {
        "userId": list(rows),
        "age": [18 + k % 50 for k in rows],
        "job": [k % 7 for k in rows],
        "city": [f"city {k % 9}" for k in rows],
        "joined": [None] * 200,
    }
    items = {
        "movieId": list(rows),
        "Title": [f"Film {k}" for k in rows],
        "year": ["unknown" if k == 9 else str(1900 + k % 90) for k in rows],
        "genres": [("Drama|Crime", "Comedy", "Crime|Comedy|War")[k % 3] for k in rows],
        "tags": [["x", "y"], ["z"]] * 100,
        "cover": [[0.5, k / 7, 1.0] for k in rows],
        "plot": [PLOT.format(f"hero{k}") for k in rows],
    }
    schema, text = _draft(tmp_path, interactions=EVENTS, users=users, items=items)
    assert schema == Schema(
        user_id="userId",
        item_id="movieId",
        label=Label(column="rating", kind="rating", minimum=0.5, maximum=5),
        timestamp="timestamp",
        users=(
            Field(name="age", kind="numeric"),
            Field(name="job", kind="categorical"),
            Field(name="city", kind="categorical"),
            Field(name="joined", kind="categorical"),
        ),
        items=(
            Field(name="Title", kind="text"),
            Field(name="year", kind="numeric"),
            Field(name="genres", kind="multi_categorical", separator="|"),
            Field(name="tags", kind="multi_categorical"),
            Field(name="cover", kind="vector", dim=3),
            Field(name="plot", kind="text"),
        ),
        item_title="Title",
    )
    assert "# Not used of the interactions: state." in text
    assert "- name: age  # 18 to 67" in text
    assert "- name: joined  # no value seen; leave it out?" in text


def test_a_draft_can_be_read_whatever_the_columns_are_called_and_hold(tmp_path):
    path = tmp_path / "items.csv"
    long = "a name of more than eighty characters, which a dump would break into two lines if nobody told it not to"
    path.write_text(f',movieId,"{long}",odd,"we#ird: \'name\'",,,twice,twice\n0,7,a,"x\x07 y",1,,,p,q\n1,8,b,"z\x85w",2,,,p,q\n')
    text = draft_schema(Files(interactions=_table(tmp_path, "interactions", EVENTS), items=path))
    (tmp_path / "schema.yaml").write_text(text, encoding="utf-8")
    schema = Schema.read(tmp_path / "schema.yaml")
    assert [field.name for field in schema.items] == [long, "odd", "we#ird: 'name'"]
    assert "- name: odd  # 2 values such as 'x  y'" in text


def test_a_label_of_zeros_and_ones_is_binary(tmp_path):
    schema, _ = _draft(tmp_path, interactions={"user": ["a", "b"], "item": ["x", "y"], "clicked": [True, False]})
    assert schema.label == Label(column="clicked", kind="binary")


def test_without_a_label_column_the_draft_says_what_to_do(tmp_path):
    schema, text = _draft(tmp_path, interactions={"user": ["a", "b"], "item": ["x", "y"], "time": [1, 2]})
    assert schema.label.kind == "binary"
    assert "--all-positive" in text


def test_a_label_that_never_varies_gets_a_range_that_holds_it(tmp_path):
    schema, text = _draft(tmp_path, interactions={"user": ["a"], "item": ["x"], "rating": [4]})
    assert (schema.label.minimum, schema.label.maximum) == (0, 4)
    assert "set the range" in text


def test_the_only_column_that_two_files_share_is_the_id(tmp_path):
    events = {"reader": ["a"], "book": ["x"], "rating": [3]}
    schema, _ = _draft(tmp_path, interactions=events, users={"reader": ["a"]}, items={"book": ["x"]})
    assert (schema.user_id, schema.item_id) == ("reader", "book")


def test_ids_that_cannot_be_told_are_asked_for(tmp_path):
    events = {"reader": ["a"], "item": ["x"], "rating": [3]}
    with pytest.raises(DataError, match="the user's id; rename one of reader, item, rating to 'user_id'"):
        _draft(tmp_path, interactions=events)
    with pytest.raises(DataError, match=r"one name in both files; '.*' has uid, age"):
        _draft(tmp_path, interactions=events, users={"uid": ["a"], "age": [3]})


def test_numbered_columns_of_numbers_are_the_entries_of_a_vector(tmp_path):
    images = {f"image_{k}": [0.5 * k, 1.25] for k in range(1, 4)}
    names = {"item": ["x", "y"], **images, "part1": [0.5, 1.5], "part2": [2.5, 3.5]}
    schema, text = _draft(tmp_path, interactions={"user": ["a", "b"], "item": ["x", "y"], "rating": [1, 2]}, items=names)
    assert schema.items == (
        Field(name="image", kind="vector", columns=("image_1", "image_2", "image_3")),
        Field(name="part1", kind="numeric"),
        Field(name="part2", kind="numeric"),
    )
    assert "- name: image  # 3 numbered columns of numbers" in text


@pytest.mark.parametrize("separator", ["|", ";", ",", " "])
def test_as_many_numbers_in_each_text_are_a_vector_and_whole_ones_are_codes(tmp_path, separator):
    rows = range(120)
    items = {
        "movieId": list(rows),
        "cover": [separator.join((f"{k / 7:.4f}", "nan" if k == 5 else "-1e-3", "1.5")) for k in rows],
        "codes": [separator.join((str(k % 4), "7", "9")) for k in rows],
    }
    schema, text = _draft(tmp_path, interactions=EVENTS, items=items)
    assert schema.items[0] == Field(name="cover", kind="vector", dim=3, separator=separator)
    assert schema.items[1].kind != "vector"
    assert "3 numbers each" in text


def test_fields_of_a_further_file_are_drafted_too(tmp_path):
    tables = {"e": EVENTS, "i": {"movieId": [7, 8], "year": [1990, 1995]}, "l": {"movieId": [7, 8], "length": [90.5, 100.5]}}
    e, i, more = (_table(tmp_path, name, columns) for name, columns in tables.items())
    text = draft_schema(Files(interactions=e, items=i, more_items=(more,)))
    assert text.index("- name: year") < text.index("- name: length")


def test_sentences_without_spaces_are_texts_and_names_are_not(tmp_path):
    rows = range(200)
    items = {
        "movieId": list(rows),
        "plot": [f"一艘宇宙飞船在{chr(0x5000 + k)}星球上发现了外星人" for k in rows],
        "director": [f"小津安二郎{chr(0x5000 + k)}" for k in rows],
    }
    schema, text = _draft(tmp_path, interactions=EVENTS, items=items)
    assert [(field.name, field.kind) for field in schema.items] == [("plot", "text"), ("director", "categorical")]
    assert "5 words on average" in text


def test_tags_between_chinese_marks_are_lists(tmp_path):
    rows = range(200)
    items = {
        "movieId": list(rows),
        "tags": ["、".join(("数码", "耳机", "家电", "手机")[k % 3 : 1 + k % 3 + k % 2]) for k in rows],
        "kinds": ["；".join(("甲", "乙")[: 1 + k % 2]) for k in rows],
    }
    schema, _ = _draft(tmp_path, interactions=EVENTS, items=items)
    assert schema.items == (
        Field(name="tags", kind="multi_categorical", separator="、"),
        Field(name="kinds", kind="multi_categorical", separator="；"),
    )
