"""Held-out users within scenarios: what they are asked there, and what a head says with and without the scenarios' shifts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.blend import SupportRows, support_batch
from metarec.meta.prior import Head
from metarec.meta.scenario import Evidence, Scenario, without_shifts
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Shifts = Mapping[int, Scenario]
"""Scenarios by their index in the dataset; those absent have no shift."""

MAX_QUERY = 100
MAX_SUPPORT = 500
"""Newest interactions of a user that evidence on a scenario is taken from."""
CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class InScenario:
    """One user within one scenario: rows of a layout to adapt to, in the order in which they are shown, and rows asked for."""

    user: int
    scenario: int
    support_S: Ints
    query_Q: Ints


def draw_tests(layout: TaskLayout, scenarios: Sequence[int], *, shots: int, seed: int) -> list[InScenario]:
    """A test for each user of `layout` and each of the scenarios in which they have more than `shots` rows.

    The support set is the first `shots` rows there, in time where there are times, else at random; the rest is asked for.
    """
    rng, found = np.random.default_rng([seed, 61]), []
    for user in np.flatnonzero(layout.counts > shots).tolist():
        rows = layout.rows_of(user)
        row_N = np.arange(rows.start, rows.stop)
        if not layout.has_timestamps:
            row_N = rng.permutation(row_N)
        for scenario in scenarios:
            here_N = row_N[layout.scenario_N[row_N] == scenario]
            if len(here_N) > shots:
                found.append(
                    InScenario(user=user, scenario=scenario, support_S=here_N[:shots], query_Q=here_N[shots : shots + MAX_QUERY])
                )
    return found


def adapt_to(head: Head, tables: Tables, layout: TaskLayout, rows_of: Mapping[int, Ints]) -> dict[int, Scenario]:
    """The posteriors of the scenarios that these users' rows are from; scenarios that the dataset does not name have none."""
    evidence = Evidence(head)
    users = sorted(rows_of, key=lambda user: len(rows_of[user]))
    for first in range(0, len(users), CHUNK):
        chunk = users[first : first + CHUNK]
        parts = [rows_of[user][-MAX_SUPPORT:] for user in chunk]
        batch = support_batch(_of(tables, chunk), range(len(chunk)), [_support(layout, part) for part in parts])
        # Scenario 0 of evidence is the default one: no shift.
        evidence.add(batch, torch.from_numpy(_padded(parts, layout.scenario_N.astype(np.int64) + 1, batch.row_TN.shape[1])))
    return {place - 1: scenario for place, scenario in evidence.solve().items()}


def predicted(
    head: Head, tables: Tables, layout: TaskLayout, tests: Sequence[InScenario], shifts: Shifts, *, shots: int
) -> Doubles:
    """Means of all rows asked for, test after test, from the first `shots` rows of each support."""
    width = len(head.theta["task.mean"])
    count = 1 + max([*shifts, *(test.scenario for test in tests), int(layout.scenario_N.max(initial=0))])
    shift_KE = torch.zeros(count, width, dtype=torch.float32)
    for scenario, found in shifts.items():
        shift_KE[scenario] = found.mean_E.float()
    means: list[Doubles] = []
    for first in range(0, len(tests), CHUNK):
        chunk = tests[first : first + CHUNK]
        here = _of(tables, [test.user for test in chunk])
        parts = [test.support_S[:shots] for test in chunk]
        support = support_batch(here, range(len(chunk)), [_support(layout, part) for part in parts])
        where_TN = torch.from_numpy(_padded(parts, layout.scenario_N, support.row_TN.shape[1]))
        query = support_batch(here, range(len(chunk)), [_support(layout, test.query_Q) for test in chunk])
        with torch.no_grad():
            fast = head.learner.adapt(head.model, head.theta, without_shifts(head, support, shift_KE[where_TN]))
            moved = {**fast, "mean": fast["mean"] + shift_KE[[test.scenario for test in chunk]]}
            mean_TQ = head.learner.predict(head.model, head.theta, moved, query).mean_TQ.double()
        means += [mean_TQ[place, : len(test.query_Q)].numpy() for place, test in enumerate(chunk)]
    return np.concatenate(means) if means else np.zeros(0)


def _of(tables: Tables, users: Sequence[int]) -> Tables:
    return Tables(tasks=tables.tasks.at(torch.tensor(list(users), dtype=torch.int64)), rows=tables.rows)


def _support(layout: TaskLayout, rows: Ints) -> SupportRows:
    return layout.row_N[rows], layout.label_N[rows], layout.timestamp_N[rows] if layout.has_timestamps else None


def _padded(parts: Sequence[Ints], value_N: NDArray[np.integer], width: int) -> Ints:
    found_TN = np.zeros((len(parts), width), np.int64)
    for task, rows in enumerate(parts):
        found_TN[task, : len(rows)] = value_N[rows]
    return found_TN
