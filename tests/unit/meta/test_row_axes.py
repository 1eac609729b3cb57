from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.meta import row_axes as row_axes_module
from metarec.meta.alpaca import Alpaca
from metarec.meta.row_axes import NORM, fold_axes, row_axes
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable
from metarec.tasks.layout import TaskLayout
from metarec.tasks.planted import as_float64, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler
from metarec.tasks.stats import LabelStats, label_stats


def two_camps() -> tuple[LabelStats, EntityTable]:
    """Forty tasks hold rows 0 to 9, forty hold rows 10 to 19; within both, half love the even rows and half the odd ones."""
    rng = np.random.default_rng(0)
    task_N, row_N, label_N = [], [], []
    for task in range(80):
        for row in rng.permutation(10)[:7]:
            task_N.append(task)
            row_N.append(10 * (task >= 40) + row)
            label_N.append(5.0 if row % 2 == task % 2 else 1.0)
    layout = TaskLayout.from_arrays(np.array(task_N), np.array(row_N), np.array(label_N, np.float32), num_rows=22)
    code_N = torch.tensor([*range(1, 21), 0, 0])
    rows = EntityTable(code_N=code_N, dense_NP=torch.zeros(22, 1), blocks=(("x", 0, 1),), num_codes=20)
    return label_stats(layout, rows), rows


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rows may have axes."""
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 1)


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, two, dim=0))


def test_axes_tell_who_holds_a_row_and_how_it_is_graded() -> None:
    stats, rows = two_camps()
    axes_CA = row_axes(stats, rows, 2)
    assert axes_CA.shape == (21, 4)
    holds_C2, graded_C2 = axes_CA[:, :2], axes_CA[:, 2:]
    assert cosine(holds_C2[1], holds_C2[10]) > 0.95  # rows 0 and 9: the same tasks, other tastes
    assert cosine(holds_C2[1], holds_C2[11]) < 0.75  # the first axis is how often a row is held
    assert cosine(graded_C2[1], graded_C2[3]) > 0.95  # rows 0 and 2: the same tasks like both
    assert cosine(graded_C2[1], graded_C2[2]) < -0.95
    assert float(axes_CA[0].abs().max()) == 0.0
    assert torch.equal(axes_CA, row_axes(stats, rows, 2))


def test_axes_have_one_size_and_end_where_the_data_does() -> None:
    stats, rows = two_camps()
    axes_CA = row_axes(stats, rows, 3)
    assert abs(float(axes_CA[1:].square().sum(1).mean().sqrt()) / NORM - 1) < 0.15
    wide_CA = row_axes(stats, rows, 30)
    assert wide_CA.shape == (21, 60)
    assert float(wide_CA[:, 22:30].abs().max()) == 0.0
    assert bool(wide_CA.isfinite().all())


def test_few_rows_have_few_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 10)
    stats, rows = two_camps()
    axes_CA = row_axes(stats, rows, 4)
    assert [bool(axes_CA[:, k].abs().max() > 0) for k in range(8)] == [True, True, False, False, True, True, False, False]
    assert abs(float(axes_CA[1:].square().sum(1).mean().sqrt()) / NORM - 1) < 0.15
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 30)
    assert float(row_axes(stats, rows, 4).abs().max()) == 0.0


def test_islands_do_not_take_up_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that one task alone holds, which holds no other: the leading singular vectors would be theirs."""
    monkeypatch.setattr(row_axes_module, "ROWS_PER_AXIS", 3)
    stats, _ = two_camps()
    assert stats.layout is not None
    task_N = np.concatenate([stats.layout.row_tasks, 80 + np.arange(12)])
    row_N = np.concatenate([stats.layout.row_N, 20 + np.arange(12)])
    label_N = np.concatenate([stats.layout.label_N, np.full(12, 4, np.float32)])
    rows = EntityTable(code_N=torch.arange(1, 33), dense_NP=torch.zeros(32, 1), blocks=(("x", 0, 1),), num_codes=32)
    axes_CA = row_axes(label_stats(TaskLayout.from_arrays(task_N, row_N, label_N), rows), rows, 2)
    assert not axes_CA[21:].any()
    assert bool((axes_CA[1:21, :2].abs().amax(1) > 0.1).all())


def test_without_rows_there_are_no_axes() -> None:
    stats, rows = two_camps()
    assert stats.layout is not None
    nothing = stats.layout.where(np.zeros(len(stats.layout.row_N), bool))
    assert float(row_axes(label_stats(nothing, rows), rows, 2).abs().max()) == 0.0


def test_labels_that_do_not_differ_give_no_axes_of_grades() -> None:
    stats, rows = two_camps()
    assert stats.layout is not None
    flat = replace(stats.layout, label_N=np.ones_like(stats.layout.label_N))
    axes_CA = row_axes(label_stats(flat, rows), rows, 2)
    assert float(axes_CA[:, :2].abs().max()) > 0.5
    assert float(axes_CA[:, 2:].abs().max()) < 1e-3


def test_folded_axes_predict_as_before() -> None:
    family = linear_family(num_tasks=24, num_rows=20, rows_per_task=12, seed=3)
    learner, model = Alpaca(row_axes=3, id_dropout=0, cold_tasks=0), LinearGaussian(embedding_dim=4)
    generator = torch.Generator().manual_seed(0)
    theta = learner.init(model, family.tables, generator, label_stats(family.layout, family.tables.rows))
    theta = {name: value.double() for name, value in theta.items()}
    theta["axes.bias"] = torch.randn(6, generator=generator).double()
    tasks = next(EpisodeSampler(family.layout, as_float64(family.tables), EpisodeConfig(batch_size=6, max_support=7), 1).epoch(0))
    folded = fold_axes(theta)
    assert not any(name.startswith("axes.") for name in folded)
    assert float(folded["row.id"][0].abs().max()) == float(folded["row.id_bias"][0]) == 0.0
    before, after = (
        learner.predict(model, part, learner.adapt(model, part, tasks.support), tasks.query).mean_TQ for part in (theta, folded)
    )
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


def test_axes_are_given_and_their_map_is_learned() -> None:
    family = linear_family(num_tasks=24, num_rows=20, rows_per_task=12, seed=3)
    learner, model = Alpaca(row_axes=3), LinearGaussian(embedding_dim=4)
    generator = torch.Generator().manual_seed(0)
    theta = learner.init(model, family.tables, generator, label_stats(family.layout, family.tables.rows))
    tasks = next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=6, max_support=7), 1).epoch(0))
    gradient, _ = learner.meta_gradient(model, theta, tasks, generator)
    assert float(gradient["axes.row"].abs().max()) == 0.0
    assert float(gradient["axes.map"].abs().max()) > 0.0
    assert float(gradient["axes.bias"].abs().max()) > 0.0
