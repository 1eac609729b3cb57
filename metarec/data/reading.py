"""Streams a CSV or Parquet file in chunks of raw columns that know the number of each row in the file.

Columns of a CSV file stay bytes: what a value means is decided in values.py, where a bad one can be named with its row. Reading
is single-threaded because only then Arrow tells the numbers of rows with the wrong number of columns.
"""

import codecs
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.data.contents import streamed
from metarec.errors import DataError

BLOCK_BYTES = 2 << 20
"""Bytes of CSV text parsed at a time; no row may be longer. Arrow reads some 32 blocks ahead, so this decides about memory."""

CHUNK_ROWS = 250_000
"""Rows handed on at a time (CSV: at least)."""

DELIMITERS = (",", "\t", ";", "|")
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """A row of a CSV file with the wrong number of columns; `row` is 1-based."""

    row: int
    expected: int
    actual: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows: raw columns by name, the 1-based number of each row in the file, and the share of the file read so far.

    `malformed` are the rows with the wrong number of columns that were met since the chunk before.
    """

    columns: dict[str, pa.Array]
    row_N: NDArray[np.int64]
    done: float
    malformed: tuple[Malformed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data file whose header has been read: its format and column names. `open_source` makes one."""

    path: Path
    delimiter: str | None
    encoding: str
    columns: tuple[str, ...]
    headers: tuple[str, ...] = field(repr=False)
    """Column names as they stand in the file; `columns` has them without surrounding spaces and RecBole's types."""

    is_recbole: bool = False
    """Whether the header has the types of RecBole's atomic files (`user_id:token`), which know no quotes."""

    @property
    def named(self) -> tuple[str, ...]:
        """Columns that a schema can name: not those without a name (an index, a spreadsheet's empty ones) or with one of two."""
        counts = Counter(self.columns)
        return tuple(name for name in self.columns if name and name.isprintable() and counts[name] == 1)

    def require(self, names: Sequence[str], why: str = "the schema names it") -> None:
        """DataError when a column is missing or there are two of that name."""
        for name in names:
            if self.columns.count(name) > 1:
                raise DataError("the header names this column twice", file=str(self.path), column=name)
            if name not in self.columns:
                shown = ", ".join(f"'{column[:40]}'" for column in self.columns[:20])
                hint = (
                    "" if self.delimiter is None else f"; is '{_shown(self.delimiter)}' the delimiter and is there a header row?"
                )
                raise DataError(
                    f"there is no such column, but {why}; the file has {shown}{hint}", file=str(self.path), column=name
                )

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """The rows of these columns, in order. DataError when the file cannot be parsed."""
        try:
            yield from self._csv_chunks(names) if self.delimiter is not None else self._parquet_chunks(names)
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise _unreadable(self.path, error, self.encoding) from error

    def _parquet_chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        with streamed(self.path) as parquet:
            total, start = parquet.metadata.num_rows, 0
            for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, columns=list(dict.fromkeys(names))):
                row_N = np.arange(start + 1, start + len(batch) + 1, dtype=np.int64)
                start += len(batch)
                yield Chunk(columns={name: batch.column(name) for name in names}, row_N=row_N, done=start / max(total, 1))

    def _csv_chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        assert self.delimiter is not None
        header = dict(zip(self.columns, self.headers, strict=True))
        malformed: deque[Malformed] = deque()
        skipped: list[int] = []  # 0-based positions among all rows of the file

        def skip(row: csv.InvalidRow) -> str:
            number = int(row.number) - 1  # the header is row 1
            malformed.append(Malformed(row=number, expected=row.expected_columns, actual=row.actual_columns, text=row.text))
            skipped.append(number - 1)
            return "skip"

        size = max(self.path.stat().st_size, 1)
        with pa.OSFile(str(self.path)) as file:
            reader = _open_csv(
                file,
                self,
                skip,
                csv.ConvertOptions(
                    column_types={self.headers[k]: pa.binary() for k in range(len(self.headers))},
                    include_columns=[header[name] for name in dict.fromkeys(names)],
                    check_utf8=False,
                ),
            )
            start = 0
            for rows in _gathered(reader):
                kept = np.arange(start, start + len(rows), dtype=np.int64)
                start += len(rows)
                # Row k of those that came through stands behind every skipped row j with (position of j) - j <= k.
                before = np.searchsorted(np.asarray(skipped, np.int64) - np.arange(len(skipped)), kept, side="right")
                met = tuple(malformed)
                malformed.clear()
                columns = {name: rows.column(header[name]).combine_chunks() for name in names}
                yield Chunk(columns=columns, row_N=kept + before + 1, done=min(file.tell() / size, 1.0), malformed=met)
            if malformed:
                empty = {name: pa.array([], pa.binary()) for name in names}
                yield Chunk(columns=empty, row_N=np.zeros(0, np.int64), done=1.0, malformed=tuple(malformed))


