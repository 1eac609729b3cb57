"""Synthetic task families whose best possible prediction is known: the oracle for tests of learners.

`linear_family` draws tasks from the very model that the closed form assumes, so its Bayes posterior is the optimum;
`checkerboard` has two kinds of task and two kinds of row that like each other or not, so that one observation tells all.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.tasks.batch import EntityTable, Tables, TaskBatch
from metarec.tasks.layout import TaskLayout
from metarec.tasks.tables import entity_table

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PlantedFamily:
    """Tables, the rows of all tasks, and the truth they were drawn from (empty for families without a linear truth).

    label = mean + row_RD @ w_t + noise with w_t ~ N(task_TD, diag(variance_D)) and noise of `noise_variance`.
    """

    tables: Tables
    layout: TaskLayout
    mean: float
    row_RD: Float
    task_TD: Float
    variance_D: Float
    noise_variance: float

    def bayes_mean(self, tasks: TaskBatch) -> Float:
        """Best prediction (T, Q) of the query labels from the support sets, by the textbook posterior, task by task."""
        support, query = tasks.support, tasks.query
        mean_TQ = np.zeros(query.row_TN.shape)
        for t, task in enumerate(query.task_T.tolist()):
            seen_S = support.mask_TN[t].numpy()
            phi_SD = self.row_RD[support.row_TN[t].numpy()[seen_S]]
            prior_D = self.task_TD[task]
            residual_S = support.label_TN[t].double().numpy()[seen_S] - self.mean - phi_SD @ prior_D
            precision_DD = np.diag(1 / self.variance_D) + phi_SD.T @ phi_SD / self.noise_variance
            w_D = prior_D + np.linalg.solve(precision_DD, phi_SD.T @ residual_S / self.noise_variance)
            mean_TQ[t] = self.mean + self.row_RD[query.row_TN[t].numpy()] @ w_D
        return mean_TQ


def linear_family(
    *,
    num_tasks: int = 300,
    num_rows: int = 60,
    rows_per_task: int = 24,
    dim: int = 3,
    profile_dim: int = 2,
    noise: float = 0.3,
    known: bool = True,
    extra_share: float = 0.0,
    seed: int = 0,
) -> PlantedFamily:
    """Tasks with Gaussian tastes around a linear function of their profile; row content is their true vector.

    `known` gives row entities an id code. That `extra_share` of the rows has the label of a further target too: another direction
    of the same tastes (axes in turn), at another level and a tenth of the scale.
    """
    rng = np.random.default_rng(seed)
    row_RD, profile_TP = rng.normal(size=(num_rows, dim)), rng.normal(size=(num_tasks, profile_dim))
    task_TD = profile_TP @ rng.normal(size=(profile_dim, dim)) * 0.5
    variance_D = np.full(dim, 0.8)
    taste_TD = task_TD + rng.normal(size=(num_tasks, dim)) * np.sqrt(variance_D)
    task_N = np.repeat(np.arange(num_tasks), rows_per_task)
    row_N = np.argsort(rng.random((num_tasks, num_rows)), 1)[:, :rows_per_task].reshape(-1)
    mean = 3.0
    label_N = mean + (row_RD[row_N] * taste_TD[task_N]).sum(1) + rng.normal(size=len(row_N)) * noise
    extra_NK = None
    if extra_share:
        turned_N = (row_RD[row_N] * np.roll(taste_TD, 1, 1)[task_N]).sum(1) + rng.normal(size=len(row_N)) * noise
        extra_NK = np.where(rng.random(len(row_N)) < extra_share, 0.5 + 0.1 * turned_N, np.nan).astype(np.float32)[:, None]
    return PlantedFamily(
        tables=_tables(profile_TP, row_RD, known),
        layout=TaskLayout.from_arrays(
            task_N, row_N, label_N.astype(np.float32), num_tasks=num_tasks, num_rows=num_rows, extra_NK=extra_NK
        ),
        mean=mean,
        row_RD=row_RD,
        task_TD=task_TD,
        variance_D=variance_D,
        noise_variance=noise**2,
    )


def checkerboard(
    *,
    num_tasks: int = 200,
    num_rows: int = 40,
    rows_per_task: int = 12,
    low: float = 1.0,
    high: float = 5.0,
    seed: int = 0,
) -> PlantedFamily:
    """Tasks of two kinds, not told by their profile: `high` for rows of their own kind, `low` for the other.

    Without support nothing beats the middle; with one support row everything is known.
    """
    rng = np.random.default_rng(seed)
    kind_T, kind_R = rng.integers(0, 2, num_tasks), np.arange(num_rows) % 2
    task_N = np.repeat(np.arange(num_tasks), rows_per_task)
    row_N = np.argsort(rng.random((num_tasks, num_rows)), 1)[:, :rows_per_task].reshape(-1)
    label_N = np.where(kind_T[task_N] == kind_R[row_N], high, low).astype(np.float32)
    side_R1: Float = (2.0 * kind_R - 1).astype(np.float64)[:, None]
    return PlantedFamily(
        tables=_tables(np.ones((num_tasks, 1)), side_R1, True),
        layout=TaskLayout.from_arrays(task_N, row_N, label_N, num_tasks=num_tasks, num_rows=num_rows),
        mean=(low + high) / 2,
        row_RD=side_R1,
        task_TD=np.zeros((num_tasks, 1)),
        variance_D=np.array([((high - low) / 2) ** 2]),
        noise_variance=1e-9,
    )


def _tables(task_TP: Float, row_RP: Float, known: bool) -> Tables:
    def table(dense: Float, coded: bool) -> EntityTable:
        blocks = (("content", 0, dense.shape[1]),)
        return entity_table(dense.astype(np.float32), blocks, np.full(len(dense), coded))

    return Tables(tasks=table(task_TP, False), rows=table(row_RP, known))


def as_float64(tables: Tables) -> Tables:
    """The same tables with content in float64, for comparisons to the last digits."""

    def double(table: EntityTable) -> EntityTable:
        return replace(table, dense_NP=table.dense_NP.to(torch.float64))

    return Tables(tasks=double(tables.tasks), rows=double(tables.rows))
