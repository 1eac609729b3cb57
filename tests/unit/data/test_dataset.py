import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data.dataset import Dataset, Graph, write_manifest
from metarec.data.interactions import Interactions
from metarec.data.schema import Field, Label, Schema
from metarec.errors import DataError, NotFoundError

SCHEMA = Schema(
    user_id="user",
    item_id="item",
    label=Label(column="rating", kind="rating", minimum=1, maximum=5),
    timestamp="time",
    scenario="platform",
    users=(Field(name="age", kind="numeric"), Field(name="city", kind="categorical")),
    items=(
        Field(name="title", kind="text"),
        Field(name="genres", kind="multi_categorical"),
        Field(name="cover", kind="vector", dim=2),
    ),
    item_title="title",
    graph=True,
)


def _dataset() -> Dataset:
    objects = lambda *values: np.array([*values, None], dtype=object)[:-1]  # noqa: E731  # one line says it best
    return Dataset(
        path=Path("unused"),
        schema=SCHEMA,
        user_ids=objects("ann", "bob", "cy"),
        item_ids=objects("x", "y"),
        users=pd.DataFrame({"age": [31.0, np.nan, 25.0], "city": ["Kyiv", None, "Łódź"]}),
        items=pd.DataFrame({"title": ["X", None], "genres": [["a", "b"], None], "cover": [[0.5, 1.0], None]}),
        interactions=Interactions(
            user_N=np.array([0, 2, 2], np.int32),
            item_N=np.array([1, 0, 1], np.int32),
            label_N=np.array([5, 3.5, 1], np.float32),
            timestamp_N=np.array([10.0, 20.5, 30.0]),
            scenario_N=np.array([0, 1, 0], np.int16),
            scenarios=("web", "app"),
        ),
        graph=Graph(head_N=objects("e"), relation_N=objects("by"), tail_N=objects("f"), links={"x": "e"}),
        fingerprint="",
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    _dataset().save(tmp_path / "d", report={"origin": "test"})
    return tmp_path / "d"


def test_a_dataset_is_read_back_as_it_was_saved(saved: Path):
    before, found = _dataset(), Dataset.open(saved)
    assert found.schema == SCHEMA
    assert found.user_ids.tolist() == ["ann", "bob", "cy"]
    assert found.users["city"].tolist() == ["Kyiv", None, "Łódź"]
    assert found.users["age"].isna().tolist() == [False, True, False]
    assert found.items["genres"][0].tolist() == ["a", "b"]
    assert found.items["cover"][0].tolist() == [0.5, 1.0]
    assert found.items["genres"][1] is None
    for name in ("user_N", "item_N", "label_N", "timestamp_N", "scenario_N"):
        np.testing.assert_array_equal(getattr(found.interactions, name), getattr(before.interactions, name))
        assert getattr(found.interactions, name).dtype == getattr(before.interactions, name).dtype
    assert found.interactions.scenarios == ("web", "app")
    assert found.graph is not None
    assert found.graph.links == {"x": "e"}
    assert found.graph.tail_N.tolist() == ["f"]
    assert found.has_timestamps
    assert found.titles() == {"x": "X", "y": "y"}
    assert json.loads((saved / "import.json").read_text()) == {"origin": "test"}


def test_equal_data_has_an_equal_fingerprint_wherever_it_lies(saved: Path, tmp_path: Path):
    again = Dataset.open(saved).save(tmp_path / "elsewhere")
    assert again.fingerprint == Dataset.open(saved).fingerprint


@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), st.floats(-9, 9)), st.one_of(st.none(), st.text(max_size=3))), max_size=12),
    group=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_the_fingerprint_does_not_depend_on_row_groups(tmp_path_factory, rows, group):
    folder = tmp_path_factory.mktemp("groups")
    dataset = _dataset()
    users = pd.DataFrame({"age": [age for age, _ in rows], "city": [city for _, city in rows]})
    users = pd.concat([dataset.users, users.astype({"age": float, "city": object})], ignore_index=True)
    ids = np.array([f"u{k}" for k in range(len(users))], dtype=object)
    Dataset(**{**vars(dataset), "users": users, "user_ids": ids}).save(folder)
    before = Dataset.open(folder).fingerprint
    for name in ("users", "items", "interactions"):
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=group, compression="zstd")
    assert write_manifest(folder, scenarios=("web", "app")).fingerprint == before
    shutil.rmtree(folder)


