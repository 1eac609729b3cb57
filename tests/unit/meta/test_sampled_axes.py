from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta import row_axes as row_axes_module
from metarec.meta import sampled_axes as module
from metarec.meta.alpaca import Alpaca
from metarec.meta.row_axes import NORM
from metarec.meta.sampled_axes import sampled_axes
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable, Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import LabelStats, label_stats

TASKS, ROWS, FACTORS = 300, 60, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(noise: float = 0.5, unit: float = 1.0, mean: float = 0.0) -> tuple[LabelStats, EntityTable, Tensor]:
    """300 tasks grade 20 of 60 known rows each by three factors; the covariance (60, 60) of what a task says of two rows."""
    random = np.random.default_rng(1)
    task_TK, row_CK = random.normal(size=(TASKS, FACTORS)), random.normal(size=(ROWS, FACTORS))
    task_N = np.repeat(np.arange(TASKS), 20)
    row_N = np.concatenate([random.permutation(ROWS)[:20] for _ in range(TASKS)])
    label_N = (task_TK[task_N] * row_CK[row_N]).sum(1) + noise * random.normal(size=len(row_N))
    layout = TaskLayout.from_arrays(task_N, row_N, (mean + unit * label_N).astype(np.float32), num_rows=ROWS + 2)
    code_N = torch.tensor([*range(1, ROWS + 1), 0, 0])
    rows = EntityTable(code_N=code_N, dense_NP=torch.zeros(ROWS + 2, 1), blocks=(("x", 0, 1),), num_codes=ROWS)
    return label_stats(layout, rows), rows, torch.from_numpy(row_CK @ row_CK.T).float()


