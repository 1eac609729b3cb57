"""Datasets of several sources as one with a scenario for each."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.data.dataset import Dataset, Graph
from metarec.data.interactions import Interactions
from metarec.data.merging import MergeSettings, merge_datasets
from metarec.data.schema import Field, Label, Schema
from metarec.errors import AlreadyExistsError, InvalidInputError, SchemaError

GENRES = Field(name="genres", kind="multi_categorical")


def source(
    path: Path,
    events: list[tuple[str, str, float, float]],
    *,
    users: dict[str, dict[str, object]] | None = None,
    items: dict[str, dict[str, object]] | None = None,
    fields: tuple[Field, ...] = (Field(name="age", kind="numeric"),),
    item_fields: tuple[Field, ...] = (GENRES,),
    scenarios: tuple[list[int], tuple[str, ...]] | None = None,
    **changes: object,
) -> Dataset:
    """A small dataset directory with these (user, item, label, time) events."""
    known_users = {**(users or {}), **{user: {} for user, *_ in events if user not in (users or {})}}
    known_items = {**(items or {}), **{item: {} for _, item, *_ in events if item not in (items or {})}}
    user_ids, item_ids = list(known_users), list(known_items)

    def frame(known: dict[str, dict[str, object]], of: tuple[Field, ...]) -> pd.DataFrame:
        return pd.DataFrame({f.name: pd.Series([row.get(f.name) for row in known.values()], dtype=object) for f in of}).astype(
            {f.name: "float64" for f in of if f.kind == "numeric"}
        )

    schema = Schema(
        user_id="user",
        item_id="item",
        label=Label(column="rating", kind="rating", minimum=1, maximum=5),
        timestamp="time",
        users=fields,
        items=item_fields,
    )
    where, names = scenarios or ([0] * len(events), ())
    return Dataset(
        path=path,
        schema=replace(schema, **changes),  # type: ignore[arg-type]  # by name
        user_ids=np.array(user_ids, object),
        item_ids=np.array(item_ids, object),
        users=frame(known_users, fields),
        items=frame(known_items, item_fields),
        interactions=Interactions(
            user_N=np.array([user_ids.index(user) for user, *_ in events], np.int32),
            item_N=np.array([item_ids.index(item) for _, item, *_ in events], np.int32),
            label_N=np.array([label for *_, label, _ in events], np.float32),
            timestamp_N=np.array([time for *_, time in events], np.float64),
            scenario_N=np.array(where, np.int16),
            scenarios=names,
        ),
        graph=None,
        fingerprint="",
    ).save(path)


@pytest.fixture
def web(tmp_path: Path) -> Dataset:
    return source(
        tmp_path / "web",
        [("ann", "x", 5.0, 10.0), ("bob", "x", 1.0, 20.0), ("ann", "y", 2.0, 30.0)],
        users={"ann": {"age": 30.0}, "bob": {"age": None}},
        items={"x": {"genres": ("space",)}, "y": {"genres": None}},
    )


@pytest.fixture
def app(tmp_path: Path) -> Dataset:
    return source(
        tmp_path / "app",
        [("bob", "y", 4.0, 15.0), ("eve", "z", 3.0, 25.0)],
        users={"bob": {"age": 41.0, "device": "phone"}, "eve": {"device": "tablet"}},
        items={"y": {"genres": ("drama", "space")}, "x": {"genres": ("horror",)}, "z": {"genres": ("war",)}},
        fields=(Field(name="device", kind="categorical"), Field(name="age", kind="numeric")),
        scenarios=([0, 1], ("", "kiosk")),
        scenario="where",
    )


def told(dataset: Dataset) -> list[tuple[str, str, float, float, str]]:
    events = dataset.interactions
    return [
        (str(dataset.user_ids[user]), str(dataset.item_ids[item]), label, time, events.scenarios[where])
        for user, item, label, time, where in zip(
            events.user_N.tolist(),
            events.item_N.tolist(),
            events.label_N.tolist(),
            events.timestamp_N.tolist(),
            events.scenario_N.tolist(),
            strict=True,
        )
    ]


def test_shared_users_and_items_are_one(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    imported = merge_datasets({"web": web, "app": app}, tmp_path / "both")
    found = Dataset.open(tmp_path / "both")
    assert (imported.users, imported.items, imported.interactions) == (3, 3, 5)
    assert told(found) == [
        ("ann", "x", 5.0, 10.0, "web"),
        ("bob", "x", 1.0, 20.0, "web"),
        ("ann", "y", 2.0, 30.0, "web"),
        ("bob", "y", 4.0, 15.0, "app"),
        ("eve", "z", 3.0, 25.0, "app/kiosk"),
    ]
    assert found.schema.scenario == "scenario"
    assert [field.name for field in found.schema.users] == ["age", "device"]
    by_user = found.users.set_index(found.user_ids)
    assert by_user.loc["bob", "age"] == 41.0
    assert by_user.loc["bob", "device"] == "phone"
    assert by_user["device"].isna().tolist() == [True, False, False]
    by_item = found.items.set_index(found.item_ids)
    assert list(by_item.loc["x", "genres"]) == ["space"], "the first source that knows a value stands"
    assert list(by_item.loc["y", "genres"]) == ["drama", "space"]
    findings = {(finding["table"], finding["column"]): finding["rows"] for finding in imported.report.findings()}
    assert findings == {("app", "user"): 1, ("app", "item"): 2, ("app", "genres"): 1}


def test_sources_may_have_users_and_items_of_their_own(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    settings = MergeSettings(users="separate")
    found_users = merge_datasets({"web": web, "app": app}, tmp_path / "out", settings)
    assert (found_users.users, found_users.items) == (4, 3)
    assert {user for user, *_ in told(Dataset.open(tmp_path / "out"))} == {"web:ann", "web:bob", "app:bob", "app:eve"}
    both = merge_datasets({"web": web, "app": app}, tmp_path / "out", MergeSettings(users="separate", items="separate"))
    assert (both.users, both.items) == (4, 5)
    assert "app:y" in Dataset.open(tmp_path / "out").item_ids


def test_the_same_merge_has_the_same_fingerprint(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    one = merge_datasets({"web": web, "app": app}, tmp_path / "one").fingerprint
    assert merge_datasets({"web": web, "app": app}, tmp_path / "two").fingerprint == one
    assert merge_datasets({"site": web, "app": app}, tmp_path / "three").fingerprint != one


def test_time_is_left_out_where_a_source_has_none(web: Dataset, tmp_path: Path) -> None:
    timeless = source(tmp_path / "old", [("zoe", "x", 3.0, 7.0), ("zoe", "y", 4.0, 7.0)])
    imported = merge_datasets({"web": web, "old": timeless}, tmp_path / "both")
    found = Dataset.open(tmp_path / "both")
    assert found.schema.timestamp is None
    assert not found.has_timestamps
    left_out = [(f["table"], f["column"], f["rows"]) for f in imported.report.findings() if f["action"] == "left out"]
    assert left_out == [("web", "time", 3)]


def test_graphs_are_joined(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    def with_graph(dataset: Dataset, links: dict[str, str], *triples: tuple[str, str, str]) -> Dataset:
        head, relation, tail = (np.array(column, object) for column in zip(*triples, strict=True))
        graph = Graph(head_N=head, relation_N=relation, tail_N=tail, links=links)
        return replace(dataset, schema=replace(dataset.schema, graph=True), graph=graph).save(dataset.path)

    one = with_graph(web, {"x": "e1"}, ("e1", "by", "lem"), ("e2", "by", "orwell"))
    two = with_graph(app, {"x": "e9", "y": "e2"}, ("e2", "by", "orwell"), ("e9", "by", "dick"))
    merge_datasets({"web": one, "app": two}, tmp_path / "both")
    graph = Dataset.open(tmp_path / "both").graph
    assert graph is not None
    assert list(graph.head_N) == ["e1", "e2", "e9"]
    assert graph.links == {"x": "e1", "y": "e2"}


def test_names_that_separate_ids_begin_with_hold_no_colon(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    """User 'b:c' of source 'a' would be user 'c' of source 'a:b'."""
    merge_datasets({"a": web, "a:b": app}, tmp_path / "out")
    with pytest.raises(InvalidInputError, match="kept separate"):
        merge_datasets({"a": web, "a:b": app}, tmp_path / "out", MergeSettings(users="separate"))


def test_a_further_target_may_have_the_name_of_the_scenario_column(web: Dataset, tmp_path: Path) -> None:
    extra_NK = np.ones((len(web.interactions), 1), np.float32)
    named = replace(
        web,
        schema=replace(web.schema, targets=(Label(column="scenario", kind="binary"),)),
        interactions=replace(web.interactions, extra_NK=extra_NK),
    )
    merge_datasets({"one": named, "two": named}, tmp_path / "out")
    both = Dataset.open(tmp_path / "out")
    assert (both.schema.scenario, both.interactions.scenarios) == ("scenario_", ("one", "two"))
    assert both.interactions.extra_NK is not None
    assert both.interactions.extra_NK.tolist() == [[1.0]] * 6


def test_what_does_not_fit_together_is_refused(web: Dataset, app: Dataset, tmp_path: Path) -> None:
    wider = replace(app, schema=replace(app.schema, label=Label(column="rating", kind="rating", minimum=1, maximum=10)))
    with pytest.raises(SchemaError, match="labels of 'web' are rating from 1 to 5, those of 'app' rating from 1 to 10"):
        merge_datasets({"web": web, "app": wider}, tmp_path / "out")
    textual = replace(app, schema=replace(app.schema, items=(Field(name="genres", kind="text"),)))
    with pytest.raises(SchemaError, match="'genres' of items is multi_categorical in 'web' and text in 'app'"):
        merge_datasets({"web": web, "app": textual}, tmp_path / "out")
    read = replace(app, schema=replace(app.schema, items=(Field(name="genres", kind="text", encoder="sentences"),)))
    with pytest.raises(SchemaError, match=r"text in 'web' and text in 'app' \(encoder None and sentences\)"):
        merge_datasets({"web": textual, "app": read}, tmp_path / "out")
    with pytest.raises(InvalidInputError, match="two sources or more"):
        merge_datasets({"web": web}, tmp_path / "out")
    with pytest.raises(InvalidInputError, match="'a/b' is no name"):
        merge_datasets({"web": web, "a/b": app}, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(AlreadyExistsError):
        merge_datasets({"web": web, "app": app}, tmp_path / "full")
    assert not (tmp_path / "out").exists()
