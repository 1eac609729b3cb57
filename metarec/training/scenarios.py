"""What the users of each scenario of the training data have in common, learned once a head is trained (metarec.meta.scenario).

Evidence is summed over training users as they are, with all that they did wherever they did it; the head's prior is what users
of all scenarios look like together. A dataset whose events name no scenario has none.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.data.dataset import Interactions
from metarec.meta.blend import support_batch
from metarec.meta.prior import Head
from metarec.meta.scenario import Evidence, Scenario, has_scenarios
from metarec.tasks.batch import Tables
from metarec.training.heads import head_seed
from metarec.training.inputs import Inputs

MAX_SCENARIOS = 64
"""Scenarios that are learned: those with most events."""
MAX_USERS = 10_000
"""Training users that evidence is summed over; what so many share is as good as certain."""
MAX_ROWS = 500
"""Newest events of a user that are looked at."""
CHUNK = 64


def best_scenarios(inputs: Inputs, head: Head, seed: int) -> dict[str, Scenario]:
    """The scenarios of the training users' events by name; none for heads that have none."""
    if not has_scenarios(head) or not any(inputs.interactions.scenarios):
        return {}
    before = torch.get_num_threads()
    # Matrices are small: where cores are busy, torch's threads wait for one another many times longer than they compute.
    torch.set_num_threads(1)
    try:
        return learn_scenarios(inputs, head, head_seed(seed, head.target))
    finally:
        torch.set_num_threads(before)


def learn_scenarios(inputs: Inputs, head: Head, seed: int) -> dict[str, Scenario]:
    """The posteriors of the scenarios with most events, from up to MAX_USERS training users."""
    layout = inputs.layout("user", validation=False)
    place_S = places(inputs.interactions)
    users = np.flatnonzero(layout.counts > 0)
    users = np.random.default_rng(seed).permutation(users)[:MAX_USERS]
    users = users[np.argsort(layout.counts[users], kind="stable")]
    evidence = Evidence(head.prepared(inputs.items))
    times = layout.timestamp_N if layout.has_timestamps else None
    for first in range(0, len(users), CHUNK):
        chunk = users[first : first + CHUNK]
        slices = [slice(max(rows.start, rows.stop - MAX_ROWS), rows.stop) for rows in map(layout.rows_of, chunk.tolist())]
        support = [(layout.row_N[rows], layout.label_N[rows], None if times is None else times[rows]) for rows in slices]
        place = torch.from_numpy(chunk)
        tasks = replace(inputs.users, code_N=inputs.users.code_N[place], dense_NP=inputs.users.dense_NP[place])
        batch = support_batch(Tables(tasks=tasks, rows=inputs.items), range(len(chunk)), support)
        scenario_TN = torch.zeros(batch.row_TN.shape, dtype=torch.int64)
        for task, rows in enumerate(slices):
            scenario_TN[task, : rows.stop - rows.start] = torch.from_numpy(place_S[layout.scenario_N[rows]])
        evidence.add(batch, scenario_TN)
    found = evidence.solve()
    names = inputs.interactions.scenarios
    return {names[scenario]: found[place] for scenario, place in enumerate(place_S.tolist()) if place in found}


def places(events: Interactions) -> NDArray[np.int64]:
    """The place of each scenario among those that are learned, from 1; 0 for the default one and for those too many."""
    names = events.scenarios
    count_S = np.bincount(events.scenario_N, minlength=len(names)) * np.array([name != "" for name in names])
    place_S = np.zeros(len(names), np.int64)
    best = np.argsort(-count_S, kind="stable")[:MAX_SCENARIOS]
    best = best[count_S[best] > 0]
    place_S[best] = np.arange(1, len(best) + 1)
    return place_S
