"""Users that training held out are judged by curves that were fitted on others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.evaluation.evaluate import Evaluation
from metarec.evaluation.gate import DefaultGate
from metarec.evaluation.held_out_links import FOLDS, HeldOutLinks
from metarec.meta.link import Link, fit_link
from metarec.meta.prior import Prior
from metarec.training.checkpoint import load_checkpoint

LINK = Link(offset=-1.0, slope=3.0)


def drawn(num_tasks: int, rows: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]  # any dtype will do
    rng = np.random.default_rng(0)
    task_Q = np.repeat(np.arange(num_tasks), rows)
    score_Q = rng.normal(0.5, 0.3, len(task_Q))
    return score_Q, (rng.random(len(task_Q)) < score_Q.clip(0.05, 0.95)).astype(float), task_Q


def test_nobodys_own_labels_are_in_the_curve_they_are_judged_by() -> None:
    score_Q, label_Q, task_Q = drawn(FOLDS + 5)
    before = HeldOutLinks.fitted(LINK, [score_Q], label_Q, task_Q)
    mine_Q = task_Q == 3
    after = HeldOutLinks.fitted(LINK, [score_Q], np.where(mine_Q, 1 - label_Q, label_Q), task_Q)
    same_Q = before.probability(score_Q, task_Q) == after.probability(score_Q, task_Q)
    assert same_Q[mine_Q].all()
    assert not same_Q[~mine_Q].all()


def test_the_curve_is_the_one_of_all_shots_of_the_others() -> None:
    score_Q, label_Q, task_Q = drawn(FOLDS + 5)
    links = HeldOutLinks.fitted(LINK, [score_Q, score_Q + 0.1], label_Q, task_Q)
    others_Q = task_Q % FOLDS != 3
    expected = fit_link(np.r_[score_Q[others_Q], score_Q[others_Q] + 0.1], np.tile(label_Q[others_Q], 2))
    mine_Q = task_Q == 3
    assert links.probability(score_Q, task_Q)[mine_Q] == pytest.approx(expected.probability(score_Q[mine_Q]))


@pytest.mark.parametrize(("link", "num_tasks"), [(LINK, FOLDS - 1), (replace(LINK, num_tasks=0), 50)])
def test_too_few_users_or_a_curve_that_was_not_fitted_keep_the_curve_of_the_checkpoint(link: Link, num_tasks: int) -> None:
    score_Q, label_Q, task_Q = drawn(num_tasks)
    links = HeldOutLinks.fitted(link, [score_Q], label_Q, task_Q)
    assert links.probability(score_Q, task_Q) == pytest.approx(LINK.probability(score_Q))


def clicks(dataset: Dataset) -> Dataset:
    label = replace(dataset.schema.label, kind="binary", minimum=0, maximum=1)
    events = dataset.interactions
    liked_N = (events.label_N >= 4).astype(np.float32)
    return replace(
        dataset, schema=replace(dataset.schema, label=label), interactions=replace(events, label_N=liked_N, extra_NK=None)
    )


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    held_N = dataset.interactions.user_N % 3 == 0
    return tuple(dataset.with_interactions(dataset.interactions.select(part)) for part in (~held_N, held_N))  # type: ignore[return-value]  # two of them


def test_gate_and_held_out_figures_do_not_depend_on_a_curve_fitted_on_their_users(
    tiny_registry: Path, tiny_dataset: Dataset
) -> None:
    prior: Prior = replace(load_checkpoint(tiny_registry), link=LINK)
    other = replace(prior, link=Link(offset=2.0, slope=0.5))
    dataset = clicks(tiny_dataset)
    train, held_out = halves(dataset)
    gate = DefaultGate(shots=(0, 3))
    one, two = (gate(each, train, held_out).metrics for each in (prior, other))
    assert one["users"] >= FOLDS
    assert one == two
    figures = []
    for each in (prior, other):
        results, _ = Evaluation(prior=each, dataset=dataset, same_data=True).held_out(train, held_out, (0, 3))
        figures.append([result.values["alpaca"]["mse"].tolist() for result in results if result.base == "held_out"])
    assert figures[0] == figures[1]
    assert len(figures[0]) == 2


def test_lists_that_nobody_can_be_asked_for_are_said_to_be_missing(tiny_registry: Path, tiny_dataset: Dataset) -> None:
    def without_times(part: Dataset, label_N: np.ndarray) -> Dataset:  # type: ignore[type-arg]  # any dtype will do
        events = part.interactions
        return part.with_interactions(replace(events, timestamp_N=np.zeros(len(events)), label_N=label_N))

    train, held_out = halves(clicks(tiny_dataset))
    train = without_times(train, train.interactions.label_N)
    held_out = without_times(held_out, np.zeros(len(held_out.interactions), np.float32))
    evaluation = Evaluation(prior=load_checkpoint(tiny_registry), dataset=train, same_data=True)
    results, notes = evaluation.held_out(train, held_out, (0, 3))
    assert [result.name for result in results] == ["held_out@0", "held_out@3"]
    [note] = notes
    assert note.startswith("held-out users are not judged by lists: no held-out user has an event of label 1 after their first 3")
