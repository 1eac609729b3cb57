"""The weight of support rows, asked of the past: what is chosen, and that the future stays out of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.meta import implicit
from metarec.meta.implicit import ImplicitAlpaca
from metarec.meta.implicit_past import AS_SET, ASKED, CANDIDATES, USUAL, Evidence, choose_evidence
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import label_stats

TASKS, ROWS, HELD = 120, 60, 20


def layout_of(*, timed: bool = True, tasks: int = TASKS) -> TaskLayout:
    """Tasks one after another, each holding most rows of one half of the catalogue."""
    rng = np.random.default_rng(4)
    row_N = np.concatenate([rng.permutation(ROWS // 2)[:HELD] + (task % 2) * (ROWS // 2) for task in range(tasks)])
    task_N = np.repeat(np.arange(tasks), HELD)
    time_N = np.arange(len(row_N)) * 60.0 if timed else np.zeros(len(row_N))
    return TaskLayout.from_arrays(task_N, row_N, np.full(len(row_N), 4.0), time_N, num_tasks=tasks, num_rows=ROWS)


def tables_of(tasks: int = TASKS) -> Tables:
    def table(size: int) -> EntityTable:
        return EntityTable(code_N=torch.arange(1, size + 1), dense_NP=torch.zeros(size, 1), blocks=(("x", 0, 1),), num_codes=size)

    return Tables(tasks=table(tasks), rows=table(ROWS))


def theta_of(_: TaskLayout | None = None) -> MetaParams:
    return {
        "solve.log_confidence": torch.zeros(5),
        "solve.log_unobserved": torch.tensor(-3.0),
        "solve.log_positive": torch.linspace(0.5, 1.0, 5).log(),
        "solve.log_trust": torch.tensor(0.0),
    }


def scores_where(right: Callable[[MetaParams], bool]) -> Callable[[MetaParams, Batch], Tensor]:
    """Scores that find what a task holds for the thetas that are `right`, and the other half for the rest."""

    def scores(theta: MetaParams, support: Batch) -> Tensor:
        upper_T = support.row_TN[:, 0] >= ROWS // 2
        mine_TI = (torch.arange(ROWS) >= ROWS // 2) == upper_T[:, None]
        return (mine_TI if right(theta) else ~mine_TI).double()

    return scores


@pytest.mark.parametrize("wanted", [CANDIDATES[0], CANDIDATES[5], CANDIDATES[-1]])
def test_the_candidate_that_finds_what_came_later_is_chosen(wanted: Evidence) -> None:
    target = wanted.applied(theta_of())

    def right(theta: MetaParams) -> bool:
        return all(torch.equal(theta[name], target[name]) for name in target)

    chosen, figures = choose_evidence(layout_of(), tables_of(), theta_of, scores_where(right))
    assert chosen == wanted
    assert figures[wanted] > 0.6
    assert max(figure for candidate, figure in figures.items() if candidate != wanted) < 0.1


def test_equal_candidates_give_the_usual_one() -> None:
    chosen, figures = choose_evidence(layout_of(), tables_of(), theta_of, scores_where(lambda _: True))
    assert chosen == USUAL
    assert len(set(figures.values())) == 1


@pytest.mark.parametrize(("found", "wanted"), [(45, AS_SET), (31, USUAL)])
def test_the_usual_one_stands_until_another_is_better_by_a_standard_error(found: int, wanted: Evidence) -> None:
    """Of 60 tasks that are asked, the settings as they are find what so many hold, the other candidates what the rest hold."""
    target = AS_SET.applied(theta_of())

    def scores(theta: MetaParams, support: Batch) -> Tensor:
        as_set = all(torch.equal(theta[name], target[name]) for name in target)
        right_T = (support.task_T * 7 % 60 < found) == as_set
        upper_T = support.row_TN[:, 0] >= ROWS // 2
        return ((torch.arange(ROWS) >= ROWS // 2) == (upper_T == right_T)[:, None]).double()

    chosen, figures = choose_evidence(layout_of(), tables_of(), theta_of, scores)
    assert chosen == wanted
    assert max(figures, key=figures.__getitem__) == AS_SET


@pytest.mark.parametrize(("timed", "tasks"), [(False, TASKS), (True, 6)])
def test_without_times_or_tasks_to_ask_nothing_is_chosen(timed: bool, tasks: int) -> None:
    layout = layout_of(timed=timed, tasks=tasks)
    chosen, figures = choose_evidence(
        layout, tables_of(tasks), theta_of, scores_where(lambda theta: theta["solve.log_trust"] < 0)
    )
    assert (chosen, figures) == (AS_SET, {})


def test_a_start_knows_nothing_of_what_it_is_asked() -> None:
    started: list[float] = []
    asked: list[float] = []

    def start(before: TaskLayout) -> MetaParams:
        started.append(float(before.timestamp_N.max()))
        return theta_of()

    def scores(theta: MetaParams, support: Batch) -> Tensor:
        assert support.timestamp_TN is not None
        first_T = torch.where(support.mask_TN, support.timestamp_TN, torch.inf).amin(1)
        asked.append(float(first_T.min()) - started[-1])
        return torch.zeros(support.num_tasks, ROWS)

    choose_evidence(layout_of(), tables_of(), start, scores)
    assert len(started) == 5
    assert started == sorted(started)
    assert len(asked) == 5 * len(ASKED) * len(CANDIDATES)  # here no task goes on after a cut with rows enough
    assert min(asked) > 0


def test_tasks_that_go_on_are_asked_from_all_they_held() -> None:
    """All tasks begin in the first half of the time, one after another, and come back in the second with as many rows."""
    layout = layout_of()
    twice = TaskLayout.from_arrays(
        layout.row_tasks,
        layout.row_N,
        layout.label_N,
        np.arange(len(layout.row_N)) + np.tile(np.where(np.arange(HELD) < HELD // 2, 0.0, 1e6), TASKS),
        num_tasks=TASKS,
        num_rows=ROWS,
    )
    sizes: list[int] = []

    def scores(theta: MetaParams, support: Batch) -> Tensor:
        sizes.extend(support.mask_TN.sum(1).tolist())
        return torch.zeros(support.num_tasks, ROWS)

    choose_evidence(twice, tables_of(), theta_of, scores)
    assert sizes
    assert set(sizes) <= {HELD // 2, HELD // 2 + 1, HELD // 2 + 2, HELD // 2 + 3, HELD // 2 + 4, HELD // 2 + 5}


def test_evidence_keeps_the_highest_target_and_the_share_of_the_unobserved() -> None:
    theta, moved = theta_of(), Evidence(noise=0.5, lowest=0.5, trust=0.7).applied(theta_of())
    torch.testing.assert_close(moved["solve.log_confidence"].exp(), 2 * theta["solve.log_confidence"].exp())
    torch.testing.assert_close(moved["solve.log_unobserved"].exp(), 2 * theta["solve.log_unobserved"].exp())
    torch.testing.assert_close(moved["solve.log_positive"].exp(), torch.linspace(0.25, 1.0, 5))
    assert float(moved["solve.log_trust"].exp()) == pytest.approx(0.7)


def test_the_head_starts_from_one_of_the_candidates_and_from_its_settings_without_times() -> None:
    model = CatalogueScorer(embedding_dim=4)

    def started(learner: ImplicitAlpaca, *, timed: bool) -> MetaParams:
        tables = tables_of()
        return learner.init(model, tables, torch.Generator().manual_seed(0), label_stats(layout_of(timed=timed), tables.rows))

    solve = ("solve.log_confidence", "solve.log_unobserved", "solve.log_positive", "solve.log_trust")
    plain = started(ImplicitAlpaca(weigh_by_past=False), timed=True)
    untimed = started(ImplicitAlpaca(), timed=False)
    assert all(torch.equal(plain[name], untimed[name]) for name in solve)
    found = started(ImplicitAlpaca(), timed=True)
    candidates = [candidate.applied(plain) for candidate in CANDIDATES]
    assert any(all(torch.allclose(found[name], theta[name]) for name in solve) for theta in candidates)
    assert all(torch.equal(found[name], plain[name]) for name in plain if name not in solve)


def test_a_start_of_the_past_believes_rows_as_much_as_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """How noisy rows are is asked; it must not depend on how many tasks were known by then."""
    asked: list[float] = []

    def spy(layout: TaskLayout, tables: Tables, start: Callable[[TaskLayout], MetaParams], scores: object) -> object:
        half = layout.where(layout.timestamp_N < np.median(layout.timestamp_N))
        asked.extend([float(start(half)["solve.log_confidence"][0]), float(start(half)["solve.log_unobserved"])])
        return AS_SET, {}

    monkeypatch.setattr(implicit, "choose_evidence", spy)
    tables = tables_of()
    theta = ImplicitAlpaca().init(
        CatalogueScorer(embedding_dim=4), tables, torch.Generator().manual_seed(0), label_stats(layout_of(), tables.rows)
    )
    assert asked == [float(theta["solve.log_confidence"][0]), float(theta["solve.log_unobserved"])]
