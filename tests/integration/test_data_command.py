"""`metarec data` as people run it: files in, tables or JSON out, exit codes and messages."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from metarec.cli.data import data
from metarec.cli.main import main
from metarec.data import fetching
from metarec.data.dataset import Dataset

REPOSITORY = Path(__file__).parents[2]
SCHEMA = """user_id: user
item_id: item
label: {column: rating, kind: rating, minimum: 1, maximum: 5}
timestamp: time
users:
- {name: age, kind: numeric}
items:
- {name: title, kind: text}
- {name: genres, kind: multi_categorical, separator: "|"}
item_title: title
"""
FILES = {
    "events.csv": "user,item,rating,time,state\nann,x,4,100,warm\nbob,y,2,200,cold\nann,x,4,100,warm\n",
    "users.csv": "user,age\nann,31\nbob,\n",
    "items.csv": "item,title,genres\nx,Tom,a|b\ny,Why,\n",
    "schema.yaml": SCHEMA,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TABLES = ("--interactions", "events.csv", "--users", "users.csv", "--items", "items.csv")
IMPORT = ("import", *TABLES, "--schema", "schema.yaml", "--out", "out")


def _run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def _exit(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the whole command."""
    with pytest.raises(SystemExit) as exited:
        main(["data", *arguments])
    code = exited.value.code
    assert isinstance(code, int)
    return code, capfd.readouterr().err


def test_import_show_report_verify(folder: Path):
    printed = json.loads(_run(*IMPORT, "--json")[0])
    assert (printed["users"], printed["items"], printed["interactions"]) == (2, 2, 2)
    assert {(f["problem"], f["action"], f["rows"]) for f in printed["findings"]} == {
        ("value is missing", "imputed", 1),
        ("row repeats another", "row dropped", 1),
    }
    shown = json.loads(_run("show", "--data", "out", "--json")[0])
    assert shown["fingerprint"] == printed["fingerprint"]
    assert shown["label"]["histogram"] == {"2": 1, "4": 1}
    assert shown["time"] == {"first": "1970-01-01T00:01:40Z", "last": "1970-01-01T00:03:20Z", "days": pytest.approx(100 / 86400)}
    assert [(f["field"], f["missing"], f["distinct"]) for f in shown["fields"]] == [
        ("age", 1, 1),
        ("title", 0, 2),
        ("genres", 1, 2),
    ]
    assert json.loads(_run("report", "--data", "out", "--json")[0])["findings"] == printed["findings"]
    assert json.loads(_run("verify", "--data", "out", "--json")[0])["intact"] is True


def test_tables_are_for_people_and_notes_go_to_standard_error(folder: Path):
    out, err = _run(*IMPORT)
    assert "What was dropped or changed" in out
    assert "row repeats another" in out
    assert "'out' holds 2 users, 2 items and 2 interactions" in err
    shown = _run("show", "--data", "out")[0]
    for text in ("interactions per user", "1970-01-01T00:01:40Z to", "genres", "50.0%"):
        assert text in shown
    assert "users" in _run("report", "--data", "out")[0]


def test_a_draft_is_printed_or_written_and_can_be_imported_with(folder: Path):
    drafted = _run("import", *TABLES, "--infer")[0]
    _, err = _run("import", *TABLES, "--infer", "--schema", "draft.yaml")
    assert (folder / "draft.yaml").read_text() == drafted
    assert "draft schema written to 'draft.yaml'" in err
    _run("import", *TABLES, "--schema", "draft.yaml", "--out", "out")
    assert Dataset.open(folder / "out").schema.item_title == "title"


def test_a_further_file_of_items_adds_a_vector(folder: Path):
    (folder / "looks.csv").write_text("item,look_1,look_2,look_3\nx,0.5,-1,2\n")
    more = (*TABLES, "--items", "looks.csv")
    draft = _run("import", *more, "--infer", "--schema", "draft.yaml")
    assert "draft schema written" in draft[1]
    printed = json.loads(_run("import", *more, "--schema", "draft.yaml", "--out", "out", "--json")[0])
    assert [(table["table"], table["kept"]) for table in printed["tables"]][2:4] == [("items 2", 1), ("interactions", 2)]
    dataset = Dataset.open(folder / "out")
    assert dataset.schema.item_field("look").dim == 3
    assert dataset.items["look"][0].tolist() == [0.5, -1.0, 2.0]
    assert json.loads(_run("verify", "--data", "out", "--json")[0])["intact"] is True


