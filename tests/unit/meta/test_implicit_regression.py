"""How much of the regression tasks of many rows get: what is chosen, and that the start has not seen what is asked."""

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta import implicit, implicit_regression
from metarec.meta.implicit import ImplicitAlpaca
from metarec.meta.implicit_regression import FOLDS, MANY, MOST_ROWS, MULTIPLES, choose_regression
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.catalogue_start import Asked
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import label_stats

TASKS, ROWS, HELD = 150, 200, 60


def layout_of(*, timed: bool, held: int = HELD) -> TaskLayout:
    """Tasks that hold rows of one half of the catalogue; with times each begins early and goes on much later."""
    rng = np.random.default_rng(4)
    row_N = np.concatenate([rng.permutation(ROWS // 2)[:held] + (task % 2) * (ROWS // 2) for task in range(TASKS)])
    task_N = np.repeat(np.arange(TASKS), held)
    later_N = np.tile(np.arange(held) >= held // 2, TASKS)
    time_N = np.arange(len(row_N)) * 60.0 + later_N * 1e7 if timed else None
    return TaskLayout.from_arrays(task_N, row_N, np.full(len(row_N), 4.0, np.float32), time_N, num_tasks=TASKS, num_rows=ROWS)


def tables_of() -> Tables:
    def table(size: int) -> EntityTable:
        return EntityTable(code_N=torch.arange(1, size + 1), dense_NP=torch.zeros(size, 1), blocks=(("x", 0, 1),), num_codes=size)

    return Tables(tasks=table(TASKS), rows=table(ROWS))


def wide(size: int, tasks: int, *, timed: bool) -> tuple[TaskLayout, Tables]:
    """Tasks that all hold every row of the catalogue; with times they take them in step."""
    time_N = (np.arange(size)[None] * 1000.0 + np.arange(tasks)[:, None]).ravel() if timed else None
    layout = TaskLayout.from_arrays(
        np.repeat(np.arange(tasks), size), np.tile(np.arange(size), tasks), np.ones(size * tasks, np.float32), time_N
    )
    table = EntityTable(code_N=torch.arange(1, size + 1), dense_NP=torch.zeros(size, 1), blocks=(("x", 0, 1),), num_codes=size)
    return layout, Tables(tasks=table, rows=table)


class Witness:
    """A start and scores, all alike, that remember what they were given."""

    def __init__(self, size: int) -> None:
        self.size, self.known, self.asked = size, list[TaskLayout](), list[Batch]()

    def start(self, before: TaskLayout) -> MetaParams:
        self.known.append(before)
        return theta_of()

    def scores(self, theta: MetaParams, support: Batch) -> Tensor:
        self.asked.append(support)
        return torch.zeros(support.num_tasks, self.size)


def theta_of(_: TaskLayout | None = None) -> MetaParams:
    return {"near.weight": torch.tensor([0.4, 0.5])}


def halves(support: Batch, right_T: Tensor) -> Tensor:
    """Scores that find the half of the catalogue that a task holds, or where it is not `right_T` the other one."""
    upper_T = support.row_TN[:, 0] >= ROWS // 2
    return ((torch.arange(ROWS) >= ROWS // 2) == (upper_T == right_T)[:, None]).double()


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("wanted", MULTIPLES)
def test_the_multiple_that_finds_the_rest_is_chosen(wanted: float, timed: bool) -> None:
    def scores(theta: MetaParams, support: Batch) -> Tensor:
        assert float(theta["near.weight"][0]) == pytest.approx(0.4)
        return halves(support, (theta["near.weight"][1] == 0.5 * wanted).expand(support.num_tasks))

    assert choose_regression(layout_of(timed=timed), tables_of(), theta_of, scores) == wanted


@pytest.mark.parametrize(("found", "wanted"), [(60, MULTIPLES[-1]), (51, MULTIPLES[0])])
def test_omega_stands_until_a_multiple_is_better_by_a_standard_error(found: int, wanted: float) -> None:
    """Of a hundred tasks the largest multiple finds what so many hold, the others what the rest hold."""

    def scores(theta: MetaParams, support: Batch) -> Tensor:
        largest = bool(theta["near.weight"][1] == 0.5 * MULTIPLES[-1])
        return halves(support, ((support.task_T * 7 % 100) < found) == largest)

    assert choose_regression(layout_of(timed=True), tables_of(), theta_of, scores) == wanted


def test_without_times_a_fifth_of_the_tasks_is_asked_by_half_of_their_rows_from_a_start_without_them() -> None:
    layout, witness = layout_of(timed=False), Witness(ROWS)
    choose_regression(layout, tables_of(), witness.start, witness.scores)
    known, asked = witness.known, witness.asked
    task_A = asked[0].task_T.numpy()
    assert len(known) == 1
    assert len(task_A) == TASKS / FOLDS
    assert not known[0].counts[task_A].any()
    assert known[0].counts.sum() == layout.counts.sum() * (1 - 1 / FOLDS)
    assert set(asked[0].mask_TN.sum(1).tolist()) == {HELD // 2}
    first = layout.start_T1[task_A[0]]
    own = set(layout.row_N[first : first + HELD].tolist())
    held = asked[0].row_TN[0].tolist()
    assert set(held) < own
    assert held != layout.row_N[first : first + HELD // 2].tolist()  # drawn, not the first ones


def test_tasks_of_few_rows_are_not_asked() -> None:
    def scores(theta: MetaParams, support: Batch) -> Tensor:
        raise AssertionError("nobody is there to be asked")

    for timed in (False, True):
        assert choose_regression(layout_of(timed=timed, held=2 * MANY), tables_of(), theta_of, scores) == 1.0


def test_supports_end_at_a_bound() -> None:
    layout, tables = wide(2 * MOST_ROWS + 50, 30, timed=False)
    witness = Witness(layout.num_rows)
    choose_regression(layout, tables, witness.start, witness.scores)
    assert {size for support in witness.asked for size in support.mask_TN.sum(1).tolist()} == {MOST_ROWS}


def test_with_times_the_newest_rows_before_a_cut_are_the_support() -> None:
    layout, tables = wide(4 * MOST_ROWS, 25, timed=True)
    witness = Witness(layout.num_rows)
    choose_regression(layout, tables, witness.start, witness.scores)
    assert len(witness.known) == 5
    for before, support in zip(witness.known, witness.asked[:: len(MULTIPLES)], strict=True):
        for task, row_S, mask_S in zip(support.task_T.tolist(), support.row_TN, support.mask_TN, strict=True):
            held = int(before.counts[task])
            assert row_S[mask_S].tolist() == list(range(held - MOST_ROWS, held))


def test_rows_that_are_known_are_never_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks that hold more rows than a support set takes, too."""
    layout, tables = wide(3 * MOST_ROWS, 25, timed=True)
    witness, checked = Witness(layout.num_rows), 0

    def gains(test: Asked, score_AI: Tensor) -> np.ndarray:
        nonlocal checked
        for place, task in enumerate(test.task_T.tolist()):
            held = int(witness.known[-1].counts[task])
            assert np.flatnonzero(test.target_AI[place]).min() >= held
            assert test.held_AI[place, :held].all()
            checked += 1
        return np.zeros(len(test.task_T))

    monkeypatch.setattr(implicit_regression, "gains", gains)
    assert choose_regression(layout, tables, witness.start, witness.scores) == 1.0
    assert checked == 5 * 25 * len(MULTIPLES)


def test_the_head_starts_from_the_multiple_unless_nothing_is_to_be_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tables = CatalogueScorer(embedding_dim=4), tables_of()
    stats = label_stats(layout_of(timed=False), tables.rows)

    def omega(learner: ImplicitAlpaca, scorer: CatalogueScorer = model) -> float:
        return float(learner.init(scorer, tables, torch.Generator().manual_seed(0), stats)["near.weight"][1])

    monkeypatch.setattr(implicit, "choose_regression", lambda *_: 16.0)
    assert omega(ImplicitAlpaca()) == pytest.approx(3.2)
    assert omega(ImplicitAlpaca(regression=0.3, weigh_by_past=False)) == pytest.approx(0.3)
    assert omega(ImplicitAlpaca(), CatalogueScorer(embedding_dim=4, neighbour_dim=0)) == pytest.approx(0.2)
    assert omega(ImplicitAlpaca(regression=0.0)) == 0.0