def alike(one: Tensor, two: Tensor) -> float:
    """Correlation of the entries beside the diagonals."""
    off = ~torch.eye(len(one), dtype=torch.bool)
    return float(torch.corrcoef(torch.stack([one[off], two[off]]))[0, 1])


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty rows may have ten axes, and five factors will do."""
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 6)
    monkeypatch.setattr(module, "FACTORS", 5)


def test_axes_tell_which_rows_go_together() -> None:
    stats, rows, covariance_CC = planted()
    axes_CA = sampled_axes(stats, rows, 6, generator())
    assert axes_CA.shape == (ROWS + 1, 6)
    assert float(axes_CA[0].abs().max()) == 0.0
    assert float(axes_CA[1:].square().sum(1).mean().sqrt()) == pytest.approx(1.0, abs=1e-4)
    assert alike(axes_CA[1:] @ axes_CA[1:].T, covariance_CC) > 0.97
    # Leading axes first: three factors and the offset hold nearly everything.
    size_A = axes_CA.square().sum(0)
    assert bool((size_A[:-1] >= size_A[1:]).all())
    assert float(size_A[:4].sum() / size_A.sum()) > 0.9


def test_a_row_of_few_labels_is_not_learned_by_heart() -> None:
    """Half of the rows keep one label in twelve. Their part of the kernel is smaller than the others', not larger."""
    stats, rows, covariance_CC = planted()
    layout = stats.layout
    assert layout is not None
    random = np.random.default_rng(2)
    kept_N = (layout.row_N < ROWS // 2) | (random.random(len(layout.row_N)) < 1 / 12)
    thin = TaskLayout.from_arrays(
        layout.row_tasks[kept_N], layout.row_N[kept_N], layout.label_N[kept_N], num_tasks=TASKS, num_rows=ROWS + 2
    )
    axes_CA = sampled_axes(label_stats(thin, rows), rows, 6, generator())[1:]
    size_C, true_C = axes_CA.square().sum(1), covariance_CC.diagonal()
    half = ROWS // 2
    assert float(size_C[half:].mean() / true_C[half:].mean()) < float(size_C[:half].mean() / true_C[:half].mean())
    assert alike(axes_CA[:half] @ axes_CA[:half].T, covariance_CC[:half, :half]) > 0.95
    assert alike(axes_CA @ axes_CA.T, covariance_CC) > 0.8


def test_the_same_seed_draws_the_same_whatever_threads_and_unit() -> None:
    stats, rows, _ = planted()
    axes_CA = sampled_axes(stats, rows, 4, generator())
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert torch.equal(axes_CA, sampled_axes(stats, rows, 4, generator()))
        assert torch.get_num_threads() == (1 if before > 1 else 2)
    finally:
        torch.set_num_threads(before)
    in_percent, _, _ = planted(unit=25.0, mean=75.0)
    torch.testing.assert_close(axes_CA, sampled_axes(in_percent, rows, 4, generator()), rtol=0, atol=1e-4)
    other_CA = sampled_axes(stats, rows, 4, generator(1))
    assert not torch.equal(axes_CA, other_CA)
    assert alike(axes_CA[1:] @ axes_CA[1:].T, other_CA[1:] @ other_CA[1:].T) > 0.97


def test_large_batches_and_small_ones_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entity with more labels than fit is a batch of its own."""
    stats, rows, _ = planted()
    axes_CA = sampled_axes(stats, rows, 4, generator())
    monkeypatch.setattr(module, "LABELS_AT_ONCE", 50)
    other_CA = sampled_axes(stats, rows, 4, generator())
    assert alike(axes_CA[1:] @ axes_CA[1:].T, other_CA[1:] @ other_CA[1:].T) > 0.97


def test_few_rows_have_few_axes_and_rows_without_labels_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, rows, _ = planted()
    layout = stats.layout
    assert layout is not None
    more = replace(rows, code_N=torch.tensor([*range(1, ROWS + 3)]), num_codes=ROWS + 2)
    axes_CA = sampled_axes(label_stats(layout, more), more, 30, generator())
    assert axes_CA.shape == (ROWS + 3, 30)
    assert [bool(axes_CA[:, place].abs().max() > 0) for place in range(30)] == [True] * 10 + [False] * 20
    assert float(axes_CA[ROWS + 1 :].abs().max()) == 0.0
    assert bool(axes_CA.isfinite().all())
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 100)
    assert float(sampled_axes(stats, rows, 4, generator()).abs().max()) == 0.0


def test_labels_that_do_not_differ_or_are_not_there_give_no_axes() -> None:
    stats, rows, _ = planted()
    layout = stats.layout
    assert layout is not None
    flat = replace(layout, label_N=np.ones_like(layout.label_N))
    assert float(sampled_axes(label_stats(flat, rows), rows, 4, generator()).abs().max()) == 0.0
    nothing = TaskLayout.from_arrays(np.array([], np.int64), np.array([], np.int64), np.array([], np.float32), num_rows=ROWS + 2)
    assert float(sampled_axes(label_stats(nothing, rows), rows, 4, generator()).abs().max()) == 0.0
    unknown = replace(rows, code_N=torch.zeros(ROWS + 2, dtype=torch.int64))
    assert float(sampled_axes(label_stats(layout, unknown), unknown, 4, generator()).abs().max()) == 0.0


def test_labels_without_noise_do_not_break_the_draws() -> None:
    stats, rows, covariance_CC = planted(noise=0.0)
    axes_CA = sampled_axes(stats, rows, 6, generator())
    assert bool(axes_CA.isfinite().all())
    assert alike(axes_CA[1:] @ axes_CA[1:].T, covariance_CC) > 0.97


def test_training_starts_from_them_beside_the_axes_of_tables() -> None:
    stats, rows, _ = planted()
    tasks = EntityTable(code_N=torch.arange(1, TASKS + 1), dense_NP=torch.zeros(TASKS, 1), blocks=(("x", 0, 1),), num_codes=TASKS)
    learner, model = Alpaca(row_axes=2, sampled_axes=3), LinearGaussian(embedding_dim=4)
    theta = learner.init(model, Tables(tasks=tasks, rows=rows), generator(), stats)
    assert theta["axes.row"].shape == (ROWS + 1, 7)
    assert theta["axes.map"].shape == (7, 4)
    assert float(theta["axes.row"][1:, 4:].square().sum(1).mean().sqrt()) == pytest.approx(NORM, rel=1e-3)
    alone = replace(learner, row_axes=0).init(model, Tables(tasks=tasks, rows=rows), generator(), stats)
    assert alone["axes.row"].shape == (ROWS + 1, 3)
    none = replace(learner, row_axes=0, sampled_axes=0).init(model, Tables(tasks=tasks, rows=rows), generator(), stats)
    assert not any(name.startswith("axes.") for name in none)
