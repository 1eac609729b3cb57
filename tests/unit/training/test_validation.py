import math

import pytest
import torch

from metarec.tasks.planted import linear_family
from metarec.tasks.sampler import EpisodeConfig
from metarec.training.validation import as_good, ranking_ndcg, validation_sampler


def test_ndcg_is_that_of_the_query_items_among_all_items_but_the_support() -> None:
    family = linear_family(num_tasks=4, num_rows=20, rows_per_task=5, seed=1)
    sampler = validation_sampler(family.layout, family.tables, EpisodeConfig(max_support=2, min_query=3), 0, 100)
    tasks = next(sampler.epoch(0))
    score_TI = torch.zeros(4, 20)
    for t in range(4):
        support = tasks.support.row_TN[t][tasks.support.mask_TN[t]]
        query = tasks.query.row_TN[t][tasks.query.mask_TN[t]]
        others = [row for row in range(20) if row not in support.tolist() and row not in query.tolist()]
        score_TI[t, support] = 100.0  # left out, so its rank does not matter
        score_TI[t, others[0]] = 50.0
        score_TI[t, query[0]] = 40.0  # second
        score_TI[t, others[1:]] = 30.0
        score_TI[t, query[1:]] = -1.0  # below the first ten
    wanted = [(1 / math.log2(3)) / sum(1 / math.log2(k + 2) for k in range(int(tasks.query.mask_TN[t].sum()))) for t in range(4)]
    assert ranking_ndcg(score_TI, tasks).tolist() == pytest.approx(wanted)


def test_validation_asks_the_same_tasks_every_time() -> None:
    family = linear_family(num_tasks=30, num_rows=20, rows_per_task=5, seed=1)
    samplers = [validation_sampler(family.layout, family.tables, EpisodeConfig(), 3, 10) for _ in range(2)]
    one, two = (next(sampler.epoch(0)) for sampler in samplers)
    assert len(one.weight_T) == 10
    assert torch.equal(one.support.task_T, two.support.task_T)
    assert torch.equal(one.query.row_TN, two.query.row_TN)


def test_a_later_epoch_is_kept_unless_the_tasks_show_it_to_be_worse() -> None:
    lowest_T = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert as_good(lowest_T, lowest_T)
    assert as_good(lowest_T - 0.1, lowest_T)
    assert as_good(lowest_T + torch.tensor([0.9, -0.7, 0.2, -0.2]), lowest_T)  # worse by .05, with an error of .34
    assert not as_good(lowest_T + 0.05, lowest_T)  # by as much, in every task
    spread_T = torch.tensor([1.0, -1.0, 1.0, -1.0]) * math.sqrt(3)  # a standard error of 1
    assert as_good(lowest_T + 1.9 + spread_T, lowest_T)
    assert not as_good(lowest_T + 2.1 + spread_T, lowest_T)
    assert not as_good(torch.tensor([1.1]), torch.tensor([1.0]))