def test_where_and_max_bad(folder: Path):
    (folder / "events.csv").write_text(FILES["events.csv"] + "bob,x,9,300,warm\n")
    printed = json.loads(_run(*IMPORT, "--where", "state=warm", "--max-bad", "0.5", "--json")[0])
    assert printed["interactions"] == 1
    assert [table["bad"] for table in printed["tables"]] == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("import", "--interactions", "events.csv"), 2, "give --schema and --out"),
        ((*IMPORT, "--infer"), 2, "--infer only drafts a schema"),
        ((*IMPORT, "--where", "state"), 2, "--where 'state' must be COLUMN=VALUE"),
        ((*IMPORT, "--max-bad", "7"), 2, "0<=x<=1"),
        ((*IMPORT, "--delimiter", "::"), 2, "error: delimiter must be one character, got '::'"),
        ((*IMPORT, "--interactions", "none.csv"), 2, "error: file 'none.csv': does not exist"),
        ((*IMPORT, "--schema", "none.yaml"), 2, "error: no schema file 'none.yaml'; draft one with: metarec data import --infer"),
        ((*IMPORT, "--interactions", "users.csv"), 2, "error: file 'users.csv', column 'item': there is no such column"),
        ((*IMPORT, "--out", "."), 1, "error: '.' is a directory with other things in it"),
        ((*IMPORT, "--out", "events.csv"), 1, "error: 'events.csv' is a file"),
        (("import", *TABLES, "--infer", "--schema", "schema.yaml"), 1, "error: 'schema.yaml' exists already"),
        (("show", "--data", "none"), 1, "error: no dataset at 'none'; make one with: metarec data import --out none"),
        (("report", "--data", "none"), 1, "error: no dataset at 'none'"),
        (("fetch", "ml-1m", "--out", "out"), 2, "error: no public dataset 'ml-1m'; known: ml-100k"),
    ],
)
def test_mistakes_have_an_exit_code_and_one_clear_line(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: Sequence[str], code: int, message: str
):
    found, err = _exit(capfd, *arguments)
    assert message in err
    assert found == code
    assert "Traceback" not in err
    assert not (folder / "out").exists()


def test_a_bad_value_is_named_by_file_column_and_row(folder: Path, capfd: pytest.CaptureFixture[str]):
    (folder / "events.csv").write_text(FILES["events.csv"].replace("bob,y,2", "bob,y,12"))
    code, err = _exit(capfd, *IMPORT)
    assert code == 2
    assert "error: file 'events.csv', column 'rating', row 2: label is above the schema's maximum 5, got '12'" in err


def test_changed_files_are_told(folder: Path, capfd: pytest.CaptureFixture[str]):
    _run(*IMPORT)
    (folder / "out" / "schema.yaml").write_text(SCHEMA.replace("maximum: 5", "maximum: 6"))
    code, err = _exit(capfd, "verify", "--data", "out")
    assert (code, "files were changed; import again" in err) == (2, True)
    (folder / "out" / "import.json").unlink()
    assert "has no import.json" in _exit(capfd, "report", "--data", "out")[1]


def test_fetch_without_network_says_so_and_leaves_nothing(folder: Path, capfd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code, err = _exit(capfd, "fetch", "ml-100k", "--out", "out", "--cache", "cache")
    assert code == 1
    assert "pip could not download recbole==1.2.1" in err
    assert "is this machine online?" in err
    assert not (folder / "out").exists()


def test_fetch_does_nothing_when_the_dataset_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch):
    _run(*IMPORT)
    monkeypatch.setattr(fetching, "already_there", lambda dataset, out: Dataset.open(out))
    monkeypatch.setattr(fetching, "fetch", lambda *arguments, **how: pytest.fail("fetched again"))
    out, err = _run("fetch", "ml-100k", "--out", "out", "--json")
    assert json.loads(out)["interactions"] == 2
    assert "'out' already holds ml-100k; nothing to do" in err


def test_an_interrupted_import_exits_with_130_and_leaves_nothing(folder: Path, capfd, monkeypatch: pytest.MonkeyPatch):
    from metarec.data import importing

    def interrupt(*arguments: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "complete", interrupt)
    code, err = _exit(capfd, *IMPORT)
    assert (code, "error: interrupted" in err) == (130, True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("command", ["fetch", "import", "show", "report", "verify"])
def test_help_has_an_example(command: str):
    out, _ = _run(command, "--help")
    assert f"metarec data {command}" in out.partition("Example")[2]


def test_the_memory_benchmark_runs(tmp_path: Path):
    command = [
        sys.executable,
        str(REPOSITORY / "bench" / "import_memory.py"),
        "--rows",
        "3000",
        "--json",
        str(tmp_path / "f.json"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["rows"] == 3000
    assert 2900 < figures["kept"] < 3000
    assert figures["peak_rss_mib"] > 0


def test_the_example_schema_is_valid():
    from metarec.data.schema import Schema

    schema = Schema.read(REPOSITORY / "docs" / "examples" / "ml-1m.schema.yaml")
    assert schema.item_title == "title"
    assert schema.graph


def test_merge_makes_scenarios_of_datasets_and_says_what_it_left_out(folder: Path) -> None:
    _run(*IMPORT)
    _run(*IMPORT[:-1], "more")
    out, _ = _run("merge", "web=out", "app=more", "--out", "both", "--json")
    facts = json.loads(out)
    assert (facts["users"], facts["items"], facts["interactions"]) == (2, 2, 4)
    assert json.loads(_run("show", "--data", "both", "--json")[0])["scenarios"] == {"web": 2, "app": 2}
    assert json.loads(_run("report", "--data", "both", "--json")[0])["origin"]["merged"]["web"]["path"] == "out"
    assert json.loads(_run("verify", "--data", "both", "--json")[0])["intact"]
    separate = json.loads(_run("merge", "web=out", "app=more", "--users", "separate", "--out", "both", "--json")[0])
    assert separate["users"] == 4
    for arguments, message in (
        (("merge", "out", "app=more", "--out", "x"), "'out' must be NAME=PATH"),
        (("merge", "a=out", "a=more", "--out", "x"), "'a' is given twice"),
        (("merge", "a=out", "b=more", "--out", "out"), "which the result would replace"),
    ):
        result = CliRunner().invoke(data, arguments)
        assert result.exit_code == 2
        assert message in result.output
