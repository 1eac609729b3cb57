"""Files that commands write: told before the work, where they cannot be written, and in a line where that comes later."""

import errno
import io
import json
import sys
from pathlib import Path

import click
import pytest

from metarec.cli import main as command
from metarec.cli.output import check_writable, escape_what_cannot_be_shown


def test_folders_of_files_that_can_be_written_are_made(tmp_path: Path) -> None:
    check_writable({"--json": tmp_path / "a" / "b.json", "--plot": None}, {"--out": tmp_path / "c"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


@pytest.mark.parametrize(("name", "why"), [("folder", "Is a directory"), ("file/below", "Not a directory|File exists")])
def test_a_file_that_cannot_be_written_is_named_with_its_option(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(click.UsageError, match=f"--report cannot be written: '{tmp_path / name}': ({why})"):
        check_writable({"--report": tmp_path / name})


def test_a_folder_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(click.UsageError, match=r"--out cannot be written: .*: Permission denied"):
        check_writable({}, {"--out": tmp_path})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "r/.lock"), "error: 'r/.lock': Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_failures_of_the_machine_are_a_line(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command.cli, "main", fail)
    with pytest.raises(SystemExit, match="1"):
        command.main(["train"])
    assert capsys.readouterr().err == said


def test_other_failures_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(command.cli, "main", fail)
    with pytest.raises(ConnectionResetError):
        command.main(["train"])


def test_what_an_encoding_lacks_is_written_as_json_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="gbk"))
    monkeypatch.setattr(command.cli, "main", lambda **_: 0)
    with pytest.raises(SystemExit, match="0"):
        command.main(["train"])
    print(json.dumps({"name": "东京 n\u0303 \U0001f3ac"}, ensure_ascii=False), flush=True)
    assert written.getvalue().decode("gbk") == '{"name": "东京 n\\u0303 \\ud83c\\udfac"}\n'
    assert json.loads(written.getvalue().decode("gbk")) == {"name": "东京 n\u0303 \U0001f3ac"}


def test_what_somebody_has_chosen_about_an_encoding_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="gbk", errors="replace"))
    escape_what_cannot_be_shown()
    assert sys.stdout.errors == "replace"
