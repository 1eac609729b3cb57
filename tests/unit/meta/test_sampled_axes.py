from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta import label_factors
from metarec.meta import row_axes as row_axes_module
from metarec.meta import sampled_axes as module
from metarec.meta.alpaca import Alpaca
from metarec.meta.label_factors import FactorSampler
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
    """Sixty rows may have ten axes, however few labels they have, and five factors will do."""
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 6)
    monkeypatch.setattr(label_factors, "FACTORS", 5)
    monkeypatch.setattr(module, "LABELS_PER_ROW", 1)


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


def test_the_same_seed_draws_the_same_whatever_threads_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, rows, _ = planted()
    axes_CA = sampled_axes(stats, rows, 4, generator())
    threads, draw, before = [], FactorSampler.kept, torch.get_num_threads()
    monkeypatch.setattr(FactorSampler, "kept", lambda sampler: [threads.append(torch.get_num_threads()), draw(sampler)][1])
    torch.set_num_threads(2)
    try:
        assert torch.equal(axes_CA, sampled_axes(stats, rows, 4, generator()))
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
    in_percent, _, _ = planted(unit=25.0, mean=75.0)
    torch.testing.assert_close(axes_CA, sampled_axes(in_percent, rows, 4, generator()), rtol=0, atol=1e-4)
    other_CA = sampled_axes(stats, rows, 4, generator(1))
    assert not torch.equal(axes_CA, other_CA)
    assert alike(axes_CA[1:] @ axes_CA[1:].T, other_CA[1:] @ other_CA[1:].T) > 0.97


def test_what_is_drawn_of_priors_and_noise_is_what_the_next_draws_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, rows, covariance_CC = planted()
    with monkeypatch.context() as patched:  # labels that say nothing
        patched.setattr(FactorSampler, "_precision", lambda sampler, square_T, precision_T: torch.full_like(precision_T, 1e-9))
        axes_CA = sampled_axes(stats, rows, 6, generator())[1:]
        assert abs(alike(axes_CA @ axes_CA.T, covariance_CC)) < 0.3
    with monkeypatch.context() as patched:  # priors that know that there is nothing but the constant
        patched.setattr(FactorSampler, "_prior", lambda sampler, factor_EK: (torch.zeros(6), 1e8 * torch.eye(6)))
        axes_CA = sampled_axes(stats, rows, 6, generator())[1:]
        torch.testing.assert_close(axes_CA @ axes_CA.T, torch.ones(ROWS, ROWS), rtol=0, atol=1e-2)
    nothing, prior = (torch.zeros(6), 1e8 * torch.eye(6)), FactorSampler._prior
    with monkeypatch.context() as patched:  # of tasks alone, which then tell nothing of rows
        patched.setattr(FactorSampler, "_prior", lambda one, part_EK: nothing if len(part_EK) == TASKS else prior(one, part_EK))
        axes_CA = sampled_axes(stats, rows, 6, generator())[1:]
        assert abs(alike(axes_CA @ axes_CA.T, covariance_CC)) < 0.3


def test_grades_come_out_to_the_bit_whatever_their_unit() -> None:
    stats, rows, _ = planted()
    layout = stats.layout
    assert layout is not None
    halves = replace(layout, label_N=(np.round(2 * layout.label_N) / 2).astype(np.float32))
    stars = replace(layout, label_N=(10 * halves.label_N + 50.1).astype(np.float32))
    one, two = (sampled_axes(label_stats(part, rows), rows, 4, generator()) for part in (halves, stars))
    assert torch.equal(one, two)


def test_labels_of_rows_without_an_id_do_not_count() -> None:
    stats, rows, _ = planted()
    layout = stats.layout
    assert layout is not None
    loud = TaskLayout.from_arrays(
        np.concatenate([layout.row_tasks, np.arange(TASKS)]),
        np.concatenate([layout.row_N, np.full(TASKS, ROWS)]),
        np.concatenate([layout.label_N, np.where(np.arange(TASKS) % 2, 9.0, -9.0).astype(np.float32)]),
        num_rows=ROWS + 2,
    )
    same = replace(stats, layout=loud)
    torch.testing.assert_close(sampled_axes(stats, rows, 4, generator()), sampled_axes(same, rows, 4, generator()))


def test_of_many_tasks_and_rows_some_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, rows, covariance_CC = planted()
    layout = stats.layout
    assert layout is not None
    monkeypatch.setattr(module, "MOST_TASKS", 200)
    monkeypatch.setattr(module, "MOST_ROWS", 40)
    axes_CA = sampled_axes(stats, rows, 6, generator())
    has_C = axes_CA.abs().amax(1) > 0
    assert int(has_C.sum()) == 40
    kept = has_C[1:]
    assert alike(axes_CA[1:][kept] @ axes_CA[1:][kept].T, covariance_CC[kept][:, kept]) > 0.95
    assert float(axes_CA[has_C].square().sum(1).mean().sqrt()) == pytest.approx(1.0, abs=1e-4)


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


def test_rows_of_few_labels_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are a hundred a row here, just what it takes."""
    stats, rows, _ = planted()
    monkeypatch.setattr(module, "LABELS_PER_ROW", 100)
    assert float(sampled_axes(stats, rows, 4, generator()).abs().max()) > 0.0
    monkeypatch.setattr(module, "LABELS_PER_ROW", 101)
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
