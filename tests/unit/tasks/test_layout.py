import numpy as np
import pytest

from metarec.errors import InvalidInputError
from metarec.tasks.layout import TaskLayout


def make(task: list[int], row: list[int], label: list[float], time: list[float] | None = None, **sizes: int) -> TaskLayout:
    times = None if time is None else np.array(time, np.float64)
    return TaskLayout.from_arrays(np.array(task), np.array(row), np.array(label, np.float32), times, **sizes)


def test_rows_of_a_task_are_a_slice_in_time_order() -> None:
    layout = make([1, 0, 1, 1], [5, 6, 7, 8], [1, 2, 3, 4], [30, 0, 10, 20], num_tasks=3)
    assert layout.start_T1.tolist() == [0, 1, 4, 4]
    assert layout.row_N[layout.rows_of(1)].tolist() == [7, 8, 5]
    assert layout.label_N[layout.rows_of(1)].tolist() == [3, 4, 1]
    assert layout.counts.tolist() == [1, 3, 0]


def test_equal_times_keep_the_input_order() -> None:
    assert make([0, 0, 0], [3, 1, 2], [1, 1, 1]).row_N.tolist() == [3, 1, 2]


def test_of_repeated_interactions_the_latest_stands() -> None:
    layout = make([0, 0, 0], [4, 5, 4], [1, 2, 3], [10, 20, 5])
    assert layout.row_N.tolist() == [4, 5]
    assert layout.label_N.tolist() == [1, 2]
    assert make([0, 0, 0], [4, 5, 4], [1, 2, 3]).label_N.tolist() == [2, 3]


def test_selecting_tasks_keeps_their_positions() -> None:
    layout = make([0, 0, 1, 2], [1, 2, 3, 4], [1, 2, 3, 4]).select([2, 0])
    assert layout.counts.tolist() == [2, 0, 1]
    assert layout.row_N.tolist() == [1, 2, 4]


def test_entities_outside_the_tables_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="outside 1 tasks"):
        make([0, 1], [0, 0], [1, 1], num_tasks=1)


def test_an_empty_layout_has_no_rows() -> None:
    layout = make([], [], [], num_tasks=2, num_rows=3)
    assert len(layout) == 2
    assert layout.counts.tolist() == [0, 0]
    assert not layout.has_timestamps
