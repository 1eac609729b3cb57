import numpy as np
import pytest

from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import label_stats
from metarec.tasks.tables import entity_table


def test_row_offsets_are_shrunken_and_free_of_task_offsets() -> None:
    # Task 0 rates everything 5, task 1 everything 1, many times over: no row is better than another.
    task_N, row_N = np.repeat([0, 1], 100), np.tile(np.arange(100), 2)
    label_N = np.where(task_N == 0, 5, 1).astype(np.float32)
    keep = (task_N == 0) | (row_N % 2 == 0)
    rows = entity_table(np.zeros((100, 1), np.float32), (("none", 0, 1),), np.ones(100, bool))
    stats = label_stats(TaskLayout.from_arrays(task_N[keep], row_N[keep], label_N[keep]), rows)
    assert stats.mean == pytest.approx(550 / 150)
    assert float(stats.offset_C1.abs().max()) < 0.15
    assert stats.count_C1[1:3].tolist() == [2, 1]
    assert float(stats.offset_C1[0]) == 0


def test_rows_without_a_code_have_no_offset() -> None:
    rows = entity_table(np.zeros((2, 1), np.float32), (("none", 0, 1),), np.array([True, False]))
    layout = TaskLayout.from_arrays(np.array([0, 0]), np.array([0, 1]), np.array([1, 5], np.float32))
    stats = label_stats(layout, rows)
    assert stats.offset_C1.shape == (2,)
    assert float(stats.offset_C1[0]) == 0
    assert float(stats.offset_C1[1]) < 0


def test_labels_that_do_not_vary_have_no_unit() -> None:
    """As where purchases alone are recorded: a deviation of 0 would make every error of such a target count without bound."""
    rows = entity_table(np.zeros((2, 1), np.float32), (("none", 0, 1),), np.ones(2, bool))
    bought_NK = np.array([[1.0], [np.nan], [1.0]], np.float32)
    label_N = np.array([1, 2, 3], np.float32)
    layout = TaskLayout.from_arrays(np.array([0, 0, 1]), np.array([0, 1, 0]), label_N, num_rows=2, extra_NK=bought_NK)
    (bought,) = label_stats(layout, rows).extra
    assert (bought.mean, bought.std) == (1.0, 1.0)


def test_no_rows_give_neutral_statistics() -> None:
    rows = entity_table(np.zeros((2, 1), np.float32), (("none", 0, 1),), np.ones(2, bool))
    empty = TaskLayout.from_arrays(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), num_tasks=1, num_rows=2)
    stats = label_stats(empty, rows)
    assert (stats.mean, stats.std) == (0.0, 1.0)
