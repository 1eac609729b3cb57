from types import SimpleNamespace

import numpy as np
import pytest

from metarec.errors import SchemaError
from metarec.features import sources
from metarec.features.sources import check_names, remove_rows, stats_table, write_table


def _rows(entity, label, time, ids=("a", "b", "c")):
    table = stats_table(
        np.array(entity, np.int32), np.array(label, np.float32), np.array(time, float), "k", np.array(ids, object)
    )
    return [(r["k"], r["count"], r["mean_label"], r["last_timestamp"]) for r in table.to_pylist()]


def test_statistics_start_empty_and_grow_with_each_event():
    assert _rows([1, 0, 1], [4, 2, 5], [20, 5, 10]) == [
        ("a", 0, None, None),
        ("b", 0, None, None),
        ("c", 0, None, None),
        ("a", 1, 2.0, 5.0),
        ("b", 1, 5.0, 10.0),
        ("b", 2, 4.5, 20.0),
    ]


def test_events_of_one_moment_share_one_row():
    assert _rows([0, 0], [1, 3], [7, 7])[3:] == [("a", 2, 2.0, 7.0)]


def test_beyond_the_limit_there_is_one_row_a_day_stamped_with_its_last_event(monkeypatch):
    monkeypatch.setattr(sources, "EXACT_STATS_LIMIT", 2)
    day = 86_400
    assert _rows([0, 0, 0], [1, 3, 5], [10, 20, day + 1])[3:] == [("a", 2, 2.0, 20.0), ("a", 3, 3.0, day + 1.0)]


def test_no_events_leave_only_the_empty_rows():
    assert _rows([], [], []) == [("a", 0, None, None), ("b", 0, None, None), ("c", 0, None, None)]


def test_removing_a_key_keeps_every_other_row(tmp_path):
    table = stats_table(np.array([0, 1], np.int32), np.ones(2, np.float32), np.ones(2), "k", np.array(["a", "b"], object))
    write_table(table, tmp_path / "t.parquet")
    remove_rows(tmp_path / "t.parquet", "k", "a")
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "t.parquet")["k"].to_pylist() == ["b", "b"]


@pytest.mark.parametrize("name", ["graph", "metarec_time"])
def test_reserved_field_names_are_refused(name):
    with pytest.raises(SchemaError, match=name):
        check_names(SimpleNamespace(users=(), items=(SimpleNamespace(name=name),)))
