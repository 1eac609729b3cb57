"""What every command prints with: tables for people, JSON for machines, progress and errors on standard error."""

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

ESCAPED = "metarec.escaped"
"""The name of what is done about a character that a stream's encoding lacks."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class Advance(Protocol):
    """Reports progress of one step: `done` of `total` (None when unknown), with a short note."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report it."""
        ...


def stdout() -> Console:
    """A console on standard output; wide where output is not a terminal, so that piped tables never wrap."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)


def stderr() -> Console:
    """A console on standard error, for progress and notes."""
    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else 160)


def escape_what_cannot_be_shown() -> None:
    """Have streams whose encoding lacks a character (GBK, Latin-1) write its escape, as JSON spells it, instead of failing."""
    codecs.register_error(ESCAPED, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # else somebody has chosen
            stream.reconfigure(errors=ESCAPED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def print_error(message: str) -> None:
    """One `error: ...` line on standard error."""
    print(f"error: {message}", file=sys.stderr)


def note(message: str) -> None:
    """A remark for people on standard error; never part of a command's result."""
    print(message, file=sys.stderr, flush=True)


def check_writable(files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None) -> None:
    """Make what these files (and folders), by option, will lie in; click.UsageError for those that cannot be written.

    Sooner than after minutes of work.
    """
    wanted = [(option, path, False) for option, path in files.items()]
    wanted += [(option, path, True) for option, path in (folders or {}).items()]
    for option, path, folder in wanted:
        if path is None:
            continue
        parent = path if folder else path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if not folder and path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(path if path.exists() else parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise click.UsageError(f"{option} cannot be written: '{path}': {error.strerror or error}") from error


def print_json(value: object) -> None:
    """`value` as indented JSON on standard output."""
    print(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False))


def cell(value: object) -> str:
    """A table cell: floats to four significant places, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
    return str(value)


def print_table(rows: Sequence[Mapping[str, object]], *, title: str | None = None, columns: Sequence[str] | None = None) -> None:
    """Rows as a table, or the title alone without any; `columns` chooses and orders the keys. Numbers align right."""
    names = list(columns or (rows[0].keys() if rows else ()))
    table = Table(header_style="bold")
    for name in names:
        numeric = bool(rows) and all(isinstance(row.get(name), int | float) or row.get(name) is None for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, for what people typed may look like markup.
        table.add_row(*[Text(cell(row.get(name))) for name in names])
    console = stdout()
    if title:
        # A title of the table itself would be wrapped to the table's width.
        console.print(Text(title, style="italic"), soft_wrap=True)
    if rows or not title:
        console.print(table)


def emit(
    value: object,
    *,
    as_json: bool,
    rows: Sequence[Mapping[str, object]] | None = None,
    title: str | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Print a command's result: `value` as JSON, or `rows` as a table for people (a mapping becomes a two-column table)."""
    if as_json:
        print_json(value)
    elif rows is not None:
        print_table(rows, title=title, columns=columns)
    elif isinstance(value, Mapping):
        print_table([{"": key, "value": item} for key, item in value.items()], title=title)
    else:
        stdout().print(value)


@contextmanager
def progress(description: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar on standard error while the block runs; plain lines where that is no terminal (one per tenth)."""
    if quiet:
        yield lambda done, total=None, note="": None
        return
    if sys.stderr.isatty():
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=stderr(),
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=None, note="")
            yield lambda done, total=None, note="": bar.update(task, completed=done, total=total, note=note)
        return
    last = -1

    def line(done: float, total: float | None = None, note: str = "") -> None:
        nonlocal last
        tenth = int(10 * done / total) if total else -1
        if total and tenth != last:
            last = tenth
            print(f"{description}: {done:g}/{total:g} {note}".rstrip(), file=sys.stderr, flush=True)

    print(f"{description} ...", file=sys.stderr, flush=True)
    yield line
