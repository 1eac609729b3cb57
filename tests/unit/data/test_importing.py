import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data import importing, reading
from metarec.data.dataset import Dataset
from metarec.data.files import Files
from metarec.data.importing import Imported, ImportSettings, import_dataset
from metarec.data.schema import Field, Label, Schema
from metarec.errors import AlreadyExistsError, ConfigError, DataError, SchemaError

RATING = Label(column="rating", kind="rating", minimum=1, maximum=5)
SCHEMA = Schema(
    user_id="user",
    item_id="item",
    label=RATING,
    timestamp="time",
    users=(Field(name="age", kind="numeric"),),
    items=(Field(name="title", kind="text"), Field(name="genres", kind="multi_categorical", separator="|")),
    item_title="title",
)
USERS = "user,age\nann,31\nbob,\n"
ITEMS = 'item,title,genres\nx,"Tom, Dick",a|b\ny,Why,\n'
EVENTS = "user,item,rating,time\nann,x,4,100\nbob,y,2,200\n"


class Sandbox:
    """Writes files and imports them into `out`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"

    def write(self, name: str, content: str) -> Path:
        path = self.folder / f"{name}.csv"
        path.write_text(content)
        return path

    def run(
        self,
        interactions: str = EVENTS,
        users: str | None = USERS,
        items: str | None = ITEMS,
        schema: Schema = SCHEMA,
        graph: str | None = None,
        links: str | None = None,
        **how: object,
    ) -> Imported:
        texts = {"interactions": interactions, "users": users, "items": items, "graph": graph, "links": links}
        files = {name: self.write(name, text) for name, text in texts.items() if text is not None}
        return import_dataset(Files(**files), schema, self.out, ImportSettings(**how))

    def open(self) -> Dataset:
        return Dataset.open(self.out)

    def events(self) -> list[tuple[str, str, float, float]]:
        dataset = self.open()
        found = dataset.interactions
        rows = zip(found.user_N, found.item_N, found.label_N.tolist(), found.timestamp_N.tolist(), strict=True)
        return [(dataset.user_ids[user], dataset.item_ids[item], label, time) for user, item, label, time in rows]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def _findings(imported: Imported) -> dict[tuple[str, str], tuple[str, int, int | None]]:
    return {
        (str(f["table"]), str(f["problem"])): (str(f["action"]), f["rows"], f["first_row"])  # type: ignore[misc]  # findings are plain dictionaries
        for f in imported.report.findings()
    }


def test_a_clean_import(sandbox: Sandbox):
    imported = sandbox.run()
    assert (imported.users, imported.items, imported.interactions) == (2, 2, 2)
    assert sandbox.events() == [("ann", "x", 4.0, 100.0), ("bob", "y", 2.0, 200.0)]
    dataset = sandbox.open()
    assert dataset.fingerprint == imported.fingerprint
    assert dataset.items["genres"][0].tolist() == ["a", "b"]
    assert dataset.titles() == {"x": "Tom, Dick", "y": "Why"}
    assert _findings(imported) == {
        ("users", "value is missing"): ("imputed", 1, 2),
        ("items", "value is missing"): ("imputed", 1, 2),
    }
    assert sorted(path.name for path in sandbox.out.iterdir()) == [
        "dataset.json",
        "import.json",
        "interactions.parquet",
        "items.parquet",
        "schema.yaml",
        "users.parquet",
    ]
    facts = json.loads((sandbox.out / "import.json").read_text())
    assert facts["findings"] == imported.report.findings()
    assert [(table["table"], table["read"], table["kept"], table["bad"]) for table in facts["tables"]] == [
        ("users", 2, 2, 0),
        ("items", 2, 2, 0),
        ("interactions", 2, 2, 0),
    ]


def test_csv_and_parquet_of_the_same_data_are_the_same_dataset(sandbox: Sandbox):
    before = sandbox.run().fingerprint
    tables = {
        "users": pa.table({"user": ["ann", "bob"], "age": ["31", None]}),
        "items": pa.table({"genres": [["a", "b"], None], "title": ["Tom, Dick", "Why"], "item": ["x", "y"]}),
        "interactions": pa.table({"time": [100, 200], "rating": [4.0, 2.0], "item": ["x", "y"], "user": ["ann", "bob"]}),
    }
    files = {}
    for name, table in tables.items():
        files[name] = sandbox.folder / f"{name}.parquet"
        pq.write_table(table, files[name])
    assert import_dataset(Files(**files), SCHEMA, sandbox.out).fingerprint == before


def test_repeated_events_and_equal_rows(sandbox: Sandbox):
    again = EVENTS + "ann,x,4,100\nann,x,5,100\nann,x,5,300\nbob,y,2,200\n"
    imported = sandbox.run(again, USERS + "ann,31.0\n")
    assert sandbox.events() == [("ann", "x", 5.0, 100.0), ("ann", "x", 5.0, 300.0), ("bob", "y", 2.0, 200.0)]
    found = _findings(imported)
    assert found["interactions", "row repeats another"] == ("row dropped", 1, 2)
    assert found["interactions", "same user, item and time again with another label"] == ("last row kept", 2, 1)
    assert found["users", "row repeats another"] == ("row dropped", 1, 3)


def test_without_times_a_pair_counts_once(sandbox: Sandbox):
    schema = Schema(user_id="user", item_id="item", label=RATING)
    sandbox.run(EVENTS + "ann,x,1,900\n", None, None, schema)
    assert sandbox.events() == [("bob", "y", 2.0, 0.0), ("ann", "x", 1.0, 0.0)]
    assert not sandbox.open().has_timestamps


def test_ids_that_no_table_has_get_an_empty_row_behind_the_others(sandbox: Sandbox):
    imported = sandbox.run(EVENTS + "zed,x,3,1\nzed,q,3,2\n")
    dataset = sandbox.open()
    assert dataset.user_ids.tolist() == ["ann", "bob", "zed"]
    assert np.isnan(dataset.users["age"][2])
    assert dataset.item_ids.tolist() == ["x", "y", "q"]
    assert dataset.items["genres"][2] is None
    assert _findings(imported)["interactions", "id is not in the users table (an empty row is added)"] == ("row added", 1, None)


def test_entities_without_interactions_stay(sandbox: Sandbox):
    sandbox.run("user,item,rating,time\nann,x,4,100\n")
    assert sandbox.open().user_ids.tolist() == ["ann", "bob"]


def test_without_tables_ids_come_from_the_interactions(sandbox: Sandbox):
    imported = sandbox.run(users=None, items=None, schema=Schema(user_id="user", item_id="item", label=RATING))
    assert sandbox.open().user_ids.tolist() == ["ann", "bob"]
    assert not imported.report.findings()


def test_where_lets_through_any_value_of_a_column_and_all_columns(sandbox: Sandbox):
    events = "user,item,rating,time,state\nann,x,4,1,warm\nann,x,9,2,cold\nann,y,4,3, new \nbob,y,2,4,warm\n"
    where = {"state": frozenset({"warm", "new"}), "user": frozenset({"ann"})}
    imported = sandbox.run(events, where=where)
    assert sandbox.events() == [("ann", "x", 4.0, 1.0), ("ann", "y", 4.0, 3.0)]
    left_out = ("interactions", "not where state is new or warm and user is ann")
    assert _findings(imported)[left_out] == ("left out", 2, 2)
    with pytest.raises(DataError, match="has no usable rows where state is gone"):
        sandbox.run(events, where={"state": frozenset({"gone"})})
    with pytest.raises(DataError, match="column 'stage': there is no such column, but --where names it"):
        sandbox.run(events, where={"stage": frozenset({"x"})})


def test_rows_that_where_passes_over_do_not_dilute_the_bad_ones(sandbox: Sandbox):
    cold = "".join(f"ann,x,3,{k},cold\n" for k in range(1000))
    events = f"user,item,rating,time,state\n{cold}ann,x,3,1,warm\nbob,y,9,2,warm\n"
    with pytest.raises(DataError, match=r"row 1002: label is above.*; 1 of 2 rows are bad \(50\.00%\)"):
        sandbox.run(events, where={"state": frozenset({"warm"})})


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("user,item,rating,time\n1.0,x,4,1\n", "column 'user': none of its ids is in the users table: '1.0' .* 'ann'"),
        ("user,item,rating,time\nann,X,4,1\n", "column 'item': none of its ids is in the items table: 'X' .* 'x'"),
    ],
)
def test_interactions_that_share_no_id_with_a_table_are_refused(sandbox: Sandbox, events: str, message: str):
    with pytest.raises(DataError, match=message):
        sandbox.run(events)
    assert not sandbox.out.exists()


def test_scenarios_are_named_in_order_of_appearance(sandbox: Sandbox):
    schema = Schema(user_id="user", item_id="item", label=RATING, scenario="where")
    imported = sandbox.run("user,item,rating,where\na,x,1,web\na,y,1,app\na,z,1,\nb,x,1,web\n", None, None, schema)
    events = sandbox.open().interactions
    assert events.scenarios == ("web", "app", "")
    assert events.scenario_N.tolist() == [0, 1, 2, 0]
    assert _findings(imported)["interactions", "scenario is missing (named '')"] == ("imputed", 1, 3)


def test_a_log_of_positive_events_needs_no_label(sandbox: Sandbox):
    schema = Schema(user_id="user", item_id="item", label=Label(column="bought", kind="binary"), timestamp="time")
    with pytest.raises(DataError, match=r"column 'bought'.*--all-positive"):
        sandbox.run(users=None, items=None, schema=schema)
    sandbox.run(users=None, items=None, schema=schema, all_positive=True)
    assert [label for _, _, label, _ in sandbox.events()] == [1.0, 1.0]
    with pytest.raises(SchemaError, match="kind 'binary'"):
        sandbox.run(all_positive=True)


BAD_ROWS = [
    ("ann,x,9,1", "rating", "label is above the schema's maximum 5, got '9'"),
    ("ann,x,0,1", "rating", "label is below the schema's minimum 1, got '0'"),
    ("ann,x,good,1", "rating", "value is no number, got 'good'"),
    ("ann,x,,1", "rating", "label is missing"),
    ("ann,x,3,", "time", "timestamp is missing"),
    ("ann,x,3,-1", "time", "timestamp is before 1970, got '-1'"),
    ("ann,x,3,soon", "time", "timestamp is neither a number nor an ISO 8601 time, got 'soon'"),
    ("ann,x,3,9999999999", "time", "timestamp is after 2099"),
    (" ,x,3,1", "user", "id is missing"),
    ("ann,,3,1", "item", "id is missing"),
    ('"a\nnn",x,3,1', "user", "id contains a control character"),
]


@pytest.mark.parametrize(("row", "column", "message"), BAD_ROWS)
def test_a_bad_row_is_refused_by_name_or_dropped_under_a_tolerance(sandbox: Sandbox, row: str, column: str, message: str):
    with pytest.raises(DataError) as raised:
        sandbox.run(EVENTS + row + "\n")
    error = raised.value
    assert message in str(error)
    assert (error.column, error.row) == (column, 3)
    assert error.file.endswith("interactions.csv")
    assert not sandbox.out.exists()
    imported = sandbox.run(EVENTS + row + "\n", max_bad=0.34)
    assert len(sandbox.events()) == 2
    assert imported.report.tables[2].bad == {"value": 1, "structure": 0}


def test_few_bad_rows_are_dropped_by_default_but_unreadable_ones_never(sandbox: Sandbox):
    many = EVENTS + "".join(f"ann,x,3,{k}\n" for k in range(1000, 1200))
    sandbox.run(many + "ann,x,9,1\n")
    assert len(sandbox.events()) == 202
    with pytest.raises(DataError, match="row 203: row has fewer than 4 columns, got 'ann,x'"):
        sandbox.run(many + "ann,x\n")
    assert len(sandbox.events()) == 202
    imported = sandbox.run(many + "ann,x\nann,y,1,5\nann,y,7,6\n", max_bad=0.02)
    assert _findings(imported)["interactions", "label is above the schema's maximum 5"] == ("row dropped", 1, 205)
    assert imported.report.tables[2].bad == {"value": 1, "structure": 1}


def test_a_row_that_is_bad_twice_counts_once(sandbox: Sandbox):
    imported = sandbox.run(EVENTS + ",,9,-1\n", max_bad=0.34)
    assert imported.report.tables[2].bad == {"value": 1, "structure": 0}
    assert [finding["column"] for finding in imported.report.findings()][2:] == ["user", "item", "rating", "time"]


def test_undecodable_text_points_to_the_encoding(sandbox: Sandbox):
    path = sandbox.write("latin", "")
    path.write_bytes("user,item,rating,time\nann,x,4,100\nZoë,y,2,200\n".encode("latin-1"))
    files = Files(interactions=path)
    schema = Schema(user_id="user", item_id="item", label=RATING, timestamp="time")
    with pytest.raises(DataError, match=r"column 'user', row 2: text is not valid UTF-8, got 'Zo\\xeb'.*--encoding"):
        import_dataset(files, schema, sandbox.out)
    import_dataset(files, schema, sandbox.out, ImportSettings(encoding="latin-1"))
    assert sandbox.open().user_ids.tolist() == ["ann", "Zoë"]


@pytest.mark.parametrize(
    ("users", "items", "where"),
    [
        (USERS + "ann,32\n", ITEMS, "users.csv', column 'user', row 3: id occurs again with other values, got 'ann'"),
        ("user,age\nann,old\nbob,3\n", ITEMS, "users.csv', column 'age', row 1: value is no number, got 'old'"),
        (USERS + ",3\n", ITEMS, "users.csv', column 'user', row 3: id is missing"),
        ("user,years\nann,3\n", ITEMS, "users.csv', column 'age': there is no such column, but the schema names it"),
        ("user,age\n", ITEMS, "users.csv': has a header but no rows"),
        (USERS, ITEMS + "z,t\n", "items.csv', row 3: row has fewer than 3 columns, got 'z,t'"),
    ],
)
def test_bad_entities_are_refused_by_name(sandbox: Sandbox, users: str, items: str, where: str):
    with pytest.raises(DataError, match=where):
        sandbox.run(users=users, items=items)
    assert not sandbox.out.exists()


def test_bad_values_of_entities_become_missing_under_a_tolerance(sandbox: Sandbox):
    imported = sandbox.run(users="user,age\nann,31\nann,32\nbob,old\n", max_bad=0.7)
    dataset = sandbox.open()
    assert dataset.user_ids.tolist() == ["ann", "bob"]
    assert dataset.users["age"][0] == 32
    assert np.isnan(dataset.users["age"][1])
    assert _findings(imported)["users", "value is no number"] == ("set to missing", 1, 3)
    assert _findings(imported)["users", "id occurs again with other values"] == ("last row kept", 1, 2)


def test_a_column_of_the_wrong_type_is_named(sandbox: Sandbox):
    users = sandbox.folder / "users.parquet"
    pq.write_table(pa.table({"user": ["ann"], "age": [[1.0]]}), users)
    files = Files(interactions=sandbox.write("e", EVENTS), users=users, items=sandbox.write("i", ITEMS))
    with pytest.raises(DataError, match=r"users\.parquet', column 'age': holds list<.*kind 'numeric'"):
        import_dataset(files, SCHEMA, sandbox.out)


GRAPH = "head_id,relation_id,tail_id\ne1,by,p1\ne2,by,p1\ne1,by,p1\n"
WITH_GRAPH = Schema(user_id="user", item_id="item", label=RATING, graph=True)


def test_the_graph_keeps_each_triple_once_and_links_of_known_items(sandbox: Sandbox):
    links = "item_id,entity_id\nx,e1\nx,e2\nnone,e2\n"
    imported = sandbox.run(users=None, items=None, schema=WITH_GRAPH, graph=GRAPH, links=links)
    graph = sandbox.open().graph
    assert graph is not None
    assert list(zip(graph.head_N, graph.relation_N, graph.tail_N, strict=True)) == [("e1", "by", "p1"), ("e2", "by", "p1")]
    assert graph.links == {"x": "e1"}
    found = _findings(imported)
    assert found["graph", "row repeats another"][:2] == ("row dropped", 1)
    assert found["links", "item is in no other table"][:2] == ("left out", 1)
    assert found["links", "item is linked again (its first entity stands)"][:2] == ("row dropped", 1)


@pytest.mark.parametrize(
    ("graph", "links", "message"),
    [
        ("head,relation,tail\ne1,,p1\n", "item,entity\nx,e1\n", "graph.csv', column 'relation', row 1: relation is missing"),
        ("head,tail\ne1,p1\n", "item,entity\nx,e1\n", "column 'relation': there is no such column"),
        (GRAPH, "item,entity\nq,e1\n", "links.csv', column 'item': links none of the 2 items"),
        (GRAPH, "item,thing\nx,e1\n", "column 'entity': there is no such column"),
    ],
)
def test_bad_graphs_are_refused_by_name(sandbox: Sandbox, graph: str, links: str, message: str):
    with pytest.raises(DataError, match=message):
        sandbox.run(users=None, items=None, schema=WITH_GRAPH, graph=graph, links=links)


def test_files_and_schema_must_fit(sandbox: Sandbox):
    with pytest.raises(SchemaError, match=r"fields of users \('age', \.\.\.\); give their file with --users"):
        sandbox.run(users=None)
    with pytest.raises(SchemaError, match="give the files with --graph and --links"):
        sandbox.run(users=None, items=None, schema=WITH_GRAPH, graph=GRAPH)
    with pytest.raises(SchemaError, match="does not say 'graph: true'"):
        sandbox.run(graph=GRAPH)


@pytest.mark.parametrize(("name", "value"), [("max_bad", 1.5), ("max_bad", -0.1), ("delimiter", "::"), ("delimiter", "")])
def test_settings_are_checked(name: str, value: object):
    with pytest.raises(ConfigError, match=name):
        ImportSettings(**{name: value})


def test_a_failed_import_leaves_the_dataset_before_and_no_other_file(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    before = sandbox.run().fingerprint
    names = sorted(os.listdir(sandbox.folder))
    with pytest.raises(DataError):
        sandbox.run(EVENTS + "ann,x\n")

    def interrupt(*arguments: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "complete", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run(EVENTS + "ann,x,1,5\n")
    assert sorted(os.listdir(sandbox.folder)) == names
    assert sandbox.open().fingerprint == before


def test_a_dataset_is_replaced_as_a_whole(sandbox: Sandbox):
    sandbox.run()
    (sandbox.out / "stray.txt").write_text("of the dataset before")
    sandbox.run(EVENTS + "ann,y,1,5\n")
    assert len(sandbox.events()) == 3
    assert not (sandbox.out / "stray.txt").exists()


def test_other_things_are_never_overwritten(sandbox: Sandbox):
    sandbox.out.mkdir()
    sandbox.run()
    (sandbox.out / "dataset.json").unlink()
    with pytest.raises(AlreadyExistsError, match="a directory with other things in it"):
        sandbox.run()
    file = sandbox.write("file", "precious")
    with pytest.raises(AlreadyExistsError, match="is a file"):
        import_dataset(Files(interactions=file), Schema(user_id="user", item_id="item", label=RATING), file)
    assert file.read_text() == "precious"


CELL = st.text(st.sampled_from('ab,"\n \té19.-'), max_size=4)


@given(rows=st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=8), chunk=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_table_is_imported_or_refused_with_a_reason(tmp_path_factory, rows, chunk):
    folder = tmp_path_factory.mktemp("any")
    quoted = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    (folder / "e.csv").write_text(f"user,item,rating,time\n{quoted}\n", newline="")
    schema = Schema(user_id="user", item_id="item", label=RATING, timestamp="time")
    before, reading.CHUNK_ROWS = reading.CHUNK_ROWS, chunk
    imported, refusal = None, None
    try:
        imported = import_dataset(Files(interactions=folder / "e.csv"), schema, folder / "out", ImportSettings(max_bad=1))
    except DataError as error:
        refusal = error
    finally:
        reading.CHUNK_ROWS = before
    if refusal is not None:
        assert refusal.file == str(folder / "e.csv")
        assert not (folder / "out").exists()
        return
    assert imported is not None
    dataset = Dataset.open(folder / "out")
    events = dataset.interactions
    assert len(events) == imported.interactions > 0
    assert ((events.label_N >= 1) & (events.label_N <= 5)).all()
    assert (events.timestamp_N >= 0).all()
    table = imported.report.tables[0]
    dropped = sum(f.rows for f in table.findings.values() if f.action in ("row dropped", "last row kept") and f.badness == "fine")
    assert table.read == len(rows) == table.kept + dropped + sum(table.bad.values())


def test_a_graph_of_lists_is_refused_with_file_and_column(tmp_path: Path):
    triples = tmp_path / "graph.parquet"
    pq.write_table(pa.table({"head": [["a", "b"]], "relation": ["r"], "tail": ["c"]}), triples)
    events, links = tmp_path / "events.csv", tmp_path / "links.csv"
    events.write_text("user,item,rating\nann,x,4\n")
    links.write_text("item,entity\nx,a\n")
    with pytest.raises(DataError, match=r"file '.*graph\.parquet', column 'head': holds list"):
        import_dataset(Files(interactions=events, graph=triples, links=links), WITH_GRAPH, tmp_path / "out")


PICTURED = Schema(
    user_id="user",
    item_id="item",
    label=RATING,
    timestamp="time",
    items=(
        Field(name="look", kind="vector", columns=("look_1", "look_2")),
        Field(name="title", kind="text"),
        Field(name="length", kind="numeric"),
    ),
)


def _pictured(tmp_path: Path, looks: str, titles: str = "item,title\nx,Tom\ny,Why\nz,Zoo\n") -> Dataset:
    sandbox = Sandbox(tmp_path)
    files = {name: sandbox.write(name, text) for name, text in (("e", EVENTS), ("i", titles), ("l", looks))}
    given = Files(interactions=files["e"], items=files["i"], more_items=(files["l"],))
    import_dataset(given, PICTURED, sandbox.out, ImportSettings(max_bad=1))
    return sandbox.open()


def test_a_further_file_adds_fields_to_the_items_and_its_columns_can_be_the_entries_of_a_vector(tmp_path):
    dataset = _pictured(tmp_path, "item,look_1,look_2,length\ny,0.5,-1,90\nx,,,80\nw,1,1,1\n")
    assert list(dataset.items.columns) == ["item", "look", "title", "length"]
    assert list(dataset.item_ids) == ["x", "y", "z"]
    assert dataset.items["look"][0] is None
    assert dataset.items["look"][1].tolist() == [0.5, -1.0]
    assert dataset.items["length"].tolist()[:2] == [80.0, 90.0]
    assert np.isnan(dataset.items["length"][2])
    assert dataset.schema == PICTURED
    findings = json.loads((dataset.path / "import.json").read_text())["findings"]
    left = [finding for finding in findings if finding["action"] == "left out"]
    assert [(finding["table"], finding["rows"], finding["first_value"]) for finding in left] == [("items 2", 1, "w")]


def test_an_entry_that_is_missing_or_no_number_costs_the_vector_only(tmp_path):
    dataset = _pictured(tmp_path, "item,look_1,look_2,length\nx,1,,5\ny,1,high,6\nz,1,2,7\n")
    assert [value is None for value in dataset.items["look"]] == [True, True, False]
    assert dataset.items["length"].tolist() == [5.0, 6.0, 7.0]
    findings = json.loads((dataset.path / "import.json").read_text())["findings"]
    problems = {finding["problem"] for finding in findings if finding["action"] == "set to missing"}
    assert problems == {"vector has missing entries", "value is no number"}


def test_a_further_file_must_add_something_and_leave_no_doubt(tmp_path):
    looks = "item,look_1,look_2,length\nx,1,2,5\n"
    with pytest.raises(SchemaError, match=r"the schema names no column of '.*l\.csv'"):
        _pictured(tmp_path, "item,unused\nx,1\n", titles="item,title,look_1,look_2,length\nx,Tom,1,2,3\n")
    with pytest.raises(SchemaError, match=r"field 'title' is in '.*i\.csv' and '.*l\.csv'"):
        _pictured(tmp_path, looks.replace("length", "title"), titles="item,title,length\nx,Tom,1\n")
    with pytest.raises(DataError, match="none of the 3 ids"):
        _pictured(tmp_path, looks.replace("x", "other"))
    with pytest.raises(DataError, match=r"i\.csv', column 'length'.*no such column"):
        _pictured(tmp_path, "item,look_1,look_2\nx,1,2\n")
    files = Files(interactions=tmp_path / "e.csv", more_items=(tmp_path / "l.csv",))
    with pytest.raises(SchemaError, match="need a first one"):
        import_dataset(files, Schema(user_id="user", item_id="item", label=RATING), tmp_path / "out")


def test_a_parquet_file_of_vector_entries_is_read_like_a_csv_one(tmp_path):
    sandbox = Sandbox(tmp_path)
    looks = tmp_path / "looks.parquet"
    columns = {"item": ["y", "x"], "look_1": np.array([0.5, np.nan], np.float32), "look_2": [3, None], "length": [1, 2]}
    pq.write_table(pa.table(columns), looks)
    files = Files(
        interactions=sandbox.write("e", EVENTS), items=sandbox.write("i", "item,title\nx,Tom\ny,Why\n"), more_items=(looks,)
    )
    import_dataset(files, PICTURED, sandbox.out)
    assert [None if value is None else value.tolist() for value in sandbox.open().items["look"]] == [None, [0.5, 3.0]]


SEVERAL = Schema(
    user_id="user",
    item_id="item",
    label=Label(column="clicked", kind="binary"),
    timestamp="time",
    targets=(Label(column="bought", kind="binary"), RATING),
)
FUNNEL = "user,item,clicked,bought,rating,time\nann,x,1,true,4,100\nbob,y,1,,,200\nbob,x,0,0,NA,300\n"


def test_further_targets_may_be_missing(sandbox: Sandbox):
    imported = sandbox.run(FUNNEL, users=None, items=None, schema=SEVERAL)
    events = sandbox.open().interactions
    assert events.label_N.tolist() == [1, 1, 0]
    assert events.extra_NK is not None
    np.testing.assert_array_equal(events.extra_NK, [[1, 4], [np.nan, np.nan], [0, np.nan]])
    np.testing.assert_array_equal(events.select(np.array([2])).extra_NK, [[0, np.nan]])  # type: ignore[arg-type]  # it is not None here
    found = {(str(f["column"]), str(f["problem"])): (f["action"], f["rows"], f["bad"]) for f in imported.report.findings()}
    assert found["bought", "value is missing"] == ("left out", 1, False)
    assert found["rating", "value is missing"] == ("left out", 2, False)
    assert sandbox.open().save(sandbox.folder / "copy").fingerprint == imported.fingerprint


def test_a_wrong_label_of_a_further_target_is_refused_by_name_or_dropped_alone_under_a_tolerance(sandbox: Sandbox):
    text = FUNNEL + "ann,y,1,1,9,400\n"
    with pytest.raises(DataError) as raised:
        sandbox.run(text, users=None, items=None, schema=SEVERAL)
    assert (raised.value.column, raised.value.row) == ("rating", 4)
    assert "above the schema's maximum 5, got '9'" in str(raised.value)
    sandbox.run(text, users=None, items=None, schema=SEVERAL, max_bad=0.25)
    events = sandbox.open().interactions
    assert events.extra_NK is not None
    np.testing.assert_array_equal(events.extra_NK[3], [1, np.nan])
    with pytest.raises(DataError, match="'rating'"):
        sandbox.run("user,item,clicked,bought,time\nann,x,1,1,1\n", users=None, items=None, schema=SEVERAL)


def test_rows_that_repeat_keep_the_last_ones_targets(sandbox: Sandbox):
    sandbox.run(FUNNEL + "ann,x,1,0,2,100\n", users=None, items=None, schema=SEVERAL)
    events = sandbox.open().interactions
    assert len(events) == 3
    assert events.extra_NK is not None
    np.testing.assert_array_equal(events.extra_NK[2], [0, 2])