def open_source(path: Path, *, delimiter: str | None = None, encoding: str = "utf-8") -> Source:
    """Look at a file's format and header. DataError when it is missing, empty, of an unknown format or without usable columns."""
    name = str(path)
    if path.is_dir():
        raise DataError("is a directory; give one CSV or Parquet file", file=name)
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except FileNotFoundError:
        raise DataError("does not exist", file=name) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=name) from error
    if not start.strip():
        raise DataError("is empty", file=name)
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(f"unknown encoding '{encoding}'; try utf-8, latin-1 or utf-16", file=name) from None
    if start.startswith(b"PAR1"):
        try:
            headers = tuple(pq.read_schema(path).names)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error, encoding) from error
        return Source(path=path, delimiter=None, encoding=encoding, columns=headers, headers=headers)
    if start.startswith(b"PK\x03\x04"):
        raise DataError("is a zip archive or a spreadsheet; give a CSV or Parquet file", file=name)
    compressed = path.suffix in (".gz", ".bz2", ".zst", ".lz4")
    if not compressed and b"\0" in start and not encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        raise DataError("is no text; give a CSV or Parquet file (--encoding utf-16 for text in that encoding)", file=name)
    try:
        with pa.input_stream(name, compression="detect") as stream:
            text = stream.read(1 << 16).decode(encoding, errors="replace").lstrip("\ufeff \r\n")
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error, encoding) from error
    line = text.splitlines()[0] if text else ""
    used = delimiter or max(DELIMITERS, key=line.count)
    draft = Source(path=path, delimiter=used, encoding=encoding, columns=(), headers=())
    try:
        with pa.OSFile(name) as file:
            headers = tuple(_open_csv(file, draft, lambda row: "skip", csv.ConvertOptions(check_utf8=False)).schema.names)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        if "cannot infer number of columns" in str(error) or "Empty CSV" in str(error):
            raise DataError("has a header but no rows", file=name) from error
        raise _unreadable(path, error, encoding) from error
    parts = [header.strip().rpartition(":") for header in headers]
    is_recbole = all(before and kind in RECBOLE_TYPES for before, _, kind in parts)
    columns = tuple(before if is_recbole else header.strip() for (before, _, _), header in zip(parts, headers, strict=True))
    return Source(path=path, delimiter=used, encoding=encoding, columns=columns, headers=headers, is_recbole=is_recbole)


def _open_csv(file: pa.NativeFile, source: Source, skip: object, convert: csv.ConvertOptions) -> csv.CSVStreamingReader:
    stream = pa.CompressedInputStream(file, kind) if (kind := _compression(source.path)) else file
    return csv.open_csv(
        stream,
        read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=_codec(source.encoding)),
        parse_options=csv.ParseOptions(
            delimiter=source.delimiter,
            quote_char=False if source.is_recbole else '"',
            newlines_in_values=not source.is_recbole,
            invalid_row_handler=skip,
        ),
        convert_options=convert,
    )


def _gathered(reader: csv.CSVStreamingReader) -> Iterator[pa.Table]:
    """Small batches joined to chunks: what is done per chunk (looking up ids) is done less often."""
    batches, count = [], 0
    for batch in reader:
        batches.append(batch)
        count += len(batch)
        if count >= CHUNK_ROWS:
            yield pa.Table.from_batches(batches)
            batches, count = [], 0
    if batches:
        yield pa.Table.from_batches(batches)


def _compression(path: Path) -> str | None:
    return {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}.get(path.suffix)


def _codec(encoding: str) -> str:
    # Arrow passes these through untouched and strips the mark; any other codec is transcoded.
    return "utf8" if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding


def _unreadable(path: Path, error: Exception, encoding: str) -> DataError:
    if isinstance(error, UnicodeError):
        return DataError(f"is not in encoding '{encoding}' ({error}); name the right one with --encoding", file=str(path))
    text = str(error)
    if "straddling" in text or "out of sync" in text:
        text = f"a row is longer than {BLOCK_BYTES >> 20} MiB; is a quote left open?"
    return DataError(f"cannot be read: {text.splitlines()[0]}", file=str(path))


def _shown(delimiter: str) -> str:
    return {"\t": "tab"}.get(delimiter, delimiter)