def test_any_change_of_the_contents_changes_the_fingerprint(saved: Path):
    before = Dataset.open(saved)
    seen = {before.fingerprint}
    for name, column, row, value in [
        ("users", "age", 1, 1.0),
        ("users", "age", 0, None),
        ("users", "city", 1, ""),
        ("items", "genres", 1, []),
        ("items", "genres", 0, ["b", "a"]),
        ("interactions", "label", 0, 4.0),
        ("links", "entity", 0, "z"),
    ]:
        table = pq.read_table(saved / f"{name}.parquet")
        rows = table.to_pylist()
        rows[row][column] = value
        pq.write_table(type(table).from_pylist(rows, schema=table.schema), saved / f"{name}.parquet")
        fingerprint = write_manifest(saved, scenarios=("web", "app")).fingerprint
        assert fingerprint not in seen
        seen.add(fingerprint)
        pq.write_table(table, saved / f"{name}.parquet")
    assert write_manifest(saved, scenarios=("web", "app")).fingerprint == before.fingerprint


def test_a_directory_without_manifest_is_no_dataset(saved: Path):
    (saved / "dataset.json").unlink()
    with pytest.raises(NotFoundError, match="metarec data fetch ml-100k"):
        Dataset.open(saved)


def _rewrite(path: Path, change) -> None:
    manifest = json.loads((path / "dataset.json").read_text())
    change(manifest)
    (path / "dataset.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "users.parquet").unlink(), "users.parquet"),
        (lambda d: (d / "interactions.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda d: (d / "dataset.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "dataset.json").write_text("[]"), "cannot be read"),
        (lambda d: (d / "links.parquet").unlink(), "links.parquet"),
        (lambda d: _rewrite(d, lambda m: m.update(format=99)), "has format 99, this metarec reads 1"),
        (lambda d: _rewrite(d, lambda m: m.update(users=7)), "users.parquet has 3 rows, dataset.json says 7"),
        (lambda d: _rewrite(d, lambda m: m.update(scenarios=["web"])), "names scenarios"),
        (lambda d: _rewrite(d, lambda m: m.pop("fingerprint")), "fingerprint"),
    ],
)
def test_damage_is_named(saved: Path, damage, message: str):
    damage(saved)
    with pytest.raises(DataError, match=message):
        Dataset.open(saved)


def test_interactions_of_entities_that_do_not_exist_are_damage(saved: Path):
    pq.write_table(pq.read_table(saved / "users.parquet").slice(0, 2), saved / "users.parquet")
    _rewrite(saved, lambda m: m.update(users=2))
    with pytest.raises(DataError, match=r"names user rows outside of users\.parquet"):
        Dataset.open(saved)


def test_saving_over_a_dataset_leaves_none_when_it_breaks_off(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object, **names: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        _dataset().save(saved)
    assert not (saved / "dataset.json").exists()


def test_one_constant_time_is_no_time():
    dataset = _dataset()
    events = dataset.interactions
    constant = Interactions(**{**vars(events), "timestamp_N": np.zeros(3)})
    assert not dataset.with_interactions(constant).has_timestamps
    assert not dataset.with_interactions(events.select(np.zeros(3, bool))).has_timestamps
    assert len(events.select(np.array([2, 0]))) == 2


def test_two_parts_are_the_whole_again():
    whole = Interactions(
        user_N=np.array([0, 1, 1], np.int32),
        item_N=np.array([2, 0, 1], np.int32),
        label_N=np.array([1, 0, 1], np.float32),
        timestamp_N=np.array([3.0, 1.0, 2.0]),
        scenario_N=np.array([0, 1, 0], np.int16),
        scenarios=("a", "b"),
        extra_NK=np.array([[0.5], [np.nan], [0.25]], np.float32),
    )
    for events in (whole, replace(whole, extra_NK=None)):
        again = events.select(np.array([True, False, False])).followed_by(events.select(np.array([1, 2])))
        assert again.scenarios == ("a", "b")
        assert (again.extra_NK is None) == (events.extra_NK is None)
        for name in ("user_N", "item_N", "label_N", "timestamp_N", "scenario_N", "extra_NK"):
            if getattr(events, name) is not None:
                np.testing.assert_array_equal(getattr(again, name), getattr(events, name))
