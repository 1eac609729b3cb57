import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data import reading
from metarec.data.reading import open_source
from metarec.errors import DataError


def _rows(path: Path, names: list[str], **how: str) -> tuple[list[tuple[object, ...]], list[int], list[int]]:
    """Rows, their numbers, and the numbers of malformed rows."""
    values, numbers, malformed = [], [], []
    for chunk in open_source(path, **how).chunks(names):
        values += zip(*[chunk.columns[name].to_pylist() for name in names], strict=True)
        numbers += chunk.row_N.tolist()
        malformed += [row.row for row in chunk.malformed]
    return values, numbers, malformed


def _file(tmp_path: Path, content: str | bytes, name: str = "f.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_told_from_the_header(tmp_path, delimiter):
    path = _file(tmp_path, "a,b\n1,2\n".replace(",", delimiter))
    assert open_source(path).columns == ("a", "b")
    assert _rows(path, ["b", "a"])[0] == [(b"2", b"1")]


def test_marks_quotes_blank_lines_and_line_breaks_in_values(tmp_path):
    path = _file(tmp_path, b'\xef\xbb\xbfa,b\r\n1,"x, ""y"""\r\n\r\n2,"line\r\nbreak"\r\n')
    assert _rows(path, ["a", "b"])[:2] == ([(b"1", b'x, "y"'), (b"2", b"line\r\nbreak")], [1, 2])


def test_recbole_headers_lose_their_types_and_their_values_keep_their_quotes(tmp_path):
    path = _file(tmp_path, 'item_id:token\ttitle:token_seq\n1\t"Tom" and "Di\n')
    assert _rows(path, ["item_id", "title"])[0] == [(b"1", b'"Tom" and "Di')]


def test_spaces_around_column_names_do_not_count(tmp_path):
    path = _file(tmp_path, 'a , b\n1,"x,y"\n')
    assert open_source(path).columns == ("a", "b")
    assert _rows(path, ["b"])[0] == [(b"x,y",)]


def test_compressed_and_transcoded_files(tmp_path):
    assert _rows(_file(tmp_path, gzip.compress(b"a,b\n1,2\n"), "f.csv.gz"), ["a"])[0] == [(b"1",)]
    latin = _file(tmp_path, "a,b\n1,é\n".encode("latin-1"))
    assert _rows(latin, ["b"], encoding="latin-1")[0] == [("é".encode(),)]
    wide = _file(tmp_path, "a,b\n1,é\n".encode("utf-16"))
    assert _rows(wide, ["b"], encoding="utf-16")[0] == [("é".encode(),)]


@given(wrong=st.sets(st.integers(1, 400), max_size=30))
@settings(max_examples=20, deadline=None)
def test_row_numbers_count_malformed_rows_across_blocks(tmp_path_factory, wrong):
    path = tmp_path_factory.mktemp("rows") / "f.csv"
    path.write_text("a,b\n" + "".join(f"{k}\n" if k in wrong else f"{k},x\n" for k in range(1, 401)))
    before = reading.BLOCK_BYTES, reading.CHUNK_ROWS
    reading.BLOCK_BYTES, reading.CHUNK_ROWS = 64, 50
    try:
        values, numbers, malformed = _rows(path, ["a"])
    finally:
        reading.BLOCK_BYTES, reading.CHUNK_ROWS = before
    assert [int(value) for (value,) in values] == numbers == [k for k in range(1, 401) if k not in wrong]
    assert sorted(malformed) == sorted(wrong)


def test_parquet_is_streamed_with_row_numbers_whatever_its_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_ROWS", 4)
    table = pa.table({"a": np.arange(10), "tags": [["x"]] * 10, "c": ["y"] * 10})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=3)
    values, numbers, _ = _rows(tmp_path / "f.parquet", ["tags", "a"])
    assert values == [(["x"], k) for k in range(10)]
    assert numbers == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"a,b", "has a header but no rows"),
        (b"PK\x03\x04data", "zip archive or a spreadsheet"),
        (b"PAR1data", "cannot be read"),
        (b"\x00\x01\x02", "is no text"),
        ("a,b\n".encode("utf-16"), "is no text.*--encoding utf-16"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"file '.*f\.csv'.*{message}"):
        open_source(_file(tmp_path, content))


def test_columns_without_a_name_of_their_own_disturb_only_who_asks_for_them(tmp_path):
    source = open_source(_file(tmp_path, b",a,b,b,\n0,1,2,3,\n"))
    assert source.named == ("a",)
    assert [chunk.columns["a"].to_pylist() for chunk in source.chunks(["a"])] == [[b"1"]]
    source.require(["a"])
    with pytest.raises(DataError, match="column 'b': the header names this column twice"):
        source.require(["a", "b"])


def test_absent_files_directories_and_unknown_encodings(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a directory"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="unknown encoding 'klingon'"):
        open_source(_file(tmp_path, "a\n1\n"), encoding="klingon")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    source = open_source(_file(tmp_path, "1\t2\n3\t4\n"))
    with pytest.raises(
        DataError, match=r"column 'user'.*the file has '1', '2'; is 'tab' the delimiter and is there a header row"
    ):
        source.require(["user"])


def test_broken_streams_are_refused(tmp_path):
    content = "a,b\n" + "".join(f"{k},{k * k}\n" for k in range(50_000))
    truncated = _file(tmp_path, gzip.compress(content.encode())[:50_000], "f.csv.gz")
    with pytest.raises(DataError, match="cannot be read"):
        _rows(truncated, ["a"])
    ascii_only = _file(tmp_path, "a,b\n1,é\n")
    with pytest.raises(DataError, match=r"not in encoding 'ascii'.*--encoding"):
        _rows(ascii_only, ["b"], encoding="ascii")


def test_a_row_beyond_the_block_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 10)
    path = _file(tmp_path, "a,b\n" + "1,x\n" * 10 + '1,"' + "y\n" * 5000)
    with pytest.raises(DataError, match="is a quote left open"):
        _rows(path, ["a"])
