"""What the users of each scenario of the training data have in common, learned once a head is trained (metarec.meta.scenario).

Evidence is summed over training users as they are, with all that they did wherever they did it; the head's prior is what users
of all scenarios look like together. A dataset whose events name no scenario has none.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.data.interactions import Interactions
from metarec.meta.blend import support_batch
from metarec.meta.prior import Head
from metarec.meta.scenario import REFERENCE, REFERENCE_ROWS, Evidence, Scenario, has_scenarios
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout
from metarec.threads import one_core
from metarec.training.heads import head_seed
from metarec.training.inputs import Inputs
from metarec.training.progress import Progress, Watch, silent

MAX_SCENARIOS = 64
"""Scenarios that are learned: those with most events."""
MAX_USERS = 10_000
"""Training users that evidence is summed over; what so many share is as good as certain."""
MAX_ROWS = 500
"""Newest events of a user that are looked at."""
SIZES = (1, 5, 20, 100, 500)
"""Numbers of rows that the reference is learned for, as far as there are MIN_REFERENCE users with so many."""
MAX_REFERENCE, MIN_REFERENCE = 1_000, 50
CHUNK = 64
MANY = 16 * CHUNK
"""Users after which progress is told again."""


def best_scenarios(inputs: Inputs, head: Head, seed: int, watch: Watch = silent) -> dict[str, Scenario]:
    """The scenarios of the training users' events by name; none for heads that have none."""
    if not has_scenarios(head) or not any(inputs.interactions.scenarios):
        return {}
    watch(Progress(stage="scenarios"))
    with one_core():
        return learn_scenarios(inputs, head, head_seed(seed, head.target), watch)


def with_reference(inputs: Inputs, head: Head, seed: int) -> Head:
    """The head with how its training users lie from their prior mean, by number of rows: what scenarios are counted from."""
    if not has_scenarios(head):
        return head
    with one_core():
        layout, rng = inputs.layout("user", validation=False), np.random.default_rng([head_seed(seed, head.target), 73])
        prepared = head.prepared(inputs.items)
        most = int(np.sort(layout.counts)[-MIN_REFERENCE:].min(initial=max(SIZES)))
        sizes = sorted({min(size, most) for size in SIZES} - {0})
        everybody = np.ones(len(inputs.interactions.scenarios) or 1, np.int64)
        means = []
        for size in sizes:
            users = rng.permutation(np.flatnonzero(layout.counts >= size))[:MAX_REFERENCE]
            found = _evidence(inputs, prepared, layout, users, everybody, last=False, most=size).solve()
            means.append(found[1].mean_E.to(head.theta["task.mean"].dtype))
    if not means:
        return head
    return replace(head, theta={**head.theta, REFERENCE: torch.stack(means), REFERENCE_ROWS: torch.tensor(sizes).float()})


def learn_scenarios(inputs: Inputs, head: Head, seed: int, watch: Watch = silent) -> dict[str, Scenario]:
    """The posteriors of the scenarios with most events, from up to MAX_USERS training users."""
    layout = inputs.layout("user", validation=False)
    place_S = places(inputs.interactions)
    users = np.random.default_rng(seed).permutation(np.flatnonzero(layout.counts > 0))[:MAX_USERS]
    found = _evidence(inputs, head.prepared(inputs.items), layout, users, place_S, last=True, most=MAX_ROWS, watch=watch).solve()
    names = inputs.interactions.scenarios
    return {names[scenario]: found[place] for scenario, place in enumerate(place_S.tolist()) if place in found}


def _evidence(
    inputs: Inputs,
    head: Head,
    layout: TaskLayout,
    users: NDArray[np.int64],
    place_S: NDArray[np.int64],
    *,
    last: bool,
    most: int,
    watch: Watch = silent,
) -> Evidence:
    """What these users tell by their `most` last (or first) rows, whose scenarios have these places."""
    evidence = Evidence(head)
    times = layout.timestamp_N if layout.has_timestamps else None
    users = users[np.argsort(layout.counts[users], kind="stable")]
    for first in range(0, len(users), CHUNK):
        chunk = users[first : first + CHUNK]
        slices = [
            slice(max(rows.start, rows.stop - most), rows.stop) if last else slice(rows.start, min(rows.stop, rows.start + most))
            for rows in map(layout.rows_of, chunk.tolist())
        ]
        support = [(layout.row_N[rows], layout.label_N[rows], None if times is None else times[rows]) for rows in slices]
        place = torch.from_numpy(chunk)
        tasks = inputs.users.at(place)
        batch = support_batch(Tables(tasks=tasks, rows=inputs.items), range(len(chunk)), support)
        scenario_TN = torch.zeros(batch.row_TN.shape, dtype=torch.int64)
        for task, rows in enumerate(slices):
            scenario_TN[task, : rows.stop - rows.start] = torch.from_numpy(place_S[layout.scenario_N[rows]])
        evidence.add(batch, scenario_TN)
        if first // MANY < (first + CHUNK) // MANY:
            watch(Progress(stage="scenarios", note=f"{min(first + CHUNK, len(users)):,} of {len(users):,} users"))
    return evidence


def places(events: Interactions) -> NDArray[np.int64]:
    """The place of each scenario among those that are learned, from 1; 0 for the default one and for those too many."""
    names = events.scenarios
    count_S = np.bincount(events.scenario_N, minlength=len(names)) * np.array([name != "" for name in names])
    place_S = np.zeros(len(names), np.int64)
    best = np.argsort(-count_S, kind="stable")[:MAX_SCENARIOS]
    best = best[count_S[best] > 0]
    place_S[best] = np.arange(1, len(best) + 1)
    return place_S
