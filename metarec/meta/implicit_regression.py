"""How much of the regression a task of many rows gets, asked of tasks whose rows the start has not seen.

What regression on all rows of a task is worth depends on the data: where rows come in time order, what a task takes next is less
like what it holds than rows drawn at random are, and of few tasks little can be learned. So multiples of the learner's omega are
asked: with timestamps of the training part's own past (Dawid 1984), for the tasks that go on; without, of a fifth of the tasks by
half of their rows, from a start made of the others.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from metarec.meta.implicit_past import Floats, Ints, Scores, capped, gains, support_of
from metarec.models.catalogue_start import STAGES, best_candidate, past_cuts, ranks
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout

MULTIPLES = (1.0, 4.0, 16.0, 64.0)
"""Candidates; the first is kept unless another is better by one standard error."""

FOLDS = 5
MANY = STAGES[-2]
"""Rows from which on a task gets some of the regression."""

MOST_ROWS, MOST_TASKS = 200, 256
"""Of support sets, whose newest rows these are (what is older is not asked for), and of tasks asked at a time."""


def choose_regression(layout: TaskLayout, tables: Tables, start: Callable[[TaskLayout], MetaParams], scores: Scores) -> float:
    """The multiple of omega to start from; `start` and `scores` are those of metarec.meta.implicit_past.choose_evidence."""
    found: list[Floats] = []
    for before, part, held_T in _past(layout) if layout.has_timestamps else _fold(layout):
        test = capped(part, np.where(held_T > MANY, held_T, part.counts), layout.num_rows, MOST_TASKS)
        if not len(test.task_T):
            continue
        older_T = np.maximum(held_T - MOST_ROWS, 0)
        support = support_of(part.where(ranks(part) >= older_T[part.row_tasks]), test.task_T, held_T - older_T, tables)
        theta = start(before)
        found.append(np.stack([gains(test, scores(multiplied(theta, multiple), support)) for multiple in MULTIPLES]))
    return MULTIPLES[best_candidate(np.concatenate(found, 1), sure=True)] if found else 1.0


def multiplied(theta: MetaParams, multiple: float) -> MetaParams:
    """Theta with this multiple of omega."""
    return {**theta, "near.weight": theta["near.weight"] * torch.tensor([1.0, multiple])}


def _past(layout: TaskLayout) -> Iterator[tuple[TaskLayout, TaskLayout, Ints]]:
    """At each cut the rows before, the tasks that go on, and how many rows each held."""
    for past in past_cuts(layout):
        yield past.before, past.old, past.held_T


def _fold(layout: TaskLayout) -> Iterator[tuple[TaskLayout, TaskLayout, Ints]]:
    """The rows of the other tasks, those of one fold in random order, and half of their number."""
    rng = np.random.default_rng(len(layout))
    held_T = rng.permutation(len(layout)) % FOLDS == 0
    asked_N = held_T[layout.row_tasks]
    part = layout.where(asked_N)
    order = np.lexsort([rng.random(len(part.row_N)), part.row_tasks])
    part = TaskLayout.from_arrays(
        part.row_tasks[order], part.row_N[order], part.label_N[order], num_tasks=len(layout), num_rows=layout.num_rows
    )
    yield layout.where(~asked_N), part, part.counts // 2
